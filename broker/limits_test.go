package broker_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/mqttwire"
)

// A claimant claims and does nothing else.
func TestClaimantMayNot(t *testing.T) {
	for _, tt := range []struct {
		name   string
		m      mqttwire.Message
		reason byte // of the DISCONNECT; 0: the connection stays
		ack    byte // of the PUBACK, where the connection stays
	}{
		{"publish elsewhere", mqttwire.Message{Topic: "devices/x/telemetry", QoS: 1}, 0, 0x87},
		{"publish an answer", mqttwire.Message{Topic: "provision/response", QoS: 1}, 0, 0x87},
		{"publish below the request", mqttwire.Message{Topic: "provision/request/x", QoS: 1}, 0, 0x87},
		{"publish to $SYS", mqttwire.Message{Topic: "$SYS/broker/version", QoS: 1}, 0x90, 0},
		{"publish to a wildcard", mqttwire.Message{Topic: "provision/+", QoS: 1}, 0x90, 0},
		{"publish to nowhere", mqttwire.Message{Topic: "", QoS: 1}, 0x82, 0},
		{"retain", mqttwire.Message{Topic: "provision/request", Retain: true, QoS: 1}, 0x9a, 0},
		{"use QoS 2", mqttwire.Message{Topic: "provision/request", QoS: 2}, 0x9b, 0},
		{"use an alias", mqttwire.Message{Topic: "provision/request", QoS: 1, Properties: mqttwire.Properties{TopicAlias: 1}}, 0x94, 0},
		{"use an alias alone", mqttwire.Message{QoS: 1, Properties: mqttwire.Properties{TopicAlias: 1}}, 0x94, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &rule{}
			b := start(t, r, nil)
			c := claimant(t, b, mqttwire.V5, "provision/response")
			publish(t, c, tt.m)
			if tt.reason != 0 {
				hungUp(t, c, tt.reason)
			} else if ack := next(t, c, mqttwire.Puback); ack.Code() != tt.ack {
				t.Errorf("PUBACK %#x, want %#x", ack.Code(), tt.ack)
			}
			if tt.m.Properties.TopicAlias == 0 {
				old := claimant(t, b, mqttwire.V311, "provision/response")
				publish(t, old, tt.m)
				hungUp(t, old, 0)
			}
			if n := r.answers.Load(); n != 0 {
				t.Errorf("the rule was asked %d times", n)
			}
		})
	}
}

func TestClaimantLogin(t *testing.T) {
	b := start(t, &rule{}, nil)
	versions(t, func(t *testing.T, v mqttwire.Version) {
		for _, tt := range []struct {
			name  string
			login mqttwire.Login
			v5    byte
		}{
			{"nobody", mqttwire.Login{Clean: true}, 0},
			{"by name", mqttwire.Login{Clean: true, ClientID: "x", Username: "provision"}, 0},
			{"by name with any password", mqttwire.Login{Clean: true, Username: "provision", Password: "whatever"}, 0},
			{"with a session", mqttwire.Login{ClientID: "x", Properties: mqttwire.Properties{SessionExpiry: new(uint32(60))}}, 0},
			{"somebody else", mqttwire.Login{Clean: true, Username: "admin", Password: "admin"}, 0x86},
			{"name in another case", mqttwire.Login{Clean: true, Username: "Provision"}, 0x86},
			{"with a will", mqttwire.Login{Clean: true, Will: &mqttwire.Message{Topic: "provision/request", Payload: []byte("{}")}}, 0x87},
			{"with a will elsewhere", mqttwire.Login{Clean: true, Will: &mqttwire.Message{Topic: "devices/x/commands", Payload: []byte("{}")}}, 0x87},
		} {
			want := tt.v5
			if v == mqttwire.V311 && want != 0 {
				want = 5
			}
			c, ack := dial(t, b, v, tt.login)
			if ack.Code() != want || ack.SessionPresent {
				t.Errorf("%s: CONNACK %#x (session present: %v), want %#x", tt.name, ack.Code(), ack.SessionPresent, want)
			}
			if want != 0 {
				hungUp(t, c, 0)
				continue
			}
			if p := ack.Properties; v == mqttwire.V5 && (p.MaximumPacketSize != 9<<10 || *p.MaximumQoS != 1 ||
				*p.RetainAvailable != 0 || *p.SharedAvailable != 0 || p.TopicAliasMaximum != 0 || p.ServerKeepAlive != 300) {
				t.Errorf("%s: CONNACK %+v", tt.name, p)
			}
			if tt.login.Properties.SessionExpiry != nil && v == mqttwire.V5 &&
				(ack.Properties.SessionExpiry == nil || *ack.Properties.SessionExpiry != 0) {
				t.Errorf("%s: not told that there is no session", tt.name)
			}
			if assigned := ack.Properties.AssignedClientID; v == mqttwire.V5 && (assigned == "") != (tt.login.ClientID != "") {
				t.Errorf("%s: assigned client id %q", tt.name, assigned)
			}
			c.Close()
		}
		eventually(t, "nothing kept", func() bool { return b.Clients() == 0 && b.Connections().Claimants == 0 })
	})
}

