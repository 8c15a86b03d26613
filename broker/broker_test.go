package broker_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/mqttwire"
)

// patience bounds every wait of these tests.
const patience = 10 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rule is both Claims and Devices. Its zero value answers every claim with its
// body, and lets nobody in.
type rule struct {
	answer  func(ask edgeclaim.Ask) edgeclaim.Answer
	stall   func(ctx context.Context) // before it answers
	login   func(id edgeclaim.DeviceID, key edgeclaim.Secret) error
	owner   func(chain []*x509.Certificate) (edgeclaim.DeviceID, error)
	valid   func(id edgeclaim.DeviceID) time.Duration // nil: without end
	renew   func(ask edgeclaim.RotateAsk) edgeclaim.Answer
	answers atomic.Int64
	admits  atomic.Int64

	inbox           // what devices are told
	notes *notebook // what they said; nil: nobody listens
	// change is the last word on the parts.
	change func(*broker.Parts)
}

// parts are those of a broker with this rule.
func (r *rule) parts() broker.Parts {
	p := broker.Parts{Claims: r, Devices: r, Commands: &r.inbox, Configs: &r.inbox, Encode: encode}
	if r.notes != nil {
		p.Reports = r.notes
	}
	if r.change != nil {
		r.change(&p)
	}
	return p
}

func (r *rule) Answer(ctx context.Context, ask edgeclaim.Ask) edgeclaim.Answer {
	r.answers.Add(1)
	if r.stall != nil {
		r.stall(ctx)
	}
	if r.answer != nil {
		return r.answer(ask)
	}
	return edgeclaim.Answer{Body: append([]byte("to "), ask.Body...)}
}

func (*rule) Fault(_ edgeclaim.Format, err error) edgeclaim.Answer {
	code := edgeclaim.CodeInternal
	if errors.Is(err, edgeclaim.ErrInvalid) {
		code = edgeclaim.CodeInvalidArgument
	}
	body, _ := json.Marshal(map[string]any{"code": code, "message": err.Error()})
	return edgeclaim.Answer{Code: code, Body: body}
}

// Identify lets a login in by its certificate, if it has one, else by its key.
func (r *rule) Identify(_ context.Context, l edgeclaim.Login) (edgeclaim.Admission, error) {
	by, err := edgeclaim.Admission{Device: l.Device}, edgeclaim.ErrUnauthenticated
	switch {
	case len(l.Chain) > 0 && r.owner != nil:
		by.Device, err = r.owner(l.Chain)
		by.Credential = edgeclaim.NewSecret(string(l.Chain[0].Raw)).Hash()
	case len(l.Chain) == 0 && r.login != nil:
		err = r.login(l.Device, l.Key)
		by.Credential = l.Key.Hash()
	}
	if err == nil && r.valid != nil {
		by.ValidFor = r.valid(by.Device)
	}
	return by, err
}

func (r *rule) Admit(ctx context.Context, l edgeclaim.Login) (edgeclaim.Admission, error) {
	r.admits.Add(1)
	return r.Identify(ctx, l)
}

func (r *rule) Renew(_ context.Context, ask edgeclaim.RotateAsk) edgeclaim.Answer {
	if r.renew == nil {
		return edgeclaim.Answer{Code: edgeclaim.CodePermissionDenied}
	}
	return r.renew(ask)
}

// deviceID is the n-th device of a tenant; its password in these tests is its
// id with a prefix.
func deviceID(t testing.TB, n int) edgeclaim.DeviceID {
	t.Helper()
	id, err := edgeclaim.ParseDeviceID(fmt.Sprintf("00000000-0000-5000-8000-%012d", n))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func passwordOf(id edgeclaim.DeviceID) string { return "sk_live_" + id.String() }

// knowsAll lets every device in by its password.
func knowsAll(id edgeclaim.DeviceID, key edgeclaim.Secret) error {
	if key.Equal(edgeclaim.NewSecret(passwordOf(id))) {
		return nil
	}
	return edgeclaim.ErrUnauthenticated
}

// start runs a broker until the test ends.
func start(t testing.TB, r *rule, change func(*broker.Config)) *broker.Broker {
	t.Helper()
	b, stop := run(t, r, change, slog.New(slog.NewTextHandler(io.Discard, nil)))
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return b
}

// run runs a broker until stop is called, which returns what Run does.
func run(t testing.TB, r *rule, change func(*broker.Config), log *slog.Logger, before ...func(*broker.Broker)) (b *broker.Broker, stop func() error) {
	t.Helper()
	cfg := broker.Defaults()
	cfg.Address = "127.0.0.1:0"
	if change != nil {
		change(&cfg)
	}
	b, err := broker.New(cfg, r.parts(), log)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range before {
		f(b)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }() // ends with stop
	return b, func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(4 * patience):
			return errors.New("still running")
		}
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// versions runs a test with both.
func versions(t *testing.T, f func(t *testing.T, v mqttwire.Version)) {
	for _, v := range []mqttwire.Version{mqttwire.V311, mqttwire.V5} {
		t.Run(fmt.Sprintf("version=%d", v), func(t *testing.T) { f(t, v) })
	}
}

// dial logs in and returns the CONNACK, whatever its code. The client has a
// deadline for all that follows.
func dial(t testing.TB, b *broker.Broker, v mqttwire.Version, login mqttwire.Login) (*mqttwire.Client, mqttwire.Packet) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, ack, err := mqttwire.Dial(ctx, b.Addr().String(), v, login)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	return c, ack
}

