package broker

import (
	"bytes"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/mochi-mqtt/server/v2/packets"

	"edgeclaim/internal/topic"
)

// consumers is who is there and listens to what. mochi's own table would do for
// plain subscriptions; of a shared one it picks members that are not there, or
// do not read.
type consumers struct {
	max                int
	filters            atomic.Int64 // how many there are subscriptions to
	delivered, dropped atomic.Uint64

	mu    sync.RWMutex // guards what follows; nothing blocks under it
	all   map[*consumer]struct{}
	exact map[string]*route // by filter, those without wildcards
	wild  map[string]*route // the others
}

// route is who listens to one filter; its maps are guarded by consumers.mu.
type route struct {
	filter string
	direct map[*consumer]byte // and with what QoS
	groups map[string]*group
}

// group is a shared subscription: each message is one member's (MQTT 5.0,
// section 4.8.2).
type group struct {
	mu      sync.Mutex // after consumers.mu, before consumer.mu
	members []member   // guarded by mu
	next    int        // whose turn it is; guarded by mu
}

type member struct {
	k   *consumer
	qos byte
}

func newConsumers(limit int) *consumers {
	return &consumers{max: limit, all: map[*consumer]struct{}{}, exact: map[string]*route{}, wild: map[string]*route{}}
}

// enter has a place taken, if there is one.
func (s *consumers) enter(k *consumer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) >= s.max {
		return false
	}
	s.all[k] = struct{}{}
	return true
}

func (s *consumers) len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.all)
}

// leave gives the place back, and what waited for k to others of its groups. It
// is called when the connection is closed, and waits for its writing goroutine.
func (s *consumers) leave(k *consumer) {
	if k.ended != nil {
		<-k.ended
	}
	left := k.end()
	k.sayDropped(0)
	s.mu.Lock()
	delete(s.all, k)
	for _, table := range []map[string]*route{s.exact, s.wild} {
		for _, r := range table {
			s.removeLocked(k, r, "", true)
		}
	}
	s.mu.Unlock()
	for _, p := range left {
		if !p.group.offer(p, false) {
			s.dropped.Add(1)
		}
	}
}

// shared takes a filter apart that begins with $share (MQTT 5.0, section 4.8.2).
// Its group is not empty, and no wildcard is in it.
func shared(filter string) (name, plain string, ok bool) {
	rest, ok := strings.CutPrefix(filter, "$share/")
	if !ok {
		return "", "", false
	}
	name, plain, ok = strings.Cut(rest, "/")
	return name, plain, ok && name != "" && !strings.ContainsAny(name, "+#")
}

func (s *consumers) tableOf(filter string) map[string]*route {
	if strings.ContainsAny(filter, "+#") {
		return s.wild
	}
	return s.exact
}

// subscribed has a consumer told what it was granted, behind the SUBACK; see
// start.
func (s *consumers) subscribed(k *consumer, pk *packets.Packet, codes []byte) {
	k.hold()
	for i, sub := range pk.Filters {
		if codes[i] < packets.ErrUnspecifiedError.Code {
			s.subscribe(k, sub.Filter, codes[i])
		}
	}
}

func (s *consumers) unsubscribed(k *consumer, pk *packets.Packet) {
	for _, sub := range pk.Filters {
		s.unsubscribe(k, sub.Filter)
	}
}

// subscribe has k told what filter matches, with that QoS at most; a second time
// changes the QoS.
func (s *consumers) subscribe(k *consumer, filter string, qos byte) {
	name, plain, ok := shared(filter)
	if !ok {
		plain = filter
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	table := s.tableOf(plain)
	r := table[plain]
	if r == nil {
		r = &route{filter: plain, direct: map[*consumer]byte{}, groups: map[string]*group{}}
		table[plain] = r
		s.filters.Add(1)
	}
	if !ok {
		r.direct[k] = qos
		return
	}
	if r.groups[name] == nil {
		r.groups[name] = &group{}
	}
	r.groups[name].join(member{k: k, qos: qos})
}

// unsubscribe ends what subscribe began, if it did. What waits for k is still
// written.
func (s *consumers) unsubscribe(k *consumer, filter string) {
	name, plain, ok := shared(filter)
	if !ok {
		plain = filter
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.tableOf(plain)[plain]; r != nil {
		s.removeLocked(k, r, name, false)
	}
}

// removeLocked takes k out of a group, out of the plain subscribers where that
// has no name, out of all where everywhere is set.
func (s *consumers) removeLocked(k *consumer, r *route, name string, everywhere bool) {
	if name == "" || everywhere {
		delete(r.direct, k)
	}
	for of, g := range r.groups {
		if (of == name || everywhere) && g.part(k) == 0 {
			delete(r.groups, of)
		}
	}
	table := s.tableOf(r.filter)
	if len(r.direct)+len(r.groups) == 0 && table[r.filter] == r {
		delete(table, r.filter)
		s.filters.Add(-1)
	}
}

// deliver puts a message into the queues of those who listen: once for each
// consumer's plain subscriptions, whatever their number, with the highest QoS of
// them, and once for each group.
func (s *consumers) deliver(p parcel) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var few [4]*route
	routes := s.routesLocked(few[:0], p.topic)
	if len(routes) == 0 {
		return
	}
	p.payload = bytes.Clone(p.payload) // what waits keeps no array for one of its points
	if len(routes) == 1 {
		for k, granted := range routes[0].direct {
			k.put(parcel{topic: p.topic, payload: p.payload, qos: min(p.qos, granted)}, atAnyCost)
		}
	} else {
		for k, granted := range overlapping(routes) {
			k.put(parcel{topic: p.topic, payload: p.payload, qos: min(p.qos, granted)}, atAnyCost)
		}
	}
	for _, r := range routes {
		for _, g := range r.groups {
			p.group = g
			g.offer(p, true)
		}
	}
}

func (s *consumers) routesLocked(routes []*route, name string) []*route {
	if r := s.exact[name]; r != nil {
		routes = append(routes, r)
	}
	for filter, r := range s.wild {
		if topic.Match(filter, name) {
			routes = append(routes, r)
		}
	}
	return routes
}

// overlapping is each plain subscriber of several filters, with the highest QoS
// granted (MQTT 5.0, section 3.3.4).
func overlapping(routes []*route) map[*consumer]byte {
	all := map[*consumer]byte{}
	for _, r := range routes {
		for k, granted := range r.direct {
			all[k] = max(all[k], granted)
		}
	}
	return all
}

func (g *group) join(m member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.members {
		if g.members[i].k == m.k {
			g.members[i].qos = m.qos
			return
		}
	}
	g.members = append(g.members, m)
}

// part takes k out, if it is in, and returns how many are left.
func (g *group) part(k *consumer) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.members {
		if g.members[i].k != k {
			continue
		}
		g.members = append(g.members[:i:i], g.members[i+1:]...)
		if g.next > i {
			g.next--
		}
		break
	}
	return len(g.members)
}

// offer gives a message to the member whose turn it is, or to another where that
// one has much waiting, or is full. Where all are, the oldest that waits for the
// one whose turn it is gives way, if force says so. It returns false where
// nobody has it.
func (g *group) offer(p parcel, force bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, how := range []manner{whenReady, whenRoom, atAnyCost} {
		if how == atAnyCost && !force {
			break
		}
		for i := range g.members {
			at := (g.next + i) % len(g.members)
			m, copied := g.members[at], p
			copied.qos = min(p.qos, m.qos)
			if m.k.put(copied, how) {
				g.next = (at + 1) % len(g.members)
				return true
			}
		}
	}
	return false
}
