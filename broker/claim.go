package broker

import (
	"context"
	"log/slog"
	"mime"
	"strings"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"edgeclaim"
	"edgeclaim/internal/mqttwire"
	"edgeclaim/internal/topic"
)

// The topics of a claim.
const (
	requestTopic      = "provision/request"
	requestTopicCBOR  = "provision/request/cbor"
	responseTopic     = "provision/response"
	responseTopicCBOR = "provision/response/cbor"
)

// answerRoom is what a client's Maximum Packet Size must leave for an answer
// besides its topic and correlation data, in bytes: else the answer could be
// decided but not said.
const answerRoom = 2 << 10

// claimantMaySubscribe allows provision/response, one level under it (any, or
// a named one), and cbor under that. A claimant's subscription only says where
// it listens: answers are written to the one who asked, never routed.
func claimantMaySubscribe(filter string) bool {
	if filter == responseTopic {
		return true
	}
	rest, ok := strings.CutPrefix(filter, responseTopic+"/")
	if !ok || !topic.ValidFilter(filter) {
		return false
	}
	level, tail, more := strings.Cut(rest, "/")
	return level != "#" && (!more || tail == "cbor")
}

// mayAnswerTo is the Response Topics that are obeyed: no client makes the box
// write anywhere else.
func mayAnswerTo(name string) bool {
	if name == responseTopic {
		return true
	}
	level, ok := strings.CutPrefix(name, responseTopic+"/")
	return ok && !strings.Contains(level, "/") && topic.ValidName(name)
}

// The reason codes of PUBACK in use (MQTT 5.0, section 3.4.2.1).
const (
	ackSuccess        = 0x00
	ackImplementation = 0x83
	ackNotAuthorized  = 0x87
	ackQuotaExceeded  = 0x97
	ackPayloadInvalid = 0x99
)

func ackOf(code edgeclaim.Code) byte {
	switch code {
	case edgeclaim.CodeOK, edgeclaim.CodeFailedPrecondition: // accepted, or accepted to wait
		return ackSuccess
	case edgeclaim.CodePermissionDenied:
		return ackNotAuthorized
	case edgeclaim.CodeResourceExhausted:
		return ackQuotaExceeded
	case edgeclaim.CodeInvalidArgument:
		return ackPayloadInvalid
	default:
		return ackImplementation
	}
}

// undecided reports whether a claim may yet come to another end: it was not
// committed, or the box failed over it and nobody knows (P1).
func undecided(code edgeclaim.Code) bool {
	return code == edgeclaim.CodeUnavailable || code == edgeclaim.CodeInternal
}

// question is a claim as far as this face understands it.
type question struct {
	format edgeclaim.Format
	where  string // to answer to; empty: nowhere
	fault  error  // what this face finds wrong with it
	ack    byte   // PUBACK's reason for that fault
}

// claim puts a claim to the rule and writes what it says: answer and PUBACK in
// one write, to this connection only, after the decision is durable (P1). mochi
// does neither: its PUBACK cannot be kept from a claim that was not committed,
// for want of an error that it obeys in both versions but ErrRejectPacket.
func (b *Broker) claim(c *conn, cl *mqtt.Client, pk *packets.Packet) {
	received := time.Now()
	if !b.claimants.occupy(c) { // put out, or the box is stopping
		c.Close()
		return
	}
	defer b.done(c, cl)
	q := ask(cl, pk)
	var ans edgeclaim.Answer
	ack := q.ack
	if q.fault != nil {
		ans = b.claims.Fault(q.format, q.fault)
	} else {
		ctx, cancel := context.WithTimeout(b.ctx, b.cfg.ClaimTimeout)
		defer cancel()
		ans = b.claims.Answer(ctx, edgeclaim.Ask{
			Body:       pk.Payload,
			Format:     q.format,
			Via:        edgeclaim.ViaMQTT,
			Source:     c.source(),
			ReceivedAt: received,
		})
		ack = ackOf(ans.Code)
	}
	open := undecided(ans.Code)
	acked := pk.FixedHeader.Qos > 0 && !open
	var out []byte
	if q.where != "" {
		out = appendAnswer(out, cl, pk, &q, ans.Body)
	}
	if acked {
		out = mqttwire.AppendPuback(out, mqttwire.Version(cl.Properties.ProtocolVersion), pk.PacketID, ack)
	}
	if len(out) > 0 {
		cl.Lock() // mochi's, around every write
		_, _ = c.Write(out)
		cl.Unlock()
	}
	if open {
		// Not acknowledged: the client sends it again on its next connection.
		b.hangUp(cl, packets.ErrServerBusy)
	}
	b.log.LogAttrs(b.ctx, slog.LevelDebug, "claim answered",
		slog.Any("source", c.source()), slog.Int("code", int(ans.Code)))
}