// claimant logs in as one and subscribes.
func claimant(t testing.TB, b *broker.Broker, v mqttwire.Version, filters ...string) *mqttwire.Client {
	t.Helper()
	c, ack := dial(t, b, v, mqttwire.Login{ClientID: "factory", Clean: true, KeepAlive: 30})
	if ack.Code() != 0 {
		t.Fatalf("CONNACK %#x", ack.Code())
	}
	if len(filters) > 0 {
		subscribe(t, c, 0x01, filters...)
	}
	return c
}

// deviceLogin is how a device logs in.
func deviceLogin(id edgeclaim.DeviceID) mqttwire.Login {
	return mqttwire.Login{
		ClientID: "whatever", Username: id.String(), Password: passwordOf(id), Clean: true, KeepAlive: 30,
	}
}

func device(t testing.TB, b *broker.Broker, v mqttwire.Version, id edgeclaim.DeviceID) *mqttwire.Client {
	t.Helper()
	c, ack := dial(t, b, v, deviceLogin(id))
	if ack.Code() != 0 {
		t.Fatalf("CONNACK %#x", ack.Code())
	}
	return c
}

func subscribe(t testing.TB, c *mqttwire.Client, want byte, filters ...string) {
	t.Helper()
	ack, err := c.Subscribe(filters...)
	if err != nil {
		t.Fatalf("subscribe %q: %v", filters, err)
	}
	for i, got := range ack.Codes {
		if got != want {
			t.Errorf("subscribe %q: code %#x, want %#x", filters[i], got, want)
		}
	}
}

func publish(t testing.TB, c *mqttwire.Client, m mqttwire.Message) {
	t.Helper()
	if err := c.Publish(m); err != nil {
		t.Fatalf("publish: %v", err)
	}
}

// next is the next packet, which must be of that type.
func next(t testing.TB, c *mqttwire.Client, want mqttwire.Type) mqttwire.Packet {
	t.Helper()
	p, err := c.Read()
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	if p.Type != want {
		t.Fatalf("packet type %d (code %#x, payload %q), want %d", p.Type, p.Code(), p.Payload, want)
	}
	return p
}

// quiet is that nothing came before a ping was answered.
func quiet(t testing.TB, c *mqttwire.Client) {
	t.Helper()
	if err := c.Ping(); err != nil {
		t.Fatalf("ping: %v", err)
	}
	next(t, c, mqttwire.Pingresp)
}

// hungUp is that the broker closed the connection, having said nothing but, in
// MQTT 5, a DISCONNECT, with that reason unless it is 0.
func hungUp(t testing.TB, c *mqttwire.Client, reason byte) {
	t.Helper()
	for {
		p, err := c.Read()
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			t.Fatal("still connected")
		case err != nil:
			return
		case p.Type != mqttwire.Disconnect || c.Version() < mqttwire.V5 || reason != 0 && p.Code() != reason:
			t.Fatalf("packet type %d with code %#x, want a DISCONNECT with %#x", p.Type, p.Code(), reason)
		}
	}
}

// gone is that the broker closed the connection, whatever it said before.
func gone(t testing.TB, c *mqttwire.Client) {
	t.Helper()
	for {
		_, err := c.Read()
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Fatal("still connected")
		}
		if err != nil {
			return
		}
	}
}

// eventually polls until the condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func pemOf(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}) }
