package audit

import (
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of an entry, in bytes before JSON's escapes. What is longer is cut and
// ends in "…": refused claims bring what strangers wrote.
const (
	maxKind        = 48
	maxField       = 128 // who, source, device, tenant, key, template, reason
	maxHardware    = 256
	maxDetails     = 16 // pairs
	maxDetailKey   = 32
	maxDetailValue = 256
	ellipsis       = "…"
)

// The kinds of entries. Callers may add others of the same form: words of a to
// z with dots between them. One that ends in ".refused" is a refusal.
const (
	KindClaimMinted  = "claim.minted"
	KindClaimKnown   = "claim.known" // no new secret
	KindClaimAgain   = "claim.again" // the same secret once more, to the same nonce
	KindClaimWaiting = "claim.waiting"
	KindClaimRefused = "claim.refused"
	KindLoginRefused = "login.refused"
	// KindRotationRefused: a credential that is on its way out asked for another.
	KindRotationRefused = "rotation.refused"

	KindDeviceConfirmed = "device.confirmed" // first used its credential
	KindDeviceRotated   = "device.rotated"
	KindDeviceRevoked   = "device.revoked"
	KindDeviceReleased  = "device.released"
	KindDeviceSwapped   = "device.swapped"

	KindKeyIssued         = "key.issued"
	KindKeyImported       = "key.imported"
	KindKeyRevoked        = "key.revoked"
	KindTemplateCreated   = "template.created"
	KindTemplateDisabled  = "template.disabled"
	KindTemplateEnabled   = "template.enabled"
	KindApprovalGiven     = "approval.given"
	KindApprovalWithdrawn = "approval.withdrawn"
	KindDenyAdded         = "deny.added"
	KindDenyRemoved       = "deny.removed"
	KindManifestImported  = "manifest.imported"

	KindCommandQueued    = "command.queued"
	KindCommandCancelled = "command.cancelled"
	KindConfigChanged    = "config.changed" // a device's

	KindTokenMade    = "token.made"
	KindTokenRevoked = "token.revoked"
	KindAdminRefused = "admin.refused"
	KindCAMade       = "ca.made"
	KindCAImported   = "ca.imported"
	KindEnrolled     = "enrolled"
	KindClockReset   = "clock.reset"
	KindAlarm        = "alarm"

	// What the log says of itself.
	KindBegun    = "audit.begun"    // the first entry of a log
	KindLost     = "audit.lost"     // Count entries did not fit into the buffer, or the disk was full
	KindRepaired = "audit.repaired" // an unfinished line was cut off after a crash
	KindDamaged  = "audit.damaged"  // the file before this one is damaged, and was left as it is
	KindDropped  = "audit.dropped"  // the oldest file went: Count entries, up to detail "through"
	KindMisnamed = "audit.misnamed" // of an entry whose kind is none; detail "kind" has it
	KindVarious  = "audit.refused"  // refusals of more kinds and reasons than are counted apart
)

// Who did it: besides these, "uid:N" of the socket, "token:NAME" and "user:NAME".
const (
	WhoBox    = "box"
	WhoDevice = "device"
	WhoUser   = "user" // whoever asks to be let in by name
)

// Entry is one decision. There is no place in it for a secret, and none may be
// put elsewhere (P5).
type Entry struct {
	Time     time.Time         // the wall clock, as far as it can be trusted (P10); zero: when it is added
	Kind     string            // one of Kind…
	Who      string            // who did it
	Source   string            // where from: an address without the port
	Device   string            // device_id
	Tenant   string            // tenant_id
	Hardware string            // hardware_id; of a refused claim whatever was sent
	Key      string            // key_id
	Template string            // template_id
	Reason   string            // of a refusal
	Count    uint64            // how many, of an entry that stands for several; else 0
	Detail   map[string]string // 16 pairs at most; copied
}

// validKind: words of a to z with dots between them.
func validKind(kind string) bool {
	if kind == "" || len(kind) > maxKind || strings.Trim(kind, "abcdefghijklmnopqrstuvwxyz.") != "" {
		return false
	}
	for i, r := range []byte(kind) {
		if r != '.' && (r < 'a' || r > 'z') {
			return false
		}
		if r == '.' && (i == 0 || i == len(kind)-1 || kind[i-1] == '.') {
			return false
		}
	}
	return true
}

// bounded returns e as it will be written: with a time, within the limits, and
// with nothing that the caller can still change.
func (l *Log) bounded(e Entry) Entry {
	if year := e.Time.Year(); e.Time.IsZero() || year < 1 || year > 9999 {
		e.Time = l.cfg.Now()
	}
	e.Time = e.Time.UTC().Round(0)
	if len(e.Detail) > 0 {
		e.Detail = boundedDetail(e.Detail)
	}
	if !validKind(e.Kind) {
		detail := map[string]string{"kind": cut(e.Kind, maxDetailValue)}
		maps.Copy(detail, e.Detail)
		e.Kind, e.Detail = KindMisnamed, detail
	}
	for _, field := range []*string{&e.Who, &e.Source, &e.Device, &e.Tenant, &e.Key, &e.Template, &e.Reason} {
		*field = cut(*field, maxField)
	}
	e.Hardware = cut(e.Hardware, maxHardware)
	return e
}

func boundedDetail(detail map[string]string) map[string]string {
	keys := slices.Sorted(maps.Keys(detail))
	if len(keys) > maxDetails {
		keys = keys[:maxDetails]
	}
	bounded := make(map[string]string, len(keys)+1)
	for _, k := range keys {
		bounded[cut(k, maxDetailKey)] = cut(detail[k], maxDetailValue)
	}
	return bounded
}

// cut shortens s to at most limit bytes and the sign that it was; the rest of
// a long string is not kept in memory.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit] + ellipsis
}

// size is about what the entry takes in memory.
func (e *Entry) size() int {
	n := entryOverhead + len(e.Kind) + len(e.Who) + len(e.Source) + len(e.Device) + len(e.Tenant) +
		len(e.Hardware) + len(e.Key) + len(e.Template) + len(e.Reason)
	for k, v := range e.Detail {
		n += len(k) + len(v)
	}
	return n
}
