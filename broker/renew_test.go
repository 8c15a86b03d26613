package broker_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/mqttwire"
)

// says answers a wish for another credential with what was asked.
func says(ask edgeclaim.RotateAsk) edgeclaim.Answer {
	return edgeclaim.Answer{Body: fmt.Appendf(nil, "%s %s %s", ask.By.Device, ask.Format, ask.Body)}
}

func TestRenew(t *testing.T) {
	id, other := deviceID(t, 1), deviceID(t, 2)
	var asked atomic.Pointer[edgeclaim.RotateAsk]
	b := start(t, &rule{login: knowsAll, renew: func(ask edgeclaim.RotateAsk) edgeclaim.Answer {
		asked.Store(&ask)
		return says(ask)
	}}, nil)
	prefix := "devices/" + id.String() + "/credentials/"
	versions(t, func(t *testing.T, v mqttwire.Version) {
		spy := device(t, b, v, other)
		c := device(t, b, v, id)
		subscribe(t, c, 1, prefix+"response", prefix+"response/cbor")
		subscribe(t, spy, refusedBy(v), prefix+"response", prefix+"response/cbor", prefix+"#", "devices/+/credentials/response")
		for _, tt := range []struct {
			topic, where string
			format       edgeclaim.Format
			answerTo     string
		}{
			{"request", "response", edgeclaim.FormatJSON, ""},
			{"request/cbor", "response/cbor", edgeclaim.FormatCBOR, ""},
			{"request", "response/cbor", edgeclaim.FormatJSON, prefix + "response/cbor"},
		} {
			if tt.answerTo != "" && v == mqttwire.V311 {
				continue
			}
			for qos := range byte(2) {
				m := mqttwire.Message{Topic: prefix + tt.topic, Payload: []byte("{}"), QoS: qos, ID: 77}
				if v == mqttwire.V5 {
					m.Properties = mqttwire.Properties{CorrelationData: []byte("seven"), ResponseTopic: tt.answerTo}
				}
				publish(t, c, m)
				p := next(t, c, mqttwire.Publish)
				if want := fmt.Sprintf("%s %s {}", id, tt.format); p.Topic != prefix+tt.where || string(p.Payload) != want || p.QoS != 0 || p.Retain {
					t.Errorf("answer %+v, want %q", p.Message, want)
				}
				if v == mqttwire.V5 && string(p.Properties.CorrelationData) != "seven" {
					t.Errorf("correlation data %q", p.Properties.CorrelationData)
				}
				if qos == 1 {
					if ack := next(t, c, mqttwire.Puback); ack.ID != 77 || ack.Code() != 0 {
						t.Errorf("PUBACK %d with %#x", ack.ID, ack.Code())
					}
				}
				quiet(t, c)
			}
		}
		quiet(t, spy)
		ask := asked.Load()
		if want := edgeclaim.NewSecret(passwordOf(id)).Hash(); ask.By.Device != id || !ask.By.Credential.Equal(want) ||
			ask.Via != edgeclaim.ViaMQTT || !ask.Source.IsLoopback() || ask.Room != 0 || time.Since(ask.ReceivedAt) > patience {
			t.Errorf("asked %+v", ask)
		}
	})
}

func refusedBy(v mqttwire.Version) byte {
	if v == mqttwire.V5 {
		return 0x87
	}
	return 0x80
}

// The device's own packet id comes back although a message on its way to the
// device has the same.
func TestRenewWithAMessageOnItsWay(t *testing.T) {
	id := deviceID(t, 1)
	r := &rule{login: knowsAll, renew: says}
	b := start(t, r, nil)
	prefix := "devices/" + id.String() + "/"
	c := device(t, b, mqttwire.V5, id)
	subscribe(t, c, 1, prefix+"commands", prefix+"credentials/response")
	r.tell(b, id, []byte("blink"))
	blink := next(t, c, mqttwire.Publish)
	publish(t, c, mqttwire.Message{Topic: prefix + "credentials/request", QoS: 1, ID: blink.ID})
	next(t, c, mqttwire.Publish)
	if ack := next(t, c, mqttwire.Puback); ack.ID != blink.ID {
		t.Errorf("PUBACK of %d, want %d", ack.ID, blink.ID)
	}
}

