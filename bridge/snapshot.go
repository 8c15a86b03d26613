package bridge

import (
	"context"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

const (
	// pageDevices is how many devices a page of the registry holds at most.
	pageDevices = 128
	// pagesAhead is how many pages may be on their way.
	pagesAhead = 4
)

// snapshot is the telling of the registry, which goes on where it was after a
// reconnect. Run's goroutine owns it.
type snapshot struct {
	id, epoch string
	acked     uint64             // upstream has the pages up to here
	after     edgeclaim.DeviceID // the last device of those
	told      []page             // told, and not acknowledged
	sent      int                // how many of told were told on this connection
}

// page is where a page ended when it was told first. Told again it ends at the
// same device, or one that came meanwhile could fall between two pages.
type page struct {
	end  edgeclaim.DeviceID
	last bool
}

// beginSnapshot takes upstream's word on whether it wants the registry.
func (c *conversation) beginSnapshot(wanted bool) {
	switch {
	case !wanted:
		c.snapshot = nil
	case c.snapshot != nil && c.snapshot.epoch == c.epoch:
		c.snapshot.sent = 0
	default:
		c.restartSnapshot()
	}
}

func (c *conversation) restartSnapshot() { c.snapshot = &snapshot{id: newNonce(), epoch: c.epoch} }

// forgetSnapshot gives up a telling that upstream does not acknowledge; the
// next welcome that wants one begins another.
func (c *conversation) forgetSnapshot() {
	if c.snapshotInFlight() > 0 {
		c.snapshot = nil
	}
}

func (c *conversation) snapshotInFlight() int {
	if c.snapshot == nil {
		return 0
	}
	return c.snapshot.sent
}

// tellPage tells the next page of the registry. wait: there is one, but not
// now, and nothing that comes after the registry may be told.
func (c *conversation) tellPage(ctx context.Context, now time.Time) (sent, wait bool, err error) {
	s := c.snapshot
	if s == nil || s.sent == len(s.told) && s.sent > 0 && s.told[s.sent-1].last {
		return false, false, nil
	}
	if s.sent >= pagesAhead {
		return false, true, nil
	}
	from := s.after
	if s.sent > 0 {
		from = s.told[s.sent-1].end
	}
	again := s.sent < len(s.told)
	payload, p, err := c.encodePage(ctx, s, from)
	switch {
	case err != nil:
		return false, true, err
	case payload == nil && again:
		c.moved(now) // nothing of the one before is awaited any more
		return c.tellPage(ctx, now)
	case payload == nil: // a device that no message can carry
		return false, true, nil
	}
	if s.sent == len(s.told) {
		s.told = append(s.told, p)
	}
	s.sent++
	c.await(now)
	return true, false, c.publish(wire.KindSnapshot, payload)
}

// encodePage makes the page behind a device. Where a page that is told again
// has outgrown a message, it begins another snapshot, and there is no page.
func (c *conversation) encodePage(ctx context.Context, s *snapshot, from edgeclaim.DeviceID) ([]byte, page, error) {
	again, most := s.sent < len(s.told), pageDevices
	if again {
		most *= 2 // for those that came between
	}
	for ; most > 0; most /= 2 {
		devices, err := c.parts.Registry.Devices(ctx, from, most)
		if err != nil {
			return nil, page{}, fault(err)
		}
		p := page{end: from, last: len(devices) < most}
		if again {
			p = s.told[s.sent]
			whole := len(devices) < most
			for len(devices) > 0 && above(devices[len(devices)-1].ID, p.end) {
				devices, whole = devices[:len(devices)-1], true
			}
			if !whole && devices[len(devices)-1].ID != p.end {
				break // there are more now than were told
			}
		} else if len(devices) > 0 {
			p.end = devices[len(devices)-1].ID
		}
		payload, err := wire.Encode(&wire.SnapshotPage{
			Type: wire.TypeSnapshot, Box: c.identity.Box, Epoch: c.epoch, Nonce: c.nonce,
			ID: s.id, Page: s.acked + uint64(s.sent) + 1, Last: p.last,
			Devices: append([]edgeclaim.Device{}, devices...),
		})
		if err != nil {
			return nil, page{}, err
		}
		if len(payload) <= wire.MaxMessage {
			return payload, p, nil
		}
		if again {
			break
		}
	}
	c.restartSnapshot()
	return nil, page{}, nil
}

// above reports whether a device comes behind another in the order of ids.
func above(id, other edgeclaim.DeviceID) bool { return id.String() > other.String() }

// hearSnapshot takes upstream's word on pages.
func (c *conversation) hearSnapshot(ack *wire.SnapshotAck, now time.Time) {
	s := c.snapshot
	switch {
	case s == nil || ack.ID != s.id || ack.Upto == s.acked:
		return
	case ack.Upto < s.acked:
		c.restartSnapshot() // it has lost what it had
		return
	case ack.Upto > s.acked+uint64(len(s.told)): // some may have been told on an earlier connection
		c.alarms.raise(edgeclaim.AlarmAckAbove)
		return
	}
	n := int(ack.Upto - s.acked)
	last := s.told[n-1]
	s.acked, s.after, s.sent = ack.Upto, last.end, max(0, s.sent-n)
	s.told = append(s.told[:0], s.told[n:]...)
	if last.last {
		c.snapshot = nil
		c.logger.Info("application has the box's registry", "pages", s.acked)
	}
	c.moved(now)
}
