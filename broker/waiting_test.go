package broker_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/mqttwire"
)

// approvals is a rule whose claims wait for an operator. The body is the
// hardware.
type approvals struct {
	t *testing.T

	mu      sync.Mutex
	verdict map[string]edgeclaim.Answer // guarded by mu
	asked   map[string]int              // guarded by mu
}

func newApprovals(t *testing.T) *approvals {
	return &approvals{t: t, verdict: map[string]edgeclaim.Answer{}, asked: map[string]int{}}
}

func (a *approvals) ref(hardware string) edgeclaim.ClaimRef {
	id, err := edgeclaim.ParseHardwareID(hardware)
	if err != nil {
		a.t.Error(err)
	}
	return edgeclaim.ClaimRef{Hardware: id}
}

func (a *approvals) answer(ask edgeclaim.Ask) edgeclaim.Answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	hardware := string(ask.Body)
	a.asked[hardware]++
	if time.Since(ask.ReceivedAt) > time.Second {
		a.t.Errorf("received %v ago", time.Since(ask.ReceivedAt))
	}
	if ans, ok := a.verdict[hardware]; ok {
		return ans
	}
	return edgeclaim.Answer{Code: edgeclaim.CodeFailedPrecondition, Body: []byte("waiting"), Waiting: a.ref(hardware)}
}

func (a *approvals) decide(b *broker.Broker, hardware string, ans edgeclaim.Answer) {
	a.mu.Lock()
	a.verdict[hardware] = ans
	a.mu.Unlock()
	b.Decided(a.ref(hardware))
}

func (a *approvals) times(hardware string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[hardware]
}

// waitsFor claims, and is told to wait.
func waitsFor(t *testing.T, c *mqttwire.Client, hardware string) {
	t.Helper()
	publish(t, c, mqttwire.Message{Topic: "provision/request", Payload: []byte(hardware), QoS: 1})
	if p := next(t, c, mqttwire.Publish); string(p.Payload) != "waiting" {
		t.Fatalf("answer %q", p.Payload)
	}
	if ack := next(t, c, mqttwire.Puback); ack.Code() != 0 {
		t.Errorf("PUBACK %#x", ack.Code())
	}
}

// Who waits for approval is told when it comes, on the connection that waits,
// with no second PUBACK.
func TestDecided(t *testing.T) {
	versions(t, func(t *testing.T, v mqttwire.Version) {
		a := newApprovals(t)
		b := start(t, &rule{answer: a.answer}, nil)
		first, second := claimant(t, b, v, "provision/response"), claimant(t, b, v, "provision/response")
		waitsFor(t, first, "H1")
		waitsFor(t, second, "H2")
		b.Decided(a.ref("H3")) // nobody's: says nothing
		quiet(t, first)
		a.decide(b, "H1", edgeclaim.Answer{Body: []byte("identity")})
		if p := next(t, first, mqttwire.Publish); string(p.Payload) != "identity" || p.Topic != "provision/response" {
			t.Errorf("answer %+v", p.Message)
		}
		quiet(t, first)
		quiet(t, second)
		a.decide(b, "H2", edgeclaim.Answer{Code: edgeclaim.CodePermissionDenied, Body: []byte("no")})
		if p := next(t, second, mqttwire.Publish); string(p.Payload) != "no" {
			t.Errorf("answer %q", p.Payload)
		}
		quiet(t, second)
		if n := a.times("H1"); n > 3 { // one more, where the decision about nobody fell before it waited
			t.Errorf("asked %d times", n)
		}
	})
}

// The answer has what MQTT 5 asked it to have.
func TestDecidedProperties(t *testing.T) {
	a := newApprovals(t)
	b := start(t, &rule{answer: a.answer}, nil)
	c := claimant(t, b, mqttwire.V5, "provision/response/+")
	m := mqttwire.Message{Topic: "provision/request", Payload: []byte("H1"), Properties: mqttwire.Properties{
		ResponseTopic: "provision/response/board-7", CorrelationData: []byte("7"),
	}}
	publish(t, c, m)
	next(t, c, mqttwire.Publish)
	a.decide(b, "H1", edgeclaim.Answer{Body: []byte("identity")})
	p := next(t, c, mqttwire.Publish)
	if p.Topic != "provision/response/board-7" || string(p.Properties.CorrelationData) != "7" || string(p.Payload) != "identity" {
		t.Errorf("answer %+v", p.Message)
	}
}

