package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"time"

	"edgeclaim"
)

// Due returns up to limit commands that are to be sent to a device now, in the
// order they were queued: those that were never sent, and those that it has not
// answered for as long as the pause lasts. Of what it has not answered, no more
// than Config.MaxInFlight are on their way at a time. Whoever writes them calls
// Sent before.
func (s *Service) Due(ctx context.Context, device edgeclaim.DeviceID, limit int) ([]edgeclaim.Command, error) {
	var due []entry
	s.mu.Lock()
	for _, e := range s.index.devices[device].due(s.moment(), s.cfg.MaxInFlight, limit) {
		due = append(due, *e)
	}
	s.mu.Unlock()
	commands := make([]edgeclaim.Command, 0, len(due))
	for _, e := range due {
		c, err := s.store.Command(ctx, device, e.id)
		switch {
		case errors.Is(err, edgeclaim.ErrNotFound), err == nil && (c.Status.Final() || c.Number != e.number):
			s.mu.Lock()
			s.index.remove(e.number) // it ended before memory knew of it
			s.mu.Unlock()
			continue
		case err != nil:
			return nil, err
		}
		c.Attempts = max(c.Attempts, e.attempts)
		commands = append(commands, c)
	}
	return commands, nil
}

// message is what a device is told of a command.
type message struct {
	ID        edgeclaim.CommandID `json:"command_id"`
	ExpiresAt time.Time           `json:"expires_at"`
	// ExpiresIn is whole seconds, at least 1, for devices that have no clock.
	ExpiresIn int64           `json:"expires_in"`
	Payload   json.RawMessage `json:"payload"`
}

// Encode is the message that tells a device of a command, over either face:
// {"command_id","expires_at","expires_in","payload"}. It is made just before it
// is written. ErrConflict: less than a second is left, and the command is to be
// sent no more.
func (s *Service) Encode(c edgeclaim.Command) ([]byte, error) {
	left := c.ExpiresAt.Sub(s.clock.Now())
	if left < leastLeft {
		return nil, errEnded
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false) // the payload as it was given, and no larger
	err := encoder.Encode(&message{ID: c.ID, ExpiresAt: c.ExpiresAt, ExpiresIn: int64(left / time.Second), Payload: c.Payload})
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}

// Sent says that commands of a device are about to be written to it; nil means
// that they may be: of those that are sent for the first time it is durable, and
// told. ErrConflict: one of them has come to its end meanwhile, or has less than
// a second left; none is to be written, and Due says what is. ErrUnavailable:
// none is to be written.
func (s *Service) Sent(ctx context.Context, device edgeclaim.DeviceID, ids ...edgeclaim.CommandID) error {
	first, err := s.unsent(device, ids)
	if err != nil {
		return err
	}
	if len(first) > 0 {
		_, err = s.move(ctx, first, func(c *edgeclaim.Command) (verdict, error) {
			switch {
			case c.Status.Final():
				return verdict{}, errEnded
			case c.Status != edgeclaim.CommandQueued:
				return verdict{}, nil
			}
			return verdict{status: edgeclaim.CommandSent}, nil
		})
		if errors.Is(err, edgeclaim.ErrNotFound) {
			return errEnded
		}
		if err != nil {
			return err
		}
	}
	defer s.lookAgain()
	return s.attempted(device, ids)
}

// unsent returns the numbers of those that were never sent.
func (s *Service) unsent(device edgeclaim.DeviceID, ids []edgeclaim.CommandID) ([]uint64, error) {
	m := s.moment()
	s.mu.Lock()
	defer s.mu.Unlock()
	var first []uint64
	for _, id := range ids {
		e := s.index.find(device, id)
		if e == nil || !e.sendable(m.now) {
			return nil, errEnded
		}
		if e.status == edgeclaim.CommandQueued {
			first = append(first, e.number)
		}
	}
	return first, nil
}

// attempted counts an attempt, and sets when the next one is due. The clock is
// asked again: a slow disk may have taken what time was left.
func (s *Service) attempted(device edgeclaim.DeviceID, ids []edgeclaim.CommandID) error {
	m := s.moment()
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := make([]*entry, len(ids))
	for i, id := range ids {
		if entries[i] = s.index.find(device, id); entries[i] == nil || !entries[i].sendable(m.now) {
			return errEnded
		}
	}
	for _, e := range entries {
		e.attempts++
		e.tries++
		e.again = m.up + s.pause(e.tries)
		e.wake = e.again
	}
	return nil
}

// pause is how long a device has to answer after so many tries.
func (s *Service) pause(tries int) time.Duration {
	pause := s.cfg.RetryBase
	for ; tries > 1 && pause < s.cfg.RetryLimit; tries-- {
		pause *= 2
	}
	return min(pause, s.cfg.RetryLimit)
}

// Listening says that a device has just subscribed, or come back: all that it
// has not answered is due at once, and the pauses begin anew.
func (s *Service) Listening(device edgeclaim.DeviceID) {
	m := s.moment()
	s.mu.Lock()
	q := s.index.devices[device]
	if q != nil {
		for _, e := range q.entries {
			e.again, e.tries, e.wake = 0, 0, m.up+s.cfg.RetryLimit
		}
	}
	s.mu.Unlock()
	if q != nil {
		s.wake(device)
	}
}

// poll is who waits for a device.
type poll struct {
	changed chan struct{} // closed, and replaced, when there may be something
	voids   int           // how often credentials of the device's became void
	waiting int
}

// tell has all who wait look again.
func (p *poll) tell() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// wake has a device's commands, and its configuration, looked at.
func (s *Service) wake(device edgeclaim.DeviceID) {
	s.mu.Lock()
	if p := s.pollers[device]; p != nil {
		p.tell()
	}
	s.mu.Unlock()
	s.parts.Wake(device)
}

// judgeAgain has those who wait for a device judged again.
func (s *Service) judgeAgain(device edgeclaim.DeviceID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pollers[device]; p != nil {
		p.voids++
		p.tell()
	}
}

// Wait returns nil when something is due for a device, else ctx's error. Any
// number may wait for one device, and each is told; the caller bounds how many
// do in all.
//
// still judges whether who waits may, and its error is returned. It is called at
// the beginning, so that nothing that Voided says after the caller's own look is
// missed, then after each Voided, and before something is due. It may block.
func (s *Service) Wait(ctx context.Context, device edgeclaim.DeviceID, still func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pollers[device]
	if p == nil {
		p = &poll{changed: make(chan struct{})}
		s.pollers[device] = p
	}
	p.waiting++
	defer func() {
		if p.waiting--; p.waiting == 0 {
			delete(s.pollers, device)
		}
	}()
	for judged := -1; ctx.Err() == nil; {
		due := len(s.index.devices[device].due(s.moment(), s.cfg.MaxInFlight, 1)) > 0
		if due || p.voids != judged {
			judged = p.voids
			if err := s.unlocked(still); err != nil || due {
				return err
			}
			continue
		}
		changed := p.changed
		_ = s.unlocked(func() error {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			return nil
		})
	}
	return ctx.Err()
}

// unlocked calls f without mu, which is held before and after, also where f
// panics.
func (s *Service) unlocked(f func() error) error {
	s.mu.Unlock()
	defer s.mu.Lock()
	return f()
}
