package broker_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/mqttwire"
)

func TestClaim(t *testing.T) {
	versions(t, func(t *testing.T, v mqttwire.Version) {
		b := start(t, &rule{}, nil)
		for qos := range byte(2) {
			c := claimant(t, b, v, "provision/response")
			publish(t, c, mqttwire.Message{Topic: "provision/request", Payload: []byte("{}"), QoS: qos})
			p := next(t, c, mqttwire.Publish)
			if p.Topic != "provision/response" || string(p.Payload) != "to {}" || p.QoS != 0 || p.Retain {
				t.Errorf("answer %+v", p.Message)
			}
			if qos == 1 {
				if ack := next(t, c, mqttwire.Puback); ack.ID != 2 || ack.Code() != 0 {
					t.Errorf("PUBACK %d with %#x", ack.ID, ack.Code())
				}
			}
			quiet(t, c)
		}
	})
}

// What the rule is asked, and where its answer goes.
func TestClaimProperties(t *testing.T) {
	for _, tt := range []struct {
		name, filter string
		ask          mqttwire.Message
		where        string
		format       edgeclaim.Format
	}{
		{"json", "provision/response", mqttwire.Message{Topic: "provision/request"}, "provision/response", edgeclaim.FormatJSON},
		{"cbor by topic", "provision/response/+", mqttwire.Message{Topic: "provision/request/cbor"}, "provision/response/cbor", edgeclaim.FormatCBOR},
		{"cbor by content type", "provision/response/cbor", mqttwire.Message{
			Topic: "provision/request", Properties: mqttwire.Properties{ContentType: "application/cbor"},
		}, "provision/response/cbor", edgeclaim.FormatCBOR},
		{"cbor by both", "provision/response/cbor", mqttwire.Message{
			Topic: "provision/request/cbor", Properties: mqttwire.Properties{ContentType: "Application/CBOR"},
		}, "provision/response/cbor", edgeclaim.FormatCBOR},
		{"json with charset", "provision/response", mqttwire.Message{
			Topic: "provision/request", Properties: mqttwire.Properties{ContentType: "application/json; charset=UTF-8"},
		}, "provision/response", edgeclaim.FormatJSON},
		{"response topic", "provision/response/+", mqttwire.Message{
			Topic: "provision/request", Properties: mqttwire.Properties{ResponseTopic: "provision/response/board-7"},
		}, "provision/response/board-7", edgeclaim.FormatJSON},
		{"correlation data", "provision/response/x", mqttwire.Message{
			Topic: "provision/request/cbor", Properties: mqttwire.Properties{
				ResponseTopic: "provision/response/x", CorrelationData: []byte{0, 1, 2, 255},
			},
		}, "provision/response/x", edgeclaim.FormatCBOR},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := make(chan edgeclaim.Ask, 1)
			before := time.Now()
			b := start(t, &rule{answer: func(ask edgeclaim.Ask) edgeclaim.Answer {
				asked <- ask
				return edgeclaim.Answer{Body: []byte("yes")}
			}}, nil)
			c := claimant(t, b, mqttwire.V5, tt.filter)
			tt.ask.Payload, tt.ask.QoS = []byte("please"), 1
			publish(t, c, tt.ask)
			p := next(t, c, mqttwire.Publish)
			ask := <-asked
			if string(ask.Body) != "please" || ask.Format != tt.format || ask.Via != edgeclaim.ViaMQTT ||
				!ask.Source.IsLoopback() || ask.ReceivedAt.Before(before) {
				t.Errorf("asked %+v", ask)
			}
			if p.Topic != tt.where || string(p.Payload) != "yes" || p.Properties.ContentType != string(tt.format) ||
				!bytes.Equal(p.Properties.CorrelationData, tt.ask.Properties.CorrelationData) ||
				p.Properties.PayloadFormatUTF8 != (tt.format == edgeclaim.FormatJSON) {
				t.Errorf("answer %+v", p.Message)
			}
			if ack := next(t, c, mqttwire.Puback); ack.Code() != 0 {
				t.Errorf("PUBACK %#x", ack.Code())
			}
		})
	}
}

