package provision

import (
	"container/list"
	"slices"
	"sync"
	"time"
)

// ration lets each name take so many within a span. It remembers as many names
// as it has room for, and forgets first who took longest ago. Times carry a
// monotonic reading (P10); a restart forgets them.
type ration[K comparable] struct {
	limit int
	span  time.Duration
	names int

	mu    sync.Mutex // guards what follows, for the length of a look-up
	byKey map[K]*list.Element
	order *list.List // of *portion[K], who took last in front
}

// portion is what a name took within the span, oldest first: limit at most.
type portion[K comparable] struct {
	name  K
	taken []time.Time
}

func newRation[K comparable](limit int, span time.Duration, names int) *ration[K] {
	return &ration[K]{limit: limit, span: span, names: names, byKey: map[K]*list.Element{}, order: list.New()}
}

// take counts one of name at now, or says how long it has to wait; 0: taken.
func (r *ration[K]) take(name K, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	element, ok := r.byKey[name]
	if !ok {
		element = r.order.PushFront(&portion[K]{name: name})
		r.byKey[name] = element
		if r.order.Len() > r.names {
			oldest := r.order.Remove(r.order.Back()).(*portion[K])
			delete(r.byKey, oldest.name)
		}
	}
	p := element.Value.(*portion[K])
	for len(p.taken) > 0 && now.Sub(p.taken[0]) >= r.span {
		p.taken = p.taken[1:]
	}
	if len(p.taken) >= r.limit {
		return r.span - now.Sub(p.taken[0])
	}
	p.taken = append(p.taken, now)
	r.order.MoveToFront(element)
	return 0
}

// giveBack undoes a take of which nothing came.
func (r *ration[K]) giveBack(name K, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	element, ok := r.byKey[name]
	if !ok { // forgotten meanwhile
		return
	}
	p := element.Value.(*portion[K])
	if i := slices.IndexFunc(p.taken, at.Equal); i >= 0 {
		p.taken = slices.Delete(p.taken, i, i+1)
	}
}
