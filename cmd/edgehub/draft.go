package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/signeddoc"
)

// drafter writes the next versions of a tenant's documents, unsigned: what is
// published, and what came to it since.
type drafter struct {
	db     *registry.DB
	tenant edgeclaim.TenantID // zero for the signer's
	scope  wire.Names         // whom it is for; empty for all
	now    time.Time
	maxAge *int64                 // nil: as it is
	stale  *edgeclaim.StalePolicy // nil: as it is
}

// draft is an unsigned document.
type draft struct {
	edgeclaim.DocumentID
	version uint64
	payload []byte // compact JSON
}

// errNothing: the newest version says already all that there is to say.
var errNothing = errors.New("nothing to draft: what is published says so already")

// known lists the tenant's published documents of a type, also those that are
// kept though they are in force no more.
func (d *drafter) known(ctx context.Context, kind edgeclaim.DocumentType) ([]registry.Published, error) {
	filter := registry.DocumentFilter{Type: kind, Tenant: d.tenant, Limit: pageRows}
	var all []registry.Published
	for {
		page, err := d.db.Documents(ctx, filter)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < pageRows {
			return all, nil
		}
		filter.After = page[len(page)-1].Number
	}
}

// read returns what a published document says, and its JSON.
func (d *drafter) read(ctx context.Context, p *registry.Published) (*edgeclaim.Document, []byte, error) {
	_, text, err := d.db.DocumentText(ctx, p.DocumentID, p.Version)
	if err != nil {
		return nil, nil, err
	}
	signed, err := signeddoc.Peek(text)
	if err != nil {
		return nil, nil, fmt.Errorf("document %s, version %d: %w", p.DocumentID, p.Version, err)
	}
	payload, err := payloadOf(signed.Text)
	return signed.Document, payload, err
}

// base is the newest document of those that the boxes meant have now; nil where
// they have none. newest is the highest version, whomever it is for.
func (d *drafter) base(known []registry.Published, id edgeclaim.DocumentID) (base *registry.Published, newest uint64) {
	for i := range known {
		p := &known[i]
		if p.DocumentID != id {
			continue
		}
		newest = max(newest, p.Version)
		fits := (p.Box == "" || p.Box == d.scope.Box) && (p.Site == "" || p.Site == d.scope.Site)
		if p.InForce && fits && (base == nil || p.Version > base.Version) {
			base = p
		}
	}
	return base, newest
}

// head is the next version of a document, without its body: before is the one
// that it takes the place of, nil for none.
func (d *drafter) head(id edgeclaim.DocumentID, newest uint64, before *edgeclaim.Document) edgeclaim.Document {
	next := edgeclaim.Document{DocumentID: id, Version: newest + 1, Box: d.scope.Box, Site: d.scope.Site, IssuedAt: d.now.UTC().Truncate(time.Second)}
	if before != nil {
		next.MaxAge, next.Stale = before.MaxAge, before.Stale
	}
	if d.maxAge != nil {
		next.MaxAge = *d.maxAge
	}
	if d.stale != nil {
		next.Stale = *d.stale
	}
	return next
}

// sameTerms reports whether a draft's terms are those of the one before; where
// there is none, they alone are nothing to say.
func sameTerms(next, before *edgeclaim.Document) bool {
	return before == nil || next.MaxAge == before.MaxAge && next.Stale == before.Stale && next.Box == before.Box && next.Site == before.Site
}

// finish puts a body into a draft, and holds it against the rules that a box has.
func finish(head edgeclaim.Document, body any) (draft, error) {
	whole, err := json.Marshal(&head)
	if err != nil {
		return draft{}, err
	}
	text, err := json.Marshal(body)
	if err != nil {
		return draft{}, err
	}
	payload := fmt.Appendf(whole[:len(whole)-1], `,%q:%s}`, head.Type, text)
	if _, err := signeddoc.Decode(payload); err != nil {
		return draft{}, err
	}
	return draft{DocumentID: head.DocumentID, version: head.Version, payload: payload}, nil
}

