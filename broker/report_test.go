package broker_test

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/mqttwire"
)

// deskOf is a broker whose devices are heard, and what it hears.
func deskOf(t *testing.T, answer func(edgeclaim.Report) (edgeclaim.Receipt, error), change func(*broker.Config)) (*broker.Broker, *notebook) {
	t.Helper()
	n := &notebook{answer: answer}
	return start(t, &rule{login: knowsAll, notes: n}, change), n
}

func telemetryOf(id edgeclaim.DeviceID) string { return "devices/" + id.String() + "/telemetry" }

func eventsOf(id edgeclaim.DeviceID) string { return "devices/" + id.String() + "/events" }

// silent is that the broker says nothing for a moment.
func silent(t *testing.T, c *mqttwire.Client) {
	t.Helper()
	stillOpen(t, c.Conn())
	if err := c.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
}

// burst sends messages of QoS 1 in one write, with the ids 1, 2, 3, …
func burst(t *testing.T, c *mqttwire.Client, topics ...string) {
	t.Helper()
	var out []byte
	for i, name := range topics {
		out = mqttwire.AppendPublish(out, c.Version(), &mqttwire.Message{
			Topic: name, QoS: 1, ID: uint16(i + 1), Payload: fmt.Appendf(nil, `{"n":%d}`, i+1),
		})
	}
	if err := c.Send(out); err != nil {
		t.Fatal(err)
	}
}

func acked(t *testing.T, c *mqttwire.Client, id uint16, code byte) {
	t.Helper()
	if ack := next(t, c, mqttwire.Puback); ack.ID != id || ack.Code() != code {
		t.Errorf("PUBACK %d with %#x, want %d with %#x", ack.ID, ack.Code(), id, code)
	}
}

// What a device says is acknowledged when it is durable, not before, in the
// order in which it was said.
func TestReportIsDurableBeforeItIsAcknowledged(t *testing.T) {
	versions(t, func(t *testing.T, v mqttwire.Version) {
		id := deviceID(t, 1)
		points, events := edgeclaim.NewCommit(), edgeclaim.NewCommit()
		b, n := deskOf(t, func(r edgeclaim.Report) (edgeclaim.Receipt, error) {
			if string(r.Body) == `{"n":2}` {
				return edgeclaim.Receipt{Accepted: 1, Commit: events}, nil
			}
			return edgeclaim.Receipt{Accepted: 1, Commit: points}, nil
		}, nil)
		c := device(t, b, v, id)
		burst(t, c, telemetryOf(id), eventsOf(id), telemetryOf(id))
		n.awaitNotes(t, 3)
		silent(t, c)
		points.End(nil)
		silent(t, c) // the second is not, and the third has to wait for it
		events.End(nil)
		for i := range 3 {
			acked(t, c, uint16(i+1), 0)
		}
		quiet(t, c)
		for i, got := range n.notes() {
			want := note{event: i == 1, device: id, body: fmt.Sprintf(`{"n":%d}`, i+1)}
			r := got.report
			if got.report = (edgeclaim.Report{}); got.event != want.event || got.device != want.device || got.body != want.body || got.fleeting {
				t.Errorf("report %d: %+v, want %+v", i, got, want)
			}
			if r.Via != edgeclaim.ViaMQTT || !r.Source.IsLoopback() || !r.By.Credential.Equal(edgeclaim.NewSecret(passwordOf(id)).Hash()) {
				t.Errorf("report %d: %s from %v by %v", i, r.Via, r.Source, r.By)
			}
			if string(r.Body) != want.body {
				t.Errorf("its body has changed to %q", r.Body)
			}
		}
	})
}

