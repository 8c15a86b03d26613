package acceptance

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/mqttproxy"
	"edgeclaim/internal/mqttwire"
)

// wiretap keeps what is said on a broker: an attacker who may read as well.
type wiretap struct {
	mu    sync.Mutex
	downs []mqttwire.Message
	hello wire.Hello
}

// tap subscribes to everything between box and hub until the test ends.
func tap(t testing.TB, addr string) *wiretap {
	t.Helper()
	client := brokerClient(t, addr, "tap")
	if _, err := client.Subscribe("edgeclaim/#"); err != nil {
		t.Fatal(err)
	}
	w := &wiretap{}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			p, err := client.Read()
			if err != nil {
				return // closed at the end
			}
			w.take(client, &p)
		}
	})
	t.Cleanup(func() {
		client.Close()
		work.Wait()
	})
	return w
}

func (w *wiretap) take(client *mqttwire.Client, p *mqttwire.Packet) {
	if p.Type != mqttwire.Publish {
		return
	}
	if p.QoS == 1 {
		_ = client.Send(mqttwire.AppendPuback(nil, mqttwire.V311, p.ID, 0)) // the next Read tells
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if strings.Contains(p.Topic, "/down/") {
		w.downs = append(w.downs, mqttwire.Message{Topic: p.Topic, Payload: p.Payload})
	}
	if strings.HasSuffix(p.Topic, "/up/ctl") && bytes.Contains(p.Payload, []byte(`"hello"`)) {
		_ = json.Unmarshal(p.Payload, &w.hello) // the box's own words
	}
}

func (w *wiretap) heard() ([]mqttwire.Message, wire.Hello) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.downs), w.hello
}

// brokerClient connects straight to a broker.
func brokerClient(t testing.TB, addr, id string) *mqttwire.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client, ack, err := mqttwire.Dial(ctx, addr, mqttwire.V311, mqttwire.Login{ClientID: id, Clean: true})
	if err != nil || ack.Code() != 0 {
		t.Fatalf("connect to the broker: %v, code %#x", err, ack.Code())
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// lies are what an attacker says who knows the box, its epoch and its nonce,
// and has every right but the hub's key: each message as it is and signed by a
// key of his own.
func lies(t testing.TB, key ed25519.PrivateKey, h wire.Hello, appended uint64) [][]byte {
	t.Helper()
	head := wire.Head{Box: h.Box, Epoch: h.Epoch, Nonce: h.Nonce, Time: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)}
	as := func(kind string) wire.Head { head.Type = kind; return head }
	all := map[edgeclaim.Lane]uint64{edgeclaim.LaneProv: appended, edgeclaim.LaneEvt: appended}
	stop := 0
	var said [][]byte
	for _, message := range []wire.Down{
		&wire.Ack{Head: as(wire.TypeAck), Upto: all},
		&wire.Ack{Head: as(wire.TypeAck), Upto: map[edgeclaim.Lane]uint64{edgeclaim.LaneProv: appended * 1000}, Credit: &stop},
		&wire.Ack{Head: as(wire.TypeAck), Nack: []wire.Nack{{Lane: edgeclaim.LaneProv, Sequence: 1, Code: wire.NackPermanent}}},
		&wire.Ack{Head: as(wire.TypeAck), Nack: []wire.Nack{{Lane: edgeclaim.LaneProv, Sequence: appended, Code: wire.NackRetry, RetryAfter: 1 << 40}}},
		&wire.Welcome{Head: as(wire.TypeWelcome), Version: 1, Upstream: "evil", Resume: map[edgeclaim.Lane]wire.Resume{
			edgeclaim.LaneProv: {Upto: appended}, edgeclaim.LaneEvt: {Upto: appended},
		}},
		&wire.Refused{Head: as(wire.TypeRefused), Code: wire.RefusedStale},
		&wire.Refused{Head: as(wire.TypeRefused), Code: wire.RefusedFenced},
		&wire.Refused{Head: as(wire.TypeRefused), Code: wire.RefusedUnknown},
		&wire.Again{Head: as(wire.TypeAgain)},
		&wire.RegistryPage{Head: as(wire.TypeRegistry), Devices: []edgeclaim.Device{{Name: "evil"}}},
	} {
		bare, err := wire.Encode(message)
		if err != nil {
			t.Error(err)
		}
		sealed, err := wire.Seal(key, message)
		if err != nil {
			t.Error(err)
		}
		said = append(said, bare, sealed)
	}
	return said
}