// revocations drafts a tenant's revocations. They only grow, so they start from
// all that is in force for whatever box, and are for all.
func (d *drafter) revocations(ctx context.Context, add *edgeclaim.Revocations, back *edgeclaim.Reinstations) ([]draft, error) {
	id := edgeclaim.DocumentID{Type: edgeclaim.DocumentRevocations, Tenant: d.tenant}
	known, err := d.known(ctx, id.Type)
	if err != nil {
		return nil, err
	}
	_, newest := d.base(known, id)
	var before *edgeclaim.Document
	var all revocationLedger
	for i := range known { // by version, for they were published so
		if !known[i].InForce {
			continue
		}
		doc, _, err := d.read(ctx, &known[i])
		if err != nil {
			return nil, err
		}
		all.take(doc.Revocations)
		before = doc
	}
	all.changed = false
	all.take(add)
	if err := all.reinstate(back); err != nil {
		return nil, err
	}
	head := d.head(id, newest, before)
	if !all.changed && sameTerms(&head, before) {
		return nil, errNothing
	}
	one, err := finish(head, all.revocations())
	return []draft{one}, err
}

// revocationLedger is what is revoked, and what is so no more. What was taken
// back stays named, for a box may have missed the version that said so.
type revocationLedger struct {
	devices  ledger[edgeclaim.DeviceID]
	hardware ledger[edgeclaim.HardwareID]
	keys     ledger[edgeclaim.KeyHash]
	changed  bool
}

// take adds what a document says.
func (l *revocationLedger) take(r *edgeclaim.Revocations) {
	l.changed = l.devices.put(r.Devices, true) || l.changed
	l.changed = l.hardware.put(r.Hardware, true) || l.changed
	l.changed = l.keys.put(r.Keys, true) || l.changed
	if back := r.Reinstated; back != nil {
		l.changed = l.devices.put(back.Devices, false) || l.changed
		l.changed = l.hardware.put(back.Hardware, false) || l.changed
		l.changed = l.keys.put(back.Keys, false) || l.changed
	}
}

// reinstate takes back what is revoked; what is not is an error.
func (l *revocationLedger) reinstate(r *edgeclaim.Reinstations) error {
	for _, missing := range []string{l.devices.missing(r.Devices), l.hardware.missing(r.Hardware), l.keys.missing(r.Keys)} {
		if missing != "" {
			return fmt.Errorf("%s is not revoked: %w", missing, edgeclaim.ErrNotFound)
		}
	}
	l.take(&edgeclaim.Revocations{Reinstated: r})
	return nil
}

func (l *revocationLedger) revocations() edgeclaim.Revocations {
	r := edgeclaim.Revocations{Devices: l.devices.list(true), Hardware: l.hardware.list(true), Keys: l.keys.list(true)}
	back := edgeclaim.Reinstations{Devices: l.devices.list(false), Hardware: l.hardware.list(false), Keys: l.keys.list(false)}
	if len(back.Devices)+len(back.Hardware)+len(back.Keys) > 0 {
		r.Reinstated = &back
	}
	return r
}

// ledger is what is named, in the order in which it was named first.
type ledger[T fmt.Stringer] struct {
	names []T
	void  map[string]bool // by name: whether it is revoked
}

// put names more, and reports whether that changed anything.
func (l *ledger[T]) put(names []T, void bool) (changed bool) {
	if l.void == nil {
		l.void = map[string]bool{}
	}
	for _, name := range names {
		was, known := l.void[name.String()]
		if !known {
			l.names = append(l.names, name)
		}
		l.void[name.String()] = void
		changed = changed || !known || was != void
	}
	return changed
}

// missing is the first of those names that was never named.
func (l *ledger[T]) missing(names []T) string {
	for _, name := range names {
		if _, known := l.void[name.String()]; !known {
			return name.String()
		}
	}
	return ""
}

func (l *ledger[T]) list(void bool) (names []T) {
	for _, name := range l.names {
		if l.void[name.String()] == void {
			names = append(names, name)
		}
	}
	return names
}