// What becomes of a report decides what is said of it: refused for good it is
// acknowledged, with the reason where MQTT has one; what may yet be taken is not.
func TestReportOutcomes(t *testing.T) {
	broken := edgeclaim.NewCommit()
	broken.End(edgeclaim.ErrUnavailable)
	versions(t, func(t *testing.T, v mqttwire.Version) {
		for _, tt := range []struct {
			name   string
			answer func() (edgeclaim.Receipt, error)
			v5     byte
			ends   bool
		}{
			{"durable already", func() (edgeclaim.Receipt, error) { return edgeclaim.Receipt{Accepted: 1}, nil }, 0x00, false},
			{"some rejected", func() (edgeclaim.Receipt, error) { return edgeclaim.Receipt{Accepted: 1, Rejected: 9}, nil }, 0x00, false},
			{"all of an array rejected", func() (edgeclaim.Receipt, error) { return edgeclaim.Receipt{Rejected: 9}, nil }, 0x99, false},
			{"malformed", func() (edgeclaim.Receipt, error) {
				return edgeclaim.Receipt{Rejected: 1}, edgeclaim.Invalid("values", "want a number")
			}, 0x99, false},
			{"throttled", func() (edgeclaim.Receipt, error) {
				return edgeclaim.Receipt{}, fmt.Errorf("points: %w", edgeclaim.ErrThrottled)
			}, 0x97, false},
			{"unavailable", func() (edgeclaim.Receipt, error) { return edgeclaim.Receipt{}, edgeclaim.ErrUnavailable }, 0, true},
			{"unknown error", func() (edgeclaim.Receipt, error) { return edgeclaim.Receipt{}, fmt.Errorf("on fire") }, 0, true},
			{"not committed", func() (edgeclaim.Receipt, error) { return edgeclaim.Receipt{Accepted: 1, Commit: broken}, nil }, 0, true},
			{"panic", func() (edgeclaim.Receipt, error) { panic("on fire") }, 0, true},
		} {
			t.Run(tt.name, func(t *testing.T) {
				id := deviceID(t, 1)
				b, n := deskOf(t, func(r edgeclaim.Report) (edgeclaim.Receipt, error) {
					if string(r.Body) == `{"n":2}` {
						return tt.answer()
					}
					return edgeclaim.Receipt{Accepted: 1}, nil
				}, func(c *broker.Config) { c.ReportTimeout = 100 * time.Millisecond })
				c := device(t, b, v, id)
				burst(t, c, telemetryOf(id), telemetryOf(id), eventsOf(id))
				if tt.name != "panic" { // it ends the connection as it is
					acked(t, c, 1, 0)
				}
				if tt.ends {
					reason := byte(0x89)
					if tt.name == "panic" {
						reason = 0
					}
					hungUp(t, c, reason)
					return
				}
				code := tt.v5
				if v < mqttwire.V5 {
					code = 0
				}
				acked(t, c, 2, code)
				acked(t, c, 3, 0)
				quiet(t, c)
				if got := n.notes(); len(got) != 3 || !got[2].event {
					t.Errorf("taken: %+v", got)
				}
			})
		}
	})
}

// A commit that does not end is not waited for for ever, and what came before it
// is acknowledged.
func TestReportTimeout(t *testing.T) {
	id := deviceID(t, 1)
	never := edgeclaim.NewCommit()
	b, _ := deskOf(t, func(r edgeclaim.Report) (edgeclaim.Receipt, error) {
		if string(r.Body) == `{"n":2}` {
			return edgeclaim.Receipt{Accepted: 1, Commit: never}, nil
		}
		return edgeclaim.Receipt{Accepted: 1}, nil
	}, func(c *broker.Config) { c.ReportTimeout = 100 * time.Millisecond })
	c := device(t, b, mqttwire.V5, id)
	burst(t, c, telemetryOf(id), telemetryOf(id), telemetryOf(id))
	acked(t, c, 1, 0)
	hungUp(t, c, 0x89)
	eventually(t, "gone", func() bool { return b.Open() == 0 })
}

// A box that cannot take a report now has its device wait: all of them would be
// back at once, and again, and keep the box from its claims.
func TestReportWaitsForRoom(t *testing.T) {
	versions(t, func(t *testing.T, v mqttwire.Version) {
		id := deviceID(t, 1)
		var full atomic.Int32
		full.Store(1)
		b, n := deskOf(t, func(r edgeclaim.Report) (edgeclaim.Receipt, error) {
			if string(r.Body) == `{"n":2}` && full.Add(-1) >= 0 {
				return edgeclaim.Receipt{}, edgeclaim.ErrUnavailable
			}
			return edgeclaim.Receipt{Accepted: 1}, nil
		}, nil)
		c := device(t, b, v, id)
		burst(t, c, telemetryOf(id), telemetryOf(id), eventsOf(id))
		for i := range uint16(3) {
			acked(t, c, i+1, 0)
		}
		if got := n.notes(); len(got) != 4 || got[1].body != got[2].body {
			t.Errorf("taken: %+v", got)
		}
	})
}

