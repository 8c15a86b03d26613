package adminsocket

import (
	"log/slog"
	"net"
	"os"
)

// Guard lets in only root and the user that this program runs as, whatever the
// modes of the socket and its folder have become. It closes every other
// connection, and one that the kernel does not name the owner of, and logs it.
func Guard(l net.Listener, logger *slog.Logger) net.Listener {
	return &guard{Listener: l, own: uint32(os.Geteuid()), logger: logger}
}

type guard struct {
	net.Listener
	own    uint32
	logger *slog.Logger
}

// Accept returns the next connection of somebody who may be here.
func (g *guard) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer, err := PeerOf(conn)
		if err == nil && (peer.UID == 0 || peer.UID == g.own) {
			return conn, nil
		}
		if err != nil {
			g.logger.Warn("admin connection of an unknown user refused", "err", err)
		} else {
			g.logger.Warn("admin connection of another user refused", "peer", peer)
		}
		conn.Close()
	}
}
