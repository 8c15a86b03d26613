package acceptance

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim/internal/mqttwire"
)

// smuggled are topics that nobody but the box has anything to do with. %s is the
// victim's id.
var smuggled = []string{
	"$SYS/broker/uptime", "$SYS", "$share/g/provision/request", "$queue/x", "provision/response", "provision/response/1", "provision/response/cbor",
	"provision/request/", "/provision/request", "provision//request", "provision/request/+", "provision/#", "PROVISION/REQUEST", "provision/request\x00",
	"provision\xc0\xafrequest", "\xed\xa0\x80provision/request", "provision/request\uffff", "", "/", "//", "+", "#",
	"devices/%s/commands", "devices/%s/config", "devices/%s/telemetry", "devices/%s/credentials/request", "devices/%s/credentials/response",
	"devices/%s//commands", "devices/+/commands", "devices/#", "edgeclaim/v1/default/box/down/doc", "edgeclaim/v1/_host/st",
	strings.Repeat("a/", 4000), strings.Repeat("/", 8000),
}

// smuggleTopics publishes to topics that are not the sender's. What it carries
// would be a good claim, if anybody took it for one.
func smuggleTopics(t *testing.T, s *siege) {
	device := s.another(t, "SMUGGLER")
	payload := []byte(claimBody(s.key, "n", "SMUGGLED"))
	for _, d := range s.mqtt {
		for _, who := range []mqttwire.Login{asClaimant(), as(device)} {
			for i, topic := range smuggled {
				if strings.Contains(topic, "%s") {
					topic = fmt.Sprintf(topic, s.victim.id)
				}
				version := []mqttwire.Version{mqttwire.V311, mqttwire.V5}[i%2]
				client, ack := s.connect(t, d, version, who)
				if ack.Code() != 0 {
					t.Fatalf("%s: %#x", d.name, ack.Code())
				}
				for qos := range byte(3) {
					_ = client.Publish(mqttwire.Message{Topic: topic, Payload: payload, QoS: qos, ID: uint16(qos) + 1}) // it may be cut off by then
				}
				wantNothing(t, client, fmt.Sprintf("%s: %.40q", d.name, topic))
			}
		}
		answersElsewhere(t, s, d, device)
	}
}

// answersElsewhere asks for an answer where somebody else would hear it.
func answersElsewhere(t *testing.T, s *siege, d *entrance, device claimed) {
	t.Helper()
	own := "devices/" + device.id + "/credentials/request"
	for _, response := range []string{
		"devices/" + s.victim.id + "/commands", "devices/" + s.victim.id + "/credentials/response", "$SYS/x", "provision/response/a/b", "provision/response/+", "#",
	} {
		for who, topic := range map[*mqttwire.Login]string{new(asClaimant()): "provision/request", new(as(device)): own} {
			client, _ := s.connect(t, d, mqttwire.V5, *who)
			payload := "{}"
			if topic != own {
				payload = claimBody(s.key, "n", "SMUGGLED")
			}
			message := mqttwire.Message{Topic: topic, Payload: []byte(payload), QoS: 1, Properties: mqttwire.Properties{ResponseTopic: response}}
			if err := client.Publish(message); err != nil {
				t.Error(err)
			}
			wantNothing(t, client, "an answer to "+response)
		}
	}
}

// wantNothing fails if what the box says, until it ends the connection or
// answers a ping, holds a secret.
func wantNothing(t *testing.T, client *mqttwire.Client, what string) {
	t.Helper()
	defer client.Close()
	_ = client.Ping() // a connection that was ended is nothing too
	for {
		p, err := client.Read()
		if err != nil || p.Type == mqttwire.Pingresp {
			return
		}
		if bytes.Contains(p.Payload, []byte("sk_live_")) {
			t.Errorf("%s: answered %s", what, p.Payload)
		}
	}
}

// willsAndRetain leaves messages behind that would be published later, or to
// who comes later.
func willsAndRetain(t *testing.T, s *siege) {
	device := s.another(t, "WILL")
	own := "devices/" + device.id
	payload := []byte(claimBody(s.key, "n", "WILLED"))
	for _, d := range s.mqtt {
		for _, v := range []mqttwire.Version{mqttwire.V311, mqttwire.V5} {
			for _, c := range []struct {
				who    mqttwire.Login
				topic  string
				retain bool
			}{
				{asClaimant(), "provision/request", false}, {asClaimant(), "provision/response", true}, {asClaimant(), "devices/" + s.victim.id + "/commands", false},
				{as(device), "provision/request", false}, {as(device), "devices/" + s.victim.id + "/commands", true}, {as(device), own + "/commands", false},
				{as(device), own + "/credentials/request", false}, {as(device), own + "/telemetry", true}, {as(device), "$SYS/x", false}, {as(device), "#", false},
			} {
				c.who.Will = &mqttwire.Message{Topic: c.topic, Payload: payload, QoS: 1, Retain: c.retain}
				conn, err := d.reach(from)
				if err != nil {
					t.Fatal(err)
				}
				client := mqttwire.New(conn, v)
				_ = client.SetDeadline(time.Now().Add(patience)) // the next step tells
				if ack, err := client.Login(c.who); err == nil && ack.Code() == 0 {
					t.Errorf("%s: a will to %s, retained %v, is let in", d.name, c.topic, c.retain)
				}
				client.Close()
			}
			client, _ := s.connect(t, d, v, as(device))
			if err := client.Publish(mqttwire.Message{Topic: own + "/telemetry", Payload: payload, QoS: 1, Retain: true}); err != nil {
				t.Error(err)
			}
			wantCut(t, client.Conn(), "a retained message")
		}
	}
}

