package command

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
)

// changeChunk is how many commands come to a status in one transaction.
const changeChunk = 256

// statusData is the data of a command.status record.
type statusData struct {
	ID        edgeclaim.CommandID     `json:"command_id"`
	Device    edgeclaim.DeviceID      `json:"device_id"`
	Tenant    edgeclaim.TenantID      `json:"tenant_id,omitzero"` // not of a device that is not known
	Status    edgeclaim.CommandStatus `json:"status"`
	At        time.Time               `json:"at"`
	Origin    edgeclaim.CommandOrigin `json:"origin"`
	By        string                  `json:"by,omitempty"`
	ExpiresAt time.Time               `json:"expires_at,omitzero"`
	Attempts  int                     `json:"attempts"`
	Result    json.RawMessage         `json:"result,omitempty"`
	Reason    string                  `json:"reason,omitempty"`
}

// told is the record of a command's status.
func told(c *edgeclaim.Command, stamp edgeclaim.Stamp) (*edgeclaim.Record, error) {
	data, err := json.Marshal(&statusData{
		ID: c.ID, Device: c.Device, Tenant: c.Tenant, Status: c.Status, At: c.ChangedAt, Origin: c.Origin, By: c.By,
		ExpiresAt: c.ExpiresAt, Attempts: c.Attempts, Result: c.Result, Reason: c.Reason,
	})
	if err != nil {
		return nil, err
	}
	return &edgeclaim.Record{
		Lane: edgeclaim.LaneEvt, Type: edgeclaim.TypeCommandStatus, Device: c.Device, Stamp: stamp, Data: data,
	}, nil
}

// verdict is what is to become of a command; the zero one leaves it as it is.
type verdict struct {
	status edgeclaim.CommandStatus
	reason string
	result json.RawMessage
}

// move gives commands of those numbers another status, each as decide says, and
// tells upstream, in one transaction; then memory follows. decide must be pure.
func (s *Service) move(ctx context.Context, numbers []uint64,
	decide func(*edgeclaim.Command) (verdict, error),
) ([]edgeclaim.Command, error) {
	now, stamp, attempts := s.clock.Now(), s.clock.Stamp(), s.attempts(numbers)
	moved := make(map[uint64]bool, len(numbers))
	commands, err := s.store.ChangeCommands(ctx, numbers, func(c *edgeclaim.Command) (*edgeclaim.Record, error) {
		v, err := decide(c)
		if err != nil || v.status == "" || v.status == c.Status {
			return nil, err
		}
		moved[c.Number] = true
		c.Status, c.Reason, c.ChangedAt = v.status, v.reason, now
		if c.Attempts = max(c.Attempts, attempts[c.Number]); v.status == edgeclaim.CommandSent {
			c.Attempts++
		}
		if v.result != nil {
			c.Result = v.result
		}
		return told(c, stamp)
	})
	if err != nil {
		return nil, err
	}
	s.follow(commands)
	for i := range commands {
		if moved[commands[i].Number] {
			s.cfg.Observe(commands[i].Status)
		}
	}
	return commands, nil
}

// attempts are those that memory has counted, by number.
func (s *Service) attempts(numbers []uint64) map[uint64]int {
	counts := make(map[uint64]int, len(numbers))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range numbers {
		if e := s.index.entries[n]; e != nil {
			counts[n] = e.attempts
		}
	}
	return counts
}

// follow brings memory to what is durable. Two changes of one command may come
// here in another order than they were committed in: a status only goes forward,
// and what has ended does not come back.
func (s *Service) follow(commands []edgeclaim.Command) {
	m := s.moment()
	var wake []edgeclaim.DeviceID
	s.mu.Lock()
	for i := range commands {
		c := &commands[i]
		e := s.index.entries[c.Number]
		switch {
		case e == nil:
		case c.Status.Final():
			s.index.remove(c.Number)
			if len(s.index.devices[c.Device].due(m, s.cfg.MaxInFlight, 1)) > 0 && !slices.Contains(wake, c.Device) {
				wake = append(wake, c.Device) // the next one has a place now
			}
		case e.status == edgeclaim.CommandQueued || c.Status == edgeclaim.CommandDelivered:
			e.status = c.Status
		}
	}
	s.mu.Unlock()
	for _, device := range wake {
		s.wake(device)
	}
}

