package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"edgeclaim/internal/tlsconf"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"
)

// part is something that runs until its context ends.
type part func(context.Context) error

// errSlowStop: not everything stopped in time. What was answered is durable all
// the same (P1).
var errSlowStop = errors.New("not everything stopped in time")

// run runs the parts until ctx ends or one fails, stops them and closes the
// store last. An orderly stop is nil.
//
// The faces stop first and finish what they have begun; then what stands
// behind them, so that the last refusals are counted and the last records sent;
// the audit log last, for it hears the others' last words.
func (b *box) run(ctx context.Context) error {
	group, running := errgroup.WithContext(ctx)
	front, serving := errgroup.WithContext(running)
	behind, stopBehind := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBehind()
	books, closeBooks := context.WithCancel(context.WithoutCancel(ctx))
	defer closeBooks()
	for _, face := range b.faces() {
		front.Go(func() error { return face(serving) })
	}
	group.Go(func() error {
		defer stopBehind()
		return front.Wait()
	})
	var working sync.WaitGroup // the parts behind
	for _, part := range b.partsBehind() {
		working.Add(1)
		group.Go(func() error {
			defer working.Done()
			return part(behind)
		})
	}
	group.Go(func() error {
		working.Wait()
		closeBooks()
		return nil
	})
	group.Go(func() error { return b.keepBooks(books) })

	b.logger.Info("box ready", "box_id", b.db.BoxID(), "site", b.settings.Site, "version", b.build.Version, "listeners", b.listeners)
	b.ready(b.listeners)
	b.notify(daemon.SdNotifyReady)
	stopping := context.AfterFunc(running, func() {
		b.logger.Info("box stopping")
		b.notify(daemon.SdNotifyStopping)
	})
	defer stopping()

	err := b.await(running, group)
	if errors.Is(err, errSlowStop) {
		return err // closing the store under whoever still uses it would wait for them
	}
	if closeErr := b.closeTelemetry(); closeErr != nil {
		b.logger.Warn("closing the telemetry logs", "err", closeErr)
	}
	if closeErr := b.closeAudit(); closeErr != nil {
		b.logger.Warn("closing the audit log", "err", closeErr)
	}
	if closeErr := b.db.Close(); closeErr != nil {
		err = errors.Join(err, fmt.Errorf("closing the store: %w", closeErr))
	}
	return err
}

func (b *box) faces() []part {
	var faces []part
	if b.broker != nil {
		faces = append(faces, b.broker.Run)
	}
	for _, server := range b.http {
		faces = append(faces, server.Run)
	}
	return faces
}

func (b *box) partsBehind() []part {
	parts := []part{
		b.rule.Run, b.telemetry.Run, b.commands.Run, b.documents.Run, b.watchStore, b.watchdog, b.tellHeads, b.tellAlarms,
		func(ctx context.Context) error { return b.clock.Run(ctx, b.clockChanged) },
	}
	if b.bridge != nil {
		parts = append(parts, b.bridge.Run)
	}
	running := map[*tlsconf.Source]bool{} // listeners may share one
	for _, source := range b.sources {
		if !running[source.Source] {
			running[source.Source] = true
			parts = append(parts, source.Run)
		}
	}
	return parts
}

// await waits for the parts, once they were told to stop for as long as a stop
// may take. The goroutine that it leaves behind when that is too long ends with
// the program.
func (b *box) await(running context.Context, group *errgroup.Group) error {
	ended := make(chan error, 1)
	go func() { ended <- group.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-running.Done():
	}
	limit := time.NewTimer(b.settings.stopWithin())
	defer limit.Stop()
	select {
	case err := <-ended:
		return err
	case <-limit.C:
		return errors.Join(errSlowStop, context.Cause(running))
	}
}

// watchStore ends the program when the store cannot go on: it is started again
// by whoever supervises it, and the store then checks its file.
func (b *box) watchStore(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-b.db.Fatal():
		return fmt.Errorf("store: %w", b.db.Err())
	}
}

// watchdog tells systemd that the box is alive, for as long as its store lets a
// write have its turn; without systemd's wish for it, it does nothing.
func (b *box) watchdog(ctx context.Context) error {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		b.logger.Warn("systemd's watchdog is not understood", "err", err)
	}
	if err != nil || limit <= 0 {
		return nil
	}
	tick := time.NewTicker(limit / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if b.db.Ping(ctx) == nil { // with a disk that hangs it does not return
				b.notify(daemon.SdNotifyWatchdog)
			}
		}
	}
}

// notify tells systemd, when it started us.
func (b *box) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		b.logger.Warn("systemd was not told", "state", state, "err", err)
	}
}
