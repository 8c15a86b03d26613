package acceptance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"edgeclaim/internal/mqttproxy"
	"edgeclaim/internal/mqttwire"
)

// quickCommands makes a box say a command again after a second.
const quickCommands = "commands: {retry_base: 1s, retry_limit: 2s}\n"

// order is a command that was given, and by whom.
type order struct {
	device  string
	id      string
	byHub   bool
	fail    bool
	expires time.Duration
	taken   bool // back, while its device sleeps
}

func (o *order) payload() string { return fmt.Sprintf(`{"device":%q,"fail":%v}`, o.device, o.fail) }

// hubCommand is what the tests read of a row of `edgehub command list`.
type hubCommand struct {
	ID        string    `json:"command_id"`
	Device    string    `json:"device_id"`
	Status    string    `json:"status"`
	Reason    string    `json:"reason"`
	Origin    string    `json:"origin"`
	ExpiresAt time.Time `json:"expires_at"`
}

// final reports whether a fate was told.
func (c *hubCommand) final() bool {
	return slices.Contains([]string{"successful", "failed", "expired", "cancelled"}, c.Status)
}

func (h *hub) commands() map[[2]string]hubCommand {
	h.t.Helper()
	var listed []hubCommand
	h.json(&listed, "command", "list")
	byID := map[[2]string]hubCommand{}
	for _, c := range listed {
		key := [2]string{c.Device, c.ID}
		if _, ok := byID[key]; ok {
			h.t.Errorf("the hub lists command %v twice", key)
		}
		byID[key] = c
	}
	return byID
}

// TestCommands gives commands to devices that sleep, crash in the middle, come
// again, repeat themselves and lose acknowledgements, over both faces and with
// real clients, while box, hub, broker and cables break. Each command is
// executed while it is valid, unless its time was over before its device was
// there, or it was taken back while it slept; none afterwards; and what the hub
// lists in the end is what happened.
func TestCommands(t *testing.T) {
	count, rounds := 200, 4
	if testing.Short() {
		count, rounds = 20, 1
	}
	for _, seed := range seeds(t, 1) {
		s := newSite(t, seed, quickCommands)
		s.box.enrol(s.hub)
		s.box.welcome()
		devices := s.box.claimSome(s.box.key(), "HAND-", count)
		s.hub.untilHas(devices)

		crew := newCrew(t, s, devices, seed)
		giving, given := giveAll(s, devices, seed)
		chance := rand.New(rand.NewPCG(seed, 3))
		for round := range rounds {
			s.schedule(seed+uint64(round)<<32, 2)
			s.suffer(kills(), chance, 500*time.Millisecond)
		}
		giving.Wait()
		t.Logf("%q", s.log)
		s.hub.waitReady()
		crew.settleDown()
		listed := crew.untilFates(s, given)
		crew.end()
		crew.judge(given, listed)
	}
}

// kills end box and hub as a power cut does.
func kills() []trouble {
	return slices.DeleteFunc(troubles(), func(one trouble) bool { return one.name != "box killed" && one.name != "hub killed" })
}

// crew is the devices at work.
type crew struct {
	t     *testing.T
	hands map[string]*hand
	cable *mqttproxy.Proxy // of some of them
	calm  chan struct{}
	stop  context.CancelFunc
	work  sync.WaitGroup
}

func newCrew(t *testing.T, s *site, devices []claimed, seed uint64) *crew {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	c := &crew{t: t, hands: map[string]*hand{}, cable: mqttproxy.Start(t, s.box.mqttAddr, seed+2), calm: make(chan struct{}), stop: stop}
	c.cable.Set(mqttproxy.Faults{PubackLost: .3, Lost: .2, Twice: .2, Late: .2, LateBy: 300 * time.Millisecond})
	for i, d := range devices {
		h := newHand(d, seed+uint64(i), c.calm)
		h.mqttAddr, h.httpAddr = s.box.mqttAddr, s.box.httpAddr
		live := h.liveWire
		switch i % 20 {
		case 0, 4, 8, 12, 16:
			live = h.livePolls
		case 1, 11:
			live = h.livePaho
		case 2:
			if i < 100 { // each is a process or two
				live = h.liveMosquitto
			}
		case 3, 5, 13, 15:
			h.mqttAddr = c.cable.Addr()
		case 7, 9, 17:
			h.version = mqttwire.V5
		}
		if i >= len(devices)-2 { // they sleep until what was given to them is over, or taken back
			live = h.liveLate
		}
		c.hands[d.id] = h
		c.work.Go(func() { live(ctx) })
	}
	t.Cleanup(c.end)
	return c
}

// settleDown ends all bad habits: what was not done is done now.
func (c *crew) settleDown() {
	c.cable.Heal()
	close(c.calm)
}

func (c *crew) end() {
	c.stop()
	c.work.Wait()
}

// giveWithin is about how long all commands take to be given.
const giveWithin = 3 * time.Second

