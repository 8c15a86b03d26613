package adminsocket_test

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"edgeclaim/internal/adminsocket"
)

// stranger is a user id that is neither root nor, as root, ours.
const stranger = 65534

// TestNeverOpenToOthers looks at what Listen makes while it makes it, under a
// umask that takes nothing away.
func TestNeverOpenToOthers(t *testing.T) {
	dir := t.TempDir()
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	var fresh atomic.Int64 // how often the look fell between the making and the move
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, name := range []string{"admin.sock.new", adminsocket.Name} {
				info, err := os.Lstat(filepath.Join(dir, name))
				if err != nil {
					continue
				}
				if info.Mode().Perm()&0o077 != 0 {
					t.Errorf("%s was there with mode %v", name, info.Mode())
					return
				}
				if name != adminsocket.Name {
					fresh.Add(1)
				}
			}
		}
	}()
	for deadline := time.Now().Add(20 * time.Second); fresh.Load() < 300 && !t.Failed(); {
		l, err := adminsocket.Listen(dir)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		if time.Now().After(deadline) {
			t.Fatalf("looked at the right moment %d times only", fresh.Load())
		}
	}
	close(stop)
	<-stopped
}

// A crash between the making and the move leaves a folder behind.
func TestFolderOfACrashIsRemoved(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, "admin.sock.new")
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(left, adminsocket.Name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	exchange(t, dir)
	if _, err := os.Lstat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// TestGuard opens folder and socket to all, and still only root and our own
// user are let in.
func TestGuard(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can connect as somebody else")
	}
	dir, err := os.MkdirTemp("", "guard") // TempDir's own parent is closed to others
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	inner, err := adminsocket.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]fs.FileMode{dir: 0o755, filepath.Join(dir, adminsocket.Name): 0o666} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	var said bytes.Buffer
	l := adminsocket.Guard(inner, slog.New(slog.NewTextHandler(&said, nil)))
	accepted := make(chan net.Conn, 2)
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()

	t.Cleanup(func() {
		l.Close()
		<-served
	})

	foreign := dialAs(t, dir, stranger)
	defer foreign.Close()
	foreign.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := foreign.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a stranger's connection was not closed: %v", err)
	}
	own, err := adminsocket.Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	select {
	case conn := <-accepted:
		conn.Close()
	case <-time.After(10 * time.Second):
		t.Error("our own connection was not let in")
	}
	l.Close()
	<-served
	if len(accepted) != 0 {
		t.Error("a stranger was let in")
	}
	if n := strings.Count(said.String(), "uid=65534"); n != 1 {
		t.Errorf("the stranger was logged %d times:\n%s", n, said.String())
	}
}

// dialAs connects as another user: Linux keeps the user by thread, so a
// goroutine changes that of its own thread, which ends with it.
func dialAs(t *testing.T, dir string, uid int) net.Conn {
	t.Helper()
	type result struct {
		conn  net.Conn
		err   error
		errno syscall.Errno // of becoming the other
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		keep := ^uintptr(0)
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
			done <- result{errno: errno}
			return
		}
		conn, err := net.Dial("unix", filepath.Join(dir, adminsocket.Name))
		done <- result{conn: conn, err: err}
	}()
	r := <-done
	if r.errno != 0 { // a container without that user, or without the capability
		t.Skipf("cannot become user %d here: %v", uid, r.errno)
	}
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.conn
}

// What is no Unix socket has no owner that the kernel knows.
func TestGuardRefusesWhatHasNoOwner(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := adminsocket.Guard(inner, slog.New(slog.DiscardHandler))
	served := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		served <- err
	}()
	conn, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it was not closed: %v", err)
	}
	l.Close()
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v, want the listener's own end", err)
	}
}