// What the face itself finds wrong never reaches the rule.
func TestClaimFaults(t *testing.T) {
	const own, other = "provision/response", "provision/response/other"
	for _, tt := range []struct {
		name    string
		filters []string
		ask     mqttwire.Message
		max     uint32 // Maximum Packet Size of the client
		where   string // of the answer; empty: none
		field   string
		ack     byte
	}{
		{name: "not subscribed", ask: mqttwire.Message{}, field: "response_topic", ack: 0x83},
		{name: "subscribed elsewhere", filters: []string{other}, field: "response_topic", ack: 0x83},
		{
			name: "not subscribed to response topic", filters: []string{own}, where: own, field: "response_topic", ack: 0x83,
			ask: mqttwire.Message{Properties: mqttwire.Properties{ResponseTopic: other}},
		},
		{
			name: "somebody else's topic", filters: []string{own}, where: own, field: "response_topic", ack: 0x83,
			ask: mqttwire.Message{Properties: mqttwire.Properties{ResponseTopic: "devices/1/commands"}},
		},
		{
			name: "response topic two levels down", filters: []string{own, "provision/response/+/cbor"}, where: own, field: "response_topic", ack: 0x83,
			ask: mqttwire.Message{Properties: mqttwire.Properties{ResponseTopic: "provision/response/a/cbor"}},
		},
		{
			name: "wildcard for a response topic", filters: []string{"provision/response", "provision/response/+"}, where: own, field: "response_topic", ack: 0x83,
			ask: mqttwire.Message{Properties: mqttwire.Properties{ResponseTopic: "provision/response/+"}},
		},
		{
			name: "unknown content type", filters: []string{own}, where: own, field: "content_type", ack: 0x99,
			ask: mqttwire.Message{Properties: mqttwire.Properties{ContentType: "text/plain"}},
		},
		{
			name: "garbled content type", filters: []string{own}, where: own, field: "content_type", ack: 0x99,
			ask: mqttwire.Message{Properties: mqttwire.Properties{ContentType: ";;;"}},
		},
		{
			name: "other charset", filters: []string{own}, where: own, field: "content_type", ack: 0x99,
			ask: mqttwire.Message{Properties: mqttwire.Properties{ContentType: "application/json; charset=latin1"}},
		},
		{
			name: "content type against the topic", filters: []string{"provision/response/+"}, where: "provision/response/cbor", field: "content_type", ack: 0x99,
			ask: mqttwire.Message{Topic: "provision/request/cbor", Properties: mqttwire.Properties{ContentType: "application/json"}},
		},
		{
			name: "large body", filters: []string{own}, where: own, field: "body", ack: 0x99,
			ask: mqttwire.Message{Payload: make([]byte, edgeclaim.MaxClaimBody+1)},
		},
		{name: "no room for an answer", filters: []string{own}, where: own, max: 1000, field: "maximum_packet_size", ack: 0x83},
		{name: "no room for a word", filters: []string{own}, max: 60, field: "maximum_packet_size", ack: 0x83},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &rule{}
			b := start(t, r, nil)
			c, _ := dial(t, b, mqttwire.V5, mqttwire.Login{
				Clean: true, Properties: mqttwire.Properties{MaximumPacketSize: tt.max},
			})
			if len(tt.filters) > 0 {
				subscribe(t, c, 1, tt.filters...)
			}
			m := tt.ask
			m.QoS = 1
			if m.Topic == "" {
				m.Topic = "provision/request"
			}
			publish(t, c, m)
			if tt.where != "" {
				p := next(t, c, mqttwire.Publish)
				if p.Topic != tt.where || !strings.Contains(string(p.Payload), `"message":"`+tt.field+": ") {
					t.Errorf("answer on %q: %s", p.Topic, p.Payload)
				}
			}
			if ack := next(t, c, mqttwire.Puback); ack.Code() != tt.ack {
				t.Errorf("PUBACK %#x, want %#x", ack.Code(), tt.ack)
			}
			quiet(t, c)
			if n := r.answers.Load(); n != 0 {
				t.Errorf("the rule was asked %d times", n)
			}
		})
	}
}

// MQTT 3.1.1 has nothing to say a fault with but the answer: it is acknowledged,
// since sending it again would not help.
func TestClaimNotSubscribed311(t *testing.T) {
	r := &rule{}
	b := start(t, r, nil)
	c := claimant(t, b, mqttwire.V311)
	publish(t, c, mqttwire.Message{Topic: "provision/request", QoS: 1, Payload: []byte("{}")})
	next(t, c, mqttwire.Puback)
	quiet(t, c)
	if n := r.answers.Load(); n != 0 {
		t.Errorf("the rule was asked %d times", n)
	}
	subscribe(t, c, 1, "provision/response")
	publish(t, c, mqttwire.Message{Topic: "provision/request", QoS: 1, Payload: []byte("{}")})
	next(t, c, mqttwire.Publish)
}

// Unsubscribing counts as well.
func TestClaimUnsubscribed(t *testing.T) {
	r := &rule{}
	b := start(t, r, nil)
	c := claimant(t, b, mqttwire.V5, "provision/response")
	if err := c.Send(mqttwire.AppendUnsubscribe(nil, mqttwire.V5, 9, "provision/response")); err != nil {
		t.Fatal(err)
	}
	next(t, c, mqttwire.Unsuback)
	publish(t, c, mqttwire.Message{Topic: "provision/request", QoS: 1})
	if ack := next(t, c, mqttwire.Puback); ack.Code() != 0x83 || r.answers.Load() != 0 {
		t.Errorf("PUBACK %#x after %d questions", ack.Code(), r.answers.Load())
	}
}

