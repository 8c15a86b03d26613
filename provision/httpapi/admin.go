package httpapi

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"

	"edgeclaim"
	"edgeclaim/internal/adminsocket"
	"edgeclaim/provision"

	"github.com/gin-gonic/gin"
)

// maxAdminBody bounds an admin request, in bytes.
const maxAdminBody = 64 << 10

// Box is what the admin side asks of the running program itself.
type Box interface {
	// Status is the box at a glance. It reads memory and counters only.
	Status(ctx context.Context) (edgeclaim.Status, error)
	// ResetClock sets the time floor back to the build's date (P10); nil means
	// durable.
	ResetClock(ctx context.Context) error
}

// Admin is what the admin API is the face of. All must be there.
type Admin struct {
	Rule       *provision.Service
	Box        Box
	Enroller   Enroller
	Quarantine Quarantine
	Outbox     Outbox
}

// NewAdmin serves the admin API on a listener that only the operator reaches:
// the Unix socket in the data folder, mode 0600. Other users are refused, and
// who calls is logged by uid.
func NewAdmin(cfg Config, listener net.Listener, of Admin, logger *slog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	errs := errorWriter{faults: of.Rule}
	engine := newEngine(errs, logger)
	engine.Use(logChanges(logger))
	api := engine.Group("/api/v1")
	addTemplates(api, templateHandler{rule: of.Rule, errs: errs})
	addKeys(api, keyHandler{rule: of.Rule, errs: errs})
	addDevices(api, deviceHandler{rule: of.Rule, errs: errs})
	addBox(api, boxHandler{box: of.Box, errs: errs})
	addEnrolment(api, enrolmentHandler{enroller: of.Enroller, errs: errs})
	addOutbox(api, outboxHandler{outbox: of.Outbox, quarantine: of.Quarantine, errs: errs, logger: logger})
	server := newServer(cfg, adminsocket.Guard(listener, logger), engine.Handler(), logger)
	server.http.WriteTimeout = 0 // a list of a million devices, or an export, takes as long as its reader
	server.http.ConnContext = withPeer
	return server, nil
}

// NewMetrics serves GET /metrics and the two probes, and nothing else: it is
// the TCP side of the admin listener, which asks no one who they are.
func NewMetrics(cfg Config, listener net.Listener, metrics http.Handler, ready func(context.Context) error, logger *slog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	errs := errorWriter{} // it has no faults of the rule to tell
	engine := newEngine(errs, logger)
	engine.GET("/metrics", gin.WrapH(metrics))
	addHealth(engine, errs, ready, logger)
	return newServer(cfg, bounded(cfg, listener), engine.Handler(), logger), nil
}

type peerKey struct{}

// withPeer keeps who connected, for the log.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	peer, err := adminsocket.PeerOf(conn)
	if err != nil { // the guard has let nobody in whom it cannot name
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, peer)
}

// logChanges says in the log who changed what; reading is not logged.
func logChanges(logger *slog.Logger) gin.HandlerFunc {
	return func(c *gin.Context) {
		c.Next()
		if c.Request.Method == http.MethodGet {
			return
		}
		logger.Info("admin request", "method", c.Request.Method, "path", c.Request.URL.Path,
			"status", c.Writer.Status(), "peer", c.Request.Context().Value(peerKey{}))
	}
}

type boxHandler struct {
	box  Box
	errs errorWriter
}

func addBox(api *gin.RouterGroup, h boxHandler) {
	api.GET("/status", func(c *gin.Context) {
		if status, ok := h.status(c); ok {
			writeJSON(c, h.errs, http.StatusOK, status)
		}
	})
	api.GET("/clock", func(c *gin.Context) {
		if status, ok := h.status(c); ok {
			writeJSON(c, h.errs, http.StatusOK, status.Clock)
		}
	})
	api.POST("/clock/reset", func(c *gin.Context) {
		if err := h.box.ResetClock(c.Request.Context()); err != nil {
			h.errs.fault(c, err)
			return
		}
		if status, ok := h.status(c); ok {
			writeJSON(c, h.errs, http.StatusOK, status.Clock)
		}
	})
}

func (h boxHandler) status(c *gin.Context) (edgeclaim.Status, bool) {
	status, err := h.box.Status(c.Request.Context())
	if err != nil {
		h.errs.fault(c, err)
	}
	return status, err == nil
}
