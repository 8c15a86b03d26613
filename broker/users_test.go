package broker_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/mqttwire"
)

// The password of every user here, and its hashes at cost 10 and 11.
const (
	userPassword = "correct horse"
	userHash     = "$2a$10$Iys5VmpYDVY6iJ82mb4SCe.FHOjxyKnNwcrUa/Ak.e3s39K6VHhAm"
	dearHash     = "$2a$11$PqfLyVBYp50QuTRD1N1nn.Q8Jrw80kB8n0bcah4QfK6.XLq4EC3Wi"
)

// line is a broker with users on it.
type line struct {
	*broker.Broker
	mu     sync.Mutex
	orders []edgeclaim.Order                                                 // given; guarded by mu
	give   func(context.Context, edgeclaim.Order) (edgeclaim.Command, error) // nil: takes all
	log    bytes.Buffer                                                      // guarded by mu
}

// Write implements io.Writer, for the log.
func (l *line) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.Write(p)
}

func (l *line) said() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.String()
}

// Give implements broker.Orders.
func (l *line) Give(ctx context.Context, o edgeclaim.Order) (edgeclaim.Command, error) {
	if l.give != nil {
		return l.give(ctx, o)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.orders = append(l.orders, o)
	return edgeclaim.Command{ID: o.ID}, nil
}

func (l *line) given() []edgeclaim.Order {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]edgeclaim.Order(nil), l.orders...)
}

// reader hears all that devices say, boss gives commands too, narrow hears one
// device's events.
func people(t testing.TB) []broker.User {
	id := deviceID(t, 1).String()
	return []broker.User{
		{Name: "reader", PasswordHash: userHash, Read: []string{"devices/+/telemetry", "devices/+/events"}},
		{Name: "boss", PasswordHash: dearHash, Read: []string{"devices/#"}, Command: []string{"devices/+/commands"}},
		{
			Name: "narrow", PasswordHash: userHash,
			Read: []string{"devices/" + id + "/events"}, Command: []string{"devices/" + id + "/commands"},
		},
	}
}

// startLine runs a broker with people on it until the test ends.
func startLine(t testing.TB, change func(*broker.Config), before ...func(*line, *broker.Parts)) *line {
	t.Helper()
	cfg := broker.Defaults()
	cfg.Address, cfg.Users = "127.0.0.1:0", people(t)
	if change != nil {
		change(&cfg)
	}
	l := &line{}
	r := &rule{login: knowsAll}
	parts := broker.Parts{Claims: r, Devices: r, Orders: l}
	for _, f := range before {
		f(l, &parts)
	}
	b, err := broker.New(cfg, parts, slog.New(slog.NewTextHandler(io.Writer(l), nil)))
	if err != nil {
		t.Fatal(err)
	}
	l.Broker = b
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }() // ends with the test
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(4 * patience):
			t.Error("still running")
		}
		if n := b.Filters(); n != 0 {
			t.Errorf("%d filters are left", n)
		}
	})
	return l
}

func userLogin(name, password string) mqttwire.Login {
	return mqttwire.Login{ClientID: "same", Username: name, Password: password, Clean: true, KeepAlive: 60}
}

// user logs in and subscribes.
func (l *line) user(t testing.TB, v mqttwire.Version, name string, filters ...string) *mqttwire.Client {
	t.Helper()
	c, ack := dial(t, l.Broker, v, userLogin(name, userPassword))
	if ack.Code() != 0 {
		t.Fatalf("%s: CONNACK %#x", name, ack.Code())
	}
	if len(filters) > 0 {
		subscribe(t, c, 0x01, filters...)
	}
	return c
}

// connack is the answer to a login, however long it takes to compute.
func (l *line) connack(t testing.TB, v mqttwire.Version, login mqttwire.Login) mqttwire.Packet {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	c, ack, err := mqttwire.Dial(ctx, l.Addr().String(), v, login)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	c.Close()
	return ack
}

