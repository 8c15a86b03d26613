package broker_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/mqttwire"
)

func TestDeviceLogin(t *testing.T) {
	id, other := deviceID(t, 1), deviceID(t, 2)
	b := start(t, &rule{login: func(i edgeclaim.DeviceID, key edgeclaim.Secret) error {
		if i == other {
			return fmt.Errorf("disk on fire")
		}
		return knowsAll(i, key)
	}}, nil)
	telemetry := "devices/" + id.String() + "/telemetry"
	versions(t, func(t *testing.T, v mqttwire.Version) {
		for _, tt := range []struct {
			name   string
			change func(*mqttwire.Login)
			v5     byte
		}{
			{"good", func(*mqttwire.Login) {}, 0},
			{"no client id", func(l *mqttwire.Login) { l.ClientID = "" }, 0},
			{"will on its own topic", func(l *mqttwire.Login) { l.Will = &mqttwire.Message{Topic: telemetry, Payload: []byte("x"), QoS: 1} }, 0},
			{"wrong password", func(l *mqttwire.Login) { l.Password = "sk_live_x" }, 0x86},
			{"no password", func(l *mqttwire.Login) { l.Password = "" }, 0x86},
			{"another's password", func(l *mqttwire.Login) { l.Password = passwordOf(other) }, 0x86},
			{"box at fault", func(l *mqttwire.Login) { l.Username, l.Password = other.String(), passwordOf(other) }, 0x88},
			{"will on another's topic", func(l *mqttwire.Login) {
				l.Will = &mqttwire.Message{Topic: "devices/" + other.String() + "/telemetry", Payload: []byte("x")}
			}, 0x87},
			{"will as a claim", func(l *mqttwire.Login) { l.Will = &mqttwire.Message{Topic: "provision/request", Payload: []byte("x")} }, 0x87},
			{"will as a request for a credential", func(l *mqttwire.Login) {
				l.Will = &mqttwire.Message{Topic: "devices/" + id.String() + "/credentials/request", Payload: []byte("{}")}
			}, 0x87},
			{"retained will", func(l *mqttwire.Login) {
				l.Will = &mqttwire.Message{Topic: telemetry, Payload: []byte("x"), Retain: true}
			}, 0x9a},
		} {
			login := deviceLogin(id)
			tt.change(&login)
			_, ack := dial(t, b, v, login)
			want := tt.v5
			if v == mqttwire.V311 && want != 0 {
				want = 5
				if tt.v5 == 0x88 { // else the device might throw its credential away
					want = 3
				}
				if tt.v5 == 0x9a {
					want = ack.Code() // which of the few that there are does not matter
				}
				if ack.Code() == 0 {
					t.Errorf("%s: let in", tt.name)
				}
			}
			if ack.Code() != want {
				t.Errorf("%s: CONNACK %#x, want %#x", tt.name, ack.Code(), want)
			}
		}
		eventually(t, "one left", func() bool { return b.Connections().Devices <= 1 })
	})
}

// A panic while a device logs in ends that login, and leaves its lock free.
func TestLoginPanic(t *testing.T) {
	id := deviceID(t, 1)
	var asked atomic.Int64
	b := start(t, &rule{login: func(i edgeclaim.DeviceID, key edgeclaim.Secret) error {
		if asked.Add(1) <= 3 { // in the first login before the lock, in the second behind it
			if asked.Load() != 2 {
				panic("cannot read")
			}
		}
		return knowsAll(i, key)
	}}, nil)
	for range 2 {
		login := deviceLogin(id)
		c := mqttwire.New(connect(t, b), mqttwire.V5)
		if _, err := c.Login(login); err == nil {
			t.Error("let in")
		}
	}
	quiet(t, device(t, b, mqttwire.V5, id))
}

