package adminsocket

import (
	"errors"
	"log/slog"
	"net"

	"golang.org/x/sys/unix"
)

// Peer is who is at the other end of a Unix socket, by the kernel's word.
type Peer struct {
	UID uint32
	PID int32
}

// LogValue implements slog.LogValuer.
func (p Peer) LogValue() slog.Value {
	return slog.GroupValue(slog.Uint64("uid", uint64(p.UID)), slog.Int64("pid", int64(p.PID)))
}

// PeerOf asks the kernel who connected (SO_PEERCRED).
func PeerOf(conn net.Conn) (Peer, error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return Peer{}, errors.New("not a unix socket")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var cred *unix.Ucred
	var asked error
	err = raw.Control(func(fd uintptr) {
		cred, asked = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, asked); err != nil {
		return Peer{}, err
	}
	return Peer{UID: cred.Uid, PID: cred.Pid}, nil
}
