package provision

import (
	"context"
	"errors"
	"strings"

	"edgeclaim"
	"edgeclaim/internal/audit"

	"golang.org/x/sync/errgroup"
)

// wait notes that a claim waits for an operator, and is errors enough for its
// answer; unless it was let through since it was looked at.
func (s *Service) wait(ctx context.Context, c *claim, p *edgeclaim.Present) (next, error) {
	g := &p.Grant
	pending, err := s.store.Pend(ctx, edgeclaim.Pending{
		ID: p.Next, Tenant: g.Template.Tenant, Hardware: c.hardware, Template: g.Template.ID, Key: g.Key.ID,
		Name: c.name, Via: c.via, Source: addressText(c.source), AskedAt: c.now, Status: edgeclaim.PendingWaiting,
	})
	if err != nil {
		return doWait, err
	}
	if pending.Status == edgeclaim.PendingApproved {
		return doMint, nil
	}
	s.auditClaim(audit.KindClaimWaiting, c, p, p.Next)
	return doWait, &waitingError{whose: waitsFor(&pending)}
}

// waitsFor names what is waited for: the hardware, whatever key it asks with.
func waitsFor(p *edgeclaim.Pending) edgeclaim.ClaimRef {
	return edgeclaim.ClaimRef{Tenant: p.Tenant, Hardware: p.Hardware}
}

// PendingClaims returns up to max claims that wait for an operator, or were
// approved and did not come again yet.
func (s *Service) PendingClaims(ctx context.Context, after edgeclaim.DeviceID, max int) ([]edgeclaim.Pending, error) {
	return s.store.PendingClaims(ctx, after, max)
}

// Approve lets a waiting claim through, once; ErrNotFound when none waits. Who
// waits on an open connection is answered at once.
func (s *Service) Approve(ctx context.Context, id edgeclaim.DeviceID) (edgeclaim.Pending, error) {
	pending, err := s.store.ChangePending(ctx, id, func(p *edgeclaim.Pending) (bool, error) {
		if p.Status != edgeclaim.PendingApproved {
			p.Status, p.By = edgeclaim.PendingApproved, Who(ctx)
		}
		return true, nil
	})
	if err != nil {
		return edgeclaim.Pending{}, err
	}
	s.decided(ctx, audit.KindApprovalGiven, &pending)
	return pending, nil
}

// Refuse ends a waiting claim and denies its hardware; ErrNotFound when none
// waits. It may be repeated after any crash: the denial comes first.
func (s *Service) Refuse(ctx context.Context, id edgeclaim.DeviceID) (edgeclaim.Pending, error) {
	var pending edgeclaim.Pending
	look := func(p *edgeclaim.Pending) (bool, error) { pending = *p; return true, nil }
	if _, err := s.store.ChangePending(ctx, id, look); err != nil {
		return edgeclaim.Pending{}, err
	}
	denial := edgeclaim.Denial{
		Tenant: pending.Tenant, Hardware: pending.Hardware, Reason: edgeclaim.DeniedByOperator, By: Who(ctx), At: s.clock.Now(),
	}
	if err := s.store.Deny(ctx, denial, nil); err != nil {
		return edgeclaim.Pending{}, err
	}
	forget := func(*edgeclaim.Pending) (bool, error) { return false, nil }
	if _, err := s.store.ChangePending(ctx, id, forget); err != nil {
		return edgeclaim.Pending{}, err
	}
	s.decided(ctx, audit.KindApprovalWithdrawn, &pending)
	return pending, nil
}

// Bounds of forgetting: a page is read at once, and so many share the commits.
const (
	forgetPage   = 1000
	forgetAtOnce = 64
)

