package httpapi

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/ca"
	"edgeclaim/internal/token"

	"github.com/gin-gonic/gin"
)

const contentTypePEM = "application/x-pem-file"

// Authority is the box's CA. *ca.Authority is one. Its methods are safe for
// concurrent use.
type Authority interface {
	// Info is what is known of the present issuer.
	Info() ca.Info
	// Root is the PEM of what devices have to trust.
	Root() []byte
	// CSR is a PEM request for an intermediate's certificate, the same until
	// Import; its key is kept.
	CSR() ([]byte, error)
	// Import takes the chain for it; nil means that certificates are issued
	// from it and that it is on the disk. ErrInvalid says which rule failed.
	Import(chainPEM []byte) error
}

type authorityHandler struct {
	authority Authority
	errs      errorWriter
}

// there reports whether there is an authority, or answers that there is none.
func (h authorityHandler) there(c *gin.Context) bool {
	if h.authority == nil {
		h.errs.told(c, &OperatorError{Err: edgeclaim.ErrUnavailable, Words: "the box's certificate authority cannot be used; its log says why"})
		return false
	}
	return true
}

func (h authorityHandler) show(c *gin.Context) {
	if h.there(c) {
		writeJSON(c, h.errs, http.StatusOK, h.authority.Info())
	}
}

func (h authorityHandler) root(c *gin.Context) {
	if h.there(c) {
		c.Data(http.StatusOK, contentTypePEM, h.authority.Root())
	}
}

func (h authorityHandler) request(c *gin.Context) {
	if !h.there(c) {
		return
	}
	csr, err := h.authority.CSR()
	if err != nil {
		h.errs.told(c, err)
		return
	}
	c.Data(http.StatusOK, contentTypePEM, csr)
}

func (h authorityHandler) take(c *gin.Context) {
	if !h.there(c) {
		return
	}
	chain, err := readWhole(c, ca.MaxChainText)
	if err == nil {
		err = h.authority.Import(chain)
	}
	if err != nil {
		h.errs.told(c, err)
		return
	}
	info := h.authority.Info()
	changeOf(c).entry.Detail = map[string]string{"fingerprint": info.Fingerprint.String(), "subject": info.Subject}
	writeJSON(c, h.errs, http.StatusOK, info)
}

// Tokens keeps the tokens of the admin API. Its methods are safe for concurrent
// use.
type Tokens interface {
	// Check returns the token whose secret that is, when it is good by the
	// box's clock; else ErrUnauthenticated.
	Check(secret edgeclaim.Secret) (token.Token, error)
	// Create keeps a new token; nil means durable, and in force. ErrInvalid:
	// there are too many.
	Create(ctx context.Context, t token.Token) error
	// Revoke ends one; nil means durable, and in force. ErrNotFound.
	Revoke(ctx context.Context, id token.ID) (token.Token, error)
	// List returns all of them.
	List(ctx context.Context) ([]token.Token, error)
}

const (
	// DefaultTokenLife is how long a token lives that says nothing of it.
	DefaultTokenLife = 90 * 24 * time.Hour
	// MaxTokenLife is the longest that may be asked for.
	MaxTokenLife = 10 * 365 * 24 * time.Hour
)

type tokenHandler struct {
	tokens Tokens
	errs   errorWriter
	now    func() time.Time
}

// madeToken is a token as it is told once, to the one who had it made (P5).
type madeToken struct {
	token.Token
	Secret string `json:"token"`
}

// there reports whether tokens are kept, or answers that there are none.
func (h tokenHandler) there(c *gin.Context) bool {
	if h.tokens == nil {
		h.errs.told(c, &OperatorError{Err: edgeclaim.ErrUnavailable, Words: "no tokens are kept here"})
		return false
	}
	return true
}

func (h tokenHandler) list(c *gin.Context) {
	if !h.there(c) {
		return
	}
	tokens, err := h.tokens.List(c.Request.Context())
	if err != nil {
		h.errs.told(c, err)
		return
	}
	if tokens == nil {
		tokens = []token.Token{} // [] and not null
	}
	writeJSON(c, h.errs, http.StatusOK, tokens)
}