func TestSubscriptionsAreBounded(t *testing.T) {
	b := start(t, &rule{}, func(c *broker.Config) { c.MaxSubscriptions = 3 })
	c := claimant(t, b, mqttwire.V5, "provision/response", "provision/response/a", "provision/response/b")
	subscribe(t, c, 0x87, "provision/response/c", "provision/response/d")
}

// mochi's decoder panics on a SUBSCRIBE that ends before its options, and
// nothing in mochi recovers.
func TestPacketThatPanics(t *testing.T) {
	var log safeBuffer
	b, stop := run(t, &rule{login: knowsAll}, nil, slog.New(slog.NewTextHandler(&log, nil)))
	bystander := claimant(t, b, mqttwire.V5)
	id := deviceID(t, 1)
	for _, c := range []*mqttwire.Client{claimant(t, b, mqttwire.V5), device(t, b, mqttwire.V5, id)} {
		if err := c.Send([]byte("\x82\x08\x00\x01\x00\x00\x03abc")); err != nil {
			t.Fatal(err)
		}
		hungUp(t, c, 0)
	}
	quiet(t, bystander)
	eventually(t, "the one who did it is forgotten", func() bool { return b.Clients() == 1 && b.Connections().Devices == 0 })
	quiet(t, device(t, b, mqttwire.V5, id)) // and its lock is free
	if err := stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "msg=panicked where=connection") {
		t.Errorf("log: %s", log.String())
	}
}