func TestDeviceTopics(t *testing.T) {
	id, other := deviceID(t, 1), deviceID(t, 2)
	r := &rule{login: knowsAll}
	b := start(t, r, nil)
	c := device(t, b, mqttwire.V5, id)
	own, others := "devices/"+id.String()+"/", "devices/"+other.String()+"/"
	for name, want := range map[string]byte{
		own + "telemetry":    0x00,
		own + "events":       0x00,
		own + "commands":     0x87,
		own + "config":       0x87,
		own + "telemetry/x":  0x87,
		own:                  0x87,
		others + "telemetry": 0x87,
		"provision/request":  0x87,
		"provision/response": 0x87,
	} {
		publish(t, c, mqttwire.Message{Topic: name, QoS: 1, ID: 77, Payload: []byte("x")})
		ack := next(t, c, mqttwire.Puback)
		if got := ack.Code(); got != want || ack.ID != 77 {
			t.Errorf("publish to %q: PUBACK %d with %#x, want %#x", name, ack.ID, got, want)
		}
	}
	subscribe(t, c, 0x01, own+"commands", own+"config")
	subscribe(t, c, 0x87, own+"telemetry", own+"+", own+"#", "#", "+/+/+", "devices/+/commands", others+"commands",
		"$share/g/"+own+"commands", "$SYS/#", "provision/response")
	if n := r.answers.Load(); n != 0 {
		t.Errorf("the rule was asked %d times", n)
	}
	for _, m := range []mqttwire.Message{
		{Topic: own + "telemetry", QoS: 1, Retain: true},
		{Topic: own + "telemetry", QoS: 2},
	} {
		c := device(t, b, mqttwire.V5, id)
		publish(t, c, m)
		hungUp(t, c, 0)
	}
}

// mochi copies user properties into the PUBACK, whose reason then becomes one
// that MQTT 5 does not have.
func TestPubackOfUserProperties(t *testing.T) {
	id := deviceID(t, 1)
	b := start(t, &rule{login: knowsAll}, nil)
	c := device(t, b, mqttwire.V5, id)
	name := "devices/" + id.String() + "/events"
	packet := append([]byte{0x32, byte(2 + len(name) + 2 + 8), 0, byte(len(name))}, name...)
	if err := c.Send(append(packet, "\x00\x09\x07\x26\x00\x01k\x00\x01v"...)); err != nil {
		t.Fatal(err)
	}
	if ack := next(t, c, mqttwire.Puback); ack.ID != 9 || ack.Code() != 0 {
		t.Errorf("PUBACK %d with %#x", ack.ID, ack.Code())
	}
}

func TestCommandsReachTheDevice(t *testing.T) {
	a, z := deviceID(t, 1), deviceID(t, 2)
	r := &rule{login: knowsAll}
	b := start(t, r, nil)
	ca, cz := device(t, b, mqttwire.V5, a), device(t, b, mqttwire.V311, z)
	subscribe(t, ca, 1, "devices/"+a.String()+"/commands")
	subscribe(t, cz, 1, "devices/"+z.String()+"/commands")
	r.tell(b, a, []byte("reboot"))
	if p := next(t, ca, mqttwire.Publish); string(p.Payload) != "reboot" || p.QoS != 1 {
		t.Errorf("got %+v", p.Message)
	}
	quiet(t, cz)
}

// Of all connections of a device that arrive at once, one stays, and none that
// does not know the password disturbs it.
func TestTakeover(t *testing.T) {
	versions(t, func(t *testing.T, v mqttwire.Version) {
		id := deviceID(t, 1)
		b := start(t, &rule{login: knowsAll}, func(c *broker.Config) { c.MaxDevices = 1 })
		for range 4 {
			clients := takeover(t, b, v, id)
			alive := 0
			for _, c := range clients {
				if c.Ping() == nil {
					if p, err := c.Read(); err == nil && p.Type == mqttwire.Pingresp {
						alive++
					}
				}
			}
			if alive != 1 {
				t.Errorf("%d of %d connections stay", alive, len(clients))
			}
			eventually(t, "one is counted", func() bool { return b.Connections().Devices == 1 && b.Clients() == 1 })
		}
	})
}