// Whoever goes while his report waits for room leaves nothing behind.
func TestDeviceThatLeavesBeforeThereIsRoom(t *testing.T) {
	id := deviceID(t, 1)
	b, n := deskOf(t, func(edgeclaim.Report) (edgeclaim.Receipt, error) {
		return edgeclaim.Receipt{}, edgeclaim.ErrUnavailable
	}, func(c *broker.Config) { c.ReportTimeout = time.Minute })
	c := device(t, b, mqttwire.V311, id)
	burst(t, c, telemetryOf(id))
	n.awaitNotes(t, 1)
	again := device(t, b, mqttwire.V311, id)
	gone(t, c)
	eventually(t, "one is left", func() bool { return b.Open() == 1 })
	quiet(t, again)
}

// The time that the disk takes is not held against a device's keep-alive.
func TestSlowCommitIsNotSilence(t *testing.T) {
	id := deviceID(t, 1)
	commit := edgeclaim.NewCommit()
	b, _ := deskOf(t, func(edgeclaim.Report) (edgeclaim.Receipt, error) {
		return edgeclaim.Receipt{Accepted: 1, Commit: commit}, nil
	}, nil)
	login := deviceLogin(id)
	login.KeepAlive = 1
	c, _ := dial(t, b, mqttwire.V311, login)
	burst(t, c, telemetryOf(id))
	time.AfterFunc(1800*time.Millisecond, func() { commit.End(nil) })
	acked(t, c, 1, 0)
	quiet(t, c)
}

// Whoever goes while his commit is awaited leaves nothing behind.
func TestDeviceThatLeavesBeforeItsCommit(t *testing.T) {
	id := deviceID(t, 1)
	never := edgeclaim.NewCommit()
	b, n := deskOf(t, func(edgeclaim.Report) (edgeclaim.Receipt, error) {
		return edgeclaim.Receipt{Accepted: 1, Commit: never}, nil
	}, func(c *broker.Config) { c.ReportTimeout = time.Minute })
	c := device(t, b, mqttwire.V311, id)
	burst(t, c, telemetryOf(id))
	n.awaitNotes(t, 1)
	again := device(t, b, mqttwire.V311, id) // it takes the first one's place, which is closed
	gone(t, c)
	eventually(t, "one is left", func() bool { return b.Open() == 1 })
	quiet(t, again)
}

// At QoS 0 nobody waits, and nothing is said.
func TestFleetingReports(t *testing.T) {
	id := deviceID(t, 1)
	b, n := deskOf(t, func(edgeclaim.Report) (edgeclaim.Receipt, error) {
		return edgeclaim.Receipt{}, edgeclaim.ErrUnavailable
	}, nil)
	c := device(t, b, mqttwire.V5, id)
	publish(t, c, mqttwire.Message{Topic: telemetryOf(id), Payload: []byte("1")})
	publish(t, c, mqttwire.Message{Topic: eventsOf(id), Payload: []byte("2")})
	quiet(t, c)
	got := n.notes()
	if len(got) != 2 || !got[0].fleeting || !got[1].fleeting || got[0].event || !got[1].event {
		t.Errorf("taken: %+v", got)
	}
}

// Acknowledgements keep the order of the messages, also with those that are
// refused, and come before what answers later packets.
func TestAcknowledgementsKeepTheirOrder(t *testing.T) {
	id := deviceID(t, 1)
	var mu sync.Mutex
	var pending []*edgeclaim.Commit
	b, _ := deskOf(t, func(edgeclaim.Report) (edgeclaim.Receipt, error) {
		commit := edgeclaim.NewCommit()
		mu.Lock()
		pending = append(pending, commit)
		mu.Unlock()
		return edgeclaim.Receipt{Accepted: 1, Commit: commit}, nil
	}, nil)
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() { // ends with the test
		defer close(ended)
		tick := time.NewTicker(3 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			mu.Lock()
			for _, commit := range pending {
				commit.End(nil)
			}
			pending = nil
			mu.Unlock()
		}
	}()
	defer func() {
		close(done)
		<-ended
	}()
	c := device(t, b, mqttwire.V5, id)
	var out []byte
	for i := range 60 {
		name := telemetryOf(id)
		if i%3 == 2 {
			name = "devices/" + id.String() + "/commands" // not the device's to publish to
		}
		out = mqttwire.AppendPublish(out, mqttwire.V5, &mqttwire.Message{Topic: name, QoS: 1, ID: uint16(i + 1)})
	}
	out = mqttwire.AppendPingreq(out)
	if err := c.Send(out); err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		code := byte(0)
		if i%3 == 2 {
			code = 0x87
		}
		acked(t, c, uint16(i+1), code)
	}
	next(t, c, mqttwire.Pingresp)
}

