package registry

import (
	"context"
	"fmt"
	"time"

	"edgeclaim"
)

// AuditHead is the end of a box's audit log, as it told it: `edgeclaim audit
// verify --anchor` takes it.
type AuditHead struct {
	Segment  string    `json:"segment"`  // name of the file
	Sequence uint64    `json:"sequence"` // of the last entry; 0 of an empty log
	Hash     string    `json:"hash"`     // SHA-256 of it, in hexadecimal digits
	Time     time.Time `json:"time"`
}

// keptHeads is how many heads are kept of a box: more than a year, at one a day.
const keptHeads = 400

// head keeps the end of a box's audit log. The log only grows, so a head with a
// lower sequence than the last one's, or another hash under the same, means that
// somebody changed it, or that it was lost. One that was told before, as an old
// copy of a box does, says nothing new.
func (a *applier) head(ctx context.Context, b *box, h *AuditHead) error {
	var same, newest string
	var last int64
	repeated, err := a.one(ctx, `SELECT hash FROM audit_heads WHERE box = ? AND sequence = ?`, []any{b.number, int64(h.Sequence)}, &same)
	if err != nil || repeated && same == h.Hash {
		return err
	}
	found, err := a.one(ctx, `SELECT sequence, hash FROM audit_heads WHERE box = ? ORDER BY sequence DESC LIMIT 1`, []any{b.number}, &last, &newest)
	if err != nil {
		return err
	}
	if found && int64(h.Sequence) <= last {
		if err := a.rewritten(ctx, b, h, last, newest); err != nil {
			return err
		}
	}
	err = a.run(ctx, `INSERT INTO audit_heads (box, sequence, hash, segment, time, told_at) VALUES (?, ?, ?, ?, ?, ?)`,
		b.number, int64(h.Sequence), h.Hash, h.Segment, micros(h.Time), a.now)
	if err != nil {
		return err
	}
	return a.run(ctx, `DELETE FROM audit_heads WHERE box = ? AND sequence <=
		(SELECT sequence FROM audit_heads WHERE box = ? ORDER BY sequence DESC LIMIT 1 OFFSET ?)`, b.number, b.number, keptHeads)
}

// rewritten opens a conflict that says what was told before. From there on the
// box is held to what it tells now; the records keep the rest.
func (a *applier) rewritten(ctx context.Context, b *box, h *AuditHead, last int64, newest string) error {
	err := a.open(ctx, conflict{
		kind: KindRewritten, box: b.number, at: a.now, subject: KindRewritten + "|" + b.name,
		detail: fmt.Sprintf("the box's audit log ended with entry %d, hash %s; it now ends with entry %d, hash %s", last, newest, h.Sequence, h.Hash),
	})
	if err != nil {
		return err
	}
	return a.run(ctx, `DELETE FROM audit_heads WHERE box = ? AND sequence >= ?`, b.number, int64(h.Sequence))
}

// suspect opens a conflict for a device that looks cloned. It voids nothing:
// what was seen may have an innocent cause, and a public id must lock nobody out.
func (a *applier) suspect(ctx context.Context, b *box, e *event) error {
	detail := "two boards seem to use one identity"
	switch e.suspicion {
	case edgeclaim.SuspicionTakeover:
		detail += ": two connections take the session from each other"
	case edgeclaim.SuspicionNonce:
		detail += ": another claim_nonce before the credential was ever used"
	case edgeclaim.SuspicionRotation:
		detail += ": a rotation was asked for with a credential whose successor is in use"
	}
	return a.open(ctx, conflict{
		kind: KindSuspected, device: e.device, box: b.number, at: a.now,
		subject: KindSuspected + "|" + pair(e.device, b.number, b.number), detail: detail,
	})
}