// Who makes mochi's decoder panic again and again does not fill the log.
func TestPanicsAreNotAllSaid(t *testing.T) {
	var log safeBuffer
	b, stop := run(t, &rule{}, nil, slog.New(slog.NewTextHandler(&log, nil)))
	for range broker.PanicsSaid + 5 {
		c := claimant(t, b, mqttwire.V5)
		if err := c.Send([]byte("\x82\x08\x00\x01\x00\x00\x03abc")); err != nil {
			t.Fatal(err)
		}
		hungUp(t, c, 0)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if said := strings.Count(log.String(), "msg=panicked"); said != broker.PanicsSaid {
		t.Errorf("%d panics in the log, want %d", said, broker.PanicsSaid)
	}
}

// Nor do devices that come again and again while the box cannot decide on them.
func TestUndecidedLoginsAreNotAllSaid(t *testing.T) {
	var log safeBuffer
	b, stop := run(t, &rule{login: func(edgeclaim.DeviceID, edgeclaim.Secret) error { return edgeclaim.ErrUnavailable }}, nil,
		slog.New(slog.NewTextHandler(&log, nil)))
	const logins = 100
	began := time.Now()
	for range logins {
		c, ack := dial(t, b, mqttwire.V5, deviceLogin(deviceID(t, 1)))
		if ack.Code() != 0x88 {
			t.Fatalf("CONNACK %#x", ack.Code())
		}
		c.Close()
	}
	most := broker.UndecidedSaid * (1 + int(time.Since(began)/time.Second))
	if err := stop(); err != nil {
		t.Error(err)
	}
	if said := strings.Count(log.String(), `msg="login not decided"`); said == 0 || said > most {
		t.Errorf("%d of %d logins are in the log, want at most %d", said, logins, most)
	}
}

// Whoever does not say CONNECT in time, in one piece or at all, goes.
func TestConnectTimeout(t *testing.T) {
	b := start(t, &rule{}, func(c *broker.Config) { c.ConnectTimeout = 200 * time.Millisecond })
	silent, slow := connect(t, b), connect(t, b)
	began := time.Now()
	login := mqttwire.AppendConnect(nil, mqttwire.V311, &mqttwire.Login{Clean: true})
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for i := range login[:len(login)-1] { // as a slow loris does
		if _, err := slow.Write(login[i : i+1]); err != nil {
			break
		}
		<-tick.C
	}
	closed(t, slow)
	closed(t, silent)
	if took := time.Since(began); took > patience/2 {
		t.Errorf("took %v", took)
	}
}

// Pings do not make a claimant less idle, claims do.
func TestClaimantIdle(t *testing.T) {
	const idle = time.Second
	b := start(t, &rule{}, func(c *broker.Config) { c.IdleTimeout = idle })
	pinging, claiming := claimant(t, b, mqttwire.V311, "provision/response"), claimant(t, b, mqttwire.V311, "provision/response")
	began := time.Now()
	tick := time.NewTicker(idle / 5)
	defer tick.Stop()
	for range 12 { // more than twice the time
		<-tick.C
		_ = pinging.Ping()
		publish(t, claiming, mqttwire.Message{Topic: "provision/request", QoS: 1})
		next(t, claiming, mqttwire.Publish)
		next(t, claiming, mqttwire.Puback)
	}
	gone(t, pinging)
	if n := b.Connections().Claimants; n != 1 {
		t.Errorf("%d claimants after %v", n, time.Since(began))
	}
}

// The claimant that was idle longest makes room; one that waits for its answer
// does not, and where all do, the newcomer has to go.
func TestClaimantsFull(t *testing.T) {
	release := make(chan struct{})
	r := &rule{answer: func(edgeclaim.Ask) edgeclaim.Answer {
		<-release
		return edgeclaim.Answer{Body: []byte("at last")}
	}}
	b := start(t, r, func(c *broker.Config) { c.MaxClaimants = 3 })
	var at [3]*mqttwire.Client
	for i := range at {
		at[i] = claimant(t, b, mqttwire.V311, "provision/response")
	}
	publish(t, at[0], mqttwire.Message{Topic: "provision/request", QoS: 1}) // the oldest is at work
	publish(t, at[2], mqttwire.Message{Topic: "provision/request", QoS: 1}) // and so is the last
	eventually(t, "two at work", func() bool { return r.answers.Load() == 2 })
	newcomer := claimant(t, b, mqttwire.V5, "provision/response")
	hungUp(t, at[1], 0)
	publish(t, newcomer, mqttwire.Message{Topic: "provision/request", QoS: 1})
	eventually(t, "nobody idle", func() bool { return r.answers.Load() == 3 })
	if !refusedFull(t, b) {
		t.Error("more than three")
	}
	close(release)
	for _, c := range []*mqttwire.Client{at[0], at[2], newcomer} {
		next(t, c, mqttwire.Publish)
		next(t, c, mqttwire.Puback)
	}
	if n := b.Connections().Claimants; n != 3 {
		t.Errorf("%d claimants", n)
	}
}

// refusedFull reports whether a claimant is refused, by both versions' codes.
func refusedFull(t *testing.T, b *broker.Broker) bool {
	c5, ack5 := dial(t, b, mqttwire.V5, mqttwire.Login{Clean: true})
	defer c5.Close()
	c4, ack4 := dial(t, b, mqttwire.V311, mqttwire.Login{Clean: true})
	defer c4.Close()
	return ack5.Code() == 0x89 && ack4.Code() == 3
}

// Sockets that say nothing do not keep out those who do.
func TestConnectingFull(t *testing.T) {
	b := start(t, &rule{}, func(c *broker.Config) { c.MaxConnecting, c.ConnectTimeout = 2, time.Minute })
	first, second := connect(t, b), connect(t, b)
	eventually(t, "both accepted", func() bool { return b.Open() == 2 })
	quiet(t, claimant(t, b, mqttwire.V311))
	closed(t, first)
	stillOpen(t, second)
}

// Run ends quickly whatever is connected, and lets a claim that has begun end.
func TestStop(t *testing.T) {
	deciding, release := make(chan struct{}), make(chan struct{})
	b, stop := run(t, &rule{login: knowsAll, answer: func(edgeclaim.Ask) edgeclaim.Answer {
		close(deciding)
		<-release
		return edgeclaim.Answer{Body: []byte("committed")}
	}}, nil, slog.New(slog.DiscardHandler))
	halfOpen := connect(t, b)
	idle, working := claimant(t, b, mqttwire.V5), claimant(t, b, mqttwire.V5, "provision/response")
	d := device(t, b, mqttwire.V311, deviceID(t, 1))
	publish(t, working, mqttwire.Message{Topic: "provision/request", QoS: 1})
	<-deciding
	began := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	closed(t, halfOpen)
	hungUp(t, idle, 0)
	hungUp(t, d, 0)
	select {
	case err := <-stopped:
		t.Fatalf("stopped with a claim under way: %v", err)
	default:
	}
	close(release)
	if p := next(t, working, mqttwire.Publish); string(p.Payload) != "committed" {
		t.Errorf("answer %q", p.Payload)
	}
	next(t, working, mqttwire.Puback)
	hungUp(t, working, 0x8b)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("took %v", took)
	}
	if _, err := net.Dial("tcp", b.Addr().String()); err == nil {
		t.Error("still accepts")
	}
}