// Delivered says that the device has a command (PUBACK); nil means that this is
// durable, or changes nothing: the command may be unknown, or have come to its
// end.
func (s *Service) Delivered(ctx context.Context, device edgeclaim.DeviceID, id edgeclaim.CommandID) error {
	c, err := s.store.Command(ctx, device, id)
	if err == nil {
		_, err = s.move(ctx, []uint64{c.Number}, func(c *edgeclaim.Command) (verdict, error) {
			return answered(c, &answer{status: edgeclaim.CommandDelivered})
		})
	}
	if errors.Is(err, edgeclaim.ErrNotFound) {
		return nil
	}
	return err
}

// Answer takes what a device says of a command: {"command_id","status",
// "result"?}, where status is delivered, successful or failed. nil means that it
// is durable, also where it changes nothing because the status says as much
// already: an answer may be repeated (P8). The first one that ends a command
// stands. What a device did before a command expired, or before it could hear
// that it was cancelled, it may say after.
//
// ErrNotFound: the device has no such command, or one that has come to another
// end than it says; whoever asked has what it said. ErrInvalid: the member at
// fault; ErrUnavailable: later.
func (s *Service) Answer(ctx context.Context, device edgeclaim.DeviceID, body []byte) error {
	said, err := parseAnswer(body)
	if err != nil {
		return err
	}
	c, err := s.store.Command(ctx, device, said.id)
	if err != nil {
		return err
	}
	if said.problem != nil { // of a command that nobody knows it would not be ours to judge
		return said.problem
	}
	_, err = s.move(ctx, []uint64{c.Number}, func(c *edgeclaim.Command) (verdict, error) { return answered(c, said) })
	return err
}

// answered is what a device's word makes of a command. errUnsaid: nothing, and
// its status does not say it either.
func answered(c *edgeclaim.Command, said *answer) (verdict, error) {
	v := verdict{status: said.status, result: said.result}
	switch c.Status {
	case said.status:
		return verdict{}, nil
	case edgeclaim.CommandSuccessful, edgeclaim.CommandFailed:
		if said.status == edgeclaim.CommandDelivered { // it had it, to have done it
			return verdict{}, nil
		}
		return verdict{}, errUnsaid
	case edgeclaim.CommandExpired, edgeclaim.CommandCancelled:
		if said.status.Final() && mayBeDone(c) {
			return v, nil
		}
		return verdict{}, errUnsaid
	default:
		return v, nil
	}
}

// mayBeDone reports whether the device had a command before the box ended it: an
// attempt is durable before the first byte of it is written.
func mayBeDone(c *edgeclaim.Command) bool {
	if c.Status == edgeclaim.CommandExpired {
		return c.Reason != reasonNotSent
	}
	return c.Attempts > 0
}

// Cancel is upstream's way to take a command back; nil means that it, and the
// record of its status, are durable, or that it had come to its end already,
// which upstream is told anyway. Of one that nobody knows upstream is told that
// it is cancelled. ErrUnavailable: later.
func (s *Service) Cancel(ctx context.Context, device edgeclaim.DeviceID, id edgeclaim.CommandID, by string) error {
	c, fresh, err := s.cancel(ctx, device, id, reasonUpstream)
	switch {
	case err == nil && !fresh:
		return s.tellAgain(ctx, &c)
	case errors.Is(err, edgeclaim.ErrNotFound):
		o := edgeclaim.Order{ID: id, Device: device, Origin: edgeclaim.OriginUpstream, By: by}
		return s.refuse(ctx, o, fate{status: edgeclaim.CommandCancelled, reason: reasonUnknown})
	case errors.Is(err, edgeclaim.ErrConflict):
		c, err := s.store.Command(ctx, device, id)
		if err != nil {
			return err
		}
		return s.tellAgain(ctx, &c)
	}
	return err
}

