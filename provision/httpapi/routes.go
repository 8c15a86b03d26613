package httpapi

import (
	"net/http"

	"edgeclaim/internal/audit"
	"edgeclaim/internal/token"

	"github.com/gin-gonic/gin"
)

// A route is one thing that the admin API does. A route that forgets its scope
// is closed to everybody, and one that forgets what the audit calls it fails a
// test.
type route struct {
	method string
	path   string // under /api/v1
	scope  token.Scope
	// kind is what the audit log calls it: an audit.Kind, or one of the words
	// below.
	kind string
	do   gin.HandlerFunc
}

const (
	// looks changes nothing, and leaves nothing in the audit log.
	looks = "-"
	// byRule is written down by the rule itself, which knows what it was about.
	byRule = "rule"
)

// Kinds of entries that nobody but the admin API writes.
const (
	kindKeyDisabled  = "key.disabled"
	kindKeyEnabled   = "key.enabled"
	kindManifestGone = "manifest.removed"
	kindCARequested  = "ca.requested"
	kindUnenrolled   = "unenrolled"
	kindRequeued     = "outbox.requeued"
	kindDiscarded    = "outbox.discarded"
	kindRenewed      = "outbox.renewed"
	kindAcknowledged = "outbox.acked"

	kindDocumentsImported = "documents.imported"
)

func (h templateHandler) routes() []route {
	return []route{
		{http.MethodPost, "/templates", token.ScopeAdmin, audit.KindTemplateCreated, h.create},
		{http.MethodGet, "/templates", token.ScopeRead, looks, h.list},
		{http.MethodGet, "/templates/:id", token.ScopeRead, looks, h.show},
		{http.MethodPost, "/templates/:id/disable", token.ScopeOperate, audit.KindTemplateDisabled, h.disable},
		{http.MethodPost, "/templates/:id/enable", token.ScopeOperate, audit.KindTemplateEnabled, h.enable},
		{http.MethodPost, "/templates/:id/keys", token.ScopeAdmin, audit.KindKeyIssued, h.issue},
		{http.MethodPost, "/templates/:id/keys/import", token.ScopeAdmin, audit.KindKeyImported, h.importKey},
	}
}

func (h manifestHandler) routes() []route {
	return []route{
		{http.MethodPut, "/templates/:id/manifest", token.ScopeAdmin, audit.KindManifestImported, h.put},
		{http.MethodGet, "/templates/:id/manifest", token.ScopeRead, looks, h.list},
		{http.MethodDelete, "/templates/:id/manifest", token.ScopeAdmin, kindManifestGone, h.remove},
	}
}

func (h keyHandler) routes() []route {
	return []route{
		{http.MethodGet, "/keys", token.ScopeRead, looks, h.list},
		{http.MethodGet, "/keys/:id", token.ScopeRead, looks, h.show},
		{http.MethodGet, "/keys/:id/devices", token.ScopeRead, looks, h.made},
		{http.MethodPost, "/keys/:id/revoke", token.ScopeOperate, audit.KindKeyRevoked, h.revoke},
		{http.MethodPost, "/keys/:id/disable", token.ScopeOperate, kindKeyDisabled, h.disable},
		{http.MethodPost, "/keys/:id/enable", token.ScopeOperate, kindKeyEnabled, h.enable},
		{http.MethodGet, "/shares", token.ScopeRead, looks, h.shares},
	}
}

func (h documentHandler) routes() []route {
	if h.documents == nil {
		return nil
	}
	return []route{
		{http.MethodGet, "/documents", token.ScopeRead, looks, h.list},
		{http.MethodGet, "/documents/:id", token.ScopeRead, looks, h.show},
		{http.MethodPost, "/documents", token.ScopeAdmin, kindDocumentsImported, h.take},
	}
}