// forgetPending ends the waiting claims of revoked keys: whoever holds one could
// else take the places of all others with ids that he makes up.
func (s *Service) forgetPending(ctx context.Context, revoked func(edgeclaim.KeyID) (bool, error)) error {
	var after edgeclaim.DeviceID
	for {
		page, err := s.store.PendingClaims(ctx, after, forgetPage)
		if err != nil || len(page) == 0 {
			return err
		}
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(forgetAtOnce)
		for i := range page {
			p := &page[i]
			group.Go(func() error {
				if gone, err := revoked(p.Key); err != nil || !gone {
					return err
				}
				return s.forget(ctx, p)
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		after = page[len(page)-1].ID
	}
}

// forget ends a waiting claim, unless it waits by another key by now.
func (s *Service) forget(ctx context.Context, p *edgeclaim.Pending) error {
	_, err := s.store.ChangePending(ctx, p.ID, func(now *edgeclaim.Pending) (bool, error) { return now.Key != p.Key, nil })
	if err != nil && !errors.Is(err, edgeclaim.ErrNotFound) {
		return err
	}
	s.cfg.Decided(waitsFor(p))
	return nil
}

// decided writes an operator's decision down and wakes who waits for it.
func (s *Service) decided(ctx context.Context, kind string, p *edgeclaim.Pending) {
	s.cfg.Decided(waitsFor(p))
	s.write(ctx, audit.Entry{
		Kind: kind, Source: p.Source, Device: p.ID.String(), Tenant: p.Tenant.String(), Hardware: p.Hardware.String(),
		Key: p.Key.String(), Template: p.Template.String(),
	})
	s.logger.Info("pending claim decided", "kind", kind, "device_id", p.ID, "hardware_id", p.Hardware)
}

// Deny keeps a hardware from claiming: of one tenant, or of every one for the
// zero tenant. What is denied already stays as it is, and made is false. A
// device that it claimed goes on; Revoke ends that.
func (s *Service) Deny(ctx context.Context, tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) (denial edgeclaim.Denial, made bool, err error) {
	hardware, err = s.folded(ctx, tenant, hardware)
	if err != nil {
		return edgeclaim.Denial{}, false, err
	}
	if old, found, err := s.denied(ctx, tenant, hardware); err != nil || found {
		return old, false, err
	}
	denial = edgeclaim.Denial{
		Tenant: tenant, Hardware: hardware, Reason: edgeclaim.DeniedByOperator, By: Who(ctx), At: s.clock.Now(),
	}
	if err := s.store.Deny(ctx, denial, nil); err != nil {
		return edgeclaim.Denial{}, false, err
	}
	s.writeDenial(ctx, audit.KindDenyAdded, &denial)
	return denial, true, nil
}

// Undeny lifts a denial, ErrNotFound when there is none. Hardware that was
// swapped out then claims as its next generation.
func (s *Service) Undeny(ctx context.Context, tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) (edgeclaim.Denial, error) {
	hardware, err := s.folded(ctx, tenant, hardware)
	if err != nil {
		return edgeclaim.Denial{}, err
	}
	denial, err := s.store.Undeny(ctx, tenant, hardware)
	if err != nil {
		return edgeclaim.Denial{}, err
	}
	s.writeDenial(ctx, audit.KindDenyRemoved, &denial)
	return denial, nil
}

// Denials returns up to max denials that follow after; the zero after begins
// at the start.
func (s *Service) Denials(ctx context.Context, after edgeclaim.Denial, max int) ([]edgeclaim.Denial, error) {
	return s.store.Denials(ctx, after, max)
}

func (s *Service) writeDenial(ctx context.Context, kind string, d *edgeclaim.Denial) {
	entry := audit.Entry{Kind: kind, Hardware: d.Hardware.String(), Reason: string(d.Reason)}
	if !d.Tenant.IsZero() {
		entry.Tenant = d.Tenant.String()
	}
	if !d.Device.IsZero() {
		entry.Device = d.Device.String()
	}
	s.write(ctx, entry)
	s.logger.Info("denial changed", "kind", kind, "hardware_id", d.Hardware, "tenant_id", d.Tenant)
}

// denied looks one denial up: the one that follows the hardware id right before
// it. That is the id with its last character one less and as long as ids get, or
// without it, when there is none less.
func (s *Service) denied(ctx context.Context, tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) (edgeclaim.Denial, bool, error) {
	text := hardware.String()
	last := text[len(text)-1]
	before := text[:len(text)-1]
	if last > '!' {
		before += string(last-1) + strings.Repeat("~", edgeclaim.MaxHardwareID-len(text))
	}
	after := edgeclaim.Denial{Tenant: tenant}
	if before != "" {
		var err error
		if after.Hardware, err = edgeclaim.ParseHardwareID(before); err != nil {
			return edgeclaim.Denial{}, false, err
		}
	}
	found, err := s.store.Denials(ctx, after, 1)
	if err != nil || len(found) == 0 || found[0].Tenant != tenant || found[0].Hardware != hardware {
		return edgeclaim.Denial{}, false, err
	}
	return found[0], true, nil
}

// folded reads a hardware id that an operator typed as the tenant's claims are
// read; of every tenant, if all templates agree.
func (s *Service) folded(ctx context.Context, tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID) (edgeclaim.HardwareID, error) {
	templates, err := s.store.Templates(ctx)
	if err != nil {
		return hardware, err
	}
	var mac, exact bool
	for i := range templates {
		if tenant.IsZero() || templates[i].Tenant == tenant {
			mac = mac || templates[i].HardwareIDFormat == edgeclaim.FormatMAC
			exact = exact || templates[i].HardwareIDFormat == edgeclaim.FormatExact
		}
	}
	if !mac {
		return hardware, nil
	}
	folded, err := edgeclaim.FoldMAC(hardware)
	switch {
	case err == nil && (!exact || folded == hardware):
		return folded, nil
	case err != nil && exact:
		return hardware, nil
	case err != nil:
		return hardware, err
	default:
		return hardware, edgeclaim.Invalid("tenant_id", "tenants read this hardware id differently: name one")
	}
}
