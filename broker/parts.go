package broker

import (
	"context"
	"net/netip"
	"time"

	"edgeclaim"
	"edgeclaim/internal/precedence"
)

// Claims is the rule that claims are put to. Both methods are called from many
// goroutines at once.
type Claims interface {
	// Answer decides on a claim and says what to answer. It blocks until the
	// decision is durable (P1) and, for a refusal, until
	// edgeclaim.RefusalDelay after ReceivedAt (P3). It does not fail: an
	// outcome that could not be committed is edgeclaim.CodeUnavailable, also
	// when ctx ended before the commit began.
	Answer(ctx context.Context, ask edgeclaim.Ask) edgeclaim.Answer
	// Fault is the answer to a request that this face finds fault with, so
	// that both faces say it alike. It is quick, and stores nothing.
	Fault(format edgeclaim.Format, err error) edgeclaim.Answer
}

// Devices is who may log in. It is called from many goroutines at once.
type Devices interface {
	// Identify says who a login is, and stores nothing. Its error is
	// edgeclaim.ErrUnauthenticated for a credential that lets nobody in, and
	// another when the box cannot tell; neither lets the client in.
	Identify(ctx context.Context, l edgeclaim.Login) (edgeclaim.Admission, error)
	// Admit is Identify that counts as a use of the credential. It is asked
	// behind the device's lock, once the login is registered (see Disconnect).
	// nil: whatever the first use changes is durable (P1).
	Admit(ctx context.Context, l edgeclaim.Login) (edgeclaim.Admission, error)
	// Renew decides on a device's wish for another credential, as
	// Claims.Answer does on a claim.
	Renew(ctx context.Context, ask edgeclaim.RotateAsk) edgeclaim.Answer
}

// Reports is where what devices say goes. It is called from many goroutines at
// once, with each connection's reports in the order in which they came.
type Reports interface {
	// Telemetry takes what a device measured, and Event what happened there.
	// What was accepted is durable when the Receipt's Commit has ended well.
	// Telemetry never waits for the disk; Event does for the answer to a
	// command, within ctx. The body may be kept. Their errors are an
	// edgeclaim.InvalidError and edgeclaim.ErrThrottled for what is refused for
	// good, and edgeclaim.ErrUnavailable for what the device is to send again.
	Telemetry(ctx context.Context, r edgeclaim.Report) (edgeclaim.Receipt, error)
	Event(ctx context.Context, r edgeclaim.Report) (edgeclaim.Receipt, error)
	// Gone says that a device has left: it said so, or its will went out. It
	// never blocks.
	Gone(id edgeclaim.DeviceID)
}

// Commands is what devices are told to do. It is called from many goroutines at
// once.
type Commands interface {
	// Due is the commands that are to be written to the device now, in order,
	// at most maximum of them. It changes nothing.
	Due(ctx context.Context, id edgeclaim.DeviceID, maximum int) ([]edgeclaim.Command, error)
	// Sent says that they are about to be written. nil: that is durable, and
	// Due does not return them again before it is time to send them again.
	Sent(ctx context.Context, id edgeclaim.DeviceID, ids ...edgeclaim.CommandID) error
	// Delivered says that the device has it. nil: that is durable.
	Delivered(ctx context.Context, id edgeclaim.DeviceID, command edgeclaim.CommandID) error
	// Listening says that the device has just subscribed, or come back: what it
	// did not answer is due at once. It never blocks for long.
	Listening(id edgeclaim.DeviceID)
}

// Configs is how devices are told to work. It is called from many goroutines at
// once, and stores nothing.
type Configs interface {
	// Config is what holds for the device; its Version is 0 where nobody has
	// set anything.
	Config(ctx context.Context, id edgeclaim.DeviceID) (edgeclaim.DeviceConfig, error)
}

// Orders takes the commands that named users give. It is called from many
// goroutines at once.
type Orders interface {
	// Give takes a command. nil: it is durable. Its errors are an
	// edgeclaim.InvalidError, edgeclaim.ErrNotFound, ErrConflict and
	// ErrThrottled for what is refused for good, and ErrUnavailable for what
	// may be said again.
	Give(ctx context.Context, o edgeclaim.Order) (edgeclaim.Command, error)
}

// Parts are what the broker is the face of.
type Parts struct {
	Claims  Claims
	Devices Devices
	// Reports is nil where what devices say is acknowledged and dropped.
	Reports Reports
	// Commands and Configs are nil where devices are told nothing, Orders where
	// users may give no command.
	Commands Commands
	Configs  Configs
	Orders   Orders
	// Encode makes the message of a command, just before it is written.
	// edgeclaim.ErrConflict: there is no time left for it, and it is not to be
	// sent any more. It is there when Commands is.
	Encode func(c edgeclaim.Command) ([]byte, error)
	// Now is the time by which commands expire (P10); nil for the wall clock's.
	Now func() time.Time
	// Refused is told of each login by name that was refused for its password, or
	// its name: user is empty where nobody has that, which may be a password in
	// the wrong field (P5). It never blocks, and any number of goroutines call it;
	// nil: nobody is told.
	Refused func(user string, source netip.Addr)
	// Precedence lets claims go before telemetry; nil for a gate of the
	// broker's own, which nobody's claims pass.
	Precedence *precedence.Gate
}
