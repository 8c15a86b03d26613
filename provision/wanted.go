package provision

import (
	"container/list"
	"sync"
	"time"

	"edgeclaim"
)

const (
	// wantedKeys is how many keys upstream is asked for at one time; of more the
	// oldest are forgotten until they are wanted anew.
	wantedKeys = 1024
	// wantOverdue is how long after a key was asked for another claim that it is
	// missing to is an alarm: by then upstream does not answer.
	wantOverdue = ShareRetry / 2
)

// wanted are the keys that upstream is to be asked for.
type wanted struct {
	changed chan struct{} // one waits in it when there is something new

	mu    sync.Mutex // guards what follows, for the length of a look-up
	keys  map[edgeclaim.KeyID]*list.Element
	order *list.List // of *want, the oldest in front
	// look: there may be low keys that are not in here.
	look bool
}

// want is a key that upstream is asked for.
type want struct {
	key    edgeclaim.KeyID
	since  time.Duration // the box's uptime
	raised bool          // its alarm, since upstream granted more
	again  bool          // although upstream has said that there is no more
}

func newWanted() *wanted {
	return &wanted{changed: make(chan struct{}, 1), keys: map[edgeclaim.KeyID]*list.Element{}, order: list.New(), look: true}
}

// add asks for a key, and reports whether that is new, which the caller wakes the
// asker for, and whether its alarm is due: low says that it is,
// and so does that it was asked for a while ago; once until upstream grants more.
func (w *wanted) add(key edgeclaim.KeyID, low bool, now time.Duration) (fresh, due bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	entry, fresh := w.entryLocked(key, now)
	due = !entry.raised && (low || now-entry.since >= wantOverdue)
	entry.raised = entry.raised || due
	return fresh, due
}

// addAgain asks for a key of which upstream has said that there is no more.
func (w *wanted) addAgain(key edgeclaim.KeyID, now time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	entry, fresh := w.entryLocked(key, now)
	if entry.again = true; fresh {
		w.wake()
	}
}

func (w *wanted) entryLocked(key edgeclaim.KeyID, now time.Duration) (entry *want, fresh bool) {
	element, known := w.keys[key]
	if !known {
		if w.order.Len() >= wantedKeys {
			oldest := w.order.Remove(w.order.Front()).(*want)
			delete(w.keys, oldest.key)
			w.look = true
		}
		element = w.order.PushBack(&want{key: key, since: now})
		w.keys[key] = element
	}
	return element.Value.(*want), !known
}

// full reports whether one more would push another one out.
func (w *wanted) full() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.order.Len() >= wantedKeys
}

func (w *wanted) remove(key edgeclaim.KeyID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if element, ok := w.keys[key]; ok {
		w.order.Remove(element)
		delete(w.keys, key)
	}
}

// all lists what is wanted, the oldest first.
func (w *wanted) all() []want {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]want, 0, w.order.Len())
	for e := w.order.Front(); e != nil; e = e.Next() {
		all = append(all, *e.Value.(*want))
	}
	return all
}

// lookAnew has the next asker look through all keys.
func (w *wanted) lookAnew() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.look = true
	w.wake()
}

// lookLater is lookAnew when somebody asks anyway.
func (w *wanted) lookLater() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.look = true
}

// nudge wakes the asker where there is more to ask for than there was room.
func (w *wanted) nudge() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.look {
		w.wake()
	}
}

// takeLook reports whether all keys are to be looked through, once.
func (w *wanted) takeLook() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	look := w.look
	w.look = false
	return look
}

func (w *wanted) wake() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}
