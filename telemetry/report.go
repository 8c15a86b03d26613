package telemetry

import (
	"bytes"
	"context"
	"errors"

	"edgeclaim"
)

// fleetingBacklog is how many points may wait upstream while those that nobody
// waits for (QoS 0) still go on their way: they are of no use when they are old.
const fleetingBacklog = 10_000

// pointBytes is what a point is reckoned to have: few large ones fill the disk
// as many small ones do, and what the quota takes then is everybody's.
const pointBytes = 1 << 10

// Telemetry takes the points of a report. It does not wait for the disk: the
// Receipt's Commit does, and only when that ended well are they durable (P1).
//
// An array is taken point by point, and what is wrong with one is counted. A
// single point that is wrong, or a body that is no JSON, is an InvalidError. What
// the schema of the device's profile does not allow is wrong.
// ErrThrottled: the device says too much, and nothing of the report was taken.
// ErrUnavailable: the disk, or what may wait for it, is full; nothing was taken,
// and trying later helps. A Fleeting report has no Commit, and is dropped where
// the others are ErrUnavailable, or where upstream could not have it soon. One
// that is more than a small log ever takes at once is an InvalidError.
func (s *Service) Telemetry(_ context.Context, r edgeclaim.Report) (edgeclaim.Receipt, error) {
	w := s.scratch.Get().(*scratch) //nolint:errcheck,forcetypeassert // New makes no other
	defer func() {
		w.clear()
		s.scratch.Put(w)
	}()
	now := s.parts.Stamp()
	holds, schema := s.inherits(&r.By)
	rejected, err := s.look(w, &r, schema)
	if err != nil {
		s.presence.charge(r.By.Device, 1, now) // nonsense is not free either
		return edgeclaim.Receipt{Rejected: 1}, err
	}
	receipt := edgeclaim.Receipt{Accepted: len(w.points), Rejected: rejected, Points: w.ofArray(r.Body)}
	if !s.presence.charge(r.By.Device, cost(len(w.points)+rejected, &r), now) {
		return s.throttled(&r, receipt)
	}
	if len(w.points) == 0 {
		return receipt, nil
	}
	if r.Fleeting && !s.soon() {
		s.count.fleetingDropped.Add(uint64(len(w.points)))
		s.presence.spoke(&r.By, now, 0, holds) // it is at work all the same
		return receipt, nil
	}
	last, commit, err := s.points.Append(s.entries(w, &r, now)...)
	switch {
	case err != nil && r.Fleeting:
		s.count.fleetingDropped.Add(uint64(len(w.points)))
		last = 0
	case errors.Is(err, edgeclaim.ErrInvalid):
		return s.excessive(&r, receipt)
	case err != nil:
		return s.full(&r, receipt, err)
	case r.Fleeting:
		s.count.fleeting.Add(uint64(len(w.points)))
	default:
		receipt.Commit = commit
	}
	s.presence.spoke(&r.By, now, last, holds)
	return receipt, nil
}

// ofArray returns the points that were taken of an array; nil of a single one.
func (s *scratch) ofArray(body []byte) [][]byte {
	if len(s.points) == 0 || len(s.points) == 1 && len(s.points[0].raw) == len(bytes.TrimSpace(body)) {
		return nil
	}
	points := make([][]byte, len(s.points))
	for i := range s.points {
		points[i] = s.points[i].raw
	}
	return points
}

// cost is how many points a report is reckoned as.
func cost(points int, r *edgeclaim.Report) int {
	return max(points, (len(r.Body)+pointBytes-1)/pointBytes)
}

// look finds a report's points, and counts those that are wrong, or not what the
// schema says; nil: it says nothing.
func (s *Service) look(w *scratch, r *edgeclaim.Report, schema *schema) (rejected int, err error) {
	if len(r.Body) > edgeclaim.MaxReport {
		return 0, s.reject(r, &fault{reasonTooLarge, "body", "larger than a report may be"})
	}
	start, end, ok := document(r.Body)
	if !ok {
		return 0, s.reject(r, malformed("body", "not JSON"))
	}
	body := r.Body[start:end]
	if body[0] != '[' {
		p, f := w.lookPoint(body, r, schema)
		if f != nil {
			return 0, s.reject(r, f)
		}
		w.points = append(w.points, p)
		return 0, nil
	}
	for e := elementsOf(body); ; {
		raw, ok := e.next()
		if !ok {
			break
		}
		if len(w.points)+rejected == edgeclaim.MaxPoints {
			return 0, s.reject(r, &fault{reasonTooMany, "body", "more points than a report may have"})
		}
		p, f := w.lookPoint(raw, r, schema)
		if f != nil {
			rejected++
			s.reject(r, f) //nolint:errcheck // counted
			continue
		}
		w.points = append(w.points, p)
	}
	if len(w.points)+rejected == 0 {
		return 0, s.reject(r, malformed("body", "an array without points"))
	}
	return rejected, nil
}

func (s *scratch) lookPoint(raw []byte, r *edgeclaim.Report, schema *schema) (point, *fault) {
	p, f := s.parsePoint(raw, r.By.Device, r.Via == edgeclaim.ViaMQTT)
	if f == nil && schema != nil {
		f = schema.check(&p)
	}
	return p, f
}

