package document

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/signeddoc"
)

// auditWithin is how long a document that was applied waits for the audit log's
// disk.
const auditWithin = 5 * time.Second

// The kinds of audit entries.
const (
	kindApplied = "document.applied"
	kindRefused = "document.refused"
)

// A source is who brings a document.
type source struct {
	who string // for the audit log
	// upstream says itself which version is the newest; a file says nothing of it.
	upstream bool
}

// A told is a refusal that has been alarmed. That it comes again, with every
// session, is no news.
type told struct {
	id      edgeclaim.DocumentID
	version uint64
	reason  edgeclaim.DocumentRefusal
}

// maxTold is how many refusals are remembered as told; from then on all are told.
const maxTold = 1000

// Outcome is what became of a document.
type Outcome string

// The outcomes.
const (
	OutcomeApplied Outcome = "applied"
	OutcomeSame    Outcome = "same" // the box has that version already
	OutcomeRefused Outcome = "refused"
)

// Take takes a signed document from upstream: its signature, whom it is for and
// its version are judged, and what it says is done. nil means that it is in force
// and durable; that it was so before is no error, and confirms it. A
// *edgeclaim.DocumentError is why it is refused, which is noted, alarmed and
// written down; other errors mean not now. from is whose word it came on, for the
// audit log. The state is the document's as it is then; zero where nobody could
// read which it is.
func (s *Service) Take(ctx context.Context, text []byte, from string) (edgeclaim.DocumentState, error) {
	s.taking.Lock()
	defer s.taking.Unlock()
	signed, _, err := s.take(ctx, text, source{who: from, upstream: true})
	if signed == nil {
		return edgeclaim.DocumentState{}, err
	}
	return s.stateOf(signed.Document.DocumentID), err
}

func (s *Service) stateOf(id edgeclaim.DocumentID) edgeclaim.DocumentState {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.held[id]; e != nil {
		return e.state(&s.cfg, s.parts.Clock.Stamp())
	}
	return edgeclaim.DocumentState{}
}

// take returns what it read, nil for what nobody can, and what became of it. The
// caller holds taking.
func (s *Service) take(ctx context.Context, text []byte, from source) (*signeddoc.Signed, Outcome, error) {
	if err := s.rehang(ctx); err != nil {
		return nil, "", err
	}
	signed, outcome, err := s.judge(text)
	switch {
	case err != nil:
	case outcome == OutcomeSame:
		err = s.again(ctx, signed, from)
	default:
		err = s.apply(ctx, signed, from)
	}
	var why *edgeclaim.DocumentError
	if errors.As(err, &why) {
		outcome = OutcomeRefused
		s.refuse(ctx, refusalOf(signed, why), from)
	}
	return signed, outcome, err
}