func (h tokenHandler) create(c *gin.Context) {
	if !h.there(c) {
		return
	}
	var body struct {
		Name      string  `json:"name"`
		Scope     string  `json:"scope"`
		ExpiresIn *string `json:"expires_in"`
	}
	err := readJSON(c, &body)
	life := DefaultTokenLife
	if err == nil && body.ExpiresIn != nil {
		life, err = readDuration("expires_in", *body.ExpiresIn, time.Second, MaxTokenLife)
	}
	if err != nil {
		h.errs.fault(c, err)
		return
	}
	scope, err := token.ParseScope(body.Scope)
	if err != nil {
		h.errs.fault(c, err)
		return
	}
	now := h.now()
	made, secret, err := token.New(body.Name, scope, now, now.Add(life))
	if err == nil {
		err = h.tokens.Create(c.Request.Context(), made)
	}
	if err != nil {
		h.errs.told(c, err)
		return
	}
	noteToken(c, &made)
	writeJSON(c, h.errs, http.StatusCreated, madeToken{made, secret.Reveal()})
}

func (h tokenHandler) revoke(c *gin.Context) {
	if !h.there(c) {
		return
	}
	withID(c, h.errs, token.ParseID, func(id token.ID) (any, error) {
		gone, err := h.tokens.Revoke(c.Request.Context(), id)
		if err == nil {
			noteToken(c, &gone)
		}
		return gone, err
	})
}

// noteToken says in the audit which token a change was about.
func noteToken(c *gin.Context, t *token.Token) {
	changeOf(c).entry.Detail = map[string]string{"token": t.ID.String(), "name": t.Name, "scope": string(t.Scope)}
}

type auditHandler struct {
	audit  Auditor
	folder string
	errs   errorWriter
	logger *slog.Logger
	turn   chan struct{} // held by who verifies: it reads every byte of the log
}

func (h auditHandler) there(c *gin.Context) bool {
	if h.audit == nil {
		h.errs.told(c, &OperatorError{Err: edgeclaim.ErrUnavailable, Words: "the audit log cannot be used; the box's log says why"})
		return false
	}
	return true
}

func (h auditHandler) head(c *gin.Context) {
	if h.there(c) {
		writeJSON(c, h.errs, http.StatusOK, h.audit.Head())
	}
}

// export streams the lines as they are. An error after the first can no longer
// be a status: the connection is broken off.
func (h auditHandler) export(c *gin.Context) {
	from, err := readTime(c, "from")
	var to time.Time
	if err == nil {
		to, err = readTime(c, "to")
	}
	if err != nil {
		h.errs.fault(c, err)
		return
	}
	if !h.there(c) {
		return
	}
	c.Header("Content-Type", contentTypeNDJSON)
	c.Status(http.StatusOK)
	err = audit.Export(h.folder, untilGone{ctx: c.Request.Context(), Writer: c.Writer}, from, to)
	switch {
	case err == nil:
		c.Writer.WriteHeaderNow() // there may be no line
	case c.Writer.Written():
		h.logger.Warn("an export of the audit log was broken off", "err", err)
		panic(http.ErrAbortHandler)
	default:
		c.Writer.Header().Del("Content-Type")
		h.errs.told(c, auditFault(err))
	}
}

// untilGone fails once its reader has gone.
type untilGone struct {
	ctx context.Context
	io.Writer
}

func (w untilGone) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.Writer.Write(b)
}

// verify answers what it found, with 200 also where that is bad.
func (h auditHandler) verify(c *gin.Context) {
	var body struct {
		Anchor *audit.Head `json:"anchor"`
	}
	if err := readJSON(c, &body); err != nil {
		h.errs.fault(c, err)
		return
	}
	if !h.there(c) {
		return
	}
	if !takeTurn(c, h.errs, h.turn) {
		return
	}
	defer func() { <-h.turn }()
	report, err := audit.Verify(h.folder, body.Anchor)
	if err != nil {
		h.errs.told(c, auditFault(err))
		return
	}
	writeJSON(c, h.errs, http.StatusOK, report)
}

// auditFault says in the operator's words what the audit log's files are good
// for.
func auditFault(err error) error {
	if errors.Is(err, audit.ErrDamaged) {
		return &OperatorError{Err: edgeclaim.ErrConflict, Words: "lines of the audit log were changed; verify says which"}
	}
	return err
}

// readTime reads an instant in the query; zero without one.
func readTime(c *gin.Context, name string) (time.Time, error) {
	text := c.Query(name)
	if text == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, edgeclaim.Invalid(name, "want RFC 3339, like 2026-03-04T05:06:07Z")
	}
	return at, nil
}