// entries writes what is to be kept of the points.
func (s *Service) entries(w *scratch, r *edgeclaim.Report, now edgeclaim.Stamp) [][]byte {
	e := entry{device: r.By.Device, tenant: r.By.Tenant, stamp: now}
	boot := s.bootName(now.Boot)
	room := len(r.Body) + len(w.points)*maxHeader
	if cap(w.buf) < room {
		w.buf = make([]byte, 0, room) // it must not move: parts point into it
	}
	for i := range w.points {
		from := len(w.buf)
		e.form, e.payload = w.points[i].form, w.points[i].raw
		w.buf = appendEntry(w.buf, &e, boot)
		w.parts = append(w.parts, w.buf[from:])
	}
	return w.parts
}

func (s *Service) bootName(text string) *bootName {
	if name := s.boot.Load(); name != nil && name.text == text {
		return name
	}
	name := newBootName(text)
	s.boot.Store(name)
	return name
}

// soon reports whether upstream will have what is appended now before long.
func (s *Service) soon() bool {
	return s.parts.Told != nil && s.parts.Told() && s.lane.backlog() < fleetingBacklog
}

// Event takes a device's event, a JSON object; see Telemetry for its errors. One
// with a command_id is the answer to a command, decided before this returns.
func (s *Service) Event(ctx context.Context, r edgeclaim.Report) (edgeclaim.Receipt, error) {
	now := s.parts.Stamp()
	charged := s.presence.charge(r.By.Device, cost(1, &r), now)
	body, answer, err := s.lookEvent(&r)
	switch {
	case err != nil:
		return edgeclaim.Receipt{Rejected: 1}, err
	case !charged:
		return s.throttled(&r, edgeclaim.Receipt{Accepted: 1})
	}
	if answer && s.parts.Answers != nil {
		err := s.parts.Answers.Answer(ctx, r.By.Device, body)
		switch {
		case err == nil:
			s.count.answers.Add(1)
			return edgeclaim.Receipt{Accepted: 1}, nil
		case errors.Is(err, edgeclaim.ErrInvalid):
			s.refused(&r, reasonMalformed)
			return edgeclaim.Receipt{Rejected: 1}, err
		case !errors.Is(err, edgeclaim.ErrNotFound):
			return edgeclaim.Receipt{}, err
		}
	}
	e := entry{form: formEvent, device: r.By.Device, tenant: r.By.Tenant, stamp: now, payload: body}
	raw := appendEntry(make([]byte, 0, maxHeader+len(body)), &e, s.bootName(now.Boot))
	_, commit, err := s.events.Append(raw)
	if err != nil {
		return s.full(&r, edgeclaim.Receipt{Accepted: 1}, err)
	}
	if r.Fleeting {
		commit = nil
	}
	return edgeclaim.Receipt{Accepted: 1, Commit: commit}, nil
}

// lookEvent makes sure that an event is one, and finds out whether it answers a
// command.
func (s *Service) lookEvent(r *edgeclaim.Report) (body []byte, answer bool, err error) {
	if len(r.Body) > MaxEvent {
		return nil, false, s.reject(r, &fault{reasonTooLarge, "body", "larger than an event may be"})
	}
	start, end, ok := document(r.Body)
	if !ok {
		return nil, false, s.reject(r, malformed("body", "not JSON"))
	}
	if body = r.Body[start:end]; body[0] != '{' {
		return nil, false, s.reject(r, malformed("body", "want an object"))
	}
	if !unique(body) {
		return nil, false, s.reject(r, malformed("body", "a member twice"))
	}
	for m := membersOf(body); ; {
		name, _, ok := m.next()
		if !ok {
			return body, answer, nil
		}
		answer = answer || string(unquote(name)) == "command_id"
	}
}

// reject counts what is wrong and says it.
func (s *Service) reject(r *edgeclaim.Report, f *fault) error {
	s.refused(r, f.reason)
	return f.err()
}

// throttled is the end of a report of a device that says too much.
func (s *Service) throttled(r *edgeclaim.Report, receipt edgeclaim.Receipt) (edgeclaim.Receipt, error) {
	s.count.rejected[reasonThrottled].Add(uint64(receipt.Accepted))
	s.warn(r, reasonThrottled)
	return edgeclaim.Receipt{Rejected: receipt.Accepted + receipt.Rejected}, edgeclaim.ErrThrottled
}

// excessive is the end of a report that the log could never take at once:
// trying later would not help its device.
func (s *Service) excessive(r *edgeclaim.Report, receipt edgeclaim.Receipt) (edgeclaim.Receipt, error) {
	s.count.rejected[reasonTooLarge].Add(uint64(receipt.Accepted))
	s.warn(r, reasonTooLarge)
	f := fault{reasonTooLarge, "body", "more than the box takes at once"}
	return edgeclaim.Receipt{Rejected: receipt.Accepted + receipt.Rejected}, f.err()
}

// full is the end of a report that the log has no room for.
func (s *Service) full(r *edgeclaim.Report, receipt edgeclaim.Receipt, err error) (edgeclaim.Receipt, error) {
	s.count.rejected[reasonDiskFull].Add(uint64(receipt.Accepted))
	s.warn(r, reasonDiskFull)
	return edgeclaim.Receipt{Rejected: receipt.Accepted + receipt.Rejected}, unavailable("append", err)
}
