package httpapi

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"edgeclaim"
	"edgeclaim/internal/adminsocket"
	"edgeclaim/provision"

	"github.com/gin-gonic/gin"
)

const (
	// maxAdminBody bounds an admin request, in bytes.
	maxAdminBody = 64 << 10
	// apiPath is where the admin API begins.
	apiPath = "/api/v1"
)

// Box is what the admin side asks of the running program itself.
type Box interface {
	// Status is the box at a glance. It reads memory and counters only.
	Status(ctx context.Context) (edgeclaim.Status, error)
	// ResetClock sets the time floor back to the build's date (P10); nil means
	// durable.
	ResetClock(ctx context.Context) error
}

// Admin is what the admin API is the face of. All must be there but those that
// say otherwise.
type Admin struct {
	Rule       *provision.Service
	Box        Box
	Enroller   Enroller
	Quarantine Quarantine
	Outbox     Outbox
	// Orders are devices' commands, Settings their configurations; nil: there
	// are no routes for it.
	Orders   Orders
	Settings Settings
	// Documents is what upstream rules; nil: there are no routes for it.
	Documents Documents
	// Presence knows which devices are at work; nil: that is not shown.
	Presence Presence
	// Tokens let in who comes over TCP; nil for nobody.
	Tokens Tokens
	// Authority is the box's CA; nil where it cannot be used: its routes answer
	// 503.
	Authority Authority
	// Audit is the log of what was done; nil where it cannot be used: each
	// change says so in the program's own log.
	Audit Auditor
	// Data is the data folder, in which the audit log lies.
	Data string
	// Now is the box's clock (P10).
	Now func() time.Time
}

// Gate is what stands before the admin API where it is reached over TCP.
type Gate struct {
	// Hosts are the names and addresses by which the listener is called,
	// besides its own address, localhost and the host's name.
	Hosts []string
	// TLS of the listener; nil for a plain one.
	TLS *tls.Config
	// Metrics answers GET /metrics: to anybody on loopback, and elsewhere to
	// who has a token.
	Metrics http.Handler
	// Ready is that of Line.
	Ready func(context.Context) error
}

// NewAdmin serves the admin API on a listener that only the operator reaches:
// the Unix socket in the data folder, mode 0600. Other users are refused, and
// who calls is logged and audited by uid.
func NewAdmin(cfg Config, listener net.Listener, of Admin, logger *slog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	errs := errorWriter{faults: of.Rule}
	engine := newEngine(errs, logger)
	of.serve(engine.Group(apiPath), cfg, errs, byPeer, logger)
	server := newServer(cfg, adminsocket.Guard(listener, logger), engine.Handler(), logger)
	server.http.WriteTimeout = 0 // a list of a million devices, or an export, takes as long as its reader
	server.http.ConnContext = withPeer
	return server, nil
}

// NewAdminTCP serves the admin API over TCP, to who has a token, and GET
// /metrics and the two probes.
func NewAdminTCP(cfg Config, listener net.Listener, of Admin, through Gate, logger *slog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	errs := errorWriter{faults: of.Rule}
	engine := newEngine(errs, logger)
	g := newGate(of, through.Hosts, errs)
	called := engine.Group("", g.rightPlace, unhurried(cfg))
	metrics := gin.HandlersChain{gin.WrapH(through.Metrics)}
	if !isLoopback(listener.Addr()) {
		metrics = append(gin.HandlersChain{g.lookOnly}, metrics...)
	}
	called.GET("/metrics", metrics...)
	addHealth(engine, errs, through.Ready, logger)
	of.serve(called.Group(apiPath), cfg, errs, g.letIn, logger)
	return newServer(cfg, bounded(cfg, listener, through.TLS), engine.Handler(), logger), nil
}

// serve adds every route, behind door.
func (a Admin) serve(group *gin.RouterGroup, cfg Config, errs errorWriter, let door, logger *slog.Logger) {
	books := bookkeeper{audit: a.Audit, logger: logger}
	for _, r := range a.routes(cfg, errs, logger) {
		group.Handle(r.method, r.path, let.guard(r.scope), books.record(r), r.do)
	}
}

// routes are all that the admin API does.
func (a Admin) routes(cfg Config, errs errorWriter, logger *slog.Logger) []route {
	var all []route
	devices := deviceHandler{rule: a.Rule, errs: errs, now: a.Now, presence: a.Presence}
	for _, more := range [][]route{
		templateHandler{rule: a.Rule, errs: errs}.routes(),
		manifestHandler{rule: a.Rule, errs: errs, patience: cfg.ReadTimeout, turn: make(chan struct{}, 1)}.routes(),
		keyHandler{rule: a.Rule, errs: errs, devices: devices}.routes(),
		devices.routes(),
		orderHandler{rule: a.Rule, orders: a.Orders, errs: errs, now: a.Now}.routes(),
		settingHandler{settings: a.Settings, errs: errs}.routes(),
		accessHandler{rule: a.Rule, errs: errs}.routes(),
		documentHandler{documents: a.Documents, errs: errs, patience: cfg.ReadTimeout, turn: make(chan struct{}, 1)}.routes(),
		boxHandler{box: a.Box, errs: errs}.routes(),
		authorityHandler{authority: a.Authority, errs: errs}.routes(),
		tokenHandler{tokens: a.Tokens, errs: errs, now: a.Now}.routes(),
		auditHandler{audit: a.Audit, folder: a.Data, errs: errs, logger: logger, turn: make(chan struct{}, 1)}.routes(),
		enrolmentHandler{enroller: a.Enroller, errs: errs}.routes(),
		outboxHandler{outbox: a.Outbox, quarantine: a.Quarantine, errs: errs, logger: logger}.routes(),
	} {
		all = append(all, more...)
	}
	return all
}

type boxHandler struct {
	box  Box
	errs errorWriter
}

func (h boxHandler) show(c *gin.Context) {
	if status, ok := h.status(c); ok {
		writeJSON(c, h.errs, http.StatusOK, status)
	}
}

func (h boxHandler) clock(c *gin.Context) {
	if status, ok := h.status(c); ok {
		writeJSON(c, h.errs, http.StatusOK, status.Clock)
	}
}

func (h boxHandler) reset(c *gin.Context) {
	if err := h.box.ResetClock(c.Request.Context()); err != nil {
		h.errs.fault(c, err)
		return
	}
	h.clock(c)
}

func (h boxHandler) status(c *gin.Context) (edgeclaim.Status, bool) {
	status, err := h.box.Status(c.Request.Context())
	if err != nil {
		h.errs.fault(c, err)
	}
	return status, err == nil
}
