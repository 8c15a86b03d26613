package httpapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"edgeclaim"

	"github.com/gin-gonic/gin"
)

// Claims answers claims. *provision.Service is one.
type Claims interface {
	Faults
	// Answer decides a claim; it returns when the decision is durable (P1), a
	// refusal no sooner than its fixed delay (P3). The outcome is in the Code.
	Answer(ctx context.Context, ask edgeclaim.Ask) edgeclaim.Answer
}

// Line is what a listener that devices reach is the face of. All must be there but
// those that say otherwise.
type Line struct {
	Claims  Claims
	Devices Devices
	// Reports takes what devices say; nil: there are no routes for it.
	Reports Reports
	// Heard is told what Reports has accepted; its members may be nil.
	Heard Heard
	// Commands has what devices are told to do, Configs how they are to work;
	// nil: there are no routes for it.
	Commands Commands
	Configs  Configs
	// TLS of the listener; nil for a plain one. It asks for a certificate and
	// does not insist (tlsconf.Server).
	TLS *tls.Config
	// Ready answers nil when the store is open and the listeners are bound;
	// offline is ready.
	Ready func(context.Context) error
}

// NewClaims serves a listener for devices: POST /api/v1/provision and
// /api/v1/credentials/rotate; POST /api/v1/telemetry and /api/v1/events; GET
// /api/v1/commands and /api/v1/config; and the probes GET /healthz and /readyz.
func NewClaims(cfg Config, listener net.Listener, of Line, logger *slog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("http: %w", err)
	}
	errs := errorWriter{faults: of.Claims}
	engine := newEngine(errs, logger)
	side := deviceSide{errs: errs, timeout: cfg.ClaimTimeout, maxRefused: cfg.MaxRefused}
	left := &room{most: int64(cfg.MaxConnections)}
	login := loginSide{deviceSide: side, devices: of.Devices, left: left}
	engine.POST("/api/v1/provision", claimHandler{deviceSide: side, claims: of.Claims}.provision)
	engine.POST("/api/v1/credentials/rotate", rotateHandler{login}.rotate)
	addHealth(engine, errs, of.Ready, logger)
	server := newServer(cfg, bounded(cfg, listener, of.TLS), engine.Handler(), logger)
	server.http.ConnContext, server.http.ConnState = countRefused, left.note
	if of.Reports != nil {
		h := reportHandler{loginSide: login, reports: of.Reports, heard: of.Heard, large: newLarges()}
		engine.POST("/api/v1/telemetry", h.telemetry)
		engine.POST("/api/v1/events", h.event)
	}
	if of.Commands != nil {
		waiting := newPolls(cfg.MaxPolls)
		server.http.RegisterOnShutdown(waiting.stop)
		engine.GET("/api/v1/commands", commandHandler{loginSide: login, commands: of.Commands, polls: waiting, patience: cfg.WriteTimeout}.poll)
	}
	if of.Configs != nil {
		engine.GET("/api/v1/config", configHandler{loginSide: login, configs: of.Configs}.show)
	}
	return server, nil
}

// addHealth adds the two probes, for HEAD too, which some monitors send. Why the
// box is not ready is for the log, once for each reason: the listener is a
// device's too, and anybody asks it as often as he likes.
func addHealth(engine *gin.Engine, errs errorWriter, ready func(context.Context) error, logger *slog.Logger) {
	var said atomic.Pointer[string] // why it was not ready at the last look; nil: it was
	alive := func(c *gin.Context) { c.JSON(http.StatusOK, health{Status: "alive"}) }
	isReady := func(c *gin.Context) {
		err := ready(c.Request.Context())
		if err == nil {
			said.Store(nil)
			c.JSON(http.StatusOK, health{Status: "ready"})
			return
		}
		why := err.Error()
		if before := said.Swap(&why); before == nil || *before != why {
			logger.Warn("not ready", "err", err)
		}
		errs.status(c, http.StatusServiceUnavailable, "not ready")
	}
	engine.GET("/healthz", alive)
	engine.GET("/readyz", isReady)
	engine.Handle(http.MethodHead, "/healthz", alive)
	engine.Handle(http.MethodHead, "/readyz", isReady)
}

type health struct {
	Status string `json:"status"`
}

// deviceSide is what the handlers of a device's listener have in common.
type deviceSide struct {
	errs       errorWriter
	timeout    time.Duration
	maxRefused int
}

// claimHandler serves claims.
type claimHandler struct {
	deviceSide
	claims Claims
}

// provision decodes the transport, calls the rule and writes its answer.
func (h claimHandler) provision(c *gin.Context) {
	format, err := formatOf(c.GetHeader("Content-Type"))
	if err != nil {
		h.refuse(c, edgeclaim.FormatJSON, http.StatusUnsupportedMediaType, err)
		return
	}
	ask, ok := h.read(c, format)
	if !ok {
		return
	}
	ctx, cancel := h.within(c)
	defer cancel()
	h.answer(c, format, 0, h.claims.Answer(ctx, ask))
}

// within is the time that a request of a device has, whatever becomes of its
// half of the connection: who closes that behind the request still listens (RFC
// 9112, section 9.6), though net/http takes him for gone. Of one that is gone,
// the credential was on its way to nobody: what helps then is the nonce.
func (d deviceSide) within(c *gin.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(c.Request.Context()), d.timeout)
}

// read takes what was asked, or answers why it cannot be.
func (d deviceSide) read(c *gin.Context, format edgeclaim.Format) (edgeclaim.Ask, bool) {
	body, err := readBody(c)
	if err != nil {
		status := http.StatusBadRequest
		if errors.Is(err, edgeclaim.ErrBodyTooLarge) {
			status = http.StatusRequestEntityTooLarge
		}
		d.refuse(c, format, status, err)
		return edgeclaim.Ask{}, false
	}
	return edgeclaim.Ask{
		Body: body, Format: format, Via: edgeclaim.ViaHTTP, Source: source(c.Request),
		// Received is the whole of it: before the last byte, the asker would
		// choose how much of a refusal's delay is left (P3).
		ReceivedAt: time.Now(),
	}, true
}

// refuse answers err; a status other than 0 overrides the table's.
func (d deviceSide) refuse(c *gin.Context, format edgeclaim.Format, status int, err error) {
	d.answer(c, format, status, d.errs.faults.Fault(format, err))
}

// answer writes an answer of the rule. A connection that was refused too often
// ends with it: who guesses pays for a connection now and then.
func (d deviceSide) answer(c *gin.Context, format edgeclaim.Format, status int, answer edgeclaim.Answer) {
	if status == 0 {
		status = statusOf(answer.Code)
	}
	if status >= http.StatusBadRequest && status < http.StatusInternalServerError && refusedOf(c.Request).Add(1) >= int64(d.maxRefused) {
		c.Header("Connection", "close")
	}
	writeAnswer(c, format, status, answer)
}

type refusedKey struct{}

// countRefused gives a connection its count of refused requests.
func countRefused(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, refusedKey{}, new(atomic.Int64))
}

func refusedOf(r *http.Request) *atomic.Int64 {
	if count, ok := r.Context().Value(refusedKey{}).(*atomic.Int64); ok {
		return count
	}
	return new(atomic.Int64)
}
