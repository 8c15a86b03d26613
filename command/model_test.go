package command_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"edgeclaim"
	"edgeclaim/command"
)

// task is a command as the model has it.
type task struct {
	name    string
	told    []string // its statuses, in order
	expires time.Time
	wrote   int       // how often it was written to the device, as the service remembers
	kept    int       // the same, as the store does
	tries   int       // since the device came back
	again   time.Time // when it is due
}

// become says that upstream is told another status.
func (k *task) become(status string) {
	k.told = append(k.told, status)
	k.kept = max(k.kept, k.wrote)
}

func (k *task) status() string { return k.told[len(k.told)-1] }

func (k *task) live() bool {
	s := k.status()
	return s == "queued" || s == "sent" || s == "delivered"
}

// model is one device's commands, in order of queueing.
type model struct {
	*rig
	tasks []*task
}

// TestModel compares the service with a list, over any sequence of orders,
// sends, answers, cancels, returns of the device, time and restarts: what is due
// is what the list says, nothing is sent after its time, and upstream hears each
// status once and in order.
func TestModel(t *testing.T) {
	inBubble(t, func(c *command.Config) {
		c.MaxPerDevice, c.MaxInFlight, c.MaxWaiting, c.RetryLimit = 6, 3, 1000, 40*time.Second
	}, func(t *testing.T, r *rig) {
		lives := 0
		// Embedded, the deadline is not seen: there is none inside a bubble.
		rapid.Check(struct{ rapid.TB }{t}, func(rt *rapid.T) {
			lives++
			m := &model{rig: r}
			name := func() string { return fmt.Sprint("c", lives, "-", rapid.IntRange(0, 9).Draw(rt, "command")) }
			rt.Repeat(map[string]func(*rapid.T){
				"order": func(rt *rapid.T) { m.give(t, name(), rapid.IntRange(2, 90).Draw(rt, "seconds")) },
				"send":  func(*rapid.T) { m.send(t) },
				"puback": func(*rapid.T) {
					text := name()
					r.noErr(r.Delivered(t.Context(), device(t, 1), id(t, text)))
					_ = m.answered(text, "delivered")
				},
				"answer": func(rt *rapid.T) {
					text, status := name(), rapid.SampledFrom([]string{"delivered", "successful", "failed"}).Draw(rt, "status")
					err := r.answer(text, status)
					if !m.answered(text, status) {
						wantErr(t, err, edgeclaim.ErrNotFound)
						return
					}
					r.noErr(err)
				},
				"cancel": func(*rapid.T) { m.cancel(t, name()) },
				"listen": func(*rapid.T) {
					r.Listening(device(t, 1))
					m.comeBack()
				},
				"time": func(rt *rapid.T) {
					r.pass(time.Duration(rapid.IntRange(1, 50).Draw(rt, "seconds")) * time.Second)
					m.expire()
				},
				"restart": func(*rapid.T) {
					r.restart()
					m.comeBack()
					for _, k := range m.tasks {
						k.wrote = k.kept
					}
				},
				"": func(*rapid.T) { m.compare(t) },
			})
			for _, k := range m.tasks { // leave nothing to the next life
				r.noErr(r.Cancel(t.Context(), device(t, 1), id(t, k.name), ""))
			}
			r.waiting(0)
			r.noErr(r.db.Ack(t.Context(), edgeclaim.Mark{Epoch: r.db.Epoch(), Lane: edgeclaim.LaneEvt, Upto: m.last()}))
		})
	})
}

// last is the last sequence that upstream was told.
func (m *model) last() uint64 {
	m.tb.Helper()
	stats, err := m.db.LaneStats(m.tb.Context())
	m.noErr(err)
	return stats[edgeclaim.LaneEvt].Appended
}

func (m *model) find(name string) *task {
	i := slices.IndexFunc(m.tasks, func(k *task) bool { return k.name == name })
	if i < 0 {
		return nil
	}
	return m.tasks[i]
}