// A decision that falls between the rule's answer and the waiting is not missed.
func TestDecidedMeanwhile(t *testing.T) {
	a := newApprovals(t)
	var b *broker.Broker
	var once sync.Once
	b = start(t, &rule{answer: func(ask edgeclaim.Ask) edgeclaim.Answer {
		ans := a.answer(ask)
		once.Do(func() { a.decide(b, "H1", edgeclaim.Answer{Body: []byte("identity")}) })
		return ans
	}}, nil)
	c := claimant(t, b, mqttwire.V5, "provision/response")
	waitsFor(t, c, "H1")
	if p := next(t, c, mqttwire.Publish); string(p.Payload) != "identity" {
		t.Errorf("answer %q", p.Payload)
	}
}

// Who waits is not idle, and is again once it was told.
func TestWaitingIsNotIdle(t *testing.T) {
	a := newApprovals(t)
	b := start(t, &rule{answer: a.answer}, func(c *broker.Config) { c.IdleTimeout = 200 * time.Millisecond })
	c := claimant(t, b, mqttwire.V5, "provision/response")
	idle := claimant(t, b, mqttwire.V5, "provision/response")
	waitsFor(t, c, "H1")
	gone(t, idle)
	idle = claimant(t, b, mqttwire.V5, "provision/response")
	gone(t, idle) // two idle times later
	quiet(t, c)
	a.decide(b, "H1", edgeclaim.Answer{Body: []byte("identity")})
	next(t, c, mqttwire.Publish)
	gone(t, c)
}

// Who no longer listens is not asked again: what is decided on would be lost. It
// is decided on when he claims again.
func TestUnsubscribedWhileWaiting(t *testing.T) {
	a := newApprovals(t)
	b := start(t, &rule{answer: a.answer}, nil)
	c := claimant(t, b, mqttwire.V5, "provision/response")
	waitsFor(t, c, "H1")
	if err := c.Send(mqttwire.AppendUnsubscribe(nil, mqttwire.V5, 9, "provision/response")); err != nil {
		t.Fatal(err)
	}
	next(t, c, mqttwire.Unsuback)
	a.decide(b, "H1", edgeclaim.Answer{Body: []byte("identity")})
	eventually(t, "it waits no more", func() bool { return b.Waiting() == 0 })
	quiet(t, c)
	if n := a.times("H1"); n != 1 {
		t.Errorf("asked %d times", n)
	}
	subscribe(t, c, 1, "provision/response")
	publish(t, c, mqttwire.Message{Topic: "provision/request", Payload: []byte("H1"), QoS: 1})
	if p := next(t, c, mqttwire.Publish); string(p.Payload) != "identity" {
		t.Errorf("answer %q", p.Payload)
	}
}

