package broker

import "sync"

// pool counts connections of one kind, and knows which of them are idle, the
// longest idle first. Pools between which connections move share their lock.
type pool struct {
	mu    *sync.Mutex
	max   int
	count int   // members, idle or not
	idle  place // head of a ring: next is the longest idle
	shut  bool
}

// place is a connection's place in the pool it is in.
type place struct {
	c          *conn
	pool       *pool // nil: in none
	next, prev *place
}

func newPool(mu *sync.Mutex, limit int) *pool {
	p := &pool{mu: mu, max: limit}
	p.idle.next, p.idle.prev = &p.idle, &p.idle
	return p
}

// enter makes c an idle member. Full, it puts out the member that was idle
// longest; where none is idle, or the pool is shut, it returns false.
func (p *pool) enter(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		return false
	}
	if p.count >= p.max {
		if p.idle.next == &p.idle {
			return false
		}
		victim := p.idle.next.c
		p.removeLocked(&victim.place)
		victim.Close() // its own goroutine does the rest
	}
	c.place.c, c.place.pool = c, p
	p.count++
	p.pushLocked(&c.place)
	return true
}

// occupy says that c is at work: it is not put out until it rests. It returns
// false when c was put out already, or the pool is shut.
func (p *pool) occupy(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.place.pool != p || p.shut {
		return false
	}
	p.unlinkLocked(&c.place)
	return true
}

// working reports whether c is a member at work.
func (p *pool) working(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return c.place.pool == p && c.place.next == nil
}

// rest says that c is idle from now on.
func (p *pool) rest(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.place.pool != p {
		return
	}
	p.unlinkLocked(&c.place)
	p.pushLocked(&c.place)
}

// leave ends c's membership, if it has one.
func (p *pool) leave(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.place.pool == p {
		p.removeLocked(&c.place)
	}
}

// close lets nobody in and nobody to work any more; who is at work goes on.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut = true
}

func (p *pool) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

func (p *pool) pushLocked(at *place) {
	at.prev, at.next = p.idle.prev, &p.idle
	at.prev.next, at.next.prev = at, at
}

func (p *pool) unlinkLocked(at *place) {
	if at.next == nil {
		return
	}
	at.prev.next, at.next.prev = at.next, at.prev
	at.next, at.prev = nil, nil
}

func (p *pool) removeLocked(at *place) {
	p.unlinkLocked(at)
	at.pool = nil
	p.count--
}
