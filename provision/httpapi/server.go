// Package httpapi is the HTTP face of the rule, in gin: the listener that
// devices reach, and the admin API, over a Unix socket for the operator's
// commands and over TCP for who has a token. Handlers decode, call and encode;
// no rule lives here.
package httpapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"edgeclaim/internal/crowd"

	"github.com/gin-gonic/gin"
	"golang.org/x/net/netutil"
)

// Config holds the limits of one HTTP listener.
type Config struct {
	// MaxConnections is how many connections may be open at once; more wait in
	// the kernel's queue.
	MaxConnections int
	// MaxPerSource is how many of them one source may have, an IPv4 address or
	// a /64 of IPv6; more are closed at once. What runs on the box itself is
	// not counted.
	MaxPerSource int
	// MaxRefused is how many refused requests a device's connection may make
	// before it is closed.
	MaxRefused int
	// MaxPolls is how many devices may wait for a command at once; more are put
	// off, and so are all where few connections are left for claims.
	MaxPolls int
	// ReadHeaderTimeout, ReadTimeout, WriteTimeout and IdleTimeout are those of
	// http.Server. WriteTimeout spans a claim's commit.
	ReadHeaderTimeout time.Duration
	ReadTimeout       time.Duration
	WriteTimeout      time.Duration
	IdleTimeout       time.Duration
	// MaxHeaderBytes bounds a request's header.
	MaxHeaderBytes int
	// ClaimTimeout is how long a claim, or what a device says, may wait for its
	// commit before it is answered 503; a claim's commit that is under way is
	// waited for.
	ClaimTimeout time.Duration
	// DrainTimeout is how long a stop waits for the requests being answered.
	DrainTimeout time.Duration
}

// Defaults returns limits that a small box can live with.
func Defaults() Config {
	return Config{
		MaxConnections:    4096,
		MaxPerSource:      512,
		MaxRefused:        16,
		MaxPolls:          1024,
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
	if c.MaxPerSource < 1 {
		return errors.New("max_per_source: want at least 1")
	}
	if c.MaxRefused < 1 {
		return errors.New("max_refused: want at least 1")
	}
	if c.MaxPolls < 1 {
		return errors.New("max_polls: want at least 1")
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
	only := new(http.Protocols)
	only.SetHTTP1(true) // streams and their floods buy nobody anything here
	return &Server{
		cfg:      cfg,
		listener: listener,
		http: &http.Server{
			Protocols:         only,
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

// bounded lets no more than MaxConnections be open at once, and MaxPerSource of
// one source, which never take a place then. TLS comes on top: net/http knows a
// TLS connection only where nothing is wrapped around it.
func bounded(cfg Config, listener net.Listener, secure *tls.Config) net.Listener {
	listener = crowd.Listener(listener, crowd.New(cfg.MaxPerSource, crowd.Loopback))
	listener = netutil.LimitListener(listener, cfg.MaxConnections)
	if secure == nil {
		return listener
	}
	return tls.NewListener(listener, secure)
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
	engine.UseRawPath = true           // a hardware id may hold a slash
	engine.UnescapePathValues = false  // it would make a blank of a plus; see pathValue
	engine.Use(requestID(), recovered(errs, logger), uncompressed(errs))
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
