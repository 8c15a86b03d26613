package bridge

import (
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

// Ledger gives the tests generations that overlap, which Run never lets happen.
type Ledger = ledger

func NewLedger(outbox Outbox, every, final time.Duration, logger *slog.Logger) *Ledger {
	return newLedger(outbox, every, final, logger)
}

var (
	LedgerBegin = (*ledger).begin
	LedgerPut   = (*ledger).put
	LedgerRun   = (*ledger).run
)