func TestUsersValidate(t *testing.T) {
	t.Parallel()
	id := deviceID(t, 1).String()
	good := func() broker.User {
		return broker.User{Name: "scada-1", PasswordHash: userHash, Read: []string{"devices/+/telemetry"}}
	}
	for _, tt := range []struct {
		change func(*broker.User)
		key    string // at fault; empty: none
	}{
		{func(*broker.User) {}, ""},
		{func(u *broker.User) { u.Read = nil }, ""},
		{func(u *broker.User) { u.Name = strings.Repeat("a", 64) }, ""},
		{func(u *broker.User) { u.Name = "9.A_z-" }, ""},
		{func(u *broker.User) { u.Name = "" }, "name"},
		{func(u *broker.User) { u.Name = "provision" }, "name"},
		{func(u *broker.User) { u.Name = id }, "name"},
		{func(u *broker.User) { u.Name = strings.ToUpper("a0a0a0a0" + id[8:]) }, "name"},
		{func(u *broker.User) { u.Name = strings.Repeat("a", 65) }, "name"},
		{func(u *broker.User) { u.Name = "a b" }, "name"},
		{func(u *broker.User) { u.Name = "é" }, "name"},
		{func(u *broker.User) { u.Name = "-a" }, "name"},
		{func(u *broker.User) { u.Name = "a/b" }, "name"},
		{func(u *broker.User) { u.PasswordHash = "hunter2" }, "password_hash"},
		{func(u *broker.User) { u.PasswordHash = "" }, "password_hash"},
		{func(u *broker.User) { u.PasswordHash = strings.Replace(userHash, "$10$", "$09$", 1) }, "password_hash"},
		{func(u *broker.User) { u.PasswordHash = strings.Replace(userHash, "$10$", "$15$", 1) }, "password_hash"},
		{func(u *broker.User) {
			u.Read = []string{"devices/#", "devices/+/+", "devices/+/#", "devices/" + id + "/#"}
		}, ""},
		{func(u *broker.User) { u.Read = []string{"devices/" + id + "/events", "devices/+/events/#"} }, ""},
		{func(u *broker.User) { u.Read = []string{"devices/+/telemetry", "#"} }, "read[1]"},
		{func(u *broker.User) { u.Read = []string{"+/+/telemetry"} }, "read[0]"},
		{func(u *broker.User) { u.Read = []string{"devices/+/commands"} }, "read[0]"},
		{func(u *broker.User) { u.Read = []string{"devices/+/telemtry"} }, "read[0]"},
		{func(u *broker.User) { u.Read = []string{"devices/x/telemetry"} }, "read[0]"},
		{func(u *broker.User) { u.Read = []string{"devices/+"} }, "read[0]"},
		{func(u *broker.User) { u.Read = []string{"devices"} }, "read[0]"},
		{func(u *broker.User) { u.Read = []string{"devices/#/telemetry"} }, "read[0]"},
		{func(u *broker.User) { u.Read = []string{"$share/g/devices/+/telemetry"} }, "read[0]"},
		{func(u *broker.User) { u.Read = []string{"provision/response"} }, "read[0]"},
		{func(u *broker.User) { u.Read = []string{""} }, "read[0]"},
		{func(u *broker.User) { u.Command = []string{"devices/+/commands", "devices/" + id + "/commands"} }, ""},
		{func(u *broker.User) { u.Command = []string{"devices/#"} }, "command[0]"},
		{func(u *broker.User) { u.Command = []string{"devices/+/config"} }, "command[0]"},
		{func(u *broker.User) { u.Command = []string{"devices/+/commands/x"} }, "command[0]"},
		{func(u *broker.User) { u.Command = []string{"devices/x/commands"} }, "command[0]"},
		{func(u *broker.User) { u.Command = []string{"+/+/commands"} }, "command[0]"},
	} {
		u := good()
		tt.change(&u)
		cfg := broker.Defaults()
		cfg.Users = []broker.User{{Name: "first", PasswordHash: userHash}, u}
		err := cfg.Validate()
		switch {
		case tt.key == "" && err != nil:
			t.Errorf("%q %q %q: %v", u.Name, u.Read, u.Command, err)
		case tt.key != "" && (err == nil || !strings.HasPrefix(err.Error(), "users[1]."+tt.key+":")):
			t.Errorf("%q %q %q: %v, want users[1].%s", u.Name, u.Read, u.Command, err, tt.key)
		case err != nil && u.PasswordHash != "" && strings.Contains(err.Error(), u.PasswordHash):
			t.Errorf("the error repeats the value: %v", err)
		}
	}
	cfg := broker.Defaults()
	cfg.Users = []broker.User{good(), good()}
	if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), "users[1].name:") {
		t.Errorf("twice the same name: %v", err)
	}
}

