package document

import (
	"context"

	"edgeclaim"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/signeddoc"
)

// maxDetail is how much is kept of why a document was refused, in bytes.
const maxDetail = 256

// A refusal is a document that was not taken.
type refusal struct {
	id      edgeclaim.DocumentID // zero where nobody could read it
	version uint64
	keyID   string
	why     *edgeclaim.DocumentError
}

func refusalOf(signed *signeddoc.Signed, why *edgeclaim.DocumentError) *refusal {
	r := &refusal{why: why}
	if signed != nil {
		r.id, r.version, r.keyID = signed.Document.DocumentID, signed.Document.Version, signed.KeyID
	}
	return r
}

// refuse takes note of a document that was not taken: in its row, and once as an
// alarm and an entry. It is refused whether or not that can be stored.
func (s *Service) refuse(ctx context.Context, r *refusal, from source) {
	if r.why.Reason == edgeclaim.DocumentUnenrolled {
		r.id, r.version = edgeclaim.DocumentID{}, 0 // no row: a box that takes none refuses none in particular
	}
	s.note(ctx, r)
	known := told{id: r.id, version: r.version, reason: r.why.Reason}
	if _, again := s.told[known]; again && from.upstream {
		return
	}
	if len(s.told) < maxTold {
		s.told[known] = struct{}{}
	}
	s.logger.Warn("document refused", "document", nameOf(r.id), "version", r.version,
		"reason", string(r.why.Reason), "detail", r.why.Detail, "from", from.who)
	s.parts.Observe(edgeclaim.AlarmDocumentRefused)
	detail := detailOf(r.id, r.version, r.keyID)
	if r.why.Detail != "" {
		detail["detail"] = r.why.Detail
	}
	s.parts.Auditor.Add(audit.Entry{
		Kind: kindRefused, Who: from.who, Tenant: tenantText(r.id), Reason: string(r.why.Reason), Detail: detail,
	})
}

// note puts a refusal into the document's row, unless it stands there already: who
// is told of changes would have the same offered again, and again. Names that the
// box does not have are anybody's, and get so many rows only.
func (s *Service) note(ctx context.Context, r *refusal) {
	if r.id.Type == "" {
		return
	}
	now := s.parts.Clock.Stamp()
	s.mu.Lock()
	e := s.held[r.id]
	if e == nil {
		if len(s.held)-s.count() >= maxRefused {
			s.mu.Unlock()
			return
		}
		e = newEntry(edgeclaim.HeldDocument{ID: r.id}, now)
		s.held[r.id] = e
	}
	if e.row.Refused == r.why.Reason && e.row.RefusedVersion == r.version {
		s.mu.Unlock()
		return
	}
	e.row.Refused, e.row.RefusedVersion = r.why.Reason, r.version
	e.row.RefusedDetail, e.row.RefusedAt = r.why.Detail[:min(len(r.why.Detail), maxDetail)], s.parts.Clock.Now()
	e.settle(now)
	row := e.row
	s.mu.Unlock()
	s.notify()
	if err := s.parts.Store.SetHeld(ctx, row); err != nil {
		s.logger.Warn("the refusal of a document could not be stored", "document", r.id.String(), "err", err)
	}
}
