package provision

import (
	"context"
	"net/netip"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
)

// whoKey is the context's key of who asks.
type whoKey struct{}

// WithWho says who asks for what is done under ctx: "uid:0", "token:NAME". It
// is what the audit log and the records say.
func WithWho(ctx context.Context, who string) context.Context {
	return context.WithValue(ctx, whoKey{}, who)
}

// Who returns what WithWho said, the box itself where nobody did.
func Who(ctx context.Context) string {
	if who, ok := ctx.Value(whoKey{}).(string); ok && who != "" {
		return who
	}
	return audit.WhoBox
}

// sourceKey is the context's key of where who asks is.
type sourceKey struct{}

// WithSource says where who asks for what is done under ctx is; an operator at
// the box itself is nowhere else, and has none.
func WithSource(ctx context.Context, source netip.Addr) context.Context {
	return context.WithValue(ctx, sourceKey{}, source)
}

// Source returns what WithSource said, as the audit log has it; empty where
// nobody did.
func Source(ctx context.Context) string {
	source, _ := ctx.Value(sourceKey{}).(netip.Addr)
	return addressText(source)
}

// auditWithin is how long an operator's answer waits for the audit log's disk.
const auditWithin = 5 * time.Second

// entryOf is an entry about a device.
func entryOf(kind string, d *edgeclaim.Device) audit.Entry {
	return audit.Entry{
		Kind: kind, Device: d.ID.String(), Tenant: d.Tenant.String(), Hardware: d.Hardware.String(),
		Key: d.Key.String(), Template: d.Template.String(),
	}
}

// write writes down what an operator did, and returns when that is durable. It
// is done by then: an entry that cannot be written does not undo it, and
// neither does an asker that went away.
func (s *Service) write(ctx context.Context, e audit.Entry) {
	e.Who = Who(ctx)
	if e.Source == "" {
		e.Source = Source(ctx)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditWithin)
	defer cancel()
	if err := s.parts.Auditor.Must(ctx, e); err != nil {
		s.logger.Error("not written to the audit log", "kind", e.Kind, "device_id", e.Device, "who", e.Who, "err", err)
	}
}