// attack publishes lies, replays of all that was heard, garbage and oversized
// messages on everything that comes down to the box, until stopped.
func attack(t *testing.T, addr string, w *wiretap, appended uint64) (stop func() int) {
	t.Helper()
	client := brokerClient(t, addr, "attacker")
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	var work sync.WaitGroup
	said := 0
	downs, hello := w.heard()
	if hello.Box == "" || len(downs) == 0 {
		t.Fatalf("the attacker has heard of box %q, and %d messages down", hello.Box, len(downs))
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	base := "edgeclaim/v1/plant7/" + hello.Box
	blunt := append(oversized(), []byte("{"), nil, []byte("\xff\xfe"))
	work.Go(func() {
		messages := append(lies(t, key, hello, appended), blunt...)
		each(ctx, 2*time.Millisecond, func(i int) {
			if _, now := w.heard(); now.Nonce != hello.Nonce { // a new session: lie about that one
				hello = now
				messages = append(lies(t, key, hello, appended), blunt...)
			}
			burst := []mqttwire.Message{downs[i%len(downs)]} // a replay, to the letter
			for _, topic := range []string{base + "/down/ack", base + "/down/ctl"} {
				burst = append(burst, mqttwire.Message{Topic: topic, Payload: messages[i%len(messages)]})
			}
			status := []string{`"online"`, `"offline"`}[i%2]
			burst = append(burst, mqttwire.Message{
				Topic: wire.HostTopic, Payload: fmt.Appendf(nil, `{"status":%s,"upstream_id":"evil","instance":"%d"}`, status, i),
			})
			for _, m := range burst {
				if client.Publish(m) == nil {
					said++
				}
			}
		})
	})
	return func() int {
		cancel()
		work.Wait()
		return said
	}
}

// TestAttackerOnTheWayDown: whoever may publish on down/# and _host/st of an
// enrolled box, and hear all that is said, makes it forget nothing and deny
// nothing; what the hub says gets through, and the box raises an alarm.
func TestAttackerOnTheWayDown(t *testing.T) {
	s := newSite(t, 1, "")
	overheard := tap(t, s.broker.Addr()) // before the hello that follows
	s.box.enrol(s.hub)
	key := s.box.key()
	s.box.welcome()
	told := s.box.claimSome(key, "TOLD-", 20)
	s.box.drained()

	// The hub is away: what is claimed now, it does not have.
	s.hubCable.Cut(mqttproxy.Both)
	untold := s.box.claimSome(key, "UNTOLD-", 50)
	stop := attack(t, s.broker.Addr(), overheard, 70)
	until(t, "alarms", func() bool {
		now := s.box.synced()
		return now.alarms("forged") > 500 && now.alarms("oversized") > 0
	})
	more := s.box.claimSome(key, "ATTACKED-", 20)
	if now := s.box.synced(); now.Outbox["prov"].Pending != 70 || now.Outbox["prov"].Acked != 20 || now.Outbox["prov"].Parked != 0 {
		t.Errorf("under attack, the outbox is %+v, want 70 pending of 90", now.Outbox["prov"])
	}
	s.box.wantLogins(told[:3], untold[:3], more[:3])

	// The hub returns, the attacker stays.
	s.hubCable.Heal()
	state := s.box.drained()
	last := s.box.claimSome(key, "LAST-", 5)
	s.hub.untilHas(told, untold, more, last)
	if said := stop(); said < 1000 {
		t.Errorf("the attacker has said %d messages only", said)
	}
	s.box.drained()
	s.hub.wantWhole(s.box)
	for _, a := range state.Upstream.Alarms {
		if slices.Contains([]string{"fenced", "stale_epoch", "not_welcome", "ack_above_sent", "upstream_behind", "quarantine"}, a.Alarm) {
			t.Errorf("the attacker was believed: alarm %s", a.Alarm)
		}
	}
	listed := slices.Collect(maps.Values(s.hub.devices()))
	if len(listed) != 95 {
		t.Errorf("the hub lists %d devices, want 95", len(listed))
	}
}