// A device may ask for its own credential, and hear of it, and nobody else.
func TestRenewIsTheDevicesOwn(t *testing.T) {
	id, other := deviceID(t, 1), deviceID(t, 2)
	r := &rule{login: knowsAll, renew: func(edgeclaim.RotateAsk) edgeclaim.Answer {
		t.Error("asked")
		return edgeclaim.Answer{}
	}}
	b := start(t, r, nil)
	for name, topic := range map[string]string{
		"of another":       "devices/" + other.String() + "/credentials/request",
		"below":            "devices/" + id.String() + "/credentials/request/x",
		"the answer":       "devices/" + id.String() + "/credentials/response",
		"in another case":  "devices/" + id.String() + "/credentials/Request",
		"of an empty id":   "devices//credentials/request",
		"of id in capital": "devices/" + strings.ToUpper("aaaaaaaa-0000-5000-8000-000000000001") + "/credentials/request",
	} {
		c := device(t, b, mqttwire.V5, id)
		publish(t, c, mqttwire.Message{Topic: topic, Payload: []byte("{}"), QoS: 1})
		if ack := next(t, c, mqttwire.Puback); ack.Code() != 0x87 {
			t.Errorf("%s: PUBACK %#x", name, ack.Code())
		}
		quiet(t, c)
	}
	c := claimant(t, b, mqttwire.V5)
	publish(t, c, mqttwire.Message{Topic: "devices/" + id.String() + "/credentials/request", QoS: 1})
	if ack := next(t, c, mqttwire.Puback); ack.Code() != 0x87 {
		t.Errorf("a claimant: PUBACK %#x", ack.Code())
	}
}

// What this face finds wrong is said before anything is made.
func TestRenewFaults(t *testing.T) {
	id := deviceID(t, 1)
	b := start(t, &rule{login: knowsAll, renew: func(edgeclaim.RotateAsk) edgeclaim.Answer {
		t.Error("asked")
		return edgeclaim.Answer{}
	}}, nil)
	prefix := "devices/" + id.String() + "/credentials/"
	for _, tt := range []struct {
		name, filter string
		m            mqttwire.Message
		room         uint32
		ack          byte
		fault        string // empty: nothing is said
	}{
		{"not subscribed", "", mqttwire.Message{}, 0, 0x83, ""},
		{"answer elsewhere", prefix + "response", mqttwire.Message{Properties: mqttwire.Properties{ResponseTopic: "provision/response"}}, 0, 0x83, "response_topic"},
		{"answer to another", prefix + "response", mqttwire.Message{Properties: mqttwire.Properties{
			ResponseTopic: "devices/" + deviceID(t, 2).String() + "/credentials/response",
		}}, 0, 0x83, "response_topic"},
		{"no room", prefix + "response", mqttwire.Message{}, 2000, 0x83, "maximum_packet_size"},
		{"too large", prefix + "response", mqttwire.Message{Payload: make([]byte, 8<<10+1)}, 0, 0x99, "body"},
	} {
		login := deviceLogin(id)
		login.Properties.MaximumPacketSize = tt.room
		c, ack := dial(t, b, mqttwire.V5, login)
		if ack.Code() != 0 {
			t.Fatalf("CONNACK %#x", ack.Code())
		}
		if tt.filter != "" {
			subscribe(t, c, 1, tt.filter)
		}
		tt.m.Topic, tt.m.QoS = prefix+"request", 1
		publish(t, c, tt.m)
		if tt.fault != "" {
			if p := next(t, c, mqttwire.Publish); !bytes.Contains(p.Payload, []byte(tt.fault)) || p.Topic != prefix+"response" {
				t.Errorf("%s: %q on %s", tt.name, p.Payload, p.Topic)
			}
		}
		if ack := next(t, c, mqttwire.Puback); ack.Code() != tt.ack {
			t.Errorf("%s: PUBACK %#x, want %#x", tt.name, ack.Code(), tt.ack)
		}
	}
}

// The rule hears how much room there is for the answer.
func TestRoom(t *testing.T) {
	id := deviceID(t, 1)
	b := start(t, &rule{login: knowsAll, renew: func(ask edgeclaim.RotateAsk) edgeclaim.Answer {
		return edgeclaim.Answer{Body: bytes.Repeat([]byte("x"), ask.Room)}
	}}, nil)
	topic := "devices/" + id.String() + "/credentials/response"
	for _, most := range []uint32{3000, 16_500} { // lengths of two and of three bytes
		login := deviceLogin(id)
		login.Properties.MaximumPacketSize = most
		c, _ := dial(t, b, mqttwire.V5, login)
		subscribe(t, c, 1, topic)
		publish(t, c, mqttwire.Message{Topic: "devices/" + id.String() + "/credentials/request", QoS: 1, Properties: mqttwire.Properties{
			CorrelationData: []byte("0123456789"),
		}})
		p := next(t, c, mqttwire.Publish)
		m := p.Message
		if size := len(mqttwire.AppendPublish(nil, mqttwire.V5, &m)); size > int(most) || size < int(most)-4 {
			t.Errorf("an answer of %d bytes where %d fit", size, most)
		}
	}
}

