package clock

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// synced asks the kernel without changing anything. The kernel sets STA_UNSYNC
// when the clock is set by hand, and when nobody disciplined it for so long
// that its error may exceed 16 s.
func synced() bool {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return err == nil && state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0
}

// uptime reads CLOCK_BOOTTIME, which unlike Go's monotonic clock goes on while
// the machine is suspended.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// bootID is the kernel's boot id, "unknown" where /proc is not mounted.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(id))
}
