// Package httpapi is the HTTP face of the rule, in gin: the claim listener that
// devices reach, and the admin API that the operator's commands use. Handlers
// decode, call and encode; no rule lives here.
package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"golang.org/x/net/netutil"
)

// Config holds the limits of one HTTP listener.
type Config struct {
	// MaxConnections is how many connections may be open at once; more wait in
	// the kernel's queue.
	MaxConnections int
	// ReadHeaderTimeout, ReadTimeout, WriteTimeout and IdleTimeout are those of
	// http.Server. WriteTimeout spans a claim's commit.
	ReadHeaderTimeout time.Duration
	ReadTimeout       time.Duration
	WriteTimeout      time.Duration
	IdleTimeout       time.Duration
	// MaxHeaderBytes bounds a request's header.
	MaxHeaderBytes int
	// ClaimTimeout is how long a claim may wait for its commit before it is
	// answered 503; a commit that is under way is waited for.
	ClaimTimeout time.Duration
	// DrainTimeout is how long a stop waits for the requests being answered.
	DrainTimeout time.Duration
}

// Defaults returns limits that a small box can live with.
func Defaults() Config {
	return Config{
		MaxConnections:    4096,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ClaimTimeout:      10 * time.Second,
		DrainTimeout:      10 * time.Second,
	}
}

// Validate names the first limit that is out of range.
func (c Config) Validate() error {
	if c.MaxConnections < 1 {
		return errors.New("max_connections: want at least 1")
	}
	if c.MaxHeaderBytes < 1<<10 {
		return errors.New("max_header_bytes: want at least 1024")
	}
	for name, d := range map[string]time.Duration{
		"read_header_timeout": c.ReadHeaderTimeout, "read_timeout": c.ReadTimeout, "write_timeout": c.WriteTimeout,
		"idle_timeout": c.IdleTimeout, "claim_timeout": c.ClaimTimeout, "drain_timeout": c.DrainTimeout,
	} {
		if d <= 0 {
			return fmt.Errorf("%s: want more than 0", name)
		}
	}
	if c.ClaimTimeout >= c.WriteTimeout {
		return errors.New("claim_timeout: want less than write_timeout")
	}
	return nil
}

// Server serves one listener.
type Server struct {
	cfg      Config
	listener net.Listener
	http     *http.Server
}

// newServer serves handler on listener, with every time-out set: a bare
// http.Server has none, and a listener that devices reach needs them all.
func newServer(cfg Config, listener net.Listener, handler http.Handler, logger *slog.Logger) *Server {
	return &Server{
		cfg:      cfg,
		listener: listener,
		http: &http.Server{
			Handler:           handler,
			ReadHeaderTimeout: cfg.ReadHeaderTimeout,
			ReadTimeout:       cfg.ReadTimeout,
			WriteTimeout:      cfg.WriteTimeout,
			IdleTimeout:       cfg.IdleTimeout,
			MaxHeaderBytes:    cfg.MaxHeaderBytes,
			// Its messages are about clients' bad TLS and headers.
			ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		},
	}
}

// Addr is where the server listens, with the real port.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Run serves until ctx ends, then answers the requests it has taken, for
// DrainTimeout at the most. It returns nil after an orderly stop.
func (s *Server) Run(ctx context.Context) error {
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainTimeout)
		defer cancel()
		err := s.http.Shutdown(drain)
		if err != nil {
			err = errors.Join(err, s.http.Close())
		}
		stopped <- err
	})
	err := s.http.Serve(s.listener)
	if !errors.Is(err, http.ErrServerClosed) {
		stop()
		return fmt.Errorf("serve http on %s: %w", s.listener.Addr(), err)
	}
	// Serve returns when a shutdown begins; Run when it has ended.
	if err := <-stopped; err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("stop http on %s: %w", s.listener.Addr(), err)
	}
	return nil
}

// bounded lets no more than MaxConnections be open at once.
func bounded(cfg Config, listener net.Listener) net.Listener {
	return netutil.LimitListener(listener, cfg.MaxConnections)
}

// newEngine returns a gin engine that trusts no proxy, redirects nothing and
// answers what it does not know with the error document.
func newEngine(errs errorWriter, logger *slog.Logger) *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.RedirectTrailingSlash = false
	engine.RedirectFixedPath = false
	engine.HandleMethodNotAllowed = true
	engine.ContextWithFallback = false // it races with net/http's own cancelling
	_ = engine.SetTrustedProxies(nil)  // nil parses
	engine.Use(requestID(), recovered(errs, logger))
	engine.NoRoute(func(c *gin.Context) { errs.status(c, http.StatusNotFound, "not found") })
	engine.NoMethod(func(c *gin.Context) { errs.status(c, http.StatusMethodNotAllowed, "method not allowed") })
	return engine
}

// Listen binds a TCP address.
func Listen(addr string) (net.Listener, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for http: %w", err)
	}
	return listener, nil
}