// takeOver fights for a device's session with its stolen key, from two places,
// and for the victim's without one. The first is told as a clone, and locks the
// device out of nothing; the second does nothing.
func takeOver(t *testing.T, s *siege) {
	device := s.another(t, "CONTESTED")
	var sides [2]*mqttwire.Client
	for round := range 5 {
		if round > 0 { // a connection that was never settled is a link that flaps
			within(1100*time.Millisecond, t.Context().Done())
			if err := sides[1-round%2].Ping(); err != nil {
				t.Fatal(err)
			}
		}
		conn, err := s.mqtt[round/2%2].reach(fmt.Sprint("127.0.0.", 70+round%2))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		sides[round%2] = mqttwire.New(conn, mqttwire.V311)
		if err := sides[round%2].SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if ack, err := sides[round%2].Login(as(device)); err != nil || ack.Code() != 0 {
			t.Fatalf("round %d: %v, %#x", round, err, ack.Code())
		}
		if old := sides[1-round%2]; old != nil {
			wantCut(t, old.Conn(), "taken over")
		}
		for _, d := range s.mqtt { // by its id alone
			thief := mqttwire.Login{ClientID: s.victim.id, Username: s.victim.id, Password: device.apiKey, Clean: true}
			if _, ack := s.connect(t, d, mqttwire.V311, thief); ack.Code() == 0 {
				t.Error("the victim's id was enough to be let in")
			}
		}
	}
	until(t, "the device is told as cloned", func() bool {
		return len(s.of(t).audited("alarm", "")) > 0 && s.of(t).alarm("device_cloned") > 0
	})
	s.of(t).wantLogin(device.id, device.apiKey, true, "after the fight")
}

// alarm counts the box's own alarms of a kind.
func (b *box) alarm(kind string) uint64 {
	b.t.Helper()
	var said struct {
		Alarms []struct {
			Alarm string
			Count uint64
		}
	}
	b.json(&said, "status")
	for _, a := range said.Alarms {
		if a.Alarm == kind {
			return a.Count
		}
	}
	return 0
}

// spoofIDs logs in as devices that are there and that are not: nobody learns
// which.
func spoofIDs(t *testing.T, s *siege) {
	for _, v := range []mqttwire.Version{mqttwire.V311, mqttwire.V5} {
		said := map[string]bool{}
		for _, d := range s.mqtt {
			for _, id := range []string{s.victim.id, s.stolen.id, "8f1c0b7e-3d2a-4f56-9a10-2c4e6f8b1d33", strings.ToUpper(s.victim.id), "admin", "$SYS"} {
				for _, password := range []string{"x", s.key, s.stolen.apiKey + "A"} {
					conn, err := d.reach(from)
					if err != nil {
						t.Fatal(err)
					}
					_ = conn.SetDeadline(time.Now().Add(patience)) // the next step tells
					login := mqttwire.Login{ClientID: id, Username: id, Password: password, Clean: true, KeepAlive: 60}
					if _, err := conn.Write(mqttwire.AppendConnect(nil, v, &login)); err != nil {
						t.Fatal(err)
					}
					bytes, err := io.ReadAll(conn)
					conn.Close()
					said[fmt.Sprintf("%x %v", bytes, err)] = true
				}
			}
		}
		if len(said) != 1 {
			t.Errorf("log-ins over MQTT %d were refused in %d ways: %v", v, len(said), said)
		}
	}
	said := map[string]bool{}
	for _, hardware := range []string{"VICTIM", "STOLEN", "NOBODY"} {
		for _, d := range s.mqtt {
			answered, err := claimOverMQTT(d, claimBody("pk_factory_wrong", "n", hardware))
			if err != nil {
				t.Error(err)
			}
			said[strings.Split(answered, `"retry_after"`)[0]] = true
		}
	}
	for answered := range said { // throttled or not, no hardware is told from another
		if answered != denied && !strings.Contains(answered, `"code":8`) {
			t.Errorf("a wrong key was answered %s", answered)
		}
	}
}

