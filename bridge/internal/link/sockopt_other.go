//go:build !linux

package link

import "syscall"

// limitUnacknowledged does nothing where TCP_USER_TIMEOUT is not known; the
// deadline on every write and MQTT's keep-alive still hold.
func limitUnacknowledged(_, _ string, _ syscall.RawConn) error { return nil }
