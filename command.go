package edgeclaim

import (
	"encoding/json"
	"time"
)

// Limits of commands.
const (
	// MaxCommandID is the longest id of a command, in characters of A-Z, a-z,
	// 0-9, '.', '_' and '-'.
	MaxCommandID = 64
	// MaxCommandPayload is the largest payload of a command, MaxCommandResult
	// the largest result of one, and MaxDeviceConfig the largest configuration
	// of a device, in bytes of JSON.
	MaxCommandPayload = 16 << 10
	MaxCommandResult  = 4 << 10
	MaxDeviceConfig   = 16 << 10
)

// CommandID names a command, uniquely for its device.
type CommandID struct{ text string }

// ParseCommandID accepts 1 to MaxCommandID characters of A-Z, a-z, 0-9, '.', '_'
// and '-'; other input is ErrInvalid.
func ParseCommandID(text string) (CommandID, error) {
	if text == "" || len(text) > MaxCommandID {
		return CommandID{}, invalidf("command_id", "want 1 to %d characters", MaxCommandID)
	}
	for _, c := range []byte(text) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return CommandID{}, invalidf("command_id", "want A-Z a-z 0-9 . _ -")
		}
	}
	return CommandID{text}, nil
}

func (id CommandID) String() string { return id.text }

// IsZero reports whether the id was never set.
func (id CommandID) IsZero() bool { return id.text == "" }

// MarshalText implements encoding.TextMarshaler.
func (id CommandID) MarshalText() ([]byte, error) { return []byte(id.text), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *CommandID) UnmarshalText(text []byte) error { return unmarshalText(id, text, ParseCommandID) }

// CommandStatus is how far a command has come.
type CommandStatus string

// The statuses. Those from CommandSuccessful on are the last, but for two: a
// device that did what it was told before the command expired, or was cancelled,
// may say so after.
const (
	// CommandQueued: it is kept durably, and waits for the device.
	CommandQueued CommandStatus = "queued"
	// CommandSent: it was written to the device at least once.
	CommandSent CommandStatus = "sent"
	// CommandDelivered: the device has it, by MQTT's PUBACK or its own word.
	CommandDelivered CommandStatus = "delivered"
	// CommandSuccessful and CommandFailed are the device's own words. Failed is
	// also what the box could not take.
	CommandSuccessful CommandStatus = "successful"
	CommandFailed     CommandStatus = "failed"
	// CommandExpired: its time is over, and it is sent no more.
	CommandExpired CommandStatus = "expired"
	// CommandCancelled: whoever gave it has taken it back.
	CommandCancelled CommandStatus = "cancelled"
)

// CommandStatuses returns all of them, in the order that a command comes to them.
func CommandStatuses() []CommandStatus {
	return []CommandStatus{
		CommandQueued, CommandSent, CommandDelivered, CommandSuccessful, CommandFailed, CommandExpired, CommandCancelled,
	}
}

// Final reports whether nothing more is sent of a command.
func (s CommandStatus) Final() bool {
	switch s {
	case CommandSuccessful, CommandFailed, CommandExpired, CommandCancelled:
		return true
	default:
		return false
	}
}

// CommandOrigin is where a command came from.
type CommandOrigin string

// The origins.
const (
	OriginUpstream CommandOrigin = "upstream"
	OriginOperator CommandOrigin = "operator" // the command line, or the admin API
	OriginLocal    CommandOrigin = "local"    // a named user on the line
)

// Order is a command as it is given.
type Order struct {
	ID      CommandID // zero: the box makes one
	Device  DeviceID
	Payload json.RawMessage // any JSON value, MaxCommandPayload at most
	// ExpiresAt is when it is worth nothing any more; zero: after the default
	// time from now.
	ExpiresAt time.Time
	Origin    CommandOrigin
	// By is who gave it: uid:0, token:NAME, a user's name, upstream's id.
	By string
}

// Command is an order that the box keeps, with what became of it.
type Command struct {
	ID        CommandID       `json:"command_id"`
	Device    DeviceID        `json:"device_id"`
	Tenant    TenantID        `json:"tenant_id"`
	Payload   json.RawMessage `json:"payload"`
	Origin    CommandOrigin   `json:"origin"`
	By        string          `json:"by,omitempty"`
	Status    CommandStatus   `json:"status"`
	QueuedAt  time.Time       `json:"queued_at"`
	ExpiresAt time.Time       `json:"expires_at"`
	// ChangedAt is when it came to its status.
	ChangedAt time.Time `json:"changed_at"`
	// Attempts is how often it was written to the device, as of the last
	// change.
	Attempts int `json:"attempts"`
	// Result is the device's own, with its answer; nil for none.
	Result json.RawMessage `json:"result,omitempty"`
	// Reason says why it failed, expired or was cancelled, in a word of the
	// box's; empty where the device said so.
	Reason string `json:"reason,omitempty"`
	// Number orders the commands of a box as they were queued; the store sets
	// it.
	Number uint64 `json:"-"`
}

// DeviceConfig is what a device is told of how to work.
type DeviceConfig struct {
	// Version rises with each change; 0: nobody has set anything.
	Version uint64          `json:"version"`
	Config  json.RawMessage `json:"config"` // a JSON object
}

// CommandsStatus counts the commands.
type CommandsStatus struct {
	// Waiting are those that have not come to an end.
	Waiting int `json:"waiting"`
}