// A claim that does not end is given up after DrainTimeout.
func TestStopWithoutPatience(t *testing.T) {
	deciding := make(chan struct{})
	r := &waits{deciding: deciding}
	cfg := broker.Defaults()
	cfg.Address, cfg.DrainTimeout = "127.0.0.1:0", 50*time.Millisecond
	b, err := broker.New(cfg, broker.Parts{Claims: r, Devices: &r.rule}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	c := claimant(t, b, mqttwire.V311, "provision/response")
	publish(t, c, mqttwire.Message{Topic: "provision/request", QoS: 1})
	<-deciding
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	gone(t, c)
}

// waits is a rule that decides nothing until its context ends.
type waits struct {
	rule
	deciding chan struct{}
}

func (w *waits) Answer(ctx context.Context, _ edgeclaim.Ask) edgeclaim.Answer {
	close(w.deciding)
	<-ctx.Done()
	return edgeclaim.Answer{Code: edgeclaim.CodeUnavailable}
}

// An error of accept, such as having no file descriptors, is not the end.
func TestAcceptError(t *testing.T) {
	b, stop := run(t, &rule{}, nil, slog.New(slog.DiscardHandler), func(b *broker.Broker) { b.FailAccepts(3) })
	for range 4 {
		quiet(t, claimant(t, b, mqttwire.V311))
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	for key, change := range map[string]func(*broker.Config){
		"address":             func(c *broker.Config) { c.Address = "nowhere" },
		"max_devices":         func(c *broker.Config) { c.MaxDevices = 0 },
		"max_claimants":       func(c *broker.Config) { c.MaxClaimants = -1 },
		"max_connecting":      func(c *broker.Config) { c.MaxConnecting = broker.MaxConnections + 1 },
		"connect_timeout":     func(c *broker.Config) { c.ConnectTimeout = 0 },
		"idle_timeout":        func(c *broker.Config) { c.IdleTimeout = -1 },
		"write_timeout":       func(c *broker.Config) { c.WriteTimeout = 2 * time.Hour },
		"max_keep_alive":      func(c *broker.Config) { c.MaxKeepAlive = 20 * time.Hour },
		"max_claimant_packet": func(c *broker.Config) { c.MaxClaimantPacket = 8 << 10 },
		"max_device_packet":   func(c *broker.Config) { c.MaxDevicePacket = 2 << 20 },
		"max_subscriptions":   func(c *broker.Config) { c.MaxSubscriptions = 0 },
		"receive_maximum":     func(c *broker.Config) { c.ReceiveMaximum = 0 },
		"max_inflight":        func(c *broker.Config) { c.MaxInflight = 1 << 16 },
		"max_pending_writes":  func(c *broker.Config) { c.MaxPendingWrites = 0 },
		"max_sessions":        func(c *broker.Config) { c.MaxSessions = 0 },
		"session_expiry":      func(c *broker.Config) { c.SessionExpiry = 0 },
		"report_timeout":      func(c *broker.Config) { c.ReportTimeout = time.Millisecond },
		"claim_timeout":       func(c *broker.Config) { c.ClaimTimeout = edgeclaim.RefusalDelay },
		"drain_timeout":       func(c *broker.Config) { c.DrainTimeout = -1 },
	} {
		cfg := broker.Defaults()
		if err := cfg.Validate(); err != nil {
			t.Fatalf("the defaults: %v", err)
		}
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), key+":") {
			t.Errorf("%s: %v", key, err)
		}
		if _, err := broker.New(cfg, broker.Parts{}, nil); err == nil {
			t.Errorf("%s: New took it", key)
		}
	}
}

