package httpapi

import (
	"net"
	"net/http"
	"sync/atomic"
)

// room counts a listener's open connections. Devices at work keep theirs open,
// and must not take the places that claims need: where they get scarce, an answer
// to a device ends its connection, and nobody waits for a command.
type room struct {
	most int64
	open atomic.Int64
}

// note follows a connection; it is an http.Server's ConnState.
func (r *room) note(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		r.open.Add(1)
	case http.StateClosed, http.StateHijacked:
		r.open.Add(-1)
	default:
	}
}

// scarce reports whether a quarter of the places, or fewer, are free.
func (r *room) scarce() bool { return r.open.Load()*4 > r.most*3 }
