package store

import (
	"context"
	"sync"
	"time"
)

// write is one caller's change on its way into a transaction.
type write struct {
	apply func(*batch) error
	err   error
	// wake has room for one: true makes the caller the leader of the next
	// group, false says that err is final.
	wake chan bool
}

// queue is the combiner: callers that write at the same time share one
// transaction. There is no goroutine: the first caller leads, commits the
// group, and hands the lead to the first of those that came meanwhile. So
// there is nothing to start or stop, and nothing that can hang on Close.
type queue struct {
	mu      sync.Mutex
	waiting []*write // first is the next leader; owned by mu
	led     bool     // somebody leads; owned by mu
	closed  bool     // no more callers; owned by mu

	// want is how many callers a lingering leader waits for, 0 while none
	// lingers; full tells it that they are there. Owned by mu.
	want int
	full chan struct{}

	// crowd is how many callers were seen at the end of the last group: its
	// own, who are likely to come back, and those who waited. Owned by mu.
	crowd   int
	ended   time.Time     // when the last group ended
	tookOne time.Duration // how long its commit took
}

// join puts w in the queue and reports whether w leads.
func (q *queue) join(w *write, closing bool) (leads bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed && !closing {
		return false, errClosing
	}
	q.waiting = append(q.waiting, w)
	if q.want > 0 && len(q.waiting) >= q.want {
		q.want = 0
		q.full <- struct{}{}
	}
	if q.led {
		return false, nil
	}
	q.led = true
	return true, nil
}

// leave takes w out again, unless it is in a group or leads one already.
func (q *queue) leave(w *write) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, other := range q.waiting {
		if other != w {
			continue
		}
		if len(w.wake) > 0 { // it was given the lead
			return false
		}
		q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
		return true
	}
	return false
}

// linger lets the callers of the last group come back, so that two half groups
// do not take turns for ever. It never outlasts one commit, counted from the
// end of the last, and a lone caller, who was alone last time, does not wait.
func (q *queue) linger(atMost time.Duration) {
	q.mu.Lock()
	want := min(q.crowd, MaxGroup)
	left := min(atMost, q.tookOne) - time.Since(q.ended)
	if len(q.waiting) >= want || left <= 0 {
		q.mu.Unlock()
		return
	}
	q.want = want
	q.mu.Unlock()

	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-q.full:
		return
	case <-timer.C:
	}
	q.mu.Lock()
	if q.want == 0 { // both at once: the signal is in the channel
		<-q.full
	}
	q.want = 0
	q.mu.Unlock()
}

// take removes the next group, the leader's own write first.
func (q *queue) take() []*write {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.waiting), MaxGroup)
	group := q.waiting[:n:n]
	q.waiting = append(make([]*write, 0, cap(group)), q.waiting[n:]...)
	return group
}

// handOver ends the leader's term.
func (q *queue) handOver(group int, took time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.crowd, q.ended, q.tookOne = group+len(q.waiting), time.Now(), took
	if len(q.waiting) == 0 {
		q.led = false
		return
	}
	q.waiting[0].wake <- true
}

// shut refuses all callers to come; those in the queue are served.
func (q *queue) shut() (first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	first, q.closed = !q.closed, true
	return first
}

// closing reports whether shut was called.
func (q *queue) closing() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

// update runs apply in a write transaction that other callers may share, and
// returns nil only when that is fsynced (P1). An error of apply is returned as
// it is and leaves the others of the group untouched: apply decides before it
// puts. A cancelled ctx is honoured until the change is taken into a group.
func (db *DB) update(ctx context.Context, apply func(*batch) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := db.Err(); err != nil {
		return err
	}
	w := &write{apply: apply, wake: make(chan bool, 1)}
	leads, err := db.queue.join(w, false)
	if err != nil {
		return err
	}
	if !leads {
		select {
		case leads = <-w.wake:
		case <-ctx.Done():
			if db.queue.leave(w) {
				return ctx.Err()
			}
			leads = <-w.wake
		}
	}
	if leads {
		db.lead()
	}
	return w.err
}

// lead commits one group, of which the caller's write is the first.
func (db *DB) lead() {
	db.queue.linger(db.cfg.Linger)
	group := db.queue.take()
	start := time.Now()
	db.commit(group)
	took := time.Since(start)
	for _, w := range group[1:] {
		w.wake <- false
	}
	db.queue.handOver(len(group), took)
}