func (m *model) give(t *testing.T, name string, seconds int) {
	t.Helper()
	live := 0
	for _, k := range m.tasks {
		if k.live() {
			live++
		}
	}
	o := m.order(name)
	// Half a second off whole seconds, which is when the model looks.
	o.ExpiresAt = m.clock.Now().Truncate(time.Second).Add(time.Duration(seconds)*time.Second + 500*time.Millisecond)
	_, err := m.Give(t.Context(), o)
	switch {
	case m.find(name) != nil:
		m.noErr(err)
	case live == 6:
		wantErr(t, err, edgeclaim.ErrThrottled)
	default:
		m.noErr(err)
		m.tasks = append(m.tasks, &task{name: name, told: []string{"queued"}, expires: o.ExpiresAt})
	}
}

// due is what the list says is due: of the first three that are worth something
// yet, those whose pause is over.
func (m *model) due() (due []*task) {
	now, window := m.clock.Now(), 0
	for _, k := range m.tasks {
		if !k.live() || k.expires.Sub(now) < time.Second {
			continue
		}
		if window++; window > 3 {
			break
		}
		if !now.Before(k.again) {
			due = append(due, k)
		}
	}
	return due
}

func (m *model) send(t *testing.T) {
	t.Helper()
	want := ""
	for i, k := range m.due() {
		if want += k.name; i < len(m.due())-1 {
			want += " "
		}
	}
	equal(t, "sent", m.rig.send(), want)
	for _, k := range m.due() {
		k.tries++
		if k.wrote++; k.status() == "queued" {
			k.become("sent")
		}
		k.again = m.clock.Now().Add(min(40*time.Second, 10*time.Second<<(k.tries-1)))
	}
}

// answered takes a device's word, and reports whether the status says as much
// then.
func (m *model) answered(name, status string) bool {
	k := m.find(name)
	if k == nil {
		return false
	}
	if k.status() == status || status == "delivered" && (k.status() == "successful" || k.status() == "failed") {
		return true
	}
	late := k.status() == "expired no_answer" || k.status() == "cancelled operator" && k.kept > 0
	if !k.live() && (!late || status == "delivered") {
		return false
	}
	k.become(status)
	return true
}

func (m *model) cancel(t *testing.T, name string) {
	t.Helper()
	k := m.find(name)
	_, err := m.TakeBack(t.Context(), device(t, 1), id(t, name), "uid:0")
	switch {
	case k == nil:
		wantErr(t, err, edgeclaim.ErrNotFound)
	case k.status() == "cancelled operator":
		m.noErr(err)
	case !k.live():
		wantErr(t, err, edgeclaim.ErrConflict)
	default:
		m.noErr(err)
		k.become("cancelled operator")
	}
}

func (m *model) comeBack() {
	for _, k := range m.tasks {
		k.again, k.tries = time.Time{}, 0
	}
}

func (m *model) expire() {
	for _, k := range m.tasks {
		switch {
		case !k.live() || m.clock.Now().Before(k.expires):
		case k.status() == "queued":
			k.become("expired not_sent")
		default:
			k.become("expired no_answer")
		}
	}
}

func (m *model) compare(t *testing.T) {
	t.Helper()
	live := 0
	told := m.toldAll()
	for _, k := range m.tasks {
		if k.live() {
			live++
		}
		if !slices.Equal(told[k.name], k.told) {
			t.Fatalf("told of %s: %q, want %q", k.name, told[k.name], k.told)
		}
		if got := m.status(k.name); got != k.status() {
			t.Fatalf("%s is %s, want %s", k.name, got, k.status())
		}
	}
	m.waiting(live)
	want := ""
	for i, k := range m.due() {
		if i > 0 {
			want += " "
		}
		want += k.name
	}
	if got := m.rig.due(); got != want {
		t.Fatalf("due are %q, want %q", got, want)
	}
}
