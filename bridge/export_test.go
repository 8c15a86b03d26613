package bridge

import (
	"context"
	"log/slog"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// Encode gives the tests the bytes of an event without a connection.
func Encode(id Identity, epoch string, r *edgeclaim.Record) ([]byte, error) {
	n, err := wire.NewNames(id.Site, id.Box)
	if err != nil {
		return nil, err
	}
	return wire.EncodeEvent(n, epoch, r)
}

// NextLook is when a conversation is to be looked at again that was looked at
// then, and has a lane, a start and an asking for devices wait until a time.
func NextLook(looked, until time.Time) map[string]time.Time {
	due := func(l *lane, b *Bridge, w want) time.Time {
		c := &conversation{session: &session{Bridge: b}, phase: welcomed, looked: looked, lanes: []*lane{l}, want: w}
		return c.due()
	}
	return map[string]time.Time{
		"lane":    due(&lane{paused: until}, &Bridge{}, want{}),
		"start":   due(&lane{}, &Bridge{spread: until}, want{}),
		"devices": due(&lane{}, &Bridge{}, want{again: until}),
	}
}

// Ledger gives the tests generations that overlap, which Run never lets happen.
type Ledger = ledger

// laneOf makes one outbox hold all lanes.
type laneOf struct{ Outbox }

func (laneOf) Begin(context.Context, string) error                  { return nil }
func (laneOf) Refuse(context.Context, edgeclaim.Mark, string) error { return nil }

func NewLedger(outbox Outbox, every, final time.Duration, logger *slog.Logger) *Ledger {
	return newLedger(Parts{Outbox: outbox, Telemetry: laneOf{outbox}}, every, final, logger)
}

var (
	LedgerBegin = (*ledger).begin
	LedgerPut   = (*ledger).put
	LedgerRun   = (*ledger).run
)

// FillTopic gives the tests a topic as a point goes to it.
func FillTopic(text string, id Identity, r *edgeclaim.Record) (topic string, ok bool, err error) {
	n := wire.Names{Site: id.Site, Box: id.Box}
	t, err := newTopics(&Config{TelemetryTopic: text}, n)
	if err != nil || text == "" {
		return "", false, err
	}
	d := &drain{session: &session{Bridge: &Bridge{names: n, topics: t}}}
	topic, ok = d.raw(r)
	return topic, ok, nil
}

// ConfirmEvery has a bridge ask after documents more often. It is called before
// Run.
func ConfirmEvery(b *Bridge, every time.Duration) { b.confirmEvery = every }