// A second claim takes the place of the one that waits.
func TestSecondClaimWhileWaiting(t *testing.T) {
	a := newApprovals(t)
	b := start(t, &rule{answer: a.answer}, nil)
	c := claimant(t, b, mqttwire.V5, "provision/response")
	waitsFor(t, c, "H1")
	waitsFor(t, c, "H2")
	a.decide(b, "H1", edgeclaim.Answer{Body: []byte("first")})
	quiet(t, c)
	a.decide(b, "H2", edgeclaim.Answer{Body: []byte("second")})
	if p := next(t, c, mqttwire.Publish); string(p.Payload) != "second" {
		t.Errorf("answer %q", p.Payload)
	}
	if n := a.times("H1"); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// Nothing is left of those that went, however many; and the places of half of
// the claimants are for those who do not wait.
func TestWaitingIsBounded(t *testing.T) {
	a := newApprovals(t)
	b := start(t, &rule{answer: a.answer}, func(c *broker.Config) { c.MaxClaimants = 4 })
	var all []*mqttwire.Client
	for i := range 4 {
		c := claimant(t, b, mqttwire.V5, "provision/response")
		waitsFor(t, c, fmt.Sprintf("H%d", i))
		all = append(all, c)
	}
	for range 5 {
		c := claimant(t, b, mqttwire.V5, "provision/response")
		publish(t, c, mqttwire.Message{Topic: "provision/request", Payload: []byte("H9"), QoS: 1})
		next(t, c, mqttwire.Publish)
		c.Close()
		eventually(t, "its place is free", func() bool { return b.Waiting() <= 4 && b.Open() < 4 })
	}
	quiet(t, all[0]) // the first two keep theirs
	quiet(t, all[1])
	for _, c := range all {
		c.Close()
	}
	eventually(t, "nobody waits", func() bool { return b.Waiting() == 0 && b.Open() == 0 })
	for i := range 4 {
		b.Decided(a.ref(fmt.Sprintf("H%d", i)))
	}
}

// One that goes while it is asked again, and is to wait on, is forgotten.
func TestGoneWhileAskedAgain(t *testing.T) {
	a := newApprovals(t)
	var asked atomic.Int64
	again, goOn := make(chan struct{}), make(chan struct{})
	b := start(t, &rule{answer: func(ask edgeclaim.Ask) edgeclaim.Answer {
		if asked.Add(1) == 2 {
			close(again)
			<-goOn
		}
		return a.answer(ask)
	}}, nil)
	c := claimant(t, b, mqttwire.V5, "provision/response")
	waitsFor(t, c, "H1")
	eventually(t, "it waits", func() bool { return b.Waiting() == 1 })
	b.Decided(a.ref("H1"))
	<-again
	c.Close()
	eventually(t, "it is gone", func() bool { return b.Open() == 0 })
	close(goOn)
	other := claimant(t, b, mqttwire.V5, "provision/response")
	waitsFor(t, other, "H2")
	a.decide(b, "H2", edgeclaim.Answer{Body: []byte("identity")})
	next(t, other, mqttwire.Publish)
	eventually(t, "nobody waits", func() bool { return b.Waiting() == 0 })
}

// A stop waits for nobody who waits.
func TestStopWhileWaiting(t *testing.T) {
	a := newApprovals(t)
	b, stop := run(t, &rule{answer: a.answer}, nil, discard())
	c := claimant(t, b, mqttwire.V5, "provision/response")
	waitsFor(t, c, "H1")
	began := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}

// Nor for one that is asked again meanwhile, and is to wait on.
func TestStopWhileAskedAgain(t *testing.T) {
	a := newApprovals(t)
	var asked atomic.Int64
	again, goOn := make(chan struct{}), make(chan struct{})
	b, stop := run(t, &rule{answer: func(ask edgeclaim.Ask) edgeclaim.Answer {
		if asked.Add(1) == 2 {
			close(again)
			<-goOn
		}
		return a.answer(ask)
	}}, nil, discard())
	c := claimant(t, b, mqttwire.V5, "provision/response")
	waitsFor(t, c, "H1")
	eventually(t, "it waits", func() bool { return b.Waiting() == 1 })
	b.Decided(a.ref("H1"))
	<-again
	idle, stopped := connect(t, b), make(chan error, 1)
	began := time.Now()
	go func() { stopped <- stop() }() // ends with the broker
	closed(t, idle)                   // it stops by now
	close(goOn)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}

// Many wait, each for its own; all are told at once, while others come and go.
func TestManyWait(t *testing.T) {
	a := newApprovals(t)
	b := start(t, &rule{answer: a.answer}, nil)
	const many = 100
	var all []*mqttwire.Client
	for i := range many {
		c := claimant(t, b, mqttwire.V5, "provision/response")
		waitsFor(t, c, fmt.Sprintf("H%d", i))
		all = append(all, c)
	}
	var group sync.WaitGroup
	for i := range many {
		group.Go(func() { a.decide(b, fmt.Sprintf("H%d", i), edgeclaim.Answer{Body: fmt.Appendf(nil, "for %d", i)}) })
		if i%10 == 0 {
			all[i].Close()
		}
	}
	group.Wait()
	for i, c := range all {
		if i%10 == 0 {
			continue
		}
		if p := next(t, c, mqttwire.Publish); string(p.Payload) != fmt.Sprintf("for %d", i) {
			t.Errorf("answer %q to %d", p.Payload, i)
		}
	}
	eventually(t, "nobody waits", func() bool { return b.Waiting() == 0 })
}
