package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"
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

// NewClaims serves the claim listener: POST /api/v1/provision, GET /healthz
// (alive) and GET /readyz (ready answers nil: store open, listeners bound;
// offline is ready).
func NewClaims(cfg Config, listener net.Listener, claims Claims, ready func(context.Context) error, logger *slog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("http: %w", err)
	}
	errs := errorWriter{faults: claims}
	engine := newEngine(errs, logger)
	h := claimHandler{claims: claims, errs: errs, timeout: cfg.ClaimTimeout}
	engine.POST("/api/v1/provision", h.provision)
	addHealth(engine, errs, ready, logger)
	return newServer(cfg, bounded(cfg, listener), engine.Handler(), logger), nil
}

// addHealth adds the two probes, for HEAD too, which some monitors send. Why the
// box is not ready is for the log: the listener is a device's too.
func addHealth(engine *gin.Engine, errs errorWriter, ready func(context.Context) error, logger *slog.Logger) {
	alive := func(c *gin.Context) { c.JSON(http.StatusOK, health{Status: "alive"}) }
	isReady := func(c *gin.Context) {
		if err := ready(c.Request.Context()); err != nil {
			logger.Warn("not ready", "err", err)
			errs.status(c, http.StatusServiceUnavailable, "not ready")
			return
		}
		c.JSON(http.StatusOK, health{Status: "ready"})
	}
	engine.GET("/healthz", alive)
	engine.GET("/readyz", isReady)
	engine.Handle(http.MethodHead, "/healthz", alive)
	engine.Handle(http.MethodHead, "/readyz", isReady)
}

type health struct {
	Status string `json:"status"`
}

type claimHandler struct {
	claims  Claims
	errs    errorWriter
	timeout time.Duration
}

// provision decodes the transport, calls the rule and writes its answer.
func (h claimHandler) provision(c *gin.Context) {
	format, err := formatOf(c.GetHeader("Content-Type"))
	if err != nil {
		h.errs.faultAs(c, edgeclaim.FormatJSON, http.StatusUnsupportedMediaType, err)
		return
	}
	body, err := readBody(c)
	if err != nil {
		status := http.StatusBadRequest
		if errors.Is(err, edgeclaim.ErrBodyTooLarge) {
			status = http.StatusRequestEntityTooLarge
		}
		h.errs.faultAs(c, format, status, err)
		return
	}
	// Received is the whole of it: before the last byte, the asker would
	// choose how much of a refusal's delay is left (P3).
	received := time.Now()
	ctx, cancel := context.WithTimeout(c.Request.Context(), h.timeout)
	defer cancel()
	answer := h.claims.Answer(ctx, edgeclaim.Ask{
		Body: body, Format: format, Via: edgeclaim.ViaHTTP, Source: source(c.Request), ReceivedAt: received,
	})
	writeAnswer(c, format, statusOf(answer.Code), answer)
}

// formatOf reads a Content-Type: JSON with or without a UTF-8 charset, or CBOR.
func formatOf(contentType string) (edgeclaim.Format, error) {
	if contentType == string(edgeclaim.FormatJSON) { // what nearly everyone sends
		return edgeclaim.FormatJSON, nil
	}
	media, params, err := mime.ParseMediaType(contentType)
	if err == nil {
		charset, hasCharset := params["charset"]
		switch {
		case media == string(edgeclaim.FormatJSON) && len(params) == 0,
			media == string(edgeclaim.FormatJSON) && len(params) == 1 && hasCharset && strings.EqualFold(charset, "utf-8"):
			return edgeclaim.FormatJSON, nil
		case media == string(edgeclaim.FormatCBOR) && len(params) == 0:
			return edgeclaim.FormatCBOR, nil
		}
	}
	return "", edgeclaim.Invalid("content_type", "want %s or %s", edgeclaim.FormatJSON, edgeclaim.FormatCBOR)
}

// readBody reads what the rule may see. A body that says it is too large is
// refused before a byte of it is read.
func readBody(c *gin.Context) ([]byte, error) {
	declared := c.Request.ContentLength
	if declared > edgeclaim.MaxClaimBody {
		c.Header("Connection", "close")
		return nil, edgeclaim.ErrBodyTooLarge
	}
	reader := http.MaxBytesReader(c.Writer, c.Request.Body, edgeclaim.MaxClaimBody)
	var body []byte
	var err error
	if declared > 0 {
		body = make([]byte, declared)
		_, err = io.ReadFull(reader, body)
	} else {
		body, err = io.ReadAll(reader)
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, edgeclaim.ErrBodyTooLarge
	}
	if err != nil {
		return nil, edgeclaim.Invalid("body", "not read to its end")
	}
	return body, nil
}

// source is the peer's address; no header is believed.
func source(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{} // a Unix socket has none
	}
	return peer.Addr().Unmap()
}
