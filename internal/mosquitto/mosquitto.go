// Package mosquitto starts real Mosquitto brokers for tests.
package mosquitto

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// RequireVariable, set to 1 in the environment, makes a missing Mosquitto a
// failure instead of a skipped test.
const RequireVariable = "EDGECLAIM_REQUIRE_MOSQUITTO"

const (
	startTimeout = 10 * time.Second
	stopTimeout  = 5 * time.Second
	pollEvery    = 10 * time.Millisecond
)

// Options is how a broker is set up. The zero value takes anyone, in plain.
type Options struct {
	// Users are the user names with their passwords; nil lets anyone in.
	Users map[string]string
	// CAFile, CertFile and KeyFile make a TLS listener that asks for a client
	// certificate signed by the CA.
	CAFile, CertFile, KeyFile string
	// Extra lines of mosquitto.conf.
	Extra []string
}

// Server is one broker on 127.0.0.1. Its methods belong to the test's own
// goroutine.
type Server struct {
	t    testing.TB
	conf string
	addr string
	log  bytes.Buffer // written by the process until done is closed

	process *exec.Cmd
	done    chan struct{}
}

// Start starts a broker on a free port and waits until it accepts connections.
// It ends with the test. Without Mosquitto on this machine the test is skipped,
// or fails when RequireVariable says so.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s := New(t, o)
	s.Restart()
	return s
}

// New prepares a broker that Restart starts.
func New(t testing.TB, o Options) *Server {
	t.Helper()
	find(t, "mosquitto")
	s := &Server{t: t, addr: freeAddress(t)}
	dir := t.TempDir()
	s.conf = filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(s.conf, []byte(s.configuration(dir, o)), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("mosquitto said:\n%s", s.log.String())
		}
	})
	return s
}

// Addr returns host:port, the same over restarts.
func (s *Server) Addr() string { return s.addr }

// Restart starts the broker on its port, after Stop or Kill, and waits until it
// accepts connections.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	path := find(s.t, "mosquitto")
	s.process = exec.Command(path, "-c", s.conf)
	s.process.Stdout, s.process.Stderr = &s.log, &s.log
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	s.done = done
	process := s.process
	go func() { // owned by the server: Kill and Stop await it
		defer close(done)
		_ = process.Wait()
	}()
	s.await()
}

// Stop ends the broker with SIGTERM and waits for it.
func (s *Server) Stop() { s.signal(syscall.SIGTERM) }

// Kill ends the broker with SIGKILL and waits for it. Without one it does
// nothing.
func (s *Server) Kill() { s.signal(os.Kill) }

func (s *Server) signal(sig os.Signal) {
	s.t.Helper()
	if s.process == nil {
		return
	}
	if err := s.process.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Fatal(err)
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-timer.C:
		_ = s.process.Process.Kill()
		<-s.done
		s.t.Error("mosquitto did not stop in time")
	}
	s.process = nil
}

// await polls until the broker accepts connections.
func (s *Server) await() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.addr)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-ticker.C:
		case <-s.done:
			s.process = nil
			s.t.Fatalf("mosquitto ended at once:\n%s", s.log.String())
		case <-ctx.Done():
			s.t.Fatalf("mosquitto does not accept connections: %v", err)
		}
	}
}

func (s *Server) configuration(dir string, o Options) string {
	s.t.Helper()
	host, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	lines := []string{
		"listener " + port + " " + host,
		"persistence false",
		"log_dest stderr",
		// By default the oldest beyond 1000 queued messages are dropped.
		"max_queued_messages 0",
		"max_inflight_messages 0",
	}
	if os.Geteuid() == 0 {
		// Else it becomes another user, who may not read the test's folder.
		lines = append(lines, "user root")
	}
	if o.Users == nil {
		lines = append(lines, "allow_anonymous true")
	} else {
		lines = append(lines, "allow_anonymous false", "password_file "+s.passwords(dir, o.Users))
	}
	if o.CertFile != "" {
		lines = append(lines, "cafile "+o.CAFile, "certfile "+o.CertFile, "keyfile "+o.KeyFile,
			"require_certificate true")
	}
	return strings.Join(append(lines, o.Extra...), "\n") + "\n"
}

// passwords writes a password file, hashed by Mosquitto's own tool.
func (s *Server) passwords(dir string, users map[string]string) string {
	s.t.Helper()
	path := filepath.Join(dir, "passwords")
	var plain strings.Builder
	for name, password := range users {
		fmt.Fprintf(&plain, "%s:%s\n", name, password)
	}
	if err := os.WriteFile(path, []byte(plain.String()), 0o600); err != nil {
		s.t.Fatal(err)
	}
	out, err := exec.Command(find(s.t, "mosquitto_passwd"), "-U", path).CombinedOutput()
	if err != nil {
		s.t.Fatalf("mosquitto_passwd: %v: %s", err, out)
	}
	return path
}

// find looks a program up, in /usr/sbin as well, where Debian puts the broker
// and users seldom look.
func find(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	switch {
	case err == nil:
		return path
	case os.Getenv(RequireVariable) == "1":
		t.Fatalf("%s is not installed, and %s=1 requires it", name, RequireVariable)
	default:
		t.Skipf("%s is not installed (apt-get install mosquitto)", name)
	}
	return ""
}

// freeAddress returns a loopback address that nothing listens on just now.
func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