// What was not decided is not acknowledged, and the connection ends.
func TestRenewUndecided(t *testing.T) {
	id := deviceID(t, 1)
	b := start(t, &rule{login: knowsAll, renew: func(edgeclaim.RotateAsk) edgeclaim.Answer {
		return edgeclaim.Answer{Code: edgeclaim.CodeUnavailable, Body: []byte("later")}
	}}, nil)
	versions(t, func(t *testing.T, v mqttwire.Version) {
		c := device(t, b, v, id)
		subscribe(t, c, 1, "devices/"+id.String()+"/credentials/response")
		publish(t, c, mqttwire.Message{Topic: "devices/" + id.String() + "/credentials/request", QoS: 1})
		if p := next(t, c, mqttwire.Publish); string(p.Payload) != "later" {
			t.Errorf("answer %q", p.Payload)
		}
		hungUp(t, c, 0x89)
	})
}

// A stop waits for what is being decided.
func TestStopWaitsForRenewal(t *testing.T) {
	id := deviceID(t, 1)
	deciding, decide := make(chan struct{}), make(chan struct{})
	b, stop := run(t, &rule{login: knowsAll, renew: func(edgeclaim.RotateAsk) edgeclaim.Answer {
		close(deciding)
		<-decide
		return edgeclaim.Answer{Body: []byte("new")}
	}}, nil, discard())
	c := device(t, b, mqttwire.V5, id)
	subscribe(t, c, 1, "devices/"+id.String()+"/credentials/response")
	publish(t, c, mqttwire.Message{Topic: "devices/" + id.String() + "/credentials/request", QoS: 1})
	<-deciding
	idle, stopped := connect(t, b), make(chan error, 1)
	go func() { stopped <- stop() }() // ends with the broker
	closed(t, idle)                   // it stops by now
	close(decide)
	if p := next(t, c, mqttwire.Publish); string(p.Payload) != "new" {
		t.Errorf("answer %q", p.Payload)
	}
	next(t, c, mqttwire.Puback)
	hungUp(t, c, 0x8b)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// A connection ends with what it was let in with, and not before.
func TestValidFor(t *testing.T) {
	id := deviceID(t, 1)
	b := start(t, &rule{login: knowsAll, valid: func(edgeclaim.DeviceID) time.Duration { return 300 * time.Millisecond }}, nil)
	versions(t, func(t *testing.T, v mqttwire.Version) {
		began := time.Now()
		c := device(t, b, v, id)
		quiet(t, c)
		hungUp(t, c, 0x87)
		if took := time.Since(began); took < 300*time.Millisecond || took > 2*time.Second {
			t.Errorf("ended after %v", took)
		}
	})
}

// Shorten ends the connection that was let in with that credential, and no
// other; the session stays.
func TestShorten(t *testing.T) {
	id := deviceID(t, 1)
	b := start(t, &rule{login: knowsAll}, nil)
	credential := edgeclaim.NewSecret(passwordOf(id)).Hash()
	login := deviceLogin(id)
	login.Clean, login.Properties.SessionExpiry = false, new(uint32(60))
	c, _ := dial(t, b, mqttwire.V5, login)
	subscribe(t, c, 1, "devices/"+id.String()+"/commands")
	b.Shorten(id, edgeclaim.NewSecret("another").Hash(), 0)
	b.Shorten(deviceID(t, 2), credential, 0)
	b.Shorten(id, credential, time.Hour)
	quiet(t, c)
	b.Shorten(id, credential, 50*time.Millisecond)
	b.Shorten(id, credential, time.Hour) // later than what is set: nothing changes
	hungUp(t, c, 0x87)
	if _, ack := dial(t, b, mqttwire.V5, login); !ack.SessionPresent {
		t.Error("the session went with the credential")
	}
}

// A login that was decided on before the change, and is not on the map yet, is
// not forgotten: it ends.
func TestShortenFindsALoginUnderWay(t *testing.T) {
	id := deviceID(t, 1)
	admitted, changed := make(chan struct{}), make(chan struct{})
	var asked atomic.Int64
	b := start(t, &rule{login: func(i edgeclaim.DeviceID, key edgeclaim.Secret) error {
		if asked.Add(1) == 2 { // behind the lock
			close(admitted)
			<-changed
		}
		return knowsAll(i, key)
	}}, func(c *broker.Config) { c.ConnectTimeout = patience })
	c := mqttwire.New(connect(t, b), mqttwire.V5)
	login := deviceLogin(id)
	if err := c.Send(mqttwire.AppendConnect(nil, mqttwire.V5, &login)); err != nil {
		t.Fatal(err)
	}
	<-admitted
	b.Shorten(id, edgeclaim.NewSecret(passwordOf(id)).Hash(), time.Hour)
	close(changed)
	gone(t, c)
	eventually(t, "no connection", func() bool { return b.Open() == 0 })
	device(t, b, mqttwire.V5, id)
}