// A name and its password let in, at either cost, however often; nothing else
// does, and what is refused looks and takes alike.
func TestUserLogin(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, v mqttwire.Version) {
		l := startLine(t, func(c *broker.Config) { c.ConnectTimeout = 4 * patience })
		for range 2 { // the second time is remembered
			for _, name := range []string{"reader", "boss", "narrow"} {
				l.user(t, v, name)
			}
		}
		if n := l.Connections().Consumers; n != 6 {
			t.Errorf("%d users are connected, want 6", n)
		}
		refused := byte(0x86)
		if v == mqttwire.V311 {
			refused = 5
		}
		names := []string{"boss", strings.Repeat("x", 300)}
		for _, name := range names {
			password := "wrong horse"
			if name != "reader" && name != "boss" {
				password = userPassword
			}
			began := time.Now()
			ack := l.connack(t, v, userLogin(name, password))
			if ack.Code() != refused {
				t.Errorf("%.20q: CONNACK %#x, want %#x", name, ack.Code(), refused)
			}
			if took := time.Since(began); took < edgeclaim.RefusalDelay {
				t.Errorf("%.20q: refused after %v", name, took)
			}
		}
		for _, password := range []string{userPassword + strings.Repeat("x", 100)} {
			if ack := l.connack(t, v, userLogin("reader", password)); ack.Code() != refused {
				t.Errorf("password of %d bytes: CONNACK %#x, want %#x", len(password), ack.Code(), refused)
			}
		}
		if got, want := l.Consumers().Refused, uint64(len(names)+1); got != want {
			t.Errorf("%d refusals counted, want %d", got, want)
		}
		will := userLogin("reader", userPassword)
		will.Will = &mqttwire.Message{Topic: "devices/" + deviceID(t, 1).String() + "/telemetry", Payload: []byte("1")}
		unauthorised := byte(0x87)
		if v == mqttwire.V311 {
			unauthorised = 5
		}
		if _, ack := dial(t, l.Broker, v, will); ack.Code() != unauthorised {
			t.Errorf("with a will: CONNACK %#x, want %#x", ack.Code(), unauthorised)
		}
	})
}

// Where nobody is configured, a name is refused as it was before there were any.
func TestNoUsers(t *testing.T) {
	t.Parallel()
	l := startLine(t, func(c *broker.Config) { c.Users = nil })
	if _, ack := dial(t, l.Broker, mqttwire.V5, userLogin("reader", userPassword)); ack.Code() != 0x86 {
		t.Errorf("CONNACK %#x", ack.Code())
	}
	l.Deliver("devices/x/telemetry", nil, 1) // nobody is there
}

// What a user asks to be kept is not; his client id puts nobody out, not even a
// device of that id; and the CONNACK says what there is.
func TestUserSession(t *testing.T) {
	t.Parallel()
	l := startLine(t, nil)
	login := userLogin("reader", userPassword)
	login.ClientID, login.Clean = deviceID(t, 1).String(), false
	hour := uint32(3600)
	login.Properties.SessionExpiry = &hour
	d := device(t, l.Broker, mqttwire.V5, deviceID(t, 1))
	for range 2 {
		c, ack := dial(t, l.Broker, mqttwire.V5, login)
		if p := ack.Properties; ack.Code() != 0 || ack.SessionPresent || p.SessionExpiry == nil || *p.SessionExpiry != 0 {
			t.Errorf("CONNACK %#x, session %v, expiry %v", ack.Code(), ack.SessionPresent, p.SessionExpiry)
		}
		if p := ack.Properties; p.SharedAvailable != nil && *p.SharedAvailable == 0 || p.SubscriptionIDs == nil || *p.SubscriptionIDs != 0 {
			t.Errorf("shared subscriptions %v, subscription identifiers %v", p.SharedAvailable, p.SubscriptionIDs)
		}
		subscribe(t, c, 1, "devices/+/telemetry")
	}
	quiet(t, d)
	if n := l.Connections().Consumers; n != 2 {
		t.Errorf("%d users, want 2", n)
	}
	// Subscription identifiers are a protocol error for who was told so.
	c, _ := dial(t, l.Broker, mqttwire.V5, login)
	if err := c.Send([]byte("\x82\x10\x00\x01\x02\x0b\x07\x00\x08devices/\x00")); err != nil {
		t.Fatal(err)
	}
	hungUp(t, c, 0xa1)
}

func TestMaxConsumers(t *testing.T) {
	t.Parallel()
	l := startLine(t, func(c *broker.Config) { c.MaxConsumers = 2 })
	first := l.user(t, mqttwire.V5, "reader")
	l.user(t, mqttwire.V5, "boss")
	if _, ack := dial(t, l.Broker, mqttwire.V5, userLogin("reader", userPassword)); ack.Code() != 0x89 {
		t.Errorf("one too many: CONNACK %#x", ack.Code())
	}
	device(t, l.Broker, mqttwire.V5, deviceID(t, 1)) // has a place of its own
	first.Close()
	eventually(t, "a place is free", func() bool {
		c, ack := dial(t, l.Broker, mqttwire.V311, userLogin("reader", userPassword))
		defer c.Close()
		return ack.Code() == 0
	})
}

