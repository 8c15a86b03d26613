package command

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
)

// Config bounds the commands. Start from Defaults.
type Config struct {
	// MaxWaiting is how many commands may wait for their end on the whole box,
	// 1 to 100,000; MaxPerDevice how many of one device, 1 to MaxWaiting.
	MaxWaiting   int
	MaxPerDevice int
	// MaxInFlight is how many unanswered commands a device has at a time, 1 to
	// MaxPerDevice: the next one is sent when one of them has come to its end.
	MaxInFlight int
	// DefaultExpiry is how long a command lives that does not say so, at least
	// a second; MaxExpiry is the longest that one may ask for, at least
	// DefaultExpiry.
	DefaultExpiry time.Duration
	MaxExpiry     time.Duration
	// RetryBase is how long after it was sent a command is sent again that was
	// not answered, at least a second. It doubles with each time, up to
	// RetryLimit.
	RetryBase  time.Duration
	RetryLimit time.Duration

	// Observe, when set, is told each status that a command comes to. It must
	// not block.
	Observe func(edgeclaim.CommandStatus)
}

// highestWaiting bounds MaxWaiting: what waits is looked over each time that
// something falls due.
const highestWaiting = 100_000

// Defaults returns the configuration of a small box.
func Defaults() Config {
	return Config{
		MaxWaiting: 10_000, MaxPerDevice: 64, MaxInFlight: 16,
		DefaultExpiry: 24 * time.Hour, MaxExpiry: 30 * 24 * time.Hour,
		RetryBase: 10 * time.Second, RetryLimit: 5 * time.Minute,
	}
}

// Validate names the first key that is out of its range.
func (c *Config) Validate() error {
	switch {
	case c.MaxWaiting < 1 || c.MaxWaiting > highestWaiting:
		return fmt.Errorf("max_waiting: want 1 to %d", highestWaiting)
	case c.MaxPerDevice < 1 || c.MaxPerDevice > c.MaxWaiting:
		return fmt.Errorf("max_per_device: want 1 to max_waiting")
	case c.MaxInFlight < 1 || c.MaxInFlight > c.MaxPerDevice:
		return fmt.Errorf("max_in_flight: want 1 to max_per_device")
	case c.DefaultExpiry < time.Second:
		return fmt.Errorf("default_expiry: want at least 1s")
	case c.MaxExpiry < c.DefaultExpiry:
		return fmt.Errorf("max_expiry: want at least default_expiry")
	case c.RetryBase < time.Second:
		return fmt.Errorf("retry_base: want at least 1s")
	case c.RetryLimit < c.RetryBase:
		return fmt.Errorf("retry_limit: want at least retry_base")
	}
	return nil
}

// Keeper keeps the commands. Its methods are safe for many goroutines; a nil
// error of a change means fsynced, with the record, and one that is not nil left
// nothing behind. ErrUnavailable: later.
type Keeper interface {
	// AddCommand stores a command with the record of its status, and returns it
	// with its number; fresh is false, and nothing is stored, where the device
	// has one of that id already: that one is returned.
	AddCommand(ctx context.Context, c edgeclaim.Command, r edgeclaim.Record) (kept edgeclaim.Command, fresh bool, err error)
	// ChangeCommands lets change edit the commands of those numbers, one after
	// the other, and stores them with the records that change returns, nil for
	// none, in one transaction; what is not edited is not written. change must
	// be pure and quick. It returns them as they are then. ErrNotFound: there is
	// none of one of the numbers.
	ChangeCommands(ctx context.Context, numbers []uint64,
		change func(*edgeclaim.Command) (*edgeclaim.Record, error)) ([]edgeclaim.Command, error)
	// LiveCommands returns up to max commands that have not come to their end,
	// in order of their numbers, those above after.
	LiveCommands(ctx context.Context, after uint64, max int) ([]edgeclaim.Command, error)
	// Append puts a record in LaneEvt.
	Append(ctx context.Context, r edgeclaim.Record) error
}

// Shelf is what is read of commands, and the devices' configurations. Its
// methods are safe for many goroutines; a nil error of a change means fsynced.
type Shelf interface {
	// Command returns one, ErrNotFound when there is none.
	Command(ctx context.Context, device edgeclaim.DeviceID, id edgeclaim.CommandID) (edgeclaim.Command, error)
	// Commands returns up to max, the newest first, with a number below before,
	// 0 for all; of one device, the zero device for all.
	Commands(ctx context.Context, device edgeclaim.DeviceID, before uint64, max int) ([]edgeclaim.Command, error)
	// DeviceConfig returns what was set last; version 0 when nothing was.
	DeviceConfig(ctx context.Context, device edgeclaim.DeviceID) (edgeclaim.DeviceConfig, error)
	// SetDeviceConfig replaces it under the next version; the same once more
	// changes nothing.
	SetDeviceConfig(ctx context.Context, device edgeclaim.DeviceID, config []byte) (edgeclaim.DeviceConfig, error)
}

// Store is all that the service needs kept.
type Store interface {
	Keeper
	Shelf
}

// Devices knows who is on record. It is safe for many goroutines.
type Devices interface {
	// Device returns a device by its id, ErrNotFound when there is none.
	Device(ctx context.Context, id edgeclaim.DeviceID) (edgeclaim.Device, error)
}

// Clock tells the time that expiry is judged by, and stamps records.
type Clock interface {
	// Now is max(wall clock, floor) in UTC (P10).
	Now() time.Time
	// Stamp is the wall clock with all that is known of its worth, and the time
	// since boot, which the pauses between two attempts are measured by.
	Stamp() edgeclaim.Stamp
}

// Auditor is the log of decisions.
type Auditor interface {
	// Add takes an entry and never waits.
	Add(e audit.Entry)
	// Must returns nil when the entry is fsynced.
	Must(ctx context.Context, e audit.Entry) error
}

// Parts is what the service works with. Auditor may be nil: nothing is written
// down.
type Parts struct {
	Store   Store
	Devices Devices
	Clock   Clock
	Auditor Auditor
	// Wake, when set, is told that there may be something for a device: a
	// command that is due, or another configuration. It never blocks, and must
	// not call the service.
	Wake func(edgeclaim.DeviceID)
	// WakeAll, when set, is told that any device may have another configuration.
	// It never blocks, and must not call the service.
	WakeAll func()
	// Inherited is what the devices of a tenant and profile inherit, from memory;
	// nil: nothing. It never blocks.
	Inherited func(tenant edgeclaim.TenantID, profile string) edgeclaim.Inherited
}

// nobody stands for the parts that are not there.
type nobody struct{}

func (nobody) Add(audit.Entry)                         {}
func (nobody) Must(context.Context, audit.Entry) error { return nil }

func (p *Parts) validate(logger *slog.Logger) error {
	switch {
	case p.Store == nil:
		return fmt.Errorf("store: one is needed")
	case p.Devices == nil:
		return fmt.Errorf("devices: they are needed")
	case p.Clock == nil:
		return fmt.Errorf("clock: one is needed")
	case logger == nil:
		return fmt.Errorf("logger: one is needed")
	}
	return nil
}