// giveAll gives each device three commands: two from upstream, one from the
// operator of the box; for a third of them, some seconds only. Two devices sleep:
// one's are over before it comes, the other's are taken back. Whoever does this
// tries again until he is told that it is kept.
func giveAll(s *site, devices []claimed, seed uint64) (*sync.WaitGroup, []*order) {
	var all []*order
	chance := rand.New(rand.NewPCG(seed, 2))
	for i, d := range devices {
		for n := range 3 {
			o := &order{device: d.id, id: fmt.Sprintf("c%d.%d", i, n), byHub: n < 2, fail: chance.IntN(4) == 0, expires: time.Hour}
			if chance.IntN(3) == 0 {
				o.expires = time.Duration(2+chance.IntN(3)) * time.Second
			}
			switch i {
			case len(devices) - 2:
				o.expires = 2 * time.Second
			case len(devices) - 1:
				o.expires, o.taken = time.Hour, true
			}
			all = append(all, o)
		}
	}
	chance.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	var work sync.WaitGroup
	for _, byHub := range []bool{true, false} {
		work.Go(func() {
			for _, o := range all {
				within(giveWithin/time.Duration(len(all)), s.t.Context().Done()) // something breaks meanwhile
				for o.byHub == byHub && s.t.Context().Err() == nil && (!s.give(o) || !s.takeBack(o)) {
					within(50*time.Millisecond, s.t.Context().Done())
				}
			}
		})
	}
	return &work, all
}

// give gives a command and reports whether that is kept.
func (s *site) give(o *order) bool {
	expires := []string{"--expires", o.expires.String(), "--payload", o.payload()}
	if o.byHub {
		_, _, code := s.hub.command("", append([]string{"command", "send", "--device", o.device, "--id", o.id}, expires...)...)
		return code == 0
	}
	_, _, code := s.box.command("", append([]string{"device", "command", o.device, "--command-id", o.id}, expires...)...)
	return code == 0
}

// takeBack takes a command back that is to be, and reports whether that is kept.
func (s *site) takeBack(o *order) bool {
	if !o.taken {
		return true
	}
	cancel := []string{"command", "cancel", o.id, "--device", o.device}
	if o.byHub {
		_, _, code := s.hub.command("", cancel...)
		return code == 0
	}
	_, _, code := s.box.command("", cancel...)
	return code == 0
}

// untilFates waits until the hub knows what became of each command, and no
// device has anything to add: one that expired may still hear that it was done.
func (c *crew) untilFates(s *site, given []*order) map[[2]string]hubCommand {
	c.t.Helper()
	until(c.t, "the hub lists the fate of every command", func() bool {
		listed := s.hub.commands()
		return !slices.ContainsFunc(given, func(o *order) bool {
			fate, ok := listed[[2]string{o.device, o.id}]
			return !ok || !fate.final()
		})
	})
	until(c.t, "all answers are acknowledged", func() bool {
		for _, h := range c.hands {
			if len(h.owed()) > 0 {
				return false
			}
		}
		return true
	})
	s.box.drained()
	return s.hub.commands()
}

// grace is how much later than the box writes it a device may read a message,
// on a machine that has much to do. A box that says a command after its end says
// it to devices that have slept for longer.
const grace = time.Second

// judge compares what the devices did with what the hub lists.
func (c *crew) judge(given []*order, listed map[[2]string]hubCommand) {
	c.t.Helper()
	did := map[string]int{}
	for _, o := range given {
		h, fate := c.hands[o.device], listed[[2]string{o.device, o.id}]
		e := h.errands[o.id]
		who := fmt.Sprintf("command %s of %s, for %v", o.id, h.hardware, o.expires)
		did[fate.Status]++
		switch {
		case o.taken && (e != nil || fate.Status != "cancelled"):
			c.t.Errorf("%s was taken back while its device slept; executed: %v; the hub lists %+v", who, e != nil, fate)
		case o.taken:
		case e == nil && o.expires == time.Hour:
			c.t.Errorf("%s was never executed; the hub lists %+v", who, fate)
		case e == nil && fate.Status != "expired":
			c.t.Errorf("%s was never executed; the hub lists it as %s", who, fate.Status)
		case e != nil && fate.Status != e.status:
			c.t.Errorf("%s was executed and ended as %s (answered: %v); the hub lists %+v", who, e.status, e.answered, fate)
		case e != nil && e.late > grace:
			c.t.Errorf("%s was sent %v after its end", who, e.late)
		case e != nil && !e.expires.Truncate(time.Microsecond).Equal(fate.ExpiresAt.Truncate(time.Microsecond)):
			c.t.Errorf("%s: the device hears of its end at %v, the hub lists %v", who, e.expires, fate.ExpiresAt)
		}
		if e != nil && e.heard > 1 {
			did["heard again"]++
		}
		delete(h.errands, o.id)
	}
	for _, h := range c.hands {
		for id := range h.errands {
			c.t.Errorf("%s was told %s, which nobody gave", h.hardware, id)
		}
		for _, odd := range h.odd {
			c.t.Error(odd)
		}
	}
	c.t.Logf("%v, over the devices' cable %+v", did, c.cable.Counts())
	if len(given) > 100 && (did["heard again"] == 0 || did["expired"] == 0 || did["failed"] == 0) {
		c.t.Error("nothing was said again, or nothing expired, or nothing failed: the devices have had no trouble")
	}
}
