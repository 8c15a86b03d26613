// Package adminsocket is the Unix socket in the data folder by which the
// commands talk to the running program. Whoever is let in may do everything: the
// folder's mode (0700) and its own (0600) are the lock, and Guard asks the kernel
// who came through it.
package adminsocket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// Name is the socket's name in the data folder.
	Name = "admin.sock"
	// fresh is the folder it is made in: it is moved out when its mode is set, so
	// that nobody ever finds it open to others, nor a moment without one.
	fresh = "admin.sock.new"
)

// ErrNotRunning: no program listens in the folder.
var ErrNotRunning = errors.New("no box is running")

// Listen makes the socket in dir and listens. The caller holds the folder's
// lock: a socket that is there already is what a crash left, and is replaced.
// The connections are *net.UnixConn, which can be asked who is there. Close
// removes the socket.
func Listen(dir string) (net.Listener, error) {
	inner, err := bind(dir)
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	return &listener{UnixListener: inner, path: filepath.Join(dir, Name)}, nil
}

// bind makes the socket in a folder that only we can enter, because bind(2)
// gives it the mode that the umask leaves, and a mode set afterwards comes too
// late for who was quick.
func bind(dir string) (*net.UnixListener, error) {
	private := filepath.Join(dir, fresh)
	if err := os.RemoveAll(private); err != nil { // a crash may have left it
		return nil, err
	}
	if err := os.Mkdir(private, 0o700); err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)     //nolint:errcheck // the next Listen would remove it
	folder, err := os.Open(private) //nolint:gosec // made just now
	if err != nil {
		return nil, err
	}
	defer folder.Close() //nolint:errcheck // only read
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: within(folder, Name), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it is about to have another name
	from := filepath.Join(private, Name)
	if err := errors.Join(os.Chmod(from, 0o600), os.Rename(from, filepath.Join(dir, Name))); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Dial connects to the program that runs on dir; ErrNotRunning when none does.
func Dial(ctx context.Context, dir string) (net.Conn, error) {
	folder, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	defer folder.Close() //nolint:errcheck // only read
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", within(folder, Name))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	return conn, nil
}

// within names a file in an open folder by a path that fits into a socket
// address (108 bytes) however long the folder's own is.
func within(folder *os.File, name string) string {
	if path := filepath.Join(folder.Name(), name); len(path) < unix.SizeofSockaddrUnix-2 {
		return path
	}
	return "/proc/self/fd/" + strconv.Itoa(int(folder.Fd())) + "/" + name
}

// listener removes its socket when closed.
type listener struct {
	*net.UnixListener
	path   string
	remove sync.Once // http.Server closes more than once
}

// Addr is the socket in the data folder, not the name it was made under.
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close stops listening and removes the socket. It comes before the folder's
// lock is given up, so that the socket removed is never a successor's.
func (l *listener) Close() error {
	var err error
	l.remove.Do(func() {
		if err = os.Remove(l.path); errors.Is(err, os.ErrNotExist) {
			err = nil
		}
	})
	return errors.Join(l.UnixListener.Close(), err)
}