// replay says again what was said before.
func replay(t *testing.T, s *siege) {
	other := strings.Replace(s.captured, `"claim_nonce":"`, `"claim_nonce":"AAAA`, 1)
	want := fmt.Sprintf(`{"device_id":%q,"api_key":""}`, s.victim.id)
	for _, body := range []string{s.captured, other, claimBody(s.key, "n", "VICTIM")} {
		for _, d := range s.mqtt {
			if said, err := claimOverMQTT(d, body); err != nil || said != want {
				t.Errorf("%s: %v %s", d.name, err, said)
			}
		}
		for _, d := range s.http {
			if said, err := claimOverHTTP(d, body); err != nil || said != want {
				t.Errorf("%s: %v %s", d.name, err, said)
			}
		}
	}
	// What a device asked on its session gets another one its own key, if any.
	device := s.another(t, "REPLAYER")
	if said := s.of(t).rotateSelf(device.apiKey, fmt.Sprintf(`{"claim_nonce":%q}`, randomNonce())).renewal(t); said.DeviceID != device.id {
		t.Errorf("rotated as %s, it is %s", said.DeviceID, device.id)
	}
	for _, secret := range []string{"", s.key, s.victim.id} {
		if said := s.of(t).rotateSelf(secret, s.captured); said.status != 401 && said.status != 400 {
			t.Errorf("rotated with %.4s…: %d %s", secret, said.status, said.body)
		}
	}
}

// floodPackets sends more than anybody reads.
func floodPackets(t *testing.T, s *siege) {
	device := s.another(t, "FLOOD")
	pings := bytes.Repeat([]byte{0xc0, 0}, 10_000)
	subscribe := bytes.Repeat(mqttwire.AppendSubscribe(nil, mqttwire.V311, 1, 1, "provision/response"), 2_000)
	claims := bytes.Repeat(mqttwire.AppendPublish(nil, mqttwire.V311, &mqttwire.Message{
		Topic: "provision/request", Payload: []byte(claimBody("pk_factory_wrong", "n", "F")), QoS: 1, ID: 1,
	}), 2_000)
	telemetry := bytes.Repeat(mqttwire.AppendPublish(nil, mqttwire.V311, &mqttwire.Message{
		Topic: "devices/" + device.id + "/telemetry", Payload: make([]byte, 512), QoS: 1, ID: 1,
	}), 4_000)
	var floods sync.WaitGroup
	for _, d := range s.mqtt {
		for _, c := range []struct {
			who  mqttwire.Login
			what []byte
		}{{asClaimant(), pings}, {asClaimant(), subscribe}, {asClaimant(), claims}, {as(device), telemetry}} {
			client, _ := s.connect(t, d, mqttwire.V311, c.who)
			floods.Go(func() {
				defer client.Close()
				_ = client.SetDeadline(time.Now().Add(2 * time.Second)) // the box may stop reading: that is the cure
				if client.Send(c.what) == nil {
					_, _ = io.Copy(io.Discard, client.Conn())
				}
			})
		}
	}
	floods.Wait()
}

// bombsOverMQTT are small packets that are large to whom believes them.
func bombsOverMQTT(t *testing.T, s *siege) {
	connect := mqttwire.AppendConnect(nil, mqttwire.V5, new(asClaimant()))
	huge := []byte{0xff, 0xff, 0xff, 0x7f} // 268,435,455
	var filters []string
	for i := range 300 {
		filters = append(filters, fmt.Sprint("provision/response/", i))
	}
	for name, said := range map[string][]byte{
		"a CONNECT of 256 MiB":         append([]byte{0x10}, huge...),
		"a PUBLISH first":              mqttwire.AppendPublish(nil, mqttwire.V311, &mqttwire.Message{Topic: "provision/request"}),
		"a length of five bytes":       {0x10, 0xff, 0xff, 0xff, 0xff, 0x01},
		"an unknown protocol":          {0x10, 0x0c, 0, 4, 'M', 'Q', 'T', 'T', 99, 2, 0, 60, 0, 0},
		"a name longer than the rest":  {0x10, 0x0a, 0xff, 0xff, 'M', 'Q', 'T', 'T', 4, 2, 0, 60},
		"a reserved kind":              {0x00, 0x00},
		"HTTP":                         []byte("GET / HTTP/1.1\r\nHost: box\r\n\r\n"),
		"TLS in the clear":             {0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03},
		"properties without end":       append(append([]byte{0x10, 0x90, 0x40, 0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 60}, huge...), make([]byte, 8200)...),
		"a PUBLISH of 256 MiB":         append(bytes.Clone(connect), append([]byte{0x30}, huge...)...),
		"a second CONNECT":             append(bytes.Clone(connect), connect...),
		"QoS 3":                        append(bytes.Clone(connect), 0x36, 0x05, 0, 1, 'a', 0, 1),
		"a topic longer than its rest": append(bytes.Clone(connect), 0x30, 0x03, 0xff, 0xff, 'a'),
		"too many filters":             append(bytes.Clone(connect), append(mqttwire.AppendSubscribe(nil, mqttwire.V5, 1, 1, filters...), 0xe0, 0)...),
		"a payload above the limit": append(bytes.Clone(connect), mqttwire.AppendPublish(nil, mqttwire.V5, &mqttwire.Message{
			Topic: "provision/request", Payload: make([]byte, 16<<10),
		})...),
	} {
		for _, d := range s.mqtt {
			conn, err := d.reach(from)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = conn.Write(said) // it may be cut off by then
			wantCut(t, conn, d.name+", "+name)
			conn.Close()
		}
	}
}
