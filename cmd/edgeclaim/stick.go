package main

import (
	"context"
	"errors"
	"io"
	"log/slog"

	"edgeclaim/bridge"
	"edgeclaim/internal/clock"
	"edgeclaim/provision/httpapi"
	"edgeclaim/store"
	"edgeclaim/telemetry"
)

// stick is what an operator does with the outbox as a whole. It implements
// httpapi.Outbox, and needs neither upstream nor a network.
type stick struct {
	db       *store.DB
	points   *telemetry.Lane
	clock    *clock.Clock
	trust    *trust
	identity bridge.Identity
	logger   *slog.Logger
}

// Renew implements httpapi.Outbox. A session that is open ends by itself: its
// epoch is none any more.
func (s stick) Renew(ctx context.Context) (httpapi.Renewed, error) {
	epoch, err := s.db.Renew(ctx)
	if err != nil {
		return httpapi.Renewed{}, err
	}
	_, previous, _, err := s.db.Marks(ctx)
	if err != nil {
		return httpapi.Renewed{}, err
	}
	s.logger.Warn("outbox renewed, this box is the holder of its name", "epoch", epoch, "previous_epoch", previous)
	return httpapi.Renewed{Epoch: epoch, Previous: previous}, nil
}

func (s stick) way() *bridge.Stick {
	key, _ := s.trust.pinned()
	return &bridge.Stick{
		Parts: bridge.Parts{
			Outbox: s.db, Quarantine: s.db, Life: s.db, Registry: s.db, Clock: s.clock, Telemetry: s.points,
		},
		Exports: s.db, Identity: s.identity, Key: key, Logger: s.logger,
	}
}

// Export implements httpapi.Outbox.
func (s stick) Export(ctx context.Context, w io.Writer) error {
	return explained(s.way().Export(ctx, w))
}

// AcceptAck implements httpapi.Outbox.
func (s stick) AcceptAck(ctx context.Context, r io.Reader) (httpapi.Accepted, error) {
	a, err := s.way().AcceptAck(ctx, r)
	if err != nil {
		return httpapi.Accepted{}, explained(err)
	}
	s.logger.Info("ack of an export taken", "upto", a.Upto, "parked", a.Parked)
	return httpapi.Accepted{Upto: a.Upto, Parked: a.Parked}, nil
}

// explained hands the words of a stick's error on to the operator. What the
// export or ack does not fit is a conflict with what the box holds.
func explained(err error) error {
	words, ok := errors.AsType[*bridge.StickError](err)
	if !ok {
		return err
	}
	return &httpapi.OperatorError{Err: words.Err, Words: words.Words}
}
