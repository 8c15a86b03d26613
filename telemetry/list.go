package telemetry

// The chains that a device is a link of.
const (
	byPlace = iota // online or away
	byTurn
	bySilence
)

type link struct{ prev, next *device }

// list is a chain of devices, linked within themselves: there may be a hundred
// thousand, and each telemetry moves one to the back.
type list struct {
	by          int
	front, back *device
	n           int
}

func (l *list) push(d *device) {
	d.links[l.by] = link{prev: l.back}
	if l.back == nil {
		l.front = d
	} else {
		l.back.links[l.by].next = d
	}
	l.back = d
	l.n++
}

func (l *list) remove(d *device) {
	at := &d.links[l.by]
	if at.prev == nil {
		l.front = at.next
	} else {
		at.prev.links[l.by].next = at.next
	}
	if at.next == nil {
		l.back = at.prev
	} else {
		at.next.links[l.by].prev = at.prev
	}
	*at = link{}
	l.n--
}

// above returns the first device of which version is above after, where it
// rises along the chain; nil for none. from is a device that may be the one
// before it.
func (l *list) above(after uint64, version func(*device) uint64, from *device) *device {
	switch {
	case l.front == nil || version(l.back) <= after:
		return nil
	case version(l.front) > after:
		return l.front
	case from != nil && version(from) == after:
		return from.links[l.by].next
	}
	d := l.back
	for prev := d.links[l.by].prev; prev != nil && version(prev) > after; prev = d.links[l.by].prev {
		d = prev
	}
	return d
}
