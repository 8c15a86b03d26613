package provision

import (
	"context"
	"errors"
	"maps"
	"slices"

	"edgeclaim"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/signeddoc"

	"golang.org/x/sync/errgroup"
)

// ruling is a document on its way into the store.
type ruling struct {
	*edgeclaim.Document
	held edgeclaim.HeldDocument
	text []byte
}

func (r *ruling) facts() *documentFacts {
	return &documentFacts{Type: r.Type, Name: r.Name, Version: r.Version}
}

// Obey does what a document says, whose signature and scope were judged, and
// returns nil when that is durable, with the document: one transaction. Sessions
// of devices that it voids have ended by then. A *edgeclaim.DocumentError is why
// it cannot be done as it stands, other errors as ErrUnavailable that it cannot be
// done now; neither leaves anything behind.
func (s *Service) Obey(ctx context.Context, signed *signeddoc.Signed, held edgeclaim.HeldDocument) error {
	ctx = WithWho(ctx, whoUpstream)
	r := &ruling{Document: signed.Document, held: held, text: signed.Text}
	switch r.Type {
	case edgeclaim.DocumentSigner:
		return s.store.ApplySigner(ctx, r.held, r.text)
	case edgeclaim.DocumentRevocations:
		return s.obeyRevocations(ctx, r)
	case edgeclaim.DocumentTemplates:
		return s.obeyTemplates(ctx, r)
	case edgeclaim.DocumentProfiles:
		return s.obeyProfiles(ctx, r)
	case edgeclaim.DocumentAliases:
		return s.obeyAliases(ctx, r)
	case edgeclaim.DocumentAllowList:
		return s.obeyAllowList(ctx, r)
	}
	return refuseDocument(edgeclaim.DocumentMalformed, edgeclaim.Invalid("type", "not a type of documents"))
}

// refuseDocument is why a document is not taken.
func refuseDocument(reason edgeclaim.DocumentRefusal, err error) error {
	if _, said := errors.AsType[*edgeclaim.DocumentError](err); !said && errors.Is(err, edgeclaim.ErrInvalid) {
		return &edgeclaim.DocumentError{Reason: reason, Detail: err.Error()}
	}
	return err
}

// obeyRevocations voids what is revoked, and tells the operator of each device
// that had been let in here.
func (s *Service) obeyRevocations(ctx context.Context, r *ruling) error {
	now := s.clock.Now()
	revokedNow, reinstatedNow := map[edgeclaim.DeviceID]edgeclaim.Device{}, map[edgeclaim.DeviceID]edgeclaim.Device{}
	change := func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		if d.Status != edgeclaim.DeviceRevoked {
			void(d, edgeclaim.DeviceRevoked)
			revokedNow[d.ID] = *d
			return s.conflictRecord(d, conflict{Kind: conflictRevoked, Document: r.facts()})
		}
		void(d, edgeclaim.DeviceReleased)
		reinstatedNow[d.ID] = *d
		return s.deviceRecord(edgeclaim.TypeDeviceReleased, d, released{
			deviceFacts: s.facts(d), ReleasedAt: now, Reinstated: true, By: whoUpstream,
		})
	}
	done, err := s.store.ApplyRevocations(ctx, r.held, r.text, bothSpellings(r.Revocations), change)
	if err != nil {
		return err
	}
	s.endAll(done.Devices)
	s.logger.Info("revocations obeyed", "tenant_id", r.Tenant, "version", r.Version,
		"devices", len(revokedNow), "active", len(done.Devices), "reinstated", len(reinstatedNow), "keys", len(done.Keys))
	s.each(slices.Collect(maps.Values(revokedNow)), func(d *edgeclaim.Device) { s.tellConflict(ctx, d, conflictRevoked, nil) })
	s.each(slices.Collect(maps.Values(reinstatedNow)), func(d *edgeclaim.Device) {
		entry := entryOf(audit.KindDeviceReleased, d)
		entry.Detail = map[string]string{"changed": yes(true), "reinstated": yes(true)}
		s.write(ctx, entry)
	})
	s.keysRevoked(ctx, done.Keys)
	s.forgetRevoked(ctx)
	return nil
}

// bothSpellings adds to each hardware id that is a MAC address in another
// spelling the one that templates of that format read it as: revocations come
// before templates, and no order of the two may let a board through.
func bothSpellings(r *edgeclaim.Revocations) *edgeclaim.Revocations {
	both := *r
	both.Hardware = withFolded(r.Hardware)
	if r.Reinstated != nil { // what is named in one spelling stays revoked in the other
		reinstated := *r.Reinstated
		reinstated.Hardware = withFolded(reinstated.Hardware)
		both.Reinstated = &reinstated
	}
	return &both
}

