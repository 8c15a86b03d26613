package telemetry

import (
	"fmt"
	"time"

	"edgeclaim"
)

// Limits of what is said.
const (
	// MaxPoint is the largest single point, and MaxEvent the largest event, in
	// bytes: what one message upstream, and one record of the registry, can
	// carry with all that is written around it.
	MaxPoint = 62 << 10
	MaxEvent = 62 << 10
)

// Bounds of a Config.
const (
	leastSegment = 64 << 10
	// leastUnsynced is what the largest report takes with a header for each of
	// its points.
	leastUnsynced = edgeclaim.MaxReport + edgeclaim.MaxPoints*maxHeader
	// mostPerSecond, of a device's points.
	mostPerSecond = 100_000
	leastOffline  = 10 * time.Millisecond
	mostOffline   = 24 * time.Hour
	mostPresent   = 1_000_000
)

// Config says where what devices say is kept, and how much of it (P7).
type Config struct {
	// Dir is the data folder; the logs lie in telemetry/points and
	// telemetry/events below it.
	Dir string
	// SegmentBytes is how large one file of a log gets.
	SegmentBytes int64
	// MaxBytes bounds the points on the disk, and EventsMaxBytes the events
	// that are not in the registry yet; full, the oldest file goes.
	MaxBytes       int64
	EventsMaxBytes int64
	// DiskReserve is how much of the file system is left to claims, in bytes.
	DiskReserve int64
	// MaxUnsynced is how many bytes may wait for the disk, in each log.
	MaxUnsynced int
	// MaxDevicePoints is how many points, and events, of one device are taken
	// in a second; twice as many at once. Each KiB of a report is a point, too.
	MaxDevicePoints int
	// OfflineAfter is how long a device may be silent and count as at work, where
	// its profile does not say.
	OfflineAfter time.Duration
	// MaxPresent is how many devices are known to be at work, and how many are
	// remembered that were, some 300 bytes each. Above, the one silent longest
	// counts as offline.
	MaxPresent int
}

// Defaults returns the configuration of a box that nobody configured, but for
// the folder.
func Defaults() Config {
	return Config{
		SegmentBytes: 8 << 20, MaxBytes: 512 << 20, EventsMaxBytes: 64 << 20,
		DiskReserve: 64 << 20, MaxUnsynced: 4 << 20,
		MaxDevicePoints: 1000, OfflineAfter: 120 * time.Second, MaxPresent: 100_000,
	}
}

// Validate returns an error that names the first key at fault, as it is spelled
// in the configuration file.
func (c *Config) Validate() error {
	least := 2 * c.SegmentBytes
	switch {
	case c.Dir == "":
		return fmt.Errorf("dir: want a folder")
	case c.SegmentBytes < leastSegment || c.SegmentBytes > 1<<30:
		return fmt.Errorf("segment_bytes: want %d to %d", leastSegment, 1<<30)
	case c.MaxBytes < least:
		return fmt.Errorf("max_bytes: want at least two segments")
	case c.EventsMaxBytes < least:
		return fmt.Errorf("events_max_bytes: want at least two segments")
	case c.DiskReserve < 0:
		return fmt.Errorf("disk_reserve: want no negative number")
	case c.MaxUnsynced < leastUnsynced:
		return fmt.Errorf("max_unsynced: want at least %d", leastUnsynced)
	case c.MaxDevicePoints < 1 || c.MaxDevicePoints > mostPerSecond:
		return fmt.Errorf("max_device_points: want 1 to %d", mostPerSecond)
	case c.OfflineAfter < leastOffline || c.OfflineAfter > mostOffline:
		return fmt.Errorf("offline_after: want %s to %s", leastOffline, mostOffline)
	case c.MaxPresent < 1 || c.MaxPresent > mostPresent:
		return fmt.Errorf("max_present: want 1 to %d", mostPresent)
	}
	return nil
}