func TestClaimAcknowledgement(t *testing.T) {
	for code, want := range map[edgeclaim.Code]byte{
		edgeclaim.CodeOK:                 0x00,
		edgeclaim.CodeInvalidArgument:    0x99,
		edgeclaim.CodePermissionDenied:   0x87,
		edgeclaim.CodeResourceExhausted:  0x97,
		edgeclaim.CodeFailedPrecondition: 0x00,
		edgeclaim.CodeNotFound:           0x83,
	} {
		versions(t, func(t *testing.T, v mqttwire.Version) {
			b := start(t, &rule{answer: func(edgeclaim.Ask) edgeclaim.Answer {
				return edgeclaim.Answer{Code: code, Body: []byte("answer")}
			}}, nil)
			c := claimant(t, b, v, "provision/response")
			publish(t, c, mqttwire.Message{Topic: "provision/request", QoS: 1})
			next(t, c, mqttwire.Publish)
			ack := next(t, c, mqttwire.Puback)
			if v == mqttwire.V5 && ack.Code() != want {
				t.Errorf("code %d: PUBACK %#x, want %#x", code, ack.Code(), want)
			}
			quiet(t, c)
		})
	}
}

// P1: what was not committed, or may not have been, is not acknowledged, and
// the client goes and comes again.
func TestClaimNotCommitted(t *testing.T) {
	for _, code := range []edgeclaim.Code{edgeclaim.CodeUnavailable, edgeclaim.CodeInternal} {
		versions(t, func(t *testing.T, v mqttwire.Version) {
			b := start(t, &rule{answer: func(edgeclaim.Ask) edgeclaim.Answer {
				return edgeclaim.Answer{Code: code, Body: []byte("later")}
			}}, nil)
			for qos := range byte(2) {
				c := claimant(t, b, v, "provision/response")
				publish(t, c, mqttwire.Message{Topic: "provision/request", QoS: qos})
				if p := next(t, c, mqttwire.Publish); string(p.Payload) != "later" {
					t.Errorf("answer %q", p.Payload)
				}
				hungUp(t, c, 0x89)
			}
		})
	}
}

// A claim that the rule cannot decide, as on a stalled disk, gives its place
// back: here the only one.
func TestClaimTimeout(t *testing.T) {
	b := start(t, &rule{
		stall: func(ctx context.Context) { <-ctx.Done() },
		answer: func(edgeclaim.Ask) edgeclaim.Answer {
			return edgeclaim.Answer{Code: edgeclaim.CodeUnavailable, Body: []byte("later")}
		},
	}, func(c *broker.Config) { c.MaxClaimants, c.ClaimTimeout = 1, 100*time.Millisecond })
	c := claimant(t, b, mqttwire.V5, "provision/response")
	publish(t, c, mqttwire.Message{Topic: "provision/request", QoS: 1})
	next(t, c, mqttwire.Publish)
	hungUp(t, c, 0x89)
	eventually(t, "the place is free", func() bool { return b.Connections().Claimants == 0 })
	quiet(t, claimant(t, b, mqttwire.V5))
}

// A panic of the rule costs the one who caused it the connection, and nobody
// else anything.
func TestClaimPanic(t *testing.T) {
	versions(t, func(t *testing.T, v mqttwire.Version) {
		var log safeBuffer
		b, stop := run(t, &rule{answer: func(ask edgeclaim.Ask) edgeclaim.Answer {
			if string(ask.Body) == "pk_factory_boom" {
				panic(fmt.Sprintf("cannot decide on %s", ask.Body))
			}
			return edgeclaim.Answer{}
		}}, nil, slog.New(slog.NewTextHandler(&log, nil)))
		c, bystander := claimant(t, b, v, "provision/response"), claimant(t, b, v, "provision/response")
		publish(t, c, mqttwire.Message{Topic: "provision/request", QoS: 1, Payload: []byte("pk_factory_boom")})
		hungUp(t, c, 0)
		publish(t, bystander, mqttwire.Message{Topic: "provision/request", QoS: 1})
		next(t, bystander, mqttwire.Publish)
		eventually(t, "one claimant left", func() bool { return b.Connections().Claimants == 1 })
		if err := stop(); err != nil {
			t.Error(err)
		}
		if text := log.String(); !strings.Contains(text, `msg=panicked where="on publish"`) || strings.Contains(text, "boom") {
			t.Errorf("log: %s", text)
		}
	})
}

