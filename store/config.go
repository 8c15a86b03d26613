package store

import (
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"time"

	"edgeclaim"
)

// Limits that no configuration changes.
const (
	// MaxGroup is how many callers share one transaction at most.
	MaxGroup = 512
	// MaxRecord is the largest record, in encoded bytes.
	MaxRecord = 64 << 10

	// minLaneRecords and minLaneBytes leave room for a chunk to drop, the gap
	// record that says so and the largest record.
	minLaneRecords = 16
	minLaneBytes   = 16 * MaxRecord
	// minBytes is the smallest useful file limit: bbolt grows by 16 MiB.
	minBytes = 64 << 20
)

// Config is what Open needs to know. Start from Defaults.
type Config struct {
	// Dir is the data folder; it is made, 0700, when it is not there.
	Dir string
	// MaxBytes is how large the registry's file may grow, at least 64 MiB; at
	// the limit, writes fail with ErrUnavailable.
	MaxBytes int64
	// ProvMaxRecords and ProvMaxBytes bound the provisioning lane; full, claims
	// fail with ErrUnavailable (P6), and to revoke, release and swap has a
	// sixteenth beyond them. At least 16 records and 1 MiB.
	ProvMaxRecords uint64
	ProvMaxBytes   uint64
	// EvtMaxRecords and EvtMaxBytes bound the event lane; full, the oldest
	// sixteenth goes and a gap record says so (P7). At least 16 and 1 MiB.
	EvtMaxRecords uint64
	EvtMaxBytes   uint64
	// MaxTemplates bounds the templates, which are all kept in memory.
	MaxTemplates int
	// Linger is how long a group of writers waits, at most, for those of the
	// last group to come back; never longer than the last commit took, and
	// never for a lone caller. 0 to 20 ms.
	Linger time.Duration

	// Stamp says when a gap record was made, and the age of the oldest record.
	// It is called under the write path: be quick, and never call the store.
	Stamp func() edgeclaim.Stamp
	// OnCommit, when set, is told after each commit how long it took and how
	// many new devices it held. It is called under the write path: be quick,
	// and never call the store.
	OnCommit func(took time.Duration, claims int)
	// Logger is where a damaged file and a failed commit are reported.
	Logger *slog.Logger
}

// Defaults returns the configuration of a small box; Dir is left to the caller.
func Defaults() Config {
	c := Config{
		MaxBytes:       2 << 30,
		ProvMaxRecords: 1_000_000,
		ProvMaxBytes:   1 << 30,
		EvtMaxRecords:  100_000,
		EvtMaxBytes:    64 << 20,
		MaxTemplates:   1000,
		Linger:         2 * time.Millisecond,
		Stamp:          wallStamp,
		Logger:         slog.New(slog.DiscardHandler),
	}
	if strconv.IntSize == 32 { // bbolt can map no more than 2 GiB there
		c.MaxBytes, c.ProvMaxBytes = 1<<30-1, 512<<20
	}
	return c
}

// wallStamp is the Stamp of a store that nobody gave a clock.
func wallStamp() edgeclaim.Stamp {
	return edgeclaim.Stamp{Time: time.Now().UTC(), Clock: edgeclaim.ClockUnsynced}
}

// Validate names the first key that is out of its range.
func (c *Config) Validate() error {
	switch {
	case c.Dir == "":
		return fmt.Errorf("dir: a folder is needed")
	case c.MaxBytes < minBytes || c.MaxBytes > math.MaxInt:
		return fmt.Errorf("max_bytes: want at least %d", int64(minBytes))
	case c.ProvMaxRecords < minLaneRecords:
		return fmt.Errorf("prov_max_records: want at least %d", minLaneRecords)
	case c.ProvMaxBytes < minLaneBytes:
		return fmt.Errorf("prov_max_bytes: want at least %d", minLaneBytes)
	case c.EvtMaxRecords < minLaneRecords:
		return fmt.Errorf("evt_max_records: want at least %d", minLaneRecords)
	case c.EvtMaxBytes < minLaneBytes:
		return fmt.Errorf("evt_max_bytes: want at least %d", minLaneBytes)
	case c.MaxTemplates < 1:
		return fmt.Errorf("max_templates: want at least 1")
	case c.Linger < 0 || c.Linger > 20*time.Millisecond:
		return fmt.Errorf("linger: want 0 to 20 ms")
	case c.Stamp == nil:
		return fmt.Errorf("stamp: a clock is needed")
	case c.Logger == nil:
		return fmt.Errorf("logger: one is needed")
	}
	return nil
}

func (c *Config) maxRecords(lane edgeclaim.Lane) uint64 {
	if lane == edgeclaim.LaneProv {
		return c.ProvMaxRecords
	}
	return c.EvtMaxRecords
}

func (c *Config) maxLaneBytes(lane edgeclaim.Lane) uint64 {
	if lane == edgeclaim.LaneProv {
		return c.ProvMaxBytes
	}
	return c.EvtMaxBytes
}