func withFolded(hardware []edgeclaim.HardwareID) []edgeclaim.HardwareID {
	all := slices.Clip(hardware)
	for _, h := range hardware {
		if folded, err := edgeclaim.FoldMAC(h); err == nil && folded != h {
			all = append(all, folded)
		}
	}
	return all
}

// endAll ends the sessions of devices whose credentials are void. They are many
// at once, and each is waited for.
func (s *Service) endAll(devices []edgeclaim.Device) {
	s.each(devices, func(d *edgeclaim.Device) { s.cfg.Void(d.ID) })
}

// each calls do with each device, many at once, and returns when all did.
func (s *Service) each(devices []edgeclaim.Device, do func(*edgeclaim.Device)) {
	var group errgroup.Group
	group.SetLimit(revokeAtOnce)
	for i := range devices {
		group.Go(func() error { do(&devices[i]); return nil })
	}
	_ = group.Wait() // none of them fails
}

// forgetRevoked ends the claims that wait by keys that are revoked. A claim that
// is left would be refused when it comes again: that is no reason to say that
// the document was not taken.
func (s *Service) forgetRevoked(ctx context.Context) {
	err := s.forgetPending(ctx, func(by edgeclaim.KeyID) (bool, error) {
		key, err := s.store.Key(ctx, by)
		if errors.Is(err, edgeclaim.ErrNotFound) {
			return false, nil
		}
		return key.Status == edgeclaim.KeyRevoked, err
	})
	if err != nil {
		s.logger.Warn("claims by revoked keys not forgotten", "err", err)
	}
}

// obeyTemplates puts a tenant's templates and keys.
func (s *Service) obeyTemplates(ctx context.Context, r *ruling) error {
	templates, err := readTemplates(r.Document)
	if err != nil {
		return refuseDocument(edgeclaim.DocumentMalformed, err)
	}
	// A document for one box is for it alone: nobody else has its keys.
	done, err := s.store.ApplyTemplates(ctx, r.held, r.text, templates, r.Box == "", s.clock.Now())
	if err != nil {
		return err
	}
	s.wants.lookAnew()
	s.logger.Info("templates obeyed", "tenant_id", r.Tenant, "version", r.Version,
		"templates", done.Templates, "keys", done.Keys, "disabled", done.Disabled)
	s.keysRevoked(ctx, done.Revoked)
	s.forgetRevoked(ctx)
	return nil
}

// readTemplates is a document's templates and keys as they are kept, and checked
// as an operator's are.
func readTemplates(d *edgeclaim.Document) (*edgeclaim.Templates, error) {
	read := edgeclaim.Templates{Templates: slices.Clone(d.Templates.Templates), Keys: d.Templates.Keys}
	for i := range read.Templates {
		t := &read.Templates[i]
		t.Tenant, t.Owner = d.Tenant, edgeclaim.OwnerUpstream
		if err := checkTemplate(t); err != nil {
			return nil, err
		}
	}
	return &read, nil
}

// obeyProfiles takes what devices inherit from now on.
func (s *Service) obeyProfiles(ctx context.Context, r *ruling) error {
	if err := s.store.ApplyProfiles(ctx, r.held, r.text, r.Profiles); err != nil {
		return err
	}
	s.logger.Info("profiles obeyed", "tenant_id", r.Tenant, "version", r.Version, "profiles", len(r.Profiles.Profiles))
	return nil
}

// obeyAliases gives boards the ids that upstream says. A device that goes by
// another id here stays as it is (P9), and the operator hears of it.
func (s *Service) obeyAliases(ctx context.Context, r *ruling) error {
	aliases, err := s.readAliases(ctx, r.Document)
	if err != nil {
		return refuseDocument(edgeclaim.DocumentConflicting, err)
	}
	type moved struct {
		device edgeclaim.Device
		kind   conflictKind
		detail map[string]string
	}
	told := map[edgeclaim.DeviceID]moved{}
	change := func(d *edgeclaim.Device, a edgeclaim.Alias) (*edgeclaim.Record, error) {
		if d.ID != a.Device {
			told[d.ID] = moved{*d, conflictID, map[string]string{"other_device_id": a.Device.String()}}
			return s.conflictRecord(d, conflict{Kind: conflictID, Document: r.facts(), OtherDevice: a.Device})
		}
		old, status := d.Hardware, edgeclaim.DeviceReleased
		if d.Status == edgeclaim.DeviceRevoked { // which no other board takes back
			status = edgeclaim.DeviceRevoked
		}
		d.Hardware = a.Hardware
		void(d, status)
		told[d.ID] = moved{*d, conflictSwapped, map[string]string{"old_hardware_id": old.String()}}
		return s.conflictRecord(d, conflict{Kind: conflictSwapped, Document: r.facts(), OldHardware: old})
	}
	done, err := s.store.ApplyAliases(ctx, r.held, r.text, aliases, change)
	if err != nil {
		return err
	}
	s.endAll(slices.DeleteFunc(done.Devices, func(d edgeclaim.Device) bool { return told[d.ID].kind != conflictSwapped }))
	s.logger.Info("aliases obeyed", "tenant_id", r.Tenant, "name", r.Name, "version", r.Version,
		"aliases", len(aliases.Aliases), "conflicts", len(told))
	for _, m := range told {
		s.tellConflict(ctx, &m.device, m.kind, m.detail)
	}
	return nil
}