// judge says whether a document may be applied, or is there already. What it read
// is returned with an error too, to be shown; of a bad signature nothing of it is
// to be believed.
func (s *Service) judge(text []byte) (*signeddoc.Signed, Outcome, error) {
	if s.trust.root == nil {
		seen, _ := signeddoc.Peek(text)
		return seen, "", &edgeclaim.DocumentError{Reason: edgeclaim.DocumentUnenrolled}
	}
	signed, err := signeddoc.Open(text, s.trust.key)
	if err != nil {
		// What is there already changes nothing, whoever signed it: with a new
		// signer come documents that the one before had signed.
		seen, bad := signeddoc.Peek(text)
		if bad == nil && s.has(seen) {
			return seen, OutcomeSame, nil
		}
		return seen, "", err
	}
	if s.has(signed) {
		return signed, OutcomeSame, nil
	}
	d := signed.Document
	if !d.Fits(s.cfg.Box, s.cfg.Site) {
		return signed, "", &edgeclaim.DocumentError{Reason: edgeclaim.DocumentOtherBox, Detail: "for " + scope(d)}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.held[d.DocumentID]
	switch {
	case e == nil || e.row.Version == 0:
		if s.count() >= edgeclaim.MaxDocuments {
			return signed, "", &edgeclaim.DocumentError{
				Reason: edgeclaim.DocumentConflicting, Detail: fmt.Sprintf("there are %d documents", edgeclaim.MaxDocuments),
			}
		}
	case d.Version < e.row.Version:
		return signed, "", &edgeclaim.DocumentError{Reason: edgeclaim.DocumentOldVersion, Detail: "version " + version(e) + " is here"}
	case d.Version == e.row.Version:
		return signed, "", &edgeclaim.DocumentError{
			Reason: edgeclaim.DocumentSameVersion, Detail: "version " + version(e) + " is here with another content",
		}
	}
	return signed, OutcomeApplied, nil
}

func version(e *entry) string { return strconv.FormatUint(e.row.Version, 10) }

func scope(d *edgeclaim.Document) string {
	switch {
	case d.Site == "":
		return "box " + d.Box
	case d.Box == "":
		return "site " + d.Site
	}
	return "box " + d.Box + " of site " + d.Site
}

// count is how many documents the box has. The caller holds mu.
func (s *Service) count() (n int) {
	for _, e := range s.held {
		if e.row.Version > 0 {
			n++
		}
	}
	return n
}

// has reports whether the very document is held, or led to the signer that is.
func (s *Service) has(signed *signeddoc.Signed) bool {
	d := signed.Document
	if d.DocumentID == signerID && s.trust.has(d.Version, signed.Hash) {
		return true
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.held[d.DocumentID]
	return e != nil && e.row.Version == d.Version && e.row.Hash == signed.Hash
}

// again takes note of a document that is there already. From upstream it is the
// newest; whoever brings a file vouches for its age alone.
func (s *Service) again(ctx context.Context, signed *signeddoc.Signed, from source) error {
	s.mu.RLock()
	e := s.held[signed.Document.DocumentID]
	older := e == nil || e.row.Version != signed.Document.Version // of the chain
	s.mu.RUnlock()
	if older {
		return nil
	}
	return s.renew(ctx, from.upstream, signed.Document.DocumentID)
}

// renew makes documents as fresh as they can be, once that is durable. confirmed
// also says that upstream calls them the newest.
func (s *Service) renew(ctx context.Context, confirmed bool, ids ...edgeclaim.DocumentID) error {
	if len(ids) == 0 {
		return nil
	}
	now := s.parts.Clock.Stamp()
	renewed := make([]*entry, 0, len(ids))
	s.mu.RLock()
	for _, id := range ids {
		e := *s.held[id]
		e.renew(now)
		e.row.Confirmed = e.row.Confirmed || confirmed
		if confirmed { // what was offered last is taken
			clearRefusal(&e.row)
		}
		renewed = append(renewed, &e)
	}
	s.mu.RUnlock()
	rows := make([]edgeclaim.HeldDocument, len(renewed))
	for i, e := range renewed {
		rows[i] = e.row
	}
	if err := s.parts.Store.SetHeld(ctx, rows...); err != nil {
		return err
	}
	news := false
	s.mu.Lock()
	for _, e := range renewed {
		was := s.held[e.row.ID].row
		news = news || was.Confirmed != e.row.Confirmed || was.Refused != e.row.Refused
		s.held[e.row.ID] = e
	}
	s.mu.Unlock()
	if news {
		s.notify()
	}
	s.look(now)
	return nil
}

func clearRefusal(row *edgeclaim.HeldDocument) {
	row.Refused, row.RefusedDetail, row.RefusedVersion, row.RefusedAt = "", "", 0, time.Time{}
}

// apply has the rule obey a document, and remembers it then.
func (s *Service) apply(ctx context.Context, signed *signeddoc.Signed, from source) error {
	d, now := signed.Document, s.parts.Clock.Stamp()
	s.parts.Clock.Raise(d.IssuedAt) // before: the rule stamps what it does
	next, kept := s.trust, *signed
	if d.DocumentID == signerID {
		var err error
		if next, err = s.trust.extend(signed); err != nil {
			return err
		}
		kept.Text = next.text()
	}
	offer := s.offered[d.DocumentID]
	row := edgeclaim.HeldDocument{
		ID: d.DocumentID, Version: d.Version, Hash: signed.Hash, Box: d.Box, Site: d.Site, IssuedAt: d.IssuedAt.UTC(),
		MaxAge: time.Duration(d.MaxAge) * time.Second, Stale: d.Stale, AppliedAt: s.parts.Clock.Now(),
		Confirmed:   from.upstream && offer.Version == d.Version && offer.Hash == signed.Hash,
		ConfirmedAt: now.Time, Synced: now.Clock == edgeclaim.ClockSynced,
	}
	if err := s.parts.Rule.Obey(ctx, &kept, row); err != nil {
		return final(err)
	}
	s.trust = next
	s.mu.Lock()
	s.held[row.ID] = newEntry(row, now)
	s.mu.Unlock()
	s.look(now)
	if d.DocumentID == signerID {
		s.told = map[told]struct{}{} // what another key had signed is another matter now
	}
	s.notify()
	s.logger.Info("document applied", "document", d.String(), "version", d.Version, "key_id", signed.KeyID, "from", from.who)
	s.write(ctx, audit.Entry{
		Kind: kindApplied, Who: from.who, Tenant: tenantText(d.DocumentID), Detail: detailOf(d.DocumentID, d.Version, signed.KeyID),
	})
	return nil
}

// final makes a refusal of what the rule will refuse next time as well: nobody is
// to try it for ever.
func final(err error) error {
	var why *edgeclaim.DocumentError
	if errors.As(err, &why) {
		return err
	}
	for _, kind := range []error{edgeclaim.ErrInvalid, edgeclaim.ErrConflict, edgeclaim.ErrExists, edgeclaim.ErrNotFound} {
		if errors.Is(err, kind) {
			return &edgeclaim.DocumentError{Reason: edgeclaim.DocumentConflicting, Detail: err.Error()}
		}
	}
	return err
}

// write writes down what was done, and returns when that is durable. It is done
// by then: an entry that cannot be written does not undo it.
func (s *Service) write(ctx context.Context, e audit.Entry) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditWithin)
	defer cancel()
	if err := s.parts.Auditor.Must(ctx, e); err != nil {
		s.logger.Error("not written to the audit log", "kind", e.Kind, "document", e.Detail["document"], "err", err)
	}
}

func tenantText(id edgeclaim.DocumentID) string {
	if id.Tenant.IsZero() {
		return ""
	}
	return id.Tenant.String()
}

// nameOf is a document's name for people; empty where nobody knows it.
func nameOf(id edgeclaim.DocumentID) string {
	if id.Type == "" {
		return ""
	}
	return id.String()
}

func detailOf(id edgeclaim.DocumentID, version uint64, keyID string) map[string]string {
	detail := map[string]string{"document": nameOf(id), "version": strconv.FormatUint(version, 10)}
	if keyID != "" {
		detail["key_id"] = keyID
	}
	return detail
}
