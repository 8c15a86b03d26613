package tlsconf

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"edgeclaim"
)

// ReloadEvery is how often it is looked at whether another certificate is to be
// served.
const ReloadEvery = 10 * time.Second

// Files are a certificate with its chain, and its key, both PEM. Both are named
// or none.
type Files struct {
	CertFile, KeyFile string
}

func (f Files) none() bool { return f == Files{} }

// Validate returns ErrInvalid, by the configuration's key, when only one is
// named.
func (f Files) Validate() error {
	switch {
	case f.CertFile == "" && f.KeyFile != "":
		return edgeclaim.Invalid("cert_file", "key_file is set, so this one has to be too")
	case f.CertFile != "" && f.KeyFile == "":
		return edgeclaim.Invalid("key_file", "cert_file is set, so this one has to be too")
	}
	return nil
}

// Config says which certificate is served.
type Config struct {
	Files
	// Every is how often files are looked at; 0 for ReloadEvery.
	Every time.Duration
	// Now is the box's clock; nil for time.Now.
	Now func() time.Time
	// Alarm is told once of each problem with the certificate; nil for nobody.
	Alarm  func()
	Logger *slog.Logger
}

// Source has the certificate that listeners serve. It is safe for concurrent
// use.
type Source struct {
	cfg     Config
	own     func() (tls.Certificate, error)
	present atomic.Pointer[tls.Certificate] // its Leaf is set; never changed once it is here
	problem atomic.Pointer[string]          // nil for none

	mu   sync.Mutex // held while files are looked at
	seen seen       // what was loaded last; guarded by mu
}

// seen is what the files looked like.
type seen struct{ cert, key os.FileInfo }

// NewSource loads the certificate: that of the files or, where none are named,
// what own returns, the box's own for the names it has by now. own is called
// again at every look, and returns the same for as long as it serves. An error
// is the files' or own's. A certificate that has ended is served all the same,
// and said to be a problem: the box's clock may be what is wrong, and a device
// without a clock does not mind.
func NewSource(cfg Config, own func() (tls.Certificate, error)) (*Source, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Every <= 0 {
		cfg.Every = ReloadEvery
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Alarm == nil {
		cfg.Alarm = func() {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Source{cfg: cfg, own: own}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.lookLocked()
	certificate, err := s.loadLocked()
	if err != nil {
		return nil, err
	}
	s.seen = found
	s.present.Store(certificate)
	s.judge(certificate, nil)
	return s, nil
}

// Run looks for another certificate until ctx is done. It returns nil.
func (s *Source) Run(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.look(false)
		}
	}
}

// Reload looks for another certificate at once, also where the files look as
// they did. What cannot be used is logged, raised, and not served.
func (s *Source) Reload() { s.look(true) }

// NotAfter is when the certificate that is served ends.
func (s *Source) NotAfter() time.Time { return s.present.Load().Leaf.NotAfter }

// Problem says what is wrong with the certificate that ought to be served;
// empty for nothing.
func (s *Source) Problem() string {
	if problem := s.problem.Load(); problem != nil {
		return *problem
	}
	return ""
}

func (s *Source) certificate() *tls.Certificate { return s.present.Load() }

// look takes another certificate, if there is one that can be served. While
// there is a problem it tries every time: of a pair that is replaced file by
// file, one look may see half.
func (s *Source) look(force bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.lookLocked()
	if !force && s.Problem() == "" && !s.cfg.none() && found.same(s.seen) {
		s.judge(s.present.Load(), nil) // it may have ended since
		return
	}
	s.seen = found // before it is loaded: what changes meanwhile is seen next time
	certificate, err := s.loadLocked()
	if err == nil && s.ended(certificate) && !s.ended(s.present.Load()) {
		err = errEnded
	}
	if err != nil {
		s.judge(s.present.Load(), err)
		return
	}
	if old := s.present.Swap(certificate); !old.Leaf.Equal(certificate.Leaf) {
		s.cfg.Logger.Info("certificate replaced", "not_after", certificate.Leaf.NotAfter)
	}
	s.judge(certificate, nil)
}

var errEnded = errors.New("the certificate has ended by the box's clock")

func (s *Source) ended(certificate *tls.Certificate) bool {
	return s.cfg.Now().After(certificate.Leaf.NotAfter)
}

// judge says once what is wrong, and once that it is not any more.
func (s *Source) judge(served *tls.Certificate, failed error) {
	if failed == nil && s.ended(served) {
		failed = errEnded
	}
	was, is := s.Problem(), ""
	if failed != nil {
		is = failed.Error()
	}
	if was == is {
		return
	}
	s.problem.Store(&is)
	if is == "" {
		s.cfg.Logger.Info("certificate in order again", "not_after", served.Leaf.NotAfter)
		return
	}
	s.cfg.Logger.Error("certificate not usable", "err", failed, "serving_until", served.Leaf.NotAfter)
	s.cfg.Alarm()
}

// lookLocked looks at the files; what is not there is nil.
func (s *Source) lookLocked() seen {
	var found seen
	if !s.cfg.none() {
		found.cert, _ = os.Stat(s.cfg.CertFile)
		found.key, _ = os.Stat(s.cfg.KeyFile)
	}
	return found
}

func (s seen) same(other seen) bool {
	return sameFile(s.cert, other.cert) && sameFile(s.key, other.key)
}

// sameFile compares what os.Stat says: the inode, time and size.
func sameFile(x, y os.FileInfo) bool {
	return x != nil && y != nil && os.SameFile(x, y) && x.ModTime().Equal(y.ModTime()) && x.Size() == y.Size()
}

// loadLocked reads a pair that fits together.
func (s *Source) loadLocked() (*tls.Certificate, error) {
	var certificate tls.Certificate
	var err error
	if s.cfg.none() {
		certificate, err = s.own()
	} else if certificate, err = tls.LoadX509KeyPair(s.cfg.CertFile, s.cfg.KeyFile); err != nil {
		err = fmt.Errorf("cert_file, key_file: %w", err)
	}
	if err == nil && certificate.Leaf == nil {
		certificate.Leaf, err = leafOf(certificate)
	}
	if err != nil {
		return nil, err
	}
	return &certificate, nil
}

func leafOf(certificate tls.Certificate) (*x509.Certificate, error) {
	if len(certificate.Certificate) == 0 {
		return nil, errors.New("no certificate")
	}
	return x509.ParseCertificate(certificate.Certificate[0])
}
