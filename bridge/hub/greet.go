package hub

import (
	"context"
	"errors"
	"slices"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
)

const (
	// pageBytes bounds the payload of a registry page: in its envelope, base64
	// makes it a third longer, and all together must not be longer than
	// wire.MaxMessage.
	pageBytes = (wire.MaxMessage - envelopeBytes) / 4 * 3
	// envelopeBytes is more than an envelope takes beside its payload.
	envelopeBytes = 512
	// pageHead is more than a page takes beside its devices.
	pageHead = 1024
	// pageDevices is how many devices a page is filled from.
	pageDevices = 256
)

// hello answers a box that wants to tell. s is nil when there is no room for
// another box.
func (a *applier) hello(ctx context.Context, s *session, n wire.Names, h *wire.Hello) {
	a.figures.count(func(f *Figures) { f.Hellos++ })
	if !slices.Contains(h.Versions, wire.Version) {
		a.answerRefused(s, n, h, &wire.Refused{Code: wire.RefusedVersion, Versions: []int{wire.Version}})
		return
	}
	if s == nil {
		a.answerRefused(nil, n, h, &wire.Refused{Code: wire.RefusedUnknown, Reason: "too many boxes at once"})
		return
	}
	if s.isLate(h) {
		a.figures.count(func(f *Figures) { f.Foreign++ })
		return
	}
	a.greet(ctx, s, n, h)
}

// greet asks the registry what to answer. While that cannot, the hello waits:
// the box is answered as soon as it can.
func (a *applier) greet(ctx context.Context, s *session, n wire.Names, h *wire.Hello) {
	if a.health.wait(s, time.Now()) > 0 {
		s.hello = &waiting{n, h}
		return
	}
	asking, cancel := context.WithTimeout(ctx, a.conf.ApplyTimeout)
	defer cancel()
	if s.welcomed && s.speaks(n, h.Epoch, h.Nonce) {
		// It comes again, late perhaps, and says what was true when it was said
		// first (P8): what the session has told since is appended too.
		for lane, upto := range s.sent {
			marks := h.Lanes[lane]
			marks.Appended = max(marks.Appended, upto)
			h.Lanes[lane] = marks
		}
	}
	greeting, err := a.db.Greet(asking, n, h)
	switch {
	case errors.Is(err, edgeclaim.ErrInvalid):
		s.hello = nil
		a.grumble(s, n, err)
		return
	case err != nil:
		s.hello = &waiting{n, h}
		a.failed(s, err)
		return
	}
	a.worked(work{session: s})
	if greeting.Refused != nil {
		a.answerRefused(s, n, h, greeting.Refused)
		return
	}
	now := time.Now()
	s.begin(n, h, now)
	for lane, resume := range greeting.Resume {
		s.sent[lane] = resume.Upto
	}
	a.remember(registry.BoxState{Names: n, Online: true, App: true, Epoch: h.Epoch, At: a.now()})
	delay := a.sessions.rush(now)
	a.figures.count(func(f *Figures) { f.Welcomes++ })
	a.logger.Info("box welcomed", "site", n.Site, "box_id", n.Box, "epoch", h.Epoch, "snapshot", greeting.Snapshot, "recover", greeting.Recover)
	a.say(n, wire.KindControl, &wire.Welcome{
		Head: a.head(wire.TypeWelcome, n, h.Epoch, h.Nonce), Version: wire.Version, Upstream: a.upstream,
		Resume: greeting.Resume, Credit: a.sessions.credit(), StartAfter: delay.Milliseconds(),
		Snapshot: greeting.Snapshot, Held: greeting.Held, Recover: greeting.Recover,
	})
	if a.documents.catalogue != nil && s.isDue(a.documents.catalogue, now) {
		a.offer(s, now)
	}
}

// answerRefused refuses a hello. It takes no session away from the holder of
// another epoch: a fenced copy of a box asks again every few minutes.
func (a *applier) answerRefused(s *session, n wire.Names, h *wire.Hello, r *wire.Refused) {
	if s == nil || s.welcomed && s.epoch != h.Epoch {
		if s != nil {
			s.hello = nil
		}
		s = new(session) // remembered nowhere
	}
	s.begin(n, h, time.Now())
	a.refuse(s, n, r)
}

// refuse says that a box may not tell, and takes nothing more of its session.
func (a *applier) refuse(s *session, n wire.Names, r *wire.Refused) {
	s.welcomed = false
	a.remember(registry.BoxState{Names: n, Online: true, Epoch: s.epoch, At: a.now()})
	a.figures.count(func(f *Figures) { f.Refusals[r.Code]++ })
	a.logger.Warn("box refused", "site", n.Site, "box_id", n.Box, "epoch", s.epoch, "code", r.Code, "reason", r.Reason)
	said := *r
	said.Head = a.head(wire.TypeRefused, n, s.epoch, s.nonce)
	a.say(n, wire.KindControl, &said)
}

// want answers what a box asks for beside the lanes.
func (a *applier) want(ctx context.Context, s *session, m *wire.Want) {
	switch m.What {
	case wire.WantRegistry, wire.WantDocument:
	case wire.WantOffers:
		s.offering.next = time.Now()
		return
	default:
		return // of a later version
	}
	a.figures.count(func(f *Figures) { f.Wants++ })
	if a.health.wait(s, time.Now()) > 0 {
		return // the box asks again
	}
	asking, cancel := context.WithTimeout(ctx, a.conf.ApplyTimeout)
	defer cancel()
	if m.What == wire.WantDocument {
		a.wantDocument(asking, s, m)
		return
	}
	if m.Done {
		if err := a.db.Recovered(asking, s.names.Box, m.Epoch); err != nil {
			a.failed(s, err)
		}
		return
	}
	page, err := a.page(asking, s, m)
	if err != nil {
		a.failed(s, err)
		return
	}
	a.say(s.names, wire.KindControl, page)
}

// page reads the devices after the one that the box names, as many as fit into
// a message.
func (a *applier) page(ctx context.Context, s *session, m *wire.Want) (*wire.RegistryPage, error) {
	var after edgeclaim.DeviceID
	if m.After != "" {
		var err error
		if after, err = edgeclaim.ParseDeviceID(m.After); err != nil {
			return nil, err // the message was checked
		}
	}
	page := &wire.RegistryPage{
		Head: a.head(wire.TypeRegistry, s.names, m.Epoch, m.Nonce), After: m.After, Devices: []edgeclaim.Device{}, More: true,
	}
	size := pageHead
	for page.More {
		devices, more, err := a.db.Held(ctx, s.names.Box, after, pageDevices)
		if err != nil {
			return nil, err
		}
		page.More = more && len(devices) > 0
		for i := range devices {
			encoded, err := wire.Encode(&devices[i])
			if err != nil {
				return nil, err
			}
			if size+len(encoded)+1 > pageBytes && len(page.Devices) > 0 {
				page.More = true
				return page, nil
			}
			after = devices[i].ID
			if pageHead+len(encoded)+1 > pageBytes {
				// It came up in a smaller message than this; only a registry
				// that was changed by hand holds it.
				a.logger.Error("device is too large for a page", "box_id", s.names.Box, "device_id", after)
				continue
			}
			page.Devices = append(page.Devices, devices[i])
			size += len(encoded) + 1
		}
	}
	return page, nil
}
