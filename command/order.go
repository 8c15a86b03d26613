package command

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim"
	"edgeclaim/internal/audit"
)

const (
	// maxBy is the longest name of who gave a command that is kept, in bytes.
	maxBy = 128
	// tellAgainAfter is how long a status is taken for told, though upstream asks.
	tellAgainAfter = 10 * time.Minute
	// maxRetold is how many commands are remembered whose status was told again.
	maxRetold = 4096
	// settleWithin is how long an answer waits for what goes with a command that
	// is stored already: the audit log's disk, and a revocation that came meanwhile.
	settleWithin = 5 * time.Second
)

// Order keeps a command that upstream gives; nil means that it, and the record
// of its status, are durable. An order of an id that the device has already
// changes nothing (P8); where it has been there for long, its status is told
// once more. One that the box cannot take is told upstream as failed,
// or expired, with the reason, and nil too, and stays so when it is repeated
// though the box could take it now; of one that expires later than
// Config.MaxExpiry from now it is brought forward, which the record says.
// ErrUnavailable: later.
func (s *Service) Order(ctx context.Context, o edgeclaim.Order) error {
	if limit := s.clock.Now().Add(s.cfg.MaxExpiry); o.ExpiresAt.After(limit) {
		o.ExpiresAt = limit
	}
	if f, known := s.refusedBefore(o.Device, o.ID); known {
		return s.refuse(ctx, o, f)
	}
	c, fresh, err := s.take(ctx, o)
	if err == nil && !fresh {
		return s.tellAgain(ctx, &c)
	}
	f, known := fateOf(err)
	if err == nil || !known {
		return err
	}
	s.logger.Warn("command from upstream is not taken", "device_id", o.Device, "command_id", o.ID, "reason", f.reason, "err", err)
	return s.refuse(ctx, o, f)
}

// tellAgain tells upstream the status of a command that it still asks about,
// long after it was told: the record may be one of those that a full lane has
// dropped. Once in a while is enough.
func (s *Service) tellAgain(ctx context.Context, c *edgeclaim.Command) error {
	m := s.moment()
	if m.now.Sub(c.ChangedAt) < tellAgainAfter {
		return nil
	}
	s.mu.Lock()
	last, known := s.retold[c.Number]
	due := !known || m.up-last >= tellAgainAfter
	if due && !known && len(s.retold) >= maxRetold {
		clear(s.retold) // some are told once more than need be
	}
	if due {
		s.retold[c.Number] = m.up
	}
	s.mu.Unlock()
	if !due {
		return nil
	}
	r, err := told(c, s.clock.Stamp())
	if err != nil {
		return err
	}
	return s.store.Append(ctx, *r)
}

// Give keeps a command that an operator or a local user gives, and returns it;
// nil means that it, and the record of its status, are durable. An order of an
// id that the device has already, with the same payload, changes nothing and
// returns that one (P8).
//
// ErrNotFound: no such device. ErrConflict: it is revoked. ErrExists: it has
// another command of that id. ErrThrottled: too many wait. ErrInvalid: the
// payload, or expires_at. ErrUnavailable: later.
func (s *Service) Give(ctx context.Context, o edgeclaim.Order) (edgeclaim.Command, error) {
	if o.ExpiresAt.After(s.clock.Now().Add(s.cfg.MaxExpiry)) {
		return edgeclaim.Command{}, edgeclaim.Invalid("expires_at", "want at most %s from now", s.cfg.MaxExpiry)
	}
	c, fresh, err := s.take(ctx, o)
	if err != nil {
		return edgeclaim.Command{}, err
	}
	if !fresh {
		return c, s.same(&c, &o)
	}
	entry := entryOf(audit.KindCommandQueued, &c)
	entry.Detail["expires_at"] = c.ExpiresAt.Format(time.RFC3339)
	s.write(ctx, o.Origin, o.By, entry)
	return c, nil
}

// same is an ErrExists where a command is not what was ordered.
func (s *Service) same(c *edgeclaim.Command, o *edgeclaim.Order) error {
	payload, err := compact("payload", o.Payload, edgeclaim.MaxCommandPayload)
	if err != nil {
		return err
	}
	if !bytes.Equal(payload, c.Payload) {
		return edgeclaim.ErrExists
	}
	return nil
}

// take keeps an order, or returns the command that is there already.
func (s *Service) take(ctx context.Context, o edgeclaim.Order) (c edgeclaim.Command, fresh bool, err error) {
	if !o.ID.IsZero() {
		if c, err := s.store.Command(ctx, o.Device, o.ID); !errors.Is(err, edgeclaim.ErrNotFound) {
			return c, false, err
		}
	}
	if c, err = s.judge(ctx, o); err != nil {
		return edgeclaim.Command{}, false, err
	}
	if err := s.reserve(c.Device); err != nil {
		return edgeclaim.Command{}, false, err
	}
	c, fresh, err = s.keep(ctx, c)
	if err != nil || !fresh {
		return c, false, err
	}
	s.wake(c.Device)
	s.lookAgain()
	return s.unlessRevoked(ctx, c), true, nil
}