// TakeBack cancels a command for an operator, and returns it; nil means that it,
// and the record of its status, are durable, or were already. A device that has
// it may do it all the same. ErrNotFound: no such command. ErrConflict: it has
// come to another end. ErrUnavailable: later.
func (s *Service) TakeBack(ctx context.Context, device edgeclaim.DeviceID, id edgeclaim.CommandID, by string) (edgeclaim.Command, error) {
	c, fresh, err := s.cancel(ctx, device, id, reasonOperator)
	if err != nil || !fresh {
		return c, err
	}
	s.write(ctx, edgeclaim.OriginOperator, by, entryOf(audit.KindCommandCancelled, &c))
	return c, nil
}

// cancel takes a command back; fresh is false where it is cancelled already.
func (s *Service) cancel(ctx context.Context, device edgeclaim.DeviceID, id edgeclaim.CommandID,
	reason string,
) (c edgeclaim.Command, fresh bool, err error) {
	c, err = s.store.Command(ctx, device, id)
	if err != nil {
		return edgeclaim.Command{}, false, err
	}
	if c.Status == edgeclaim.CommandCancelled {
		return c, false, nil
	}
	commands, err := s.move(ctx, []uint64{c.Number}, func(c *edgeclaim.Command) (verdict, error) {
		if c.Status.Final() && c.Status != edgeclaim.CommandCancelled {
			return verdict{}, errEnded
		}
		return verdict{status: edgeclaim.CommandCancelled, reason: reason}, nil
	})
	if err != nil {
		return edgeclaim.Command{}, false, err
	}
	return commands[0], true, nil
}

// Voided says that credentials of a device's are void: who waits for it is judged
// again, at once, and where it is revoked, its commands are cancelled. What
// cannot be now, Run does when it begins the next time; a revoked device hears
// nothing in any case.
func (s *Service) Voided(ctx context.Context, device edgeclaim.DeviceID) {
	s.judgeAgain(device)
	if err := s.voided(ctx, device); err != nil {
		s.logger.Error("commands of a revoked device are not cancelled", "device_id", device, "err", err)
	}
}

func (s *Service) voided(ctx context.Context, id edgeclaim.DeviceID) error {
	numbers := s.numbers(id)
	if len(numbers) == 0 {
		return nil
	}
	device, err := s.parts.Devices.Device(ctx, id)
	if err != nil || device.Status != edgeclaim.DeviceRevoked {
		return err
	}
	return s.endAll(ctx, numbers, func(*edgeclaim.Command) verdict {
		return verdict{status: edgeclaim.CommandCancelled, reason: reasonRevoked}
	})
}

// numbers are what waits for a device.
func (s *Service) numbers(device edgeclaim.DeviceID) []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.index.devices[device]
	if q == nil {
		return nil
	}
	numbers := make([]uint64, len(q.entries))
	for i, e := range q.entries {
		numbers[i] = e.number
	}
	return numbers
}

// endAll ends those of the commands that have not come to their end.
func (s *Service) endAll(ctx context.Context, numbers []uint64, how func(*edgeclaim.Command) verdict) error {
	for chunk := range slices.Chunk(numbers, changeChunk) {
		err := s.end(ctx, chunk, how)
		if errors.Is(err, edgeclaim.ErrNotFound) {
			err = s.endEach(ctx, chunk, how)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) end(ctx context.Context, numbers []uint64, how func(*edgeclaim.Command) verdict) error {
	_, err := s.move(ctx, numbers, func(c *edgeclaim.Command) (verdict, error) {
		if c.Status.Final() {
			return verdict{}, nil
		}
		return how(c), nil
	})
	return err
}

// endEach ends commands of which the store does not have one any more: that had
// ended before memory knew of it, and was among the oldest. It must not keep the
// others from their end.
func (s *Service) endEach(ctx context.Context, numbers []uint64, how func(*edgeclaim.Command) verdict) error {
	for _, n := range numbers {
		err := s.end(ctx, []uint64{n}, how)
		switch {
		case errors.Is(err, edgeclaim.ErrNotFound):
			s.mu.Lock()
			s.index.remove(n)
			s.mu.Unlock()
		case err != nil:
			return err
		}
	}
	return nil
}
