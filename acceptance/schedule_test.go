package acceptance

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"edgeclaim/internal/mqttproxy"
)

// trouble is one thing that goes wrong at a site, for a while.
type trouble struct {
	name string
	// begin brings it about and returns what ends it; nil for nothing to end
	// but the faults of the cables.
	begin func(s *site, chance *rand.Rand) (end func())
}

// onCable makes a trouble of one cable, for either.
func onCable(name string, do func(p *mqttproxy.Proxy)) []trouble {
	return []trouble{
		{"box: " + name, func(s *site, _ *rand.Rand) func() { do(s.boxCable); return nil }},
		{"hub: " + name, func(s *site, _ *rand.Rand) func() { do(s.hubCable); return nil }},
	}
}

// faulty makes faults befall packets.
func faulty(name string, f mqttproxy.Faults) []trouble {
	return onCable(name, func(p *mqttproxy.Proxy) { p.Set(f) })
}

// troubles are all that a schedule draws from.
func troubles() []trouble {
	var all []trouble
	for _, some := range [][]trouble{
		onCable("cable cut, no FIN", func(p *mqttproxy.Proxy) { p.Cut(mqttproxy.Both) }),
		onCable("half open, nothing goes up", func(p *mqttproxy.Proxy) { p.Cut(mqttproxy.Up) }),
		onCable("half open, nothing comes down", func(p *mqttproxy.Proxy) { p.Cut(mqttproxy.Down) }),
		onCable("reset", (*mqttproxy.Proxy).Reset),
		onCable("kicked behind the CONNACK", func(p *mqttproxy.Proxy) {
			p.Set(mqttproxy.Faults{Kick: .8})
			p.Reset()
		}),
		faulty("PUBACKs lost", mqttproxy.Faults{PubackLost: .5}),
		faulty("messages lost", mqttproxy.Faults{Lost: .4}),
		faulty("messages late", mqttproxy.Faults{Late: .5, LateBy: 500 * time.Millisecond}),
		faulty("messages out of order", mqttproxy.Faults{Reordered: .5}),
		faulty("messages twice", mqttproxy.Faults{Twice: .6, LateBy: 300 * time.Millisecond}),
		faulty("a slow link", mqttproxy.Faults{Delay: 150 * time.Millisecond}),
		{
			{"broker killed", func(s *site, _ *rand.Rand) func() { s.broker.Kill(); return s.broker.Restart }},
			{"hub killed", func(s *site, _ *rand.Rand) func() { s.hub.kill(); return s.revive }},
			{"box killed", func(s *site, _ *rand.Rand) func() { s.box.kill(); return s.revive }},
			{"garbage down", func(s *site, chance *rand.Rand) func() { shower(s, chance, garbage(chance)); return nil }},
			{"oversized messages down", func(s *site, chance *rand.Rand) func() { shower(s, chance, oversized()); return nil }},
			{"box stopped twice, unheard", func(s *site, _ *rand.Rand) func() {
				s.boxCable.Cut(mqttproxy.Both)
				for range 2 { // each stop tells what was refused, by reason and face
					within(400*time.Millisecond, s.t.Context().Done())
					s.box.stop()
					s.box.start()
				}
				return nil
			}},
		},
	} {
		all = append(all, some...)
	}
	return all
}

// shower says messages to the box on all of its topics, and to the hub.
func shower(s *site, chance *rand.Rand, messages [][]byte) {
	box := "edgeclaim/v1/plant7/" + s.id
	for range 20 {
		for _, message := range messages {
			kind := []string{"ack", "ctl", "nothing/at/all"}[chance.IntN(3)]
			s.boxCable.Inject(box+"/down/"+kind, message)
			s.boxCable.Inject("edgeclaim/v1/_host/st", message)
			s.hubCable.Inject(box+"/up/"+[]string{"ctl", "prov", "evt", "snap", "x"}[chance.IntN(5)], message)
			s.hubCable.Inject(box+"/st", message)
		}
	}
}

// garbage is what no reader must fall over.
func garbage(chance *rand.Rand) [][]byte {
	noise := make([]byte, 200)
	for i := range noise {
		noise[i] = byte(chance.Uint32())
	}
	all := [][]byte{nil, noise, bytes.Repeat([]byte("["), 50_000)}
	for _, text := range []string{
		"{", "null", "[]", "{}", `""`, `{"payload":"","key_id":"","signature":""}`, `{"payload":7}`,
		`{"payload":"!!!!","key_id":"0","signature":"!"}`, `{"type":"nobody-knows"}`, `{"type":"hello"}`, `{"type":"batch"}`,
		`{"type":"ack","type":"ack"}`, `{"type":"ack","upto":{"prov":-1}}`, `{"status":"online"}`, `{"status":7}`,
	} {
		all = append(all, []byte(text))
	}
	return all
}

// oversized is what nobody has to read.
func oversized() [][]byte {
	return [][]byte{
		[]byte(`{"payload":"` + strings.Repeat("A", 120_000) + `"}`),
		bytes.Repeat([]byte{0}, 1_000_000),
	}
}

// revive starts what was killed, and nobody else has started since.
func (s *site) revive() {
	if s.hub.cmd == nil {
		s.hub.launch() // its cable may be cut
	}
	if s.box.cmd == nil {
		s.box.start()
	}
}

// schedule draws troubles from seed and brings them about one after the other,
// some at once. Two seeds that follow each other begin with two that follow
// each other, so that as many schedules as there are troubles have all.
func (s *site) schedule(seed uint64, steps int) {
	s.t.Helper()
	chance := rand.New(rand.NewPCG(seed, 0))
	all := troubles()
	for step := range steps {
		now := []trouble{all[chance.IntN(len(all))]}
		if step == 0 {
			now[0] = all[seed%uint64(len(all))]
		}
		if chance.IntN(3) == 0 {
			now = append(now, all[chance.IntN(len(all))])
		}
		s.suffer(now, chance, time.Duration(50+chance.IntN(500))*time.Millisecond)
	}
}

// suffer brings troubles about at once, for so long, and ends them.
func (s *site) suffer(now []trouble, chance *rand.Rand, during time.Duration) {
	s.t.Helper()
	var names []string
	var ends []func()
	for _, one := range now {
		if names = append(names, one.name); len(names) == 2 && names[0] == names[1] {
			break
		}
		if end := one.begin(s, chance); end != nil {
			ends = append(ends, end)
		}
	}
	start := time.Now()
	within(during, s.t.Context().Done())
	for _, end := range ends {
		end()
	}
	s.boxCable.Heal()
	s.hubCable.Heal()
	s.log = append(s.log, fmt.Sprintf("%s (%v)", strings.Join(names, " + "), time.Since(start).Round(time.Millisecond)))
}