// A message that spans many reads comes whole, and a flood of them all.
func TestLargeReports(t *testing.T) {
	id := deviceID(t, 1)
	var size atomic.Int64
	b, n := deskOf(t, func(r edgeclaim.Report) (edgeclaim.Receipt, error) {
		size.Add(int64(len(r.Body)))
		return edgeclaim.Receipt{Accepted: 1}, nil
	}, nil)
	c := device(t, b, mqttwire.V311, id)
	var out []byte
	const messages, each = 300, 3000
	for i := range messages {
		out = mqttwire.AppendPublish(out, mqttwire.V311, &mqttwire.Message{
			Topic: telemetryOf(id), QoS: 1, ID: uint16(i + 1), Payload: []byte(strings.Repeat(string(rune('a'+i%26)), each)),
		})
	}
	if err := c.Send(out); err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		acked(t, c, uint16(i+1), 0)
	}
	for i, got := range n.notes() {
		if want := strings.Repeat(string(rune('a'+i%26)), each); string(got.report.Body) != want {
			t.Fatalf("message %d is not what was said", i)
		}
	}
}

// A stop waits for what is on its way to the disk, acknowledges it, and says why
// it hangs up.
func TestStopWaitsForReports(t *testing.T) {
	id := deviceID(t, 1)
	commit := edgeclaim.NewCommit()
	n := &notebook{answer: func(edgeclaim.Report) (edgeclaim.Receipt, error) {
		return edgeclaim.Receipt{Accepted: 1, Commit: commit}, nil
	}}
	b, stop := run(t, &rule{login: knowsAll, notes: n}, nil, discard())
	c := device(t, b, mqttwire.V5, id)
	burst(t, c, telemetryOf(id))
	n.awaitNotes(t, 1)
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }() // ends with the broker
	eventually(t, "it accepts no more", func() bool {
		nc, err := net.Dial("tcp", b.Addr().String())
		if err == nil {
			nc.Close()
		}
		return err != nil
	})
	commit.End(nil)
	acked(t, c, 1, 0)
	hungUp(t, c, 0x8b)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// Named users hear what a device said when it is durable, and nothing of what was
// refused.
func TestUsersHearWhatIsDurable(t *testing.T) {
	id := deviceID(t, 1)
	commit := edgeclaim.NewCommit()
	n := &notebook{answer: func(r edgeclaim.Report) (edgeclaim.Receipt, error) {
		switch string(r.Body) {
		case "slow":
			return edgeclaim.Receipt{Accepted: 1, Commit: commit}, nil
		case "bad":
			return edgeclaim.Receipt{Rejected: 1}, edgeclaim.Invalid("body", "want JSON")
		case "none":
			return edgeclaim.Receipt{Rejected: 2}, nil
		case "some":
			return edgeclaim.Receipt{Accepted: 2, Rejected: 1, Points: [][]byte{[]byte("one"), []byte("two")}}, nil
		default:
			return edgeclaim.Receipt{Accepted: 1}, nil
		}
	}}
	b := startLine(t, nil, func(_ *line, p *broker.Parts) { p.Reports = n })
	user := b.user(t, mqttwire.V5, "reader", "devices/+/telemetry", "devices/+/events")
	c := loginWith(t, b.Broker, mqttwire.V5, willLogin(mqttwire.V5, id, eventsOf(id), 0))
	for i, body := range []string{"bad", "slow", "none", "some", "quick"} {
		publish(t, c, mqttwire.Message{Topic: telemetryOf(id), QoS: 1, ID: uint16(i + 1), Payload: []byte(body)})
	}
	n.awaitNotes(t, 2)
	silent(t, user)
	commit.End(nil)
	for _, want := range []string{"slow", "one", "two", "quick"} {
		hears(t, user, telemetryOf(id), want)
	}
	b.HearTelemetry(id, []byte("over HTTP"))
	hears(t, user, telemetryOf(id), "over HTTP")
	b.HearEvent(id, []byte("over HTTP as well"))
	hears(t, user, eventsOf(id), "over HTTP as well")
	publish(t, c, mqttwire.Message{Topic: eventsOf(id), Payload: []byte("at once")})
	if p := hears(t, user, eventsOf(id), "at once"); p.QoS != 0 {
		t.Errorf("at QoS %d", p.QoS)
	}
	c.Close()
	hears(t, user, eventsOf(id), `{"n":"will"}`)
	silent(t, user) // nor twice: mochi would route it too
}