func takeover(t *testing.T, b *broker.Broker, v mqttwire.Version, id edgeclaim.DeviceID) []*mqttwire.Client {
	t.Helper()
	var mu sync.Mutex
	var clients []*mqttwire.Client
	var group errgroup.Group
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for range 40 {
		group.Go(func() error {
			c, ack, err := mqttwire.Dial(ctx, b.Addr().String(), v, deviceLogin(id))
			if err != nil || ack.Code() != 0 {
				return nil // taken over before it was told, or one too many
			}
			mu.Lock()
			defer mu.Unlock()
			clients = append(clients, c)
			return c.SetDeadline(time.Now().Add(patience))
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range clients {
			c.Close()
		}
	})
	return clients
}

func TestWrongPasswordDisturbsNobody(t *testing.T) {
	id := deviceID(t, 1)
	b := start(t, &rule{login: knowsAll}, nil)
	c := device(t, b, mqttwire.V5, id)
	for range 20 {
		login := deviceLogin(id)
		login.Password = "guess"
		if _, ack := dial(t, b, mqttwire.V5, login); ack.Code() != 0x86 {
			t.Fatalf("CONNACK %#x", ack.Code())
		}
	}
	quiet(t, c)
}

func TestDevicesFull(t *testing.T) {
	b := start(t, &rule{login: knowsAll}, func(c *broker.Config) { c.MaxDevices = 2 })
	first := device(t, b, mqttwire.V311, deviceID(t, 1))
	device(t, b, mqttwire.V311, deviceID(t, 2))
	if _, ack := dial(t, b, mqttwire.V311, deviceLogin(deviceID(t, 3))); ack.Code() != 3 {
		t.Errorf("CONNACK %#x", ack.Code())
	}
	quiet(t, claimant(t, b, mqttwire.V311)) // claimants have room of their own
	device(t, b, mqttwire.V311, deviceID(t, 1))
	hungUp(t, first, 0)
	eventually(t, "two", func() bool { return b.Connections().Devices == 2 })
}

// Disconnect ends the connection and the session; a device whose credential
// went meanwhile is not let in by a login that had begun before.
func TestDisconnect(t *testing.T) {
	versions(t, func(t *testing.T, v mqttwire.Version) {
		id := deviceID(t, 1)
		b := start(t, &rule{login: knowsAll}, nil)
		b.Disconnect(id) // who is not there
		login := sessionLogin(v, id)
		c, _ := dial(t, b, v, login)
		b.Disconnect(id)
		hungUp(t, c, 0x98)
		eventually(t, "forgotten", func() bool { return !b.Known(id) && b.Connections().Devices == 0 })
		c, ack := dial(t, b, v, login)
		if ack.SessionPresent {
			t.Error("the session is still there")
		}
		c.Close()
		eventually(t, "away", func() bool { return b.Connections().Devices == 0 && b.Known(id) })
		b.Disconnect(id)
		eventually(t, "the session of one who is away is forgotten", func() bool { return !b.Known(id) })
	})
}

// Disconnect waits for nobody: neither for who holds the device's lock, nor for
// a device that does not read. Both would otherwise keep it for longer than
// these tests wait.
func TestDisconnectWaitsForNobody(t *testing.T) {
	slowWrites := func(c *broker.Config) {
		c.WriteTimeout, c.MaxInflight, c.MaxPendingWrites = 2*patience, 16_384, 8192
	}
	for name, occupy := range map[string]func(*testing.T, *rule, *broker.Broker, edgeclaim.DeviceID, *mqttwire.Client){
		"lock": func(t *testing.T, _ *rule, b *broker.Broker, id edgeclaim.DeviceID, _ *mqttwire.Client) {
			t.Cleanup(b.Lock(id))
		},
		"socket": fill,
	} {
		t.Run(name, func(t *testing.T) {
			versions(t, func(t *testing.T, v mqttwire.Version) {
				id := deviceID(t, 1)
				r := &rule{login: knowsAll}
				b := start(t, r, slowWrites)
				c := device(t, b, v, id)
				occupy(t, r, b, id, c)
				disconnect(t, b, id)
				gone(t, c)
			})
		})
	}
}

// disconnect is that Disconnect returns soon.
func disconnect(t *testing.T, b *broker.Broker, id edgeclaim.DeviceID) {
	t.Helper()
	returned := make(chan struct{})
	go func() { // ends with the connection or the lock at the latest
		defer close(returned)
		b.Disconnect(id)
	}()
	select {
	case <-returned:
	case <-time.After(patience / 2):
		t.Error("Disconnect waits")
	}
}

// fill sends to a device that does not read until a write to it blocks.
func fill(t *testing.T, r *rule, b *broker.Broker, id edgeclaim.DeviceID, c *mqttwire.Client) {
	t.Helper()
	subscribe(t, c, 1, "devices/"+id.String()+"/commands")
	payload := make([]byte, 60<<10)
	for range 500 { // more than the sockets hold
		r.put(id, payload, time.Now().Add(time.Hour))
	}
	b.Wake(id)
	busy := 0
	eventually(t, "a write blocks", func() bool {
		if busy++; !b.Writing(id) {
			busy = 0
		}
		return busy == 100
	})
}

// A login whose credential was asked for before the call has not let the device
// in when Disconnect is through, however far it has got.
func TestDisconnectBehindLogin(t *testing.T) {
	id := deviceID(t, 1)
	var asked atomic.Int64
	behind, goOn := make(chan struct{}), make(chan struct{})
	b := start(t, &rule{login: func(edgeclaim.DeviceID, edgeclaim.Secret) error {
		if asked.Add(1) == 2 { // it holds the device's lock, and was valid just now
			close(behind)
			<-goOn
		}
		return nil
	}}, nil)
	let := make(chan bool, 1)
	go func() { // ends with the login
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c, ack, err := mqttwire.Dial(ctx, b.Addr().String(), mqttwire.V5, deviceLogin(id))
		if err == nil {
			c.Close()
		}
		let <- err == nil && ack.Code() == 0
	}()
	<-behind
	disconnect(t, b, id)
	close(goOn)
	if <-let {
		t.Error("the device was let in")
	}
	eventually(t, "forgotten", func() bool { return !b.Known(id) && b.Open() == 0 })
}

// A session whose end was under way when it was to be forgotten is not kept for
// whoever logs in next.
func TestDisconnectAtTheEnd(t *testing.T) {
	versions(t, func(t *testing.T, v mqttwire.Version) {
		id := deviceID(t, 1)
		b := start(t, &rule{login: knowsAll}, nil)
		c, _ := dial(t, b, v, sessionLogin(v, id))
		unlock := b.Lock(id) // its end waits for it
		c.Close()
		disconnect(t, b, id)
		unlock()
		eventually(t, "forgotten", func() bool { return !b.Known(id) && b.Open() == 0 })
	})
}

func TestDisconnectDuringLogin(t *testing.T) {
	id := deviceID(t, 1)
	var valid atomic.Bool
	valid.Store(true)
	asked, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	b := start(t, &rule{login: func(edgeclaim.DeviceID, edgeclaim.Secret) error {
		ok := valid.Load()
		once.Do(func() { close(asked); <-goOn })
		if !ok {
			return edgeclaim.ErrUnauthenticated
		}
		return nil
	}}, nil)
	refused := make(chan byte, 1)
	go func() { // ends with the login
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, ack, err := mqttwire.Dial(ctx, b.Addr().String(), mqttwire.V5, deviceLogin(id))
		if err != nil {
			refused <- 0xff
			return
		}
		refused <- ack.Code()
	}()
	<-asked // its credential was valid when it was looked up
	valid.Store(false)
	b.Disconnect(id)
	close(goOn)
	if code := <-refused; code != 0x86 {
		t.Errorf("CONNACK %#x", code)
	}
}

func sessionLogin(v mqttwire.Version, id edgeclaim.DeviceID) mqttwire.Login {
	login := deviceLogin(id)
	login.Clean = false
	if v == mqttwire.V5 {
		login.Properties.SessionExpiry = new(uint32(3600))
	}
	return login
}

// A device's session waits for it, with what came meanwhile.
func TestSession(t *testing.T) {
	versions(t, func(t *testing.T, v mqttwire.Version) {
		id := deviceID(t, 1)
		r := &rule{login: knowsAll}
		b := start(t, r, nil)
		c, ack := dial(t, b, v, sessionLogin(v, id))
		if ack.SessionPresent {
			t.Error("a session from nowhere")
		}
		subscribe(t, c, 1, "devices/"+id.String()+"/commands")
		c.Close()
		eventually(t, "away", func() bool { return b.Connections().Devices == 0 })
		r.tell(b, id, []byte("while away"))
		c, ack = dial(t, b, v, sessionLogin(v, id))
		if !ack.SessionPresent {
			t.Error("the session is lost")
		}
		if p := next(t, c, mqttwire.Publish); string(p.Payload) != "while away" {
			t.Errorf("got %q", p.Payload)
		}
		c.Close()
		eventually(t, "away", func() bool { return b.Connections().Devices == 0 })
		if c, ack = dial(t, b, v, deviceLogin(id)); ack.SessionPresent {
			t.Error("a clean start with a session")
		}
		c.Close()
		eventually(t, "nothing kept", func() bool { return b.Clients() == 0 })
	})
}

// A session that ends with its connection is not handed to the one that takes
// over.
func TestSessionWithoutExpiry(t *testing.T) {
	id := deviceID(t, 1)
	r := &rule{login: knowsAll}
	b := start(t, r, nil)
	login := deviceLogin(id)
	login.Clean = false // and no Session Expiry Interval: 0
	c, _ := dial(t, b, mqttwire.V5, login)
	subscribe(t, c, 1, "devices/"+id.String()+"/commands")
	c2, ack := dial(t, b, mqttwire.V5, login)
	if ack.SessionPresent {
		t.Error("session present")
	}
	hungUp(t, c, 0x8e)
	r.tell(b, id, []byte("x"))
	quiet(t, c2)
}

func TestSessionsAreBounded(t *testing.T) {
	b := start(t, &rule{login: knowsAll}, func(c *broker.Config) { c.MaxSessions = 3 })
	for i := range 6 {
		c, _ := dial(t, b, mqttwire.V311, sessionLogin(mqttwire.V311, deviceID(t, i)))
		c.Close()
		eventually(t, "away", func() bool { return b.Connections().Devices == 0 })
	}
	eventually(t, "three kept", func() bool { return b.Clients() == 3 })
	for i := range 6 {
		if known := b.Known(deviceID(t, i)); known != (i >= 3) {
			t.Errorf("session %d known: %v", i, known)
		}
	}
}

func TestSessionExpiryIsBounded(t *testing.T) {
	b := start(t, &rule{login: knowsAll}, func(c *broker.Config) { c.SessionExpiry = time.Minute })
	_, ack := dial(t, b, mqttwire.V5, sessionLogin(mqttwire.V5, deviceID(t, 1)))
	if e := ack.Properties.SessionExpiry; e == nil || *e != 60 {
		t.Errorf("told %v", e)
	}
}

// A DISCONNECT may shorten a session, to nothing too.
func TestSessionEndedByDisconnect(t *testing.T) {
	id := deviceID(t, 1)
	b := start(t, &rule{login: knowsAll}, nil)
	c, _ := dial(t, b, mqttwire.V5, sessionLogin(mqttwire.V5, id))
	if err := c.Send([]byte{0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	hungUp(t, c, 0)
	eventually(t, "nothing kept", func() bool { return b.Clients() == 0 })
}

// Every device has a deadline, and no keep-alive that mochi's arithmetic makes
// none of.
func TestKeepAlive(t *testing.T) {
	id := deviceID(t, 1)
	b := start(t, &rule{login: knowsAll}, nil)
	for _, tt := range []struct {
		v         mqttwire.Version
		asked     uint16
		told, set uint16
	}{
		{mqttwire.V311, 0, 0, 300},
		{mqttwire.V311, 60, 0, 60},
		{mqttwire.V311, 3600, 0, 3600},
		{mqttwire.V311, 43_691, 0, 43_690},
		{mqttwire.V5, 0, 300, 300},
		{mqttwire.V5, 60, 0, 60},
		{mqttwire.V5, 43_691, 300, 300},
	} {
		login := deviceLogin(id)
		login.KeepAlive = tt.asked
		c, ack := dial(t, b, tt.v, login)
		if got := b.KeepAlive(id); got != tt.set || ack.Properties.ServerKeepAlive != tt.told {
			t.Errorf("version %d, asked for %d s: holds %d, told %d", tt.v, tt.asked, got, ack.Properties.ServerKeepAlive)
		}
		quiet(t, c)
	}
}

// Both directions number their packets by themselves: with commands unanswered,
// a device's packets of the same numbers are as good as any, and no command is
// forgotten for them.
func TestPacketIDs(t *testing.T) {
	versions(t, func(t *testing.T, v mqttwire.Version) {
		id := deviceID(t, 1)
		r := &rule{login: knowsAll}
		b := start(t, r, nil)
		commands := "devices/" + id.String() + "/commands"
		c, _ := dial(t, b, v, sessionLogin(v, id))
		subscribe(t, c, 1, commands)
		const waiting = 5
		for range waiting {
			r.tell(b, id, []byte("x"))
		}
		sent := map[uint16]bool{}
		for range waiting {
			sent[next(t, c, mqttwire.Publish).ID] = true
		}
		if len(sent) != waiting {
			t.Errorf("%d messages have the ids %v", waiting, sent)
		}
		for n := range sent {
			if err := c.Send(mqttwire.AppendSubscribe(nil, v, n, 1, "devices/"+id.String()+"/config")); err != nil {
				t.Fatal(err)
			}
			if ack := next(t, c, mqttwire.Suback); ack.ID != n || ack.Code() != 1 {
				t.Errorf("SUBACK %d with %#x, want %d", ack.ID, ack.Code(), n)
			}
			publish(t, c, mqttwire.Message{Topic: "devices/" + id.String() + "/events", QoS: 1, ID: n})
			if ack := next(t, c, mqttwire.Puback); ack.ID != n || ack.Code() >= 0x80 {
				t.Errorf("PUBACK %d with %#x, want %d", ack.ID, ack.Code(), n)
			}
			if err := c.Send(mqttwire.AppendUnsubscribe(nil, v, n, "devices/"+id.String()+"/config")); err != nil {
				t.Fatal(err)
			}
			if ack := next(t, c, mqttwire.Unsuback); ack.ID != n {
				t.Errorf("UNSUBACK %d, want %d", ack.ID, n)
			}
		}
		c.Close()
		eventually(t, "away", func() bool { return b.Connections().Devices == 0 })
		c, _ = dial(t, b, v, sessionLogin(v, id))
		for range waiting {
			p := next(t, c, mqttwire.Publish)
			if p.Dup || string(p.Payload) != "x" { // each is sent anew, as long as it is worth it
				t.Errorf("sent again: %q, dup %v", p.Payload, p.Dup)
			}
			if err := c.Send(mqttwire.AppendPuback(nil, v, p.ID, 0)); err != nil {
				t.Fatal(err)
			}
		}
		quiet(t, c)
	})
}

// The end of a connection waits for a login of the same device that is under
// way, lest it take the new one off the map.
func TestEndWaitsForLogin(t *testing.T) {
	id := deviceID(t, 1)
	b := start(t, &rule{login: knowsAll}, nil)
	c := device(t, b, mqttwire.V311, id)
	unlock := b.Lock(id)
	c.Close()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 20 {
		<-tick.C
		if !b.Known(id) {
			t.Error("it did not wait")
			break
		}
	}
	unlock()
	eventually(t, "gone", func() bool { return !b.Known(id) })
}

// A device that says how much it can receive does not freeze those who publish
// to it.
func TestReceiveMaximumDoesNotFreeze(t *testing.T) {
	id := deviceID(t, 1)
	r := &rule{login: knowsAll}
	b := start(t, r, func(c *broker.Config) { c.MaxInflight, c.MaxPendingWrites = 16_384, 8_192 })
	login := deviceLogin(id)
	login.Properties.ReceiveMaximum = 200
	c, _ := dial(t, b, mqttwire.V5, login)
	commands := "devices/" + id.String() + "/commands"
	subscribe(t, c, 1, commands)
	go func() { // ends with the connection
		for {
			p, err := c.Read()
			if err != nil {
				return
			}
			if p.Type == mqttwire.Publish {
				_ = c.Send(mqttwire.AppendPuback(nil, mqttwire.V5, p.ID, 0))
			}
		}
	}()
	const publishers, each = 16, 1000
	done := make(chan error, 1)
	go func() { // ends with the publishers, unless they freeze
		var group errgroup.Group
		for range publishers {
			group.Go(func() error {
				for range each {
					r.tell(b, id, []byte("x"))
				}
				return nil
			})
		}
		done <- group.Wait()
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(2 * patience):
		t.Fatal("the publishers are frozen")
	}
}

// A device that stops reading holds those who publish to it up once, for no
// longer than a write may take.
func TestDeviceThatDoesNotRead(t *testing.T) {
	id := deviceID(t, 1)
	r := &rule{login: knowsAll}
	b := start(t, r, func(c *broker.Config) {
		c.WriteTimeout, c.MaxInflight, c.MaxPendingWrites = 200*time.Millisecond, 16_384, 8192
	})
	c := device(t, b, mqttwire.V311, id)
	if tcp, ok := c.Conn().(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(4096)
	}
	commands := "devices/" + id.String() + "/commands"
	subscribe(t, c, 1, commands)
	payload := make([]byte, 60<<10)
	began := time.Now()
	for b.Connections().Devices > 0 {
		r.tell(b, id, payload)
		if time.Since(began) > patience {
			t.Fatal("still connected")
		}
	}
}

// A CONNACK that cannot be written leaves nothing behind.
func TestConnackNotWritten(t *testing.T) {
	b := start(t, &rule{login: knowsAll}, nil)
	for i, login := range []mqttwire.Login{{Clean: true}, sessionLogin(mqttwire.V5, deviceID(t, 1))} {
		login.Properties.MaximumPacketSize = 3
		c := mqttwire.New(connect(t, b), mqttwire.V5)
		if _, err := c.Login(login); err == nil {
			t.Errorf("login %d: a CONNACK of three bytes", i)
		}
	}
	eventually(t, "nothing kept", func() bool { return b.Clients() == 0 && b.Open() == 0 })
	quiet(t, device(t, b, mqttwire.V5, deviceID(t, 1)))
}
