// Package postgres starts real PostgreSQL servers for tests.
package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// RequireVariable, set in the environment, makes a missing PostgreSQL a failure
// instead of a skipped test.
const RequireVariable = "EDGECLAIM_REQUIRE_POSTGRES"

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 10 * time.Second
	pollEvery    = 10 * time.Millisecond
	starts       = 3 // tries, as somebody else may take the port between
	superuser    = "edgeclaim"
)

// Server is one server on 127.0.0.1, whose data lies in memory as far as it
// can. Its methods belong to the test's own goroutine.
type Server struct {
	t    testing.TB
	dir  string
	as   *syscall.Credential // nil: as the test
	port int
	log  bytes.Buffer // written by the process until done is closed

	process   *exec.Cmd
	done      chan struct{}
	databases int
}

// Start starts a server on a free port and waits until it takes connections.
// It ends with the test. Without PostgreSQL on this machine the test is
// skipped, or fails when RequireVariable says so.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, as: unprivileged(t)}
	s.initialize(find(t, "initdb"))
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("postgres said:\n%s", s.log.String())
		}
		_ = os.RemoveAll(s.dir)
	})
	path := find(t, "postgres")
	for range starts {
		if s.start(path) {
			return s
		}
	}
	t.Fatal("postgres does not take connections")
	return nil
}

// URL makes a new, empty database and returns its URL.
func (s *Server) URL() string {
	s.t.Helper()
	s.databases++
	name := "test" + strconv.Itoa(s.databases)
	cmd := exec.Command(find(s.t, "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", "CREATE DATABASE "+name, s.url("postgres"))
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("psql: %v: %s", err, out)
	}
	return s.url(name)
}

func (s *Server) url(database string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", superuser, s.port, database)
}

// Stop ends the server as a crash would, and waits for it. Without one it does
// nothing.
func (s *Server) Stop() {
	s.t.Helper()
	if s.process == nil {
		return
	}
	// SIGQUIT is the immediate shutdown: the children go too.
	if err := s.process.Process.Signal(syscall.SIGQUIT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Error(err)
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-timer.C:
		_ = s.process.Process.Kill()
		<-s.done
		s.t.Error("postgres did not stop in time")
	}
	s.process = nil
}

// initialize makes the server's folder. It is not the test's own, which only
// the test's user may enter.
func (s *Server) initialize(initdb string) {
	s.t.Helper()
	dir, err := os.MkdirTemp("", "edgeclaim-postgres-")
	if err != nil {
		s.t.Fatal(err)
	}
	s.dir = dir
	if s.as != nil {
		if err := os.Chown(dir, int(s.as.Uid), int(s.as.Gid)); err != nil {
			s.t.Fatal(err)
		}
	}
	cmd := s.command(initdb, "-D", filepath.Join(dir, "data"), "-A", "trust", "-U", superuser, "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := cmd.CombinedOutput(); err != nil {
		_ = os.RemoveAll(dir)
		s.t.Fatalf("initdb: %v: %s", err, out)
	}
}

// start starts the server; it reports false when it ended before it took
// connections.
func (s *Server) start(path string) bool {
	s.t.Helper()
	s.port = freePort(s.t)
	s.process = s.command(path, "-D", filepath.Join(s.dir, "data"), "-k", s.dir, "-p", strconv.Itoa(s.port),
		"-c", "listen_addresses=127.0.0.1", "-c", "max_connections=100", "-c", "fsync=on")
	s.process.Stdout, s.process.Stderr = &s.log, &s.log
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	done, process := make(chan struct{}), s.process
	s.done = done
	go func() { // owned by the server: Stop awaits it
		defer close(done)
		_ = process.Wait()
	}()
	return s.await()
}

// await polls until the server answers a query.
func (s *Server) await() bool {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		if exec.CommandContext(ctx, find(s.t, "psql"), "-X", "-q", "-c", "SELECT 1", s.url("postgres")).Run() == nil {
			return true
		}
		select {
		case <-ticker.C:
		case <-s.done:
			s.process = nil
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// command makes a program of the server, to be run as its user.
func (s *Server) command(path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	return cmd
}

// unprivileged is whom the server runs as: it refuses to be root.
func unprivileged(t testing.TB) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, bad := strconv.ParseUint(found.Uid, 10, 32)
		gid, worse := strconv.ParseUint(found.Gid, 10, 32)
		if bad == nil && worse == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	t.Fatal("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
	return nil
}

// find looks a program up, also where Debian puts each version's.
func find(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	switch {
	case err == nil && len(found) > 0:
		return slices.Max(found)
	case os.Getenv(RequireVariable) != "":
		t.Fatalf("%s is not installed, and %s requires it", name, RequireVariable)
	default:
		t.Skipf("%s is not installed (apt-get install postgresql)", name)
	}
	return ""
}

// freePort returns a port of 127.0.0.1 that nothing listens on just now.
func freePort(t testing.TB) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	address, _ := listener.Addr().(*net.TCPAddr) // always, of tcp
	return address.Port
}
