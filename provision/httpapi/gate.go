package httpapi

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"edgeclaim"
	"edgeclaim/internal/adminsocket"
	"edgeclaim/internal/audit"
	"edgeclaim/internal/token"
	"edgeclaim/provision"

	"github.com/gin-gonic/gin"
)

// A door says who asks, in the audit's words, or answers why he may not.
type door func(c *gin.Context, need token.Scope) (who string, ok bool)

// guard lets in who has the scope, and says in the context who that is.
func (let door) guard(need token.Scope) gin.HandlerFunc {
	return func(c *gin.Context) {
		who, ok := let(c, need)
		if !ok {
			c.Abort()
			return
		}
		ctx := provision.WithSource(provision.WithWho(c.Request.Context(), who), source(c.Request))
		c.Request = c.Request.WithContext(ctx)
	}
}

type peerKey struct{}

// withPeer keeps who connected to the socket.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	peer, err := adminsocket.PeerOf(conn)
	if err != nil { // the guard has let nobody in whom it cannot name
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, peer)
}

// byPeer is the door of the socket: who came through it owns the box.
func byPeer(c *gin.Context, need token.Scope) (string, bool) {
	peer, ok := c.Request.Context().Value(peerKey{}).(adminsocket.Peer)
	if !ok || !token.ScopeAdmin.Allows(need) {
		errorWriter{}.status(c, http.StatusForbidden, "permission denied")
		return "", false
	}
	return "uid:" + strconv.FormatUint(uint64(peer.UID), 10), true
}

// gate is the door of the TCP listener.
type gate struct {
	tokens Tokens
	audit  Auditor
	hosts  map[string]bool // lower case, without a port
	errs   errorWriter
}

// The reasons for which somebody is refused, as the audit has them.
const (
	refusedHost   = "host"
	refusedOrigin = "origin"
	refusedToken  = "token"
	refusedScope  = "scope"
)

func newGate(of Admin, hosts []string, errs errorWriter) gate {
	g := gate{tokens: of.Tokens, audit: of.Audit, hosts: map[string]bool{"localhost": true}, errs: errs}
	if name, err := os.Hostname(); err == nil {
		g.hosts[strings.ToLower(name)] = true
	}
	for _, host := range hosts {
		g.hosts[hostOf(host)] = true
	}
	return g
}

// rightPlace refuses what was not meant for this listener: a page that a browser
// was lured to may call the box by a name of its own (DNS rebinding), or from
// another origin. It never answers with a CORS header.
func (g gate) rightPlace(c *gin.Context) {
	r := c.Request
	switch {
	case !g.isOurs(r, r.Host):
		g.note(c, refusedHost)
		g.errs.status(c, http.StatusMisdirectedRequest, "host: not a name of this listener; admin.hosts may add it")
	case !g.isOurOrigin(r):
		g.note(c, refusedOrigin)
		g.errs.status(c, http.StatusForbidden, "permission denied")
	}
}

// isOurs reports whether the listener is called so: by the address that the
// connection came to, or by one of its names.
func (g gate) isOurs(r *http.Request, host string) bool {
	host = hostOf(host)
	if g.hosts[host] {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	at, err := netip.ParseAddrPort(local.String())
	if err != nil {
		return false
	}
	named, err := netip.ParseAddr(host)
	return err == nil && named.Unmap() == at.Addr().Unmap().WithZone("")
}

// isOurOrigin: only browsers say where a request began, and they say it always
// when it was elsewhere.
func (g gate) isOurOrigin(r *http.Request) bool {
	if strings.EqualFold(r.Header.Get("Sec-Fetch-Site"), "cross-site") {
		return false
	}
	for _, text := range r.Header.Values("Origin") {
		origin, err := url.Parse(text)
		if err != nil || origin.Scheme != "http" && origin.Scheme != "https" || !g.isOurs(r, origin.Host) {
			return false
		}
	}
	return true
}

// hostOf takes the port off a host, the brackets off an address, and the dot off
// a name's end.
func hostOf(text string) string {
	host, _, err := net.SplitHostPort(text)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// letIn is the door: a good token of a scope that is enough. Whatever is wrong
// with a token is answered alike.
func (g gate) letIn(c *gin.Context, need token.Scope) (string, bool) {
	shown, err := g.shown(c.Request)
	if err != nil {
		g.note(c, refusedToken)
		g.errs.fault(c, edgeclaim.ErrUnauthenticated)
		return "", false
	}
	who := "token:" + shown.Name
	if !shown.Scope.Allows(need) {
		g.noteWho(c, who, refusedScope)
		g.errs.fault(c, edgeclaim.ErrDenied)
		return "", false
	}
	return who, true
}

func (g gate) shown(r *http.Request) (token.Token, error) {
	headers := r.Header.Values("Authorization")
	if len(headers) != 1 || g.tokens == nil {
		return token.Token{}, edgeclaim.ErrUnauthenticated
	}
	secret, err := token.Parse(headers[0])
	if err != nil {
		return token.Token{}, err
	}
	return g.tokens.Check(secret)
}

// lookOnly guards the metrics.
func (g gate) lookOnly(c *gin.Context) { door(g.letIn).guard(token.ScopeRead)(c) }

func (g gate) note(c *gin.Context, reason string) { g.noteWho(c, "", reason) }

// noteWho writes a refusal down. The log counts those that are too many.
func (g gate) noteWho(c *gin.Context, who, reason string) {
	if g.audit != nil {
		g.audit.Add(audit.Entry{
			Kind: audit.KindAdminRefused, Who: who, Source: source(c.Request).String(), Reason: reason,
			Detail: map[string]string{"method": c.Request.Method, "route": c.FullPath()},
		})
	}
}

// isLoopback reports whether only the box itself reaches a listener.
func isLoopback(addr net.Addr) bool {
	at, err := netip.ParseAddrPort(addr.String())
	return err == nil && at.Addr().IsLoopback()
}

// unhurried gives an answer time for as long as its reader takes what is
// written, so that a list may be long and a reader that has stopped is not
// waited for.
func unhurried(cfg Config) gin.HandlerFunc {
	return func(c *gin.Context) {
		c.Writer = &steadyWriter{ResponseWriter: c.Writer, control: http.NewResponseController(c.Writer), limit: cfg.WriteTimeout}
	}
}

// steadyWriter sets a deadline for each write.
type steadyWriter struct {
	gin.ResponseWriter
	control *http.ResponseController
	limit   time.Duration
}

func (w *steadyWriter) Write(b []byte) (int, error) {
	w.extend()
	return w.ResponseWriter.Write(b)
}

func (w *steadyWriter) WriteString(s string) (int, error) {
	w.extend()
	return w.ResponseWriter.WriteString(s)
}

// Unwrap lets http.ResponseController find what it can do.
func (w *steadyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// extend: where a deadline cannot be set the connection is gone, and the write
// says so.
func (w *steadyWriter) extend() { _ = w.control.SetWriteDeadline(time.Now().Add(w.limit)) }
