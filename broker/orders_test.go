package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/mqttwire"
)

func TestParseOrder(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		body    string
		field   string // at fault; empty: none
		id      string
		payload string
		expires time.Time
	}{
		{body: `{"payload":{"on":true}}`, payload: `{"on":true}`},
		{body: ` { "payload" : null } `, payload: `null`},
		{body: `{"command_id":"a-1","payload":"x","expires_in":60}`, id: "a-1", payload: `"x"`, expires: now.Add(time.Minute)},
		{body: `{"payload":[1, 2],"expires_at":"2026-01-02T05:00:00+02:00"}`, payload: `[1, 2]`, expires: now.Add(-4*time.Minute - 5*time.Second)},
		{body: `{"payload":1,"expires_in":31622400}`, payload: `1`, expires: now.Add(366 * 24 * time.Hour)},
		{body: `{}`, field: "payload"},
		{body: `{"command_id":"a"}`, field: "payload"},
		{body: ``, field: "body"},
		{body: `null`, field: "body"},
		{body: `[]`, field: "body"},
		{body: `"x"`, field: "body"},
		{body: `{"payload":1`, field: "body"},
		{body: `{"payload":}`, field: "body"},
		{body: `{"payload":1}}`, field: "body"},
		{body: `{"payload":1} {}`, field: "body"},
		{body: `{"payload":1,}`, field: "body"},
		{body: `{1:2}`, field: "body"},
		{body: `{"payload":1,"payload":2}`, field: "body"},
		{body: `{"payload":1,"pay\u006coad":2}`, field: "body"},
		{body: `{"Payload":1}`, field: "body"},
		{body: `{"payload":1,"device_id":"x"}`, field: "body"},
		{body: "{\"payload\":\"\xff\"}", field: "body"},
		{body: `{"payload":1,"command_id":null}`, field: "command_id"},
		{body: `{"payload":1,"command_id":7}`, field: "command_id"},
		{body: `{"payload":1,"command_id":""}`, field: "command_id"},
		{body: `{"payload":1,"command_id":"a b"}`, field: "command_id"},
		{body: `{"payload":1,"expires_in":0}`, field: "expires_in"},
		{body: `{"payload":1,"expires_in":-1}`, field: "expires_in"},
		{body: `{"payload":1,"expires_in":1.5}`, field: "expires_in"},
		{body: `{"payload":1,"expires_in":"60"}`, field: "expires_in"},
		{body: `{"payload":1,"expires_in":31622401}`, field: "expires_in"},
		{body: `{"payload":1,"expires_in":99999999999999999999}`, field: "expires_in"},
		{body: `{"payload":1,"expires_at":"tomorrow"}`, field: "expires_at"},
		{body: `{"payload":1,"expires_at":1767323045}`, field: "expires_at"},
		{body: `{"payload":1,"expires_at":"0001-01-01T00:00:00Z"}`, field: "expires_at"},
		{body: `{"payload":1,"expires_at":"2026-01-02T05:00:00Z","expires_in":5}`, field: "expires_in"},
	} {
		o, err := broker.ParseOrder([]byte(tt.body), now)
		var fault *edgeclaim.InvalidError
		switch {
		case tt.field == "" && err != nil:
			t.Errorf("%s: %v", tt.body, err)
		case tt.field != "" && (!errors.As(err, &fault) || fault.Field != tt.field):
			t.Errorf("%s: %v, want %s at fault", tt.body, err, tt.field)
		case tt.field == "" && (o.ID.String() != tt.id || string(o.Payload) != tt.payload || !o.ExpiresAt.Equal(tt.expires)):
			t.Errorf("%s: %+v", tt.body, o)
		}
	}
}

func FuzzParseOrder(f *testing.F) {
	for _, seed := range []string{
		`{"payload":{"on":true},"command_id":"a","expires_in":60}`, `{"payload":1,"expires_at":"2026-01-02T05:00:00Z"}`,
		`{"payload":1,"payload":2}`, `{"a":{"b":[1,{"c":null}]}}`, `[`, "{\"payload\":\"\xff\"}",
	} {
		f.Add([]byte(seed))
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, body []byte) {
		o, err := broker.ParseOrder(body, now)
		if err != nil {
			if !errors.Is(err, edgeclaim.ErrInvalid) {
				t.Fatalf("%q: %v is not ErrInvalid", body, err)
			}
			return
		}
		again := fmt.Appendf(nil, `{"payload":%s`, o.Payload)
		if !o.ID.IsZero() {
			again = fmt.Appendf(again, `,"command_id":%q`, o.ID)
		}
		if !o.ExpiresAt.IsZero() {
			again = fmt.Appendf(again, `,"expires_at":%q`, o.ExpiresAt.Format(time.RFC3339Nano))
		}
		same, err := broker.ParseOrder(append(again, '}'), now)
		if err != nil || string(same.Payload) != string(o.Payload) || same.ID != o.ID || !same.ExpiresAt.Equal(o.ExpiresAt) || !utf8.Valid(o.Payload) {
			t.Fatalf("%q came again as %q: %v", body, again, err)
		}
	})
}

