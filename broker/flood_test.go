package broker_test

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/mqttwire"
	"edgeclaim/internal/userhash"
)

// dialFrom logs in from an address of the loopback network: a source of its own.
func (l *line) dialFrom(ctx context.Context, source string, login mqttwire.Login) (mqttwire.Packet, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	conn, err := d.DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return mqttwire.Packet{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	return mqttwire.New(conn, mqttwire.V5).Login(login)
}

// A flood of logins by name, with wrong passwords and names that nobody has,
// computes one at a time and rests in between. Devices and claimants go on; a
// user who was there before comes back at once, and one who comes from elsewhere
// for the first time gets his turn.
func TestUserLoginFlood(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 10 s")
	}
	l := startLine(t, func(c *broker.Config) { c.ConnectTimeout = 4 * patience })
	l.user(t, mqttwire.V5, "reader").Close()
	once := patience // what the dearest hash takes at best
	for range 5 {
		at := time.Now()
		userhash.Idle(11, edgeclaim.NewSecret("wrong"))
		once = min(once, time.Since(at))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 6*patience)
	defer cancel()
	flood, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	var tries atomic.Int64
	for n := range 48 {
		all.Go(func() {
			for flood.Err() == nil {
				login := userLogin([]string{"boss", "nobody"}[n%2], "wrong")
				if _, err := l.dialFrom(ctx, "127.0.0.66", login); err == nil {
					tries.Add(1)
				}
			}
		})
	}
	defer all.Wait()
	defer stop()
	eventually(t, "it floods", func() bool { return tries.Load() > 50 })
	began, refused := time.Now(), l.Consumers().Refused
	for _, who := range []struct{ name, source string }{
		{"reader", "127.0.0.66"}, {"reader", "127.0.0.66"}, {"reader", "127.0.0.66"}, // where too many wait already
		{"narrow", "127.0.0.77"},
	} {
		at := time.Now()
		if ack, err := l.dialFrom(ctx, who.source, userLogin(who.name, userPassword)); err != nil || ack.Code() != 0 {
			t.Errorf("%s: CONNACK %#x, %v", who.name, ack.Code(), err)
		}
		t.Logf("%s is in after %v", who.name, time.Since(at))
	}
	// Claims and devices do not wait for anybody's password.
	id := deviceID(t, 1)
	slowest := time.Duration(0)
	for range 20 {
		at := time.Now()
		c := claimant(t, l.Broker, mqttwire.V5, "provision/response")
		publish(t, c, mqttwire.Message{Topic: "provision/request", Payload: []byte("x"), QoS: 1})
		next(t, c, mqttwire.Publish)
		next(t, c, mqttwire.Puback)
		c.Close()
		d := device(t, l.Broker, mqttwire.V5, id)
		publish(t, d, mqttwire.Message{Topic: "devices/" + id.String() + "/telemetry", Payload: []byte("1"), QoS: 1})
		next(t, d, mqttwire.Puback)
		d.Close()
		slowest = max(slowest, time.Since(at))
	}
	t.Logf("the slowest claim and login took %v, %d tries", slowest, tries.Load())
	// One at a time.
	if n, most := l.Consumers().Refused-refused, uint64(time.Since(began)/once)+2; n > most {
		t.Errorf("%d passwords were computed in %v, want %d at most", n, time.Since(began), most)
	}
}

// cheap has the passwords cost little, and who logs in wait for long.
func cheap(c *broker.Config) {
	c.ConnectTimeout = 4 * patience
	for i := range c.Users {
		c.Users[i].PasswordHash = userHash
	}
}

// Many wrong passwords for one user, at once, keep no other user of the same
// source waiting for longer than a few of them take.
func TestUserLoginFloodOfOneName(t *testing.T) {
	l := startLine(t, cheap)
	ctx, cancel := context.WithTimeout(t.Context(), 6*patience)
	var all sync.WaitGroup
	var busy atomic.Int64
	for range 60 {
		all.Go(func() {
			if ack, err := l.dialFrom(ctx, "127.0.0.66", userLogin("boss", "wrong")); err == nil && ack.Code() == 0x89 {
				busy.Add(1)
			}
		})
	}
	defer all.Wait()
	defer cancel()
	eventually(t, "as many wait as may", func() bool { return busy.Load() >= 60-1-broker.MaxAtGateOfSource })
	refused := l.Consumers().Refused
	if ack, err := l.dialFrom(ctx, "127.0.0.66", userLogin("narrow", userPassword)); err != nil || ack.Code() != 0 {
		t.Errorf("CONNACK %#x, %v", ack.Code(), err)
	}
	if n := l.Consumers().Refused - refused; n > 3 {
		t.Errorf("%d of the flood were before it", n)
	}
}

// Each refused login is told, with the name if it is a user's: what is none may
// be a password in the wrong field.
func TestUserLoginRefusedIsTold(t *testing.T) {
	t.Parallel()
	type refusal struct{ user, source string }
	told := make(chan refusal, 10)
	tell := func(_ *line, p *broker.Parts) {
		p.Refused = func(user string, source netip.Addr) { told <- refusal{user, source.String()} }
	}
	l := startLine(t, cheap, tell)
	nobody := startLine(t, func(c *broker.Config) { c.Users = nil }, tell)
	l.user(t, mqttwire.V5, "reader")
	for _, tt := range []struct {
		on             *line
		name, password string
		want           refusal
	}{
		{l, "reader", "wrong", refusal{"reader", "127.0.0.66"}},
		{l, userPassword, "reader", refusal{"", "127.0.0.66"}},
		{nobody, "reader", userPassword, refusal{"", "127.0.0.66"}},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
		if ack, err := tt.on.dialFrom(ctx, "127.0.0.66", userLogin(tt.name, tt.password)); err != nil || ack.Code() != 0x86 {
			t.Errorf("CONNACK %#x, %v", ack.Code(), err)
		}
		cancel()
		select {
		case got := <-told: // before the CONNACK
			if got != tt.want {
				t.Errorf("told %+v, want %+v", got, tt.want)
			}
		default:
			t.Errorf("%+v is not told", tt.want)
		}
	}
	if len(told) != 0 || l.Consumers().Refused != 2 || nobody.Consumers().Refused != 1 {
		t.Errorf("%d told too many, %d and %d counted", len(told), l.Consumers().Refused, nobody.Consumers().Refused)
	}
}

// After a refusal nobody computes for three times as long as that took.
func TestUserLoginRests(t *testing.T) {
	t.Parallel()
	l := startLine(t, nil)
	once := patience
	for range 5 {
		at := time.Now()
		userhash.Idle(11, edgeclaim.NewSecret("wrong"))
		once = min(once, time.Since(at))
	}
	for _, name := range []string{"reader", "nobody"} { // the one's hash is the cheaper
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if _, err := l.dialFrom(ctx, "127.0.0.1", userLogin(name, "wrong")); err != nil {
			t.Fatal(err)
		}
		cancel()
		if rested := l.Rested().Sub(began); rested < 3*once {
			t.Errorf("%s: it rests for %v, and one takes %v", name, rested, once)
		}
	}
}