// done ends the time in which a claimant is at work.
func (b *Broker) done(c *conn, cl *mqtt.Client) {
	b.touch(c)
	select {
	case <-b.stopped:
		b.hangUp(cl, packets.ErrServerShuttingDown)
	default:
	}
}

func appendAnswer(out []byte, cl *mqtt.Client, pk *packets.Packet, q *question, body []byte) []byte {
	v := mqttwire.Version(cl.Properties.ProtocolVersion)
	m := mqttwire.Message{Topic: q.where, Payload: body}
	if v == mqttwire.V5 {
		m.Properties = mqttwire.Properties{
			ContentType:       string(q.format),
			CorrelationData:   pk.Properties.CorrelationData,
			PayloadFormatUTF8: q.format == edgeclaim.FormatJSON,
		}
	}
	mark := len(out)
	out = mqttwire.AppendPublish(out, v, &m)
	limit := cl.Properties.Props.MaximumPacketSize
	if limit > 0 && uint32(len(out)-mark) > limit { // a fault's answer: the others have room
		return out[:mark]
	}
	return out
}

// ask reads what is around the body of a claim. Where it finds a fault, where
// is the topic that the client would have expected the answer on, as long as it
// is subscribed there.
func ask(cl *mqtt.Client, pk *packets.Packet) question {
	q := question{ack: ackPayloadInvalid}
	q.format, q.fault = formatOf(pk)
	fallback := responseTopic
	if q.format == edgeclaim.FormatCBOR {
		fallback = responseTopicCBOR
	}
	wanted := fallback
	if name := pk.Properties.ResponseTopic; name != "" {
		wanted = name
	}
	limit := cl.Properties.Props.MaximumPacketSize
	switch {
	case !mayAnswerTo(wanted):
		q.refuse("response_topic", "want provision/response or one level under it")
	case !listens(cl, wanted):
		q.refuse("response_topic", "subscribe to it before you claim")
	case limit > 0 && limit < uint32(answerRoom+len(wanted)+len(pk.Properties.CorrelationData)):
		q.refuse("maximum_packet_size", "too small for an answer")
	case q.fault == nil && len(pk.Payload) > edgeclaim.MaxClaimBody:
		q.fault = edgeclaim.ErrBodyTooLarge
	}
	for _, name := range []string{wanted, fallback} {
		if mayAnswerTo(name) && listens(cl, name) {
			q.where = name
			break
		}
	}
	return q
}

func (q *question) refuse(field, problem string) {
	q.fault, q.ack = edgeclaim.Invalid(field, "%s", problem), ackImplementation
}

// listens reports whether the client has subscribed to name.
func listens(cl *mqtt.Client, name string) bool {
	if _, ok := cl.State.Subscriptions.Get(name); ok {
		return true
	}
	for filter := range cl.State.Subscriptions.GetAll() {
		if topic.Match(filter, name) {
			return true
		}
	}
	return false
}

// formatOf is the format that the topic says, or the Content Type where MQTT 5
// says one. The two may not contradict each other.
func formatOf(pk *packets.Packet) (edgeclaim.Format, error) {
	format := edgeclaim.FormatJSON
	if pk.TopicName == requestTopicCBOR {
		format = edgeclaim.FormatCBOR
	}
	said := pk.Properties.ContentType
	if said == "" {
		return format, nil
	}
	media, params, err := mime.ParseMediaType(said)
	charset, extra := params["charset"], len(params)
	switch {
	case err != nil:
	case media == string(edgeclaim.FormatCBOR) && extra == 0:
		return edgeclaim.FormatCBOR, nil
	case media == string(edgeclaim.FormatJSON) && format == edgeclaim.FormatJSON &&
		(extra == 0 || extra == 1 && strings.EqualFold(charset, "utf-8")):
		return edgeclaim.FormatJSON, nil
	}
	return format, edgeclaim.Invalid("content_type", "want %s or %s, as the topic says",
		edgeclaim.FormatJSON, edgeclaim.FormatCBOR)
}