// Nobody hears or says what none of his filters covers.
func TestUserRights(t *testing.T) {
	t.Parallel()
	one, two := "devices/"+deviceID(t, 1).String(), "devices/"+deviceID(t, 2).String()
	versions(t, func(t *testing.T, v mqttwire.Version) {
		l := startLine(t, nil)
		refused := byte(0x87)
		if v == mqttwire.V311 {
			refused = 0x80
		}
		for name, filters := range map[string]map[string]bool{
			"reader": {
				"devices/+/telemetry": true, one + "/telemetry": true, one + "/events": true,
				"$share/g/devices/+/telemetry": true, "$share/g/" + one + "/events": true,
				"devices/+/+": false, "devices/#": false, "#": false, "+/+/telemetry": false, "$SYS/#": false,
				"devices/+/commands": false, one + "/config": false, one + "/#": false, one + "/+": false,
				"provision/response": false, one + "/credentials/response": false, one + "/telemetry/#": false,
				"$share/g/#": false, "$share/g/devices/#": false, "$share//devices/+/telemetry": false,
				"$share/a+/devices/+/telemetry": false, "$share/$share/g/devices/+/telemetry": false,
				"$SHARE/g/devices/+/telemetry": false, "$share/g": false, "$share/g/": false,
			},
			"narrow": {
				one + "/events": true, "$share/g/" + one + "/events": true,
				two + "/events": false, "devices/+/events": false, one + "/telemetry": false, one + "/+": false,
			},
			"boss": {"devices/#": true, "devices/+/#": true, one + "/#": true, "+/#": false, "#": false},
		} {
			for filter, ok := range filters {
				c := l.user(t, v, name)
				ack, err := c.Subscribe(filter)
				want := refused
				if ok {
					want = 1
				}
				if got := ack.Codes; err != nil || len(got) != 1 || got[0] != want && (ok || got[0] < 0x80) {
					t.Errorf("%s %q: %#x, %v, want %#x", name, filter, got, err, want)
				}
				c.Close()
			}
		}
		for name, topics := range map[string][]string{
			"reader": {one + "/commands", one + "/telemetry"},
			"narrow": {two + "/commands", one + "/config", one + "/events", "provision/request", one + "/credentials/request"},
			"boss":   {one + "/telemetry", "devices/commands", "devices/x/y/commands", "commands"},
		} {
			for _, topic := range topics {
				c := l.user(t, v, name)
				publish(t, c, mqttwire.Message{Topic: topic, Payload: []byte(`{"payload":1}`)})
				quiet(t, c)
				publish(t, c, mqttwire.Message{Topic: topic, Payload: []byte(`{"payload":1}`), QoS: 1})
				if v == mqttwire.V311 {
					hungUp(t, c, 0)
				} else if ack := next(t, c, mqttwire.Puback); ack.Code() != 0x87 {
					t.Errorf("%s to %s: %#x", name, topic, ack.Code())
				}
				c.Close()
			}
		}
		c := l.user(t, v, "boss")
		publish(t, c, mqttwire.Message{Topic: one + "/commands", Payload: []byte(`{"payload":1}`), QoS: 1, Retain: true})
		hungUp(t, c, 0x9a)
		if n := len(l.given()); n != 0 {
			t.Errorf("%d commands were given", n)
		}
	})
}

// The bound on subscriptions holds, and asking for one again is none more.
func TestUserSubscriptions(t *testing.T) {
	t.Parallel()
	l := startLine(t, func(c *broker.Config) { c.MaxSubscriptions = 2 })
	c := l.user(t, mqttwire.V5, "boss", "devices/#", "$share/g/devices/#", "devices/#")
	ack, err := c.Subscribe("devices/+/events")
	if err != nil || ack.Code() != 0x87 {
		t.Errorf("one too many: %#x, %v", ack.Code(), err)
	}
	if err := c.Send(mqttwire.AppendUnsubscribe(nil, mqttwire.V5, 9, "devices/#", "$share/g/devices/#", "devices/+")); err != nil {
		t.Fatal(err)
	}
	if ack := next(t, c, mqttwire.Unsuback); !bytes.Equal(ack.Codes, []byte{0, 0, 0x11}) {
		t.Errorf("UNSUBACK %#x", ack.Codes)
	}
	if n := l.Filters(); n != 0 {
		t.Errorf("%d filters are left", n)
	}
	subscribe(t, c, 1, "devices/+/events")
}

var errNo = errors.New("no")