// readAliases is a document's aliases, with hardware ids as the tenant's claims
// are read.
func (s *Service) readAliases(ctx context.Context, d *edgeclaim.Document) (*edgeclaim.Aliases, error) {
	fold, err := s.folding(ctx, d.Tenant)
	if err != nil {
		return nil, err
	}
	read := edgeclaim.Aliases{Aliases: slices.Clone(d.Aliases.Aliases)}
	named := map[edgeclaim.HardwareID]bool{}
	for i := range read.Aliases {
		a := &read.Aliases[i]
		if a.Hardware, err = fold(a.Hardware); err != nil {
			return nil, err
		}
		if !a.Replaces.IsZero() {
			if a.Replaces, err = fold(a.Replaces); err != nil {
				return nil, err
			}
		}
		if named[a.Hardware] {
			return nil, edgeclaim.Invalid("hardware_id", "twice, in two spellings")
		}
		named[a.Hardware] = true
	}
	return &read, nil
}

// obeyAllowList takes a list of expected hardware.
func (s *Service) obeyAllowList(ctx context.Context, r *ruling) error {
	list, err := s.readAllowList(ctx, r.Document)
	if err != nil {
		return refuseDocument(edgeclaim.DocumentConflicting, err)
	}
	if err := s.store.ApplyAllowList(ctx, r.held, r.text, list); err != nil {
		return err
	}
	s.logger.Info("allow list obeyed", "tenant_id", r.Tenant, "name", r.Name, "version", r.Version,
		"template_id", list.Template, "rows", len(list.Rows))
	return nil
}

func (s *Service) readAllowList(ctx context.Context, d *edgeclaim.Document) (*edgeclaim.AllowList, error) {
	t, err := s.store.Template(ctx, d.AllowList.Template)
	switch {
	case errors.Is(err, edgeclaim.ErrNotFound): // its rows count when it comes
	case err != nil:
		return nil, err
	case t.Tenant != d.Tenant:
		return nil, edgeclaim.Invalid("template_id", "another tenant's")
	}
	fold, err := s.folding(ctx, d.Tenant)
	if err != nil {
		return nil, err
	}
	read := edgeclaim.AllowList{Template: d.AllowList.Template, Rows: slices.Clone(d.AllowList.Rows)}
	named := map[edgeclaim.HardwareID]bool{}
	for i := range read.Rows {
		row := &read.Rows[i]
		if row.Hardware, err = fold(row.Hardware); err != nil {
			return nil, err
		}
		if err := CheckManifestRow(&edgeclaim.Template{}, row); err != nil {
			return nil, &edgeclaim.DocumentError{Reason: edgeclaim.DocumentMalformed, Detail: err.Error()}
		}
		if named[row.Hardware] {
			return nil, edgeclaim.Invalid("hardware_id", "twice, in two spellings")
		}
		named[row.Hardware] = true
	}
	return &read, nil
}

// folding returns how the tenant's hardware ids are read: as its templates say,
// which agree; as they are spelled where there are none yet.
func (s *Service) folding(ctx context.Context, tenant edgeclaim.TenantID) (func(edgeclaim.HardwareID) (edgeclaim.HardwareID, error), error) {
	templates, err := s.store.Templates(ctx)
	if err != nil {
		return nil, err
	}
	for i := range templates {
		if templates[i].Tenant == tenant && templates[i].HardwareIDFormat == edgeclaim.FormatMAC {
			return edgeclaim.FoldMAC, nil
		}
	}
	return func(h edgeclaim.HardwareID) (edgeclaim.HardwareID, error) { return h, nil }, nil
}
