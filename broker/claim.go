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

// desk is where one kind of request is answered.
type desk struct {
	response, responseCBOR string
	mayAnswerTo            func(name string) bool
	want                   string // says what mayAnswerTo wants
}

// claimDesk is the claims'.
func claimDesk() desk {
	return desk{
		response: responseTopic, responseCBOR: responseTopicCBOR, mayAnswerTo: mayAnswerTo,
		want: "want provision/response or one level under it",
	}
}

// question is a request as far as this face understands it.
type question struct {
	format      edgeclaim.Format
	where       string // to answer to; empty: nowhere
	correlation []byte
	fault       error // what this face finds wrong with it
	room        int   // for the body of the answer, in bytes; 0 for any number
	qos         byte
	id          uint16 // the client's own, of its packet
	ack         byte   // PUBACK's reason
}

// claim puts a claim to the rule and writes what it says: answer and PUBACK in
// one write, to this connection only, after the decision is durable (P1). mochi
// does neither: its PUBACK cannot be kept from a claim that was not committed,
// for want of an error that it obeys in both versions but ErrRejectPacket.
func (b *Broker) claim(c *conn, cl *mqtt.Client, pk *packets.Packet) {
	received := time.Now()
	c.turn.Lock()
	defer c.turn.Unlock()
	if !b.claimants.occupy(c) { // put out, or the box is stopping
		c.Close()
		return
	}
	c.parked.Store(false)
	defer b.done(c, cl)
	decisions := b.waiting.begin(c)
	q := ask(cl, pk, claimDesk())
	in := b.askOf(c, pk, &q, received)
	ans := b.decide(&q, func(ctx context.Context) edgeclaim.Answer { return b.parts.Claims.Answer(ctx, in) })
	b.answer(c, cl, &q, ans)
	c.pace.spend(time.Now(), -1) // its pace is the rule's
	b.judge(c, cl, ans.Code)
	if !ans.Waiting.IsZero() && q.where != "" {
		c.parked.Store(true)
		b.waiting.park(&waiter{c: c, cl: cl, ask: in, q: q}, ans.Waiting, decisions)
	}
	b.log.LogAttrs(b.ctx, slog.LevelDebug, "claim answered",
		slog.Any("source", c.source()), slog.Int("code", int(ans.Code)))
}

func (b *Broker) askOf(c *conn, pk *packets.Packet, q *question, received time.Time) edgeclaim.Ask {
	return edgeclaim.Ask{
		Body:       pk.Payload,
		Format:     q.format,
		Via:        edgeclaim.ViaMQTT,
		Source:     c.source(),
		ReceivedAt: received,
		Room:       q.room,
	}
}

// decide asks the rule, unless this face finds a fault.
func (b *Broker) decide(q *question, rule func(context.Context) edgeclaim.Answer) edgeclaim.Answer {
	if q.fault != nil {
		return b.parts.Claims.Fault(q.format, q.fault)
	}
	ctx, cancel := context.WithTimeout(b.ctx, b.cfg.ClaimTimeout)
	defer cancel()
	ans := rule(ctx)
	q.ack = ackOf(ans.Code)
	return ans
}

// answer writes the answer and the PUBACK. What was not decided is not
// acknowledged: the client sends it again on its next connection.
func (b *Broker) answer(c *conn, cl *mqtt.Client, q *question, ans edgeclaim.Answer) {
	var out []byte
	if q.where != "" {
		out = appendAnswer(out, cl, q, ans.Body)
	}
	if q.qos > 0 && !undecided(ans.Code) {
		out = mqttwire.AppendPuback(out, mqttwire.Version(cl.Properties.ProtocolVersion), q.id, q.ack)
	}
	b.write(c, cl, out)
}

// write writes to this connection alone; one that fails closes it.
func (b *Broker) write(c *conn, cl *mqtt.Client, out []byte) {
	if len(out) == 0 {
		return
	}
	cl.Lock() // mochi's, around every write
	defer cl.Unlock()
	_, _ = c.Write(out)
}

// done ends the time in which a claimant is at work. One that waits for
// approval stays at it, but half of the places are for those who do not.
func (b *Broker) done(c *conn, cl *mqtt.Client) {
	b.touch(c)
	if c.parked.Load() && b.waiting.len() > b.cfg.MaxClaimants/2 {
		b.claimants.rest(c)
	}
	b.stopping(cl)
}

func appendAnswer(out []byte, cl *mqtt.Client, q *question, body []byte) []byte {
	mark := len(out)
	out = mqttwire.AppendPublish(out, mqttwire.Version(cl.Properties.ProtocolVersion), messageOf(cl, q, body))
	limit := cl.Properties.Props.MaximumPacketSize
	if limit > 0 && uint32(len(out)-mark) > limit { // a fault's answer: the others have room
		return out[:mark]
	}
	return out
}

func messageOf(cl *mqtt.Client, q *question, body []byte) *mqttwire.Message {
	m := &mqttwire.Message{Topic: q.where, Payload: body}
	if mqttwire.Version(cl.Properties.ProtocolVersion) == mqttwire.V5 {
		m.Properties = mqttwire.Properties{
			ContentType:       string(q.format),
			CorrelationData:   q.correlation,
			PayloadFormatUTF8: q.format == edgeclaim.FormatJSON,
		}
	}
	return m
}

// roomOf is how long an answer's body may be by what the client says; 0 for any
// length.
func roomOf(cl *mqtt.Client, q *question) int {
	limit := int(cl.Properties.Props.MaximumPacketSize)
	if limit == 0 || q.where == "" {
		return 0
	}
	const longer = 3 // what the remaining length grows by with the body
	return max(limit-longer-len(mqttwire.AppendPublish(nil, mqttwire.V5, messageOf(cl, q, nil))), 1)
}

// ask reads what is around the body of a request. Where it finds a fault, where
// is the topic that the client would have expected the answer on, as long as it
// is subscribed there.
func ask(cl *mqtt.Client, pk *packets.Packet, at desk) question {
	q := question{
		correlation: pk.Properties.CorrelationData,
		qos:         pk.FixedHeader.Qos, id: pk.PacketID, ack: ackPayloadInvalid,
	}
	q.format, q.fault = formatOf(pk)
	fallback := at.response
	if q.format == edgeclaim.FormatCBOR {
		fallback = at.responseCBOR
	}
	wanted := fallback
	if name := pk.Properties.ResponseTopic; name != "" {
		wanted = name
	}
	limit := cl.Properties.Props.MaximumPacketSize
	switch {
	case !at.mayAnswerTo(wanted):
		q.refuse("response_topic", at.want)
	case !listens(cl, wanted):
		q.refuse("response_topic", "subscribe to it before you ask")
	case limit > 0 && limit < uint32(answerRoom+len(wanted)+len(pk.Properties.CorrelationData)):
		q.refuse("maximum_packet_size", "too small for an answer")
	case q.fault == nil && len(pk.Payload) > edgeclaim.MaxClaimBody:
		q.fault = edgeclaim.ErrBodyTooLarge
	}
	for _, name := range []string{wanted, fallback} {
		if at.mayAnswerTo(name) && listens(cl, name) {
			q.where = name
			break
		}
	}
	q.room = roomOf(cl, &q)
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
	if strings.HasSuffix(pk.TopicName, "/cbor") {
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