func TestAddressInUse(t *testing.T) {
	b := start(t, &rule{}, nil)
	cfg := broker.Defaults()
	cfg.Address = b.Addr().String()
	if _, err := broker.New(cfg, broker.Parts{}, nil); err == nil {
		t.Error("bound twice")
	}
}

// A length has four bytes at most (MQTT 5.0, section 1.5.5).
func TestLengthWithoutEnd(t *testing.T) {
	f := broker.NewFramer(9 << 10)
	if n, ended, err := f.Feed([]byte("\x30\x80\x80\x80\x80\x80\x80\x80")); err == nil {
		t.Errorf("took %d bytes, packet ended: %v", n, ended)
	}
}

// Whatever pieces a stream comes in, its packets end where they end.
func FuzzFramer(f *testing.F) {
	f.Add([]byte("\x10\x02ab\xc0\x00\x30\x80\x01"), uint8(1))
	f.Add([]byte("\x30\xff\xff\xff\xff\x01"), uint8(3))
	f.Add(append([]byte("\x30\xc8\x01"), make([]byte, 300)...), uint8(7))
	f.Fuzz(func(t *testing.T, stream []byte, piece uint8) {
		const limit = 200
		whole, wholeErr := packetEnds(broker.NewFramer(limit), stream, len(stream))
		parts, partsErr := packetEnds(broker.NewFramer(limit), stream, int(piece)+1)
		if !bytes.Equal(whole, parts) || wholeErr != partsErr {
			t.Fatalf("whole: ends %v, error %v; in pieces of %d: %v, %v", whole, wholeErr, int(piece)+1, parts, partsErr)
		}
	})
}

// packetEnds is where packets end, modulo 256.
func packetEnds(fr *broker.Framer, stream []byte, piece int) (ends []byte, err error) {
	for at := 0; at < len(stream); {
		n, ended, err := fr.Feed(stream[at:min(at+max(piece, 1), len(stream))])
		if err != nil {
			return ends, err
		}
		at += n
		if ended {
			ends = append(ends, byte(at))
		}
	}
	return ends, nil
}

// connect opens a socket and says nothing.
func connect(t *testing.T, b *broker.Broker) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", b.Addr().String(), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

func send(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// closed waits until the broker has closed the connection.
func closed(t *testing.T, c net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, c)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Error("still open")
	}
}

// stillOpen is that nothing comes, not even an end, for a moment.
func stillOpen(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err := c.Read(make([]byte, 1))
	if ne, ok := err.(net.Error); !ok || !ne.Timeout() {
		t.Errorf("read: %v, want a timeout", err)
	}
}