// judge says what command an order makes.
func (s *Service) judge(ctx context.Context, o edgeclaim.Order) (edgeclaim.Command, error) {
	payload, err := compact("payload", o.Payload, edgeclaim.MaxCommandPayload)
	if err != nil {
		return edgeclaim.Command{}, err
	}
	device, err := s.parts.Devices.Device(ctx, o.Device)
	if err != nil {
		return edgeclaim.Command{}, err
	}
	if device.Status == edgeclaim.DeviceRevoked {
		return edgeclaim.Command{}, errRevoked
	}
	now := s.clock.Now()
	c := edgeclaim.Command{
		ID: o.ID, Device: o.Device, Tenant: device.Tenant, Payload: payload, Origin: o.Origin, By: name(o.By),
		Status: edgeclaim.CommandQueued, QueuedAt: now, ChangedAt: now, ExpiresAt: o.ExpiresAt.UTC(),
	}
	if o.ExpiresAt.IsZero() {
		c.ExpiresAt = now.Add(s.cfg.DefaultExpiry)
	}
	if !now.Before(c.ExpiresAt) {
		return edgeclaim.Command{}, errOver
	}
	if c.ID.IsZero() {
		c.ID, err = edgeclaim.ParseCommandID(rand.Text())
	}
	return c, err
}

// keep stores a command, in the place that is reserved for it.
func (s *Service) keep(ctx context.Context, c edgeclaim.Command) (kept edgeclaim.Command, fresh bool, err error) {
	r, err := told(&c, s.clock.Stamp())
	if err == nil {
		kept, fresh, err = s.store.AddCommand(ctx, c, *r)
	}
	m := s.moment()
	s.mu.Lock()
	s.index.release(c.Device)
	if err == nil && fresh {
		s.index.add(&kept, m.up+s.cfg.RetryLimit)
		delete(s.refused, refusedKey{kept.Device, kept.ID})
	}
	s.mu.Unlock()
	if err == nil && fresh {
		s.cfg.Observe(kept.Status)
	}
	return kept, fresh, err
}

func (s *Service) reserve(device edgeclaim.DeviceID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.index.reserve(device, &s.cfg)
}

// unlessRevoked cancels a command whose device was revoked while it was stored:
// Voided may have looked before it was there. It returns the command as it is.
func (s *Service) unlessRevoked(ctx context.Context, c edgeclaim.Command) edgeclaim.Command {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleWithin)
	defer cancel()
	device, err := s.parts.Devices.Device(ctx, c.Device)
	if err != nil || device.Status != edgeclaim.DeviceRevoked {
		return c // it is stored; that the device cannot be asked for changes nothing
	}
	s.Voided(ctx, c.Device)
	if now, err := s.store.Command(ctx, c.Device, c.ID); err == nil {
		return now
	}
	return c
}

// compact checks a JSON value and takes out the blanks.
func compact(field string, raw []byte, limit int) (json.RawMessage, error) {
	value := jsontext.Value(bytes.Clone(raw))
	if !value.IsValid() {
		return nil, edgeclaim.Invalid(field, "want a JSON value")
	}
	if err := value.Compact(); err != nil {
		return nil, edgeclaim.Invalid(field, "want a JSON value")
	}
	if len(value) > limit {
		return nil, edgeclaim.Invalid(field, "larger than %d bytes", limit)
	}
	return json.RawMessage(value), nil
}

// name bounds who gave a command.
func name(by string) string {
	return strings.ToValidUTF8(by[:min(len(by), maxBy)], "")
}

// entryOf is an audit entry about a command, without what it says.
func entryOf(kind string, c *edgeclaim.Command) audit.Entry {
	return audit.Entry{
		Kind: kind, Device: c.Device.String(), Tenant: c.Tenant.String(),
		Detail: map[string]string{"command_id": c.ID.String(), "origin": string(c.Origin)},
	}
}

// write writes down what somebody did. For an operator it returns when that is
// durable; what he did is done by then, whatever becomes of the entry. A local
// user commands by the second, and waits for no disk but the registry's.
func (s *Service) write(ctx context.Context, origin edgeclaim.CommandOrigin, by string, e audit.Entry) {
	if e.Who = by; by == "" {
		e.Who = audit.WhoBox
	}
	if origin == edgeclaim.OriginLocal {
		e.Who = "user:" + by
		s.parts.Auditor.Add(e)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleWithin)
	defer cancel()
	if err := s.parts.Auditor.Must(ctx, e); err != nil {
		s.logger.Error("not written to the audit log", "kind", e.Kind, "device_id", e.Device, "who", e.Who, "err", err)
	}
}
