package mqttproxy

import (
	"container/heap"
	"net"
	"sync"
	"time"
)

// queue is one way of a link: packets in the order in which they are due. Its
// writer alone writes to the connection, so that packets stay whole.
type queue struct {
	to   net.Conn
	wake chan struct{} // something was pushed, or the end came

	mu     sync.Mutex
	pieces pieces
	latest time.Time // when the last packet that keeps its place is due
	count  uint64
	ended  bool
}

// piece is a packet, or what comes behind the last one.
type piece struct {
	bytes []byte
	due   time.Time
	turn  uint64 // of those due at one time, first come, first gone
	last  bool   // close the connection
	kick  *link  // reset the link
}

func newQueue(to net.Conn) *queue { return &queue{to: to, wake: make(chan struct{}, 1)} }

// inOrder is when a packet is due that comes now, takes delay and overtakes
// none of its kind.
func (q *queue) inOrder(now time.Time, delay time.Duration) time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	due := now.Add(delay)
	if due.Before(q.latest) {
		due = q.latest
	}
	q.latest = due
	return due
}

func (q *queue) push(p piece) {
	q.mu.Lock()
	q.count++
	p.turn = q.count
	heap.Push(&q.pieces, p)
	q.mu.Unlock()
	q.stir()
}

func (q *queue) stir() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// end makes the writer stop, whatever is left.
func (q *queue) end() {
	q.mu.Lock()
	q.ended = true
	q.mu.Unlock()
	q.stir()
}

// next returns the first piece that is due, or how long to wait for it; 0 is
// until something is pushed.
func (q *queue) next() (p piece, wait time.Duration, ok, ended bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended || len(q.pieces) == 0 {
		return piece{}, 0, false, q.ended
	}
	if wait := time.Until(q.pieces[0].due); wait > 0 {
		return piece{}, wait, false, false
	}
	p, _ = heap.Pop(&q.pieces).(piece)
	return p, 0, true, false
}

// write writes what is due until the end.
func (q *queue) write() {
	for {
		p, wait, ok, ended := q.next()
		switch {
		case ended:
			return
		case !ok:
			q.rest(wait)
		case p.kick != nil:
			p.kick.reset()
			return
		case p.last:
			q.to.Close()
			return
		default:
			if _, err := q.to.Write(p.bytes); err != nil {
				return
			}
		}
	}
}

// rest waits for a push, at most that long where it is more than 0.
func (q *queue) rest(wait time.Duration) {
	if wait == 0 {
		<-q.wake
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-q.wake:
	case <-timer.C:
	}
}

// pieces is a heap by due and turn.
type pieces []piece

func (p pieces) Len() int { return len(p) }

func (p pieces) Less(i, j int) bool {
	if !p[i].due.Equal(p[j].due) {
		return p[i].due.Before(p[j].due)
	}
	return p[i].turn < p[j].turn
}

func (p pieces) Swap(i, j int) { p[i], p[j] = p[j], p[i] }

// Push implements heap.Interface.
func (p *pieces) Push(x any) {
	if one, ok := x.(piece); ok {
		*p = append(*p, one)
	}
}

// Pop implements heap.Interface.
func (p *pieces) Pop() any {
	old := *p
	last := old[len(old)-1]
	old[len(old)-1] = piece{}
	*p = old[:len(old)-1]
	return last
}