// P5: hundreds claim at once under one client id, and those who listen to
// everything that they can think of hear nothing.
func TestAnswersAreOnesOwn(t *testing.T) {
	const claimants, spies = 500, 8
	b := start(t, &rule{}, nil)
	everything := []string{
		"#", "+", "+/+", "+/#", "provision/#", "provision/+", "provision/response/#", "provision/+/+", "$SYS/#",
		"$share/g/#", "$share/g/provision/response", "$SHARE/g/provision/response/+", "devices/#", "devices/+/commands",
		"provision/request", "provision/request/#", "/#", "provision//response",
	}
	allowed := []string{
		"provision/response", "provision/response/+", "provision/response/cbor", "provision/response/+/cbor",
		"provision/response/7", "provision/response/7/cbor", "provision/response/",
	}
	var listening []*mqttwire.Client
	for i := range spies {
		c := claimant(t, b, mqttwire.Version(4+i%2))
		ack, err := c.Subscribe(everything...)
		if err != nil {
			t.Fatal(err)
		}
		for j, code := range ack.Codes {
			if code < 0x80 {
				t.Errorf("a spy may subscribe to %q", everything[j])
			}
		}
		subscribe(t, c, 1, allowed...)
		listening = append(listening, c)
	}
	var group errgroup.Group
	for i := range claimants {
		group.Go(func() error { return claimAlone(t.Context(), b, i) })
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	for _, c := range listening {
		quiet(t, c)
	}
}

// claimAlone is one of hundreds. Its answer is its own, and there is no other.
func claimAlone(ctx context.Context, b *broker.Broker, i int) error {
	v := mqttwire.Version(4 + i%2)
	ctx, cancel := context.WithTimeout(ctx, 3*patience)
	defer cancel()
	c, ack, err := mqttwire.Dial(ctx, b.Addr().String(), v, mqttwire.Login{ClientID: "burnt-in", Username: "provision", Clean: i%3 == 0})
	if err != nil || ack.Code() != 0 {
		return fmt.Errorf("claimant %d: CONNACK %#x, %w", i, ack.Code(), err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(3 * patience))
	if _, err := c.Subscribe("provision/response/+"); err != nil {
		return err
	}
	body := fmt.Sprintf("board %d", i)
	if err := c.Publish(mqttwire.Message{Topic: "provision/request/cbor", QoS: 1, Payload: []byte(body)}); err != nil {
		return err
	}
	if err := c.Ping(); err != nil {
		return err
	}
	for _, want := range []mqttwire.Type{mqttwire.Publish, mqttwire.Puback, mqttwire.Pingresp} {
		p, err := c.Read()
		if err != nil {
			return fmt.Errorf("claimant %d: %w", i, err)
		}
		if p.Type != want || want == mqttwire.Publish && string(p.Payload) != "to "+body {
			return fmt.Errorf("claimant %d got type %d: %s", i, p.Type, p.Payload)
		}
	}
	return nil
}

// Nothing that a client sends is ever logged, at any level (P5).
func TestLogsTellNothing(t *testing.T) {
	var log safeBuffer
	r := &rule{login: knowsAll}
	b, stop := run(t, r, nil, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug - 8})))
	const mark = "hush"
	id := deviceID(t, 1)
	versions(t, func(t *testing.T, v mqttwire.Version) {
		wrong := deviceLogin(id)
		wrong.ClientID, wrong.Password = mark, mark
		dial(t, b, v, wrong)
		wrong.Username = mark
		dial(t, b, v, wrong)
		will := mqttwire.Login{ClientID: mark, Clean: true, Will: &mqttwire.Message{Topic: mark, Payload: []byte(mark)}}
		dial(t, b, v, will)
		d := device(t, b, v, id)
		publish(t, d, mqttwire.Message{Topic: "devices/" + id.String() + "/telemetry", QoS: 1, Payload: []byte(mark)})
		next(t, d, mqttwire.Puback)
		publish(t, d, mqttwire.Message{Topic: mark, QoS: 1, Payload: []byte(mark)})
		publish(t, d, mqttwire.Message{Topic: mark, QoS: 2, Payload: []byte(mark)})
		gone(t, d)
		c := claimant(t, b, v, "provision/response")
		publish(t, c, mqttwire.Message{Topic: "provision/request", QoS: 1, Payload: []byte(mark)})
		next(t, c, mqttwire.Publish)
		next(t, c, mqttwire.Puback)
		publish(t, c, mqttwire.Message{Topic: "provision/request", Retain: true, Payload: []byte(mark)})
		hungUp(t, c, 0)
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
	text := log.String()
	if strings.Contains(text, mark) || strings.Contains(text, "sk_live_") {
		t.Errorf("the log tells: %s", text)
	}
	if !strings.Contains(text, "claim answered") {
		t.Errorf("nothing was logged: %s", text)
	}
}

// safeBuffer is a bytes.Buffer for several goroutines.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
