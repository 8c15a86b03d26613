package adminsocket_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"edgeclaim/internal/adminsocket"
)

// exchange has one connection over the socket of dir.
func exchange(t *testing.T, dir string) {
	t.Helper()
	l, err := adminsocket.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			if _, ok := conn.(*net.UnixConn); !ok {
				t.Errorf("accepted a %T, whose peer nobody can ask for", conn)
			}
			_, err = conn.Write([]byte("hello"))
			conn.Close()
		}
		accepted <- err
	}()
	conn, err := adminsocket.Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := make([]byte, 5)
	if _, err := conn.Read(b); err != nil || string(b) != "hello" {
		t.Fatalf("read %q, %v", b, err)
	}
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, adminsocket.Name))
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode(); got != fs.ModeSocket|0o600 {
		t.Errorf("mode %v, want a socket with 0600", got)
	}
	if want := filepath.Join(dir, adminsocket.Name); l.Addr().String() != want {
		t.Errorf("address %v, want %v", l.Addr(), want)
	}
}

func TestExchange(t *testing.T) {
	for _, tt := range []struct{ name, sub string }{
		{"short path", "d"},
		{"path of 200 characters and more", strings.Repeat("d", 200)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), tt.sub)
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			exchange(t, dir)
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != 0 {
				t.Errorf("left behind: %v, %v", entries, err)
			}
			if _, err := adminsocket.Dial(t.Context(), dir); !errors.Is(err, adminsocket.ErrNotRunning) {
				t.Errorf("Dial after Close: %v, want ErrNotRunning", err)
			}
		})
	}
}

// A path around the limit of a socket address works on both sides of it.
func TestPathsAroundTheLimit(t *testing.T) {
	base := t.TempDir()
	for total := 100; total <= 112; total++ {
		pad := total - len(base) - len("//"+adminsocket.Name)
		if pad < 1 {
			t.Fatalf("the temporary folder %s is too long for this test", base)
		}
		dir := filepath.Join(base, strings.Repeat("p", pad))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		exchange(t, dir)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{adminsocket.Name, "admin.sock.new"} {
		stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		stale.SetUnlinkOnClose(false)
		stale.Close()
	}
	if _, err := adminsocket.Dial(t.Context(), dir); !errors.Is(err, adminsocket.ErrNotRunning) {
		t.Errorf("Dial of a stale socket: %v, want ErrNotRunning", err)
	}
	exchange(t, dir)
}

func TestCloseTwice(t *testing.T) {
	dir := t.TempDir()
	l, err := adminsocket.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	next, err := adminsocket.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	_ = l.Close() // must leave the successor's socket alone
	conn, err := adminsocket.Dial(t.Context(), dir)
	if err != nil {
		t.Fatalf("the successor's socket is gone: %v", err)
	}
	conn.Close()
}

func TestNoFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	if _, err := adminsocket.Dial(t.Context(), dir); !errors.Is(err, adminsocket.ErrNotRunning) {
		t.Errorf("Dial: %v, want ErrNotRunning", err)
	}
	if _, err := adminsocket.Listen(dir); err == nil {
		t.Error("Listen in no folder succeeded")
	}
}