func (h deviceHandler) routes() []route {
	return []route{
		{http.MethodGet, "/devices", token.ScopeRead, looks, h.list},
		{http.MethodGet, "/devices/:id", token.ScopeRead, looks, h.show},
		{http.MethodPost, "/devices/:id/rotate", token.ScopeAdmin, byRule, h.rotate},
		{http.MethodPost, "/devices/:id/revoke", token.ScopeOperate, byRule, h.revoke},
		{http.MethodPost, "/devices/:id/release", token.ScopeOperate, byRule, h.release},
		{http.MethodPost, "/devices/:id/swap", token.ScopeOperate, byRule, h.swap},
	}
}

func (h accessHandler) routes() []route {
	return []route{
		{http.MethodGet, "/approvals", token.ScopeRead, looks, h.pending},
		{http.MethodPost, "/approvals/:id/approve", token.ScopeOperate, byRule, h.approve},
		{http.MethodPost, "/approvals/:id/refuse", token.ScopeOperate, byRule, h.refuse},
		{http.MethodGet, "/deny", token.ScopeRead, looks, h.denials},
		{http.MethodPost, "/deny", token.ScopeOperate, byRule, h.deny},
		{http.MethodDelete, "/deny/:id", token.ScopeOperate, byRule, h.undeny},
	}
}

func (h boxHandler) routes() []route {
	return []route{
		{http.MethodGet, "/status", token.ScopeRead, looks, h.show},
		{http.MethodGet, "/clock", token.ScopeRead, looks, h.clock},
		{http.MethodPost, "/clock/reset", token.ScopeAdmin, audit.KindClockReset, h.reset},
	}
}

func (h authorityHandler) routes() []route {
	return []route{
		{http.MethodGet, "/ca", token.ScopeRead, looks, h.show},
		{http.MethodGet, "/ca/root", token.ScopeRead, looks, h.root},
		{http.MethodPost, "/ca/csr", token.ScopeAdmin, kindCARequested, h.request},
		{http.MethodPost, "/ca/import", token.ScopeAdmin, audit.KindCAImported, h.take},
	}
}

func (h tokenHandler) routes() []route {
	return []route{
		{http.MethodGet, "/tokens", token.ScopeAdmin, looks, h.list},
		{http.MethodPost, "/tokens", token.ScopeAdmin, audit.KindTokenMade, h.create},
		{http.MethodDelete, "/tokens/:id", token.ScopeAdmin, audit.KindTokenRevoked, h.revoke},
	}
}

func (h auditHandler) routes() []route {
	return []route{
		{http.MethodGet, "/audit", token.ScopeRead, looks, h.export},
		{http.MethodGet, "/audit/head", token.ScopeRead, looks, h.head},
		{http.MethodPost, "/audit/verify", token.ScopeRead, looks, h.verify},
	}
}

func (h enrolmentHandler) routes() []route {
	return []route{
		{http.MethodGet, "/enrolment", token.ScopeAdmin, looks, h.show},
		{http.MethodPut, "/enrolment", token.ScopeAdmin, audit.KindEnrolled, h.enrol},
		{http.MethodDelete, "/enrolment", token.ScopeAdmin, kindUnenrolled, h.unenrol},
	}
}

func (h outboxHandler) routes() []route {
	return []route{
		{http.MethodGet, "/outbox/quarantine", token.ScopeAdmin, looks, h.list},
		{http.MethodGet, "/outbox/quarantine/:id", token.ScopeAdmin, looks, h.show},
		{http.MethodPost, "/outbox/quarantine/requeue", token.ScopeAdmin, kindRequeued, h.requeueMany},
		{http.MethodPost, "/outbox/quarantine/:id/requeue", token.ScopeAdmin, kindRequeued, h.requeueOne},
		{http.MethodPost, "/outbox/quarantine/:id/discard", token.ScopeAdmin, kindDiscarded, h.discard},
		{http.MethodPost, "/outbox/renew", token.ScopeAdmin, kindRenewed, h.renew},
		{http.MethodGet, "/outbox/export", token.ScopeAdmin, looks, h.export},
		{http.MethodPost, "/outbox/ack", token.ScopeAdmin, kindAcknowledged, h.ack},
	}
}
