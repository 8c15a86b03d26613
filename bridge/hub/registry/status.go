package registry

import (
	"context"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim"
)

// CommandPending is a command's status here until its box says another: nobody
// knows whether that has it.
const CommandPending edgeclaim.CommandStatus = "pending"

// What a box has to be told yet of a command, in the column waits.
const (
	waitsNothing = iota
	waitsOrder
	waitsCancel
)

// commandFacts are what a box says of a command.
type commandFacts struct {
	Command   edgeclaim.CommandID     `json:"command_id"`
	Device    edgeclaim.DeviceID      `json:"device_id"`
	Tenant    edgeclaim.TenantID      `json:"tenant_id"`
	Status    edgeclaim.CommandStatus `json:"status"`
	At        time.Time               `json:"at"`
	Origin    edgeclaim.CommandOrigin `json:"origin"`
	By        string                  `json:"by"`
	ExpiresAt time.Time               `json:"expires_at"`
	Attempts  int64                   `json:"attempts"`
	Result    jsontext.Value          `json:"result"`
	Reason    string                  `json:"reason"`
}

func (e *event) readCommand() error {
	c := new(commandFacts)
	if err := json.Unmarshal(e.Data, c); err != nil {
		return dataFault(err)
	}
	switch {
	case c.Command.IsZero():
		return missing("command_id")
	case c.Device.IsZero():
		return missing("device_id")
	case c.Status == "":
		return missing("status")
	case c.Device != e.device:
		return edgeclaim.Invalid("subject", "not the device of the data")
	}
	if len(c.Result) > edgeclaim.MaxCommandResult {
		c.Result = nil // no box's; the record keeps it
	}
	e.tenant, e.command = c.Tenant, c
	return nil
}

// rank orders the statuses; 0 for one that this version does not know, whose
// record is kept and changes nothing.
func rank(s edgeclaim.CommandStatus) int {
	switch s {
	case CommandPending:
		return 1
	case edgeclaim.CommandQueued:
		return 2
	case edgeclaim.CommandSent:
		return 3
	case edgeclaim.CommandDelivered:
		return 4
	case edgeclaim.CommandSuccessful, edgeclaim.CommandFailed, edgeclaim.CommandExpired, edgeclaim.CommandCancelled:
		return 5
	}
	return 0
}

// knownCommand is what the registry has of a command that a box speaks of.
type knownCommand struct {
	number, box, sentTo int64
	status              edgeclaim.CommandStatus
	reason              string
}

// advances reports whether a command goes on to another status. It never goes
// back. The device's own word counts after an end that it had no part in: the
// box may have given a command up, or taken it back, that the device has done.
// An end that the hub came to by itself was a guess, and any end that the box
// tells is better.
func (k *knownCommand) advances(to edgeclaim.CommandStatus) bool {
	switch k.status {
	case edgeclaim.CommandExpired, edgeclaim.CommandCancelled:
		if k.reason == reasonNotTaken {
			return to.Final()
		}
		return to == edgeclaim.CommandSuccessful || to == edgeclaim.CommandFailed
	default:
		return rank(to) > rank(k.status)
	}
}

// speaksFor reports whether a box has a say in a command: it was told it, told of
// it, or holds its device. No other box's word ends what is not its own.
func (a *applier) speaksFor(ctx context.Context, b *box, k *knownCommand, device edgeclaim.DeviceID) (bool, error) {
	if b.number == k.sentTo || b.number == k.box {
		return true, nil
	}
	var holds int64
	_, err := a.one(ctx, `SELECT COUNT(*) FROM holdings WHERE box = ? AND device = ?`, []any{b.number, device.Bytes()}, &holds)
	return holds > 0, err
}

// command moves a command forward by its box's word. One that was given
// elsewhere is noted.
func (a *applier) command(ctx context.Context, b *box, c *commandFacts) error {
	if rank(c.Status) <= rank(CommandPending) {
		return nil
	}
	var k knownCommand
	found, err := a.one(ctx, `SELECT number, status, reason, box, sent_to FROM commands WHERE device = ? AND id = ?`,
		[]any{c.Device.Bytes(), c.Command.String()}, &k.number, &k.status, &k.reason, &k.box, &k.sentTo)
	if err != nil {
		return err
	}
	var result any
	if c.Result != nil {
		result = []byte(c.Result)
	}
	if !found {
		number, err := a.next(ctx, "commands", "number")
		if err != nil {
			return err
		}
		return a.run(ctx, `INSERT INTO commands (number, device, id, box, payload, origin, given_by, given_at, expires_at,
			status, status_at, attempts, result, reason, waits, sent_at, sent_to, cancelled_by, changed_at)
			VALUES (?, ?, ?, ?, NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0, '', ?)`,
			number, c.Device.Bytes(), c.Command.String(), b.number, short(string(c.Origin)), short(c.By), micros(c.At), micros(c.ExpiresAt),
			string(c.Status), micros(c.At), c.Attempts, result, short(c.Reason), a.now)
	}
	if !k.advances(c.Status) {
		return nil
	}
	if speaks, err := a.speaksFor(ctx, b, &k, c.Device); !speaks || err != nil {
		return err
	}
	// An order is over with its first status; a cancel, with the last one.
	keep := waitsCancel
	if c.Status.Final() {
		keep = waitsNothing
	}
	return a.run(ctx, `UPDATE commands SET box = ?, status = ?, status_at = ?, attempts = ?, result = ?, reason = ?,
		waits = CASE WHEN waits = ? THEN waits ELSE 0 END, changed_at = ? WHERE number = ?`,
		b.number, string(c.Status), micros(c.At), c.Attempts, result, short(c.Reason), keep, a.now, k.number)
}
