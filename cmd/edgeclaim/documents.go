package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"edgeclaim"
	"edgeclaim/document"
	"edgeclaim/internal/signeddoc"
	"edgeclaim/provision"
	"edgeclaim/provision/httpapi"
)

// documentKeys are a document.Config's.
type documentKeys struct {
	MaxAge time.Duration         `yaml:"max_age"`
	Stale  edgeclaim.StalePolicy `yaml:"stale"`
}

func defaultDocuments() documentKeys {
	return documentKeys{MaxAge: document.DefaultMaxAge, Stale: edgeclaim.StaleWarn}
}

// minDocumentAge is the least of documents.max_age: what is confirmed over a link
// is so within minutes.
const minDocumentAge = time.Hour

// mostDocumentAge is more than anybody waits.
const mostDocumentAge = 10 * 365 * 24 * time.Hour

func (k *documentKeys) validate() error {
	switch {
	case k.MaxAge < minDocumentAge || k.MaxAge > mostDocumentAge:
		return fmt.Errorf("max_age: want %s to %s", minDocumentAge, mostDocumentAge)
	case k.Stale != edgeclaim.StaleWarn && k.Stale != edgeclaim.StaleDeny:
		return fmt.Errorf("stale: want %s or %s", edgeclaim.StaleWarn, edgeclaim.StaleDeny)
	}
	return nil
}

// openDocuments reads what upstream rules. The rule that it is put to asks it in
// turn how old that is; see freshness.
func (b *box) openDocuments(ctx context.Context) error {
	parts := document.Parts{
		Store: b.db, Rule: ruled{b}, Clock: b.clock, Key: b.trust.documentsBy, HubKey: b.trust.hubKey, Who: provision.Who,
		Observe: func(alarm edgeclaim.Alarm) { b.alarms.raise(alarm, b.clock.Now()) },
	}
	if b.audit != nil {
		parts.Auditor = located{b.audit}
	}
	cfg := document.Config{
		Box: b.db.BoxID(), Site: b.settings.Site, MaxAge: b.settings.Documents.MaxAge, Stale: b.settings.Documents.Stale,
	}
	var err error
	if b.documents, err = document.Open(ctx, cfg, parts, b.logger); err != nil {
		return err
	}
	b.trust.rekeyed = func() { b.documents.Rekeyed(context.WithoutCancel(ctx)) }
	return nil
}

// ruled is the rule that documents are put to, and who else has to know.
type ruled struct{ *box }

// Obey implements document.Rule.
func (r ruled) Obey(ctx context.Context, s *signeddoc.Signed, held edgeclaim.HeldDocument) error {
	if err := r.rule.Obey(ctx, s, held); err != nil {
		return err
	}
	if s.Document.Type == edgeclaim.DocumentProfiles {
		r.commands.ProfilesChanged()
	}
	return nil
}

// Share implements document.Rule.
func (r ruled) Share(ctx context.Context, grants []edgeclaim.ShareGrant) error {
	return r.rule.Share(ctx, grants)
}

// freshness asks the documents, which are made after the rule that asks.
type freshness struct{ *box }

// Denies implements provision.Freshness.
func (f freshness) Denies(tenant edgeclaim.TenantID) bool {
	return f.documents != nil && f.documents.Denies(tenant)
}

// library is the documents as the admin API has them.
type library struct{ *document.Service }

// Import implements httpapi.Documents.
func (l library) Import(ctx context.Context, r io.Reader) (httpapi.Imported, error) {
	done, err := l.Service.Import(ctx, r)
	shown := httpapi.Imported{
		Documents: make([]httpapi.ImportedDocument, len(done.Documents)),
		Applied:   done.Applied, Same: done.Same, Refused: done.Refused,
		Shares: httpapi.Outcome(done.Shares), SharesReason: done.SharesReason,
	}
	for i, d := range done.Documents {
		shown.Documents[i] = httpapi.ImportedDocument{
			Line: d.Line, DocumentID: d.DocumentID, Version: d.Version, Outcome: httpapi.Outcome(d.Outcome), Reason: d.Reason,
		}
	}
	return shown, err
}

// leases are the shares of keys as the way up has them.
type leases struct{ *provision.Service }

// Changed implements bridge.Shares.
func (l leases) Changed() <-chan struct{} { return l.WantShares() }

// lowShares are those that somebody may have to do something about.
func (b *box) lowShares(ctx context.Context) ([]edgeclaim.Share, error) {
	shares, err := b.rule.Shares(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(shares, func(s edgeclaim.Share) bool { return !s.Low && s.Left() > 0 }), nil
}
