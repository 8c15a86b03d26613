package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/ca"
)

const (
	// headEvery is how often upstream hears the end of the audit log, in running
	// time.
	headEvery = 24 * time.Hour
	// lastWords is how long an entry and its head may take, at a stop too.
	lastWords = 2 * time.Second
)

// Kinds of entries that nobody but the program writes.
const (
	kindStarted = "box.started"
	kindStopped = "box.stopped"
)

// openAudit opens the log of decisions. A box whose log cannot be used starts
// all the same, and says so (P2).
func (b *box) openAudit() {
	cfg := b.settings.auditConfig()
	cfg.Logger = b.logger
	log, err := audit.Open(cfg)
	if err != nil {
		b.logger.Error("the audit log cannot be used, nothing is written down", "err", err)
		b.alarms.raise(edgeclaim.AlarmAuditLost, b.clock.Now())
		return
	}
	b.audit = log
}

func (b *box) closeAudit() error {
	if b.audit == nil {
		return nil
	}
	return b.audit.Close()
}

// openAuthority opens the box's own certificate authority, or makes it. A box
// whose authority is damaged starts all the same and issues nothing: a new one in
// silence would be one that no device trusts.
func (b *box) openAuthority() {
	_, err := os.Stat(filepath.Join(b.settings.Data, issuerFile))
	isNew := errors.Is(err, fs.ErrNotExist)
	authority, err := ca.Open(ca.Config{Dir: b.settings.Data, BoxID: b.db.BoxID(), Site: b.settings.Site, Now: b.clock.Now})
	if err != nil {
		b.logger.Error("the certificate authority cannot be used, no certificate is issued", "err", err)
		b.alarms.raise(edgeclaim.AlarmCertificates, b.clock.Now())
		return
	}
	b.authority = authority
	if isNew {
		b.note(audit.KindCAMade, map[string]string{"fingerprint": authority.Info().Fingerprint.String()})
	}
}

// note adds an entry of the box's own doing to the audit log.
func (b *box) note(kind string, detail map[string]string) {
	if b.audit != nil {
		b.audit.Add(audit.Entry{Kind: kind, Who: audit.WhoBox, Detail: detail})
	}
}

// auditStatus is the end of the audit log's chain.
func (b *box) auditStatus() edgeclaim.AuditStatus {
	if b.audit == nil {
		return edgeclaim.AuditStatus{}
	}
	head := b.audit.Head()
	return edgeclaim.AuditStatus{Sequence: head.Sequence, Hash: head.Hash, Lost: b.audit.Lost()}
}

// keepBooks is the audit log's own part: the last one to stop, so that it hears
// what all others have to say. Entries that a full disk did not take are no
// reason to stop a box.
func (b *box) keepBooks(ctx context.Context) error {
	if b.audit == nil {
		return nil
	}
	if err := b.audit.Run(ctx); err != nil {
		b.logger.Warn("the end of the audit log is not written", "err", err)
	}
	return nil
}

// tellHeads writes down that the box started and stopped, and tells upstream the
// end of the audit log: at the start, daily and at the stop.
func (b *box) tellHeads(ctx context.Context) error {
	if b.audit == nil {
		return nil
	}
	finish := context.WithoutCancel(ctx) // a box that is stopped at once was started too
	b.tellHead(finish, kindStarted)
	tick := time.NewTicker(headEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			b.tellHead(ctx, "")
		case <-ctx.Done():
			b.tellHead(finish, kindStopped)
			return nil
		}
	}
}

// tellHead puts the head in the outbox, behind an entry of that kind; empty for
// none.
func (b *box) tellHead(ctx context.Context, kind string) {
	ctx, cancel := context.WithTimeout(ctx, lastWords)
	defer cancel()
	if kind != "" {
		entry := audit.Entry{Kind: kind, Who: audit.WhoBox, Detail: map[string]string{"version": b.build.Version}}
		if err := b.audit.Must(ctx, entry); err != nil {
			b.logger.Warn("not in the audit log", "kind", kind, "err", err)
		}
	}
	data, err := json.Marshal(struct {
		audit.Head
		BoxID string `json:"box_id"`
		Site  string `json:"site"`
	}{b.audit.Head(), b.db.BoxID(), b.settings.Site})
	if err == nil {
		err = b.db.Append(ctx, edgeclaim.Record{
			Lane: edgeclaim.LaneEvt, Type: edgeclaim.TypeAuditHead, Stamp: b.clock.Stamp(), Data: data,
		})
	}
	if err != nil {
		b.logger.Warn("the head of the audit log was not recorded", "err", err)
	}
}