// A user's command is given with his name, for the device of the topic, and
// acknowledged when that is durable.
func TestUserCommands(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, v mqttwire.Version) {
		now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		hold, held := make(chan struct{}), make(chan edgeclaim.Order, 1)
		l := startLine(t, nil, func(l *line, p *broker.Parts) {
			p.Now = func() time.Time { return now }
			l.give = func(ctx context.Context, o edgeclaim.Order) (edgeclaim.Command, error) {
				held <- o
				select {
				case <-hold:
				case <-ctx.Done():
				}
				return edgeclaim.Command{}, nil
			}
		})
		id := deviceID(t, 2)
		c := l.user(t, v, "boss")
		publish(t, c, mqttwire.Message{
			Topic: "devices/" + id.String() + "/commands", Payload: []byte(`{"command_id":"c1","payload":{"on":1},"expires_in":5}`), QoS: 1, ID: 77,
		})
		o := <-held
		if o.ID.String() != "c1" || o.Device != id || string(o.Payload) != `{"on":1}` || o.Origin != edgeclaim.OriginLocal ||
			o.By != "boss" || !o.ExpiresAt.Equal(now.Add(5*time.Second)) {
			t.Errorf("order %+v", o)
		}
		if err := c.SetDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if p, err := c.Read(); err == nil {
			t.Errorf("packet type %d before it is durable", p.Type)
		}
		close(hold)
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if p := next(t, c, mqttwire.Puback); p.ID != 77 || p.Code() != 0 {
			t.Errorf("PUBACK of %d with %#x", p.ID, p.Code())
		}
		publish(t, c, mqttwire.Message{Topic: "devices/" + id.String() + "/commands", Payload: []byte(`{"payload":1}`)})
		quiet(t, c)
		if o := <-held; string(o.Payload) != "1" || !o.ExpiresAt.IsZero() || !o.ID.IsZero() {
			t.Errorf("order at QoS 0: %+v", o)
		}
	})
}

// What is refused for good is acknowledged, with its reason where there is one;
// what was not decided is not, and the connection ends.
func TestUserCommandsRefused(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, v mqttwire.Version) {
		type outcome struct{ err error }
		var fails atomic.Value
		fails.Store(outcome{})
		l := startLine(t, nil, func(l *line, _ *broker.Parts) {
			l.give = func(context.Context, edgeclaim.Order) (edgeclaim.Command, error) {
				return edgeclaim.Command{}, fails.Load().(outcome).err
			}
		})
		c := l.user(t, v, "boss")
		topic := "devices/" + deviceID(t, 2).String() + "/commands"
		for _, tt := range []struct {
			err   error
			topic string
			body  string
			code  byte
		}{
			{body: `{"payload":1}`},
			{body: `x`, code: 0x99},
			{err: edgeclaim.Invalid("payload", "too large"), body: `{"payload":1}`, code: 0x99},
			{err: fmt.Errorf("x: %w", edgeclaim.ErrNotFound), body: `{"payload":1}`, code: 0x90},
			{topic: "devices/x/commands", body: `{"payload":1}`, code: 0x90},
			{topic: strings.ToUpper("devices/a") + strings.TrimPrefix(topic, "devices/"), body: `{"payload":1}`, code: 0x87},
			{err: edgeclaim.ErrThrottled, body: `{"payload":1}`, code: 0x97},
			{err: edgeclaim.ErrConflict, body: `{"payload":1}`, code: 0x83},
		} {
			if fails.Store(outcome{tt.err}); tt.topic == "" {
				tt.topic = topic
			}
			if tt.code == 0x87 && v == mqttwire.V311 {
				continue // it ends the connection
			}
			publish(t, c, mqttwire.Message{Topic: tt.topic, Payload: []byte(tt.body), QoS: 1})
			want := tt.code
			if v == mqttwire.V311 {
				want = 0
			}
			if p := next(t, c, mqttwire.Puback); p.Code() != want {
				t.Errorf("%v %s: PUBACK %#x, want %#x", tt.err, tt.body, p.Code(), want)
			}
		}
		for _, err := range []error{edgeclaim.ErrUnavailable, errNo, context.DeadlineExceeded} {
			fails.Store(outcome{err})
			c := l.user(t, v, "boss")
			publish(t, c, mqttwire.Message{Topic: topic, Payload: []byte(`{"payload":1}`), QoS: 1})
			hungUp(t, c, 0x88)
		}
	})
}

// Where nobody takes commands, there are none.
func TestUserCommandsToNobody(t *testing.T) {
	t.Parallel()
	l := startLine(t, nil, func(_ *line, p *broker.Parts) { p.Orders = nil })
	c := l.user(t, mqttwire.V5, "boss")
	publish(t, c, mqttwire.Message{Topic: "devices/" + deviceID(t, 2).String() + "/commands", Payload: []byte(`{"payload":1}`), QoS: 1})
	if p := next(t, c, mqttwire.Puback); p.Code() != 0x90 {
		t.Errorf("PUBACK %#x", p.Code())
	}
}
