package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"edgeclaim"

	"github.com/spf13/cobra"
)

// watchEvery is how often status --watch looks.
const watchEvery = 2 * time.Second

func (a *app) statusCommand() *cobra.Command {
	var watch bool
	c := &cobra.Command{
		Use: "status", Short: "The box at a glance", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !watch {
				return a.status(cmd.Context())
			}
			return a.watchStatus(cmd.Context())
		},
	}
	c.Flags().BoolVar(&watch, "watch", false, "again every two seconds, until interrupted")
	return c
}

func (a *app) status(ctx context.Context) error {
	return show(ctx, a, request{http.MethodGet, "/api/v1/status", nil}, a.printStatus)
}

func (a *app) watchStatus(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		if err := a.status(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if !a.json {
			_, _ = fmt.Fprintln(a.stdout)
		}
	}
}

func (a *app) printStatus(s edgeclaim.Status) error {
	pairs := [][2]string{
		{"box_id", s.BoxID},
		{"site", s.Site},
		{"version", s.Version},
		{"uptime", seconds(s.UptimeSeconds)},
		{"devices", strconv.FormatUint(s.Devices, 10)},
		{"connections", fmt.Sprintf("%d devices, %d claimants", s.Connections.Devices, s.Connections.Claimants)},
		{"upstream", fmt.Sprintf("link %s, broker %s, app %s", s.Upstream.Link, s.Upstream.Broker, s.Upstream.App)},
		{"upstream url", s.Upstream.URL},
		{"upstream error", s.Upstream.LastError},
	}
	if s.Upstream.NextTrySeconds > 0 {
		pairs = append(pairs, [2]string{"upstream next try", "in " + seconds(s.Upstream.NextTrySeconds)})
	}
	for _, lane := range edgeclaim.Lanes() {
		if stats, ok := s.Outbox[lane]; ok {
			pairs = append(pairs, [2]string{"outbox " + string(lane), fmt.Sprintf(
				"%d pending (%d bytes, oldest %s), %d appended, %d acked, %d dropped",
				stats.Pending, stats.Bytes, seconds(stats.OldestAge), stats.Appended, stats.Acked, stats.Dropped)})
		}
	}
	pairs = append(pairs,
		[2]string{"clock", string(s.Clock.State) + ", " + when(s.Clock.Wall) + ", floor " + orNone(when(s.Clock.Floor))},
		[2]string{"store", fmt.Sprintf("%s, %d bytes", s.Store.Path, s.Store.Bytes)},
		[2]string{"store set aside", s.Store.SetAside})
	for _, name := range []string{listenerHTTP, listenerMQTT, listenerAdmin, listenerMetrics} {
		pairs = append(pairs, [2]string{"listener " + name, s.Listeners[name]})
	}
	return facts(a.stdout, pairs...)
}

// orNone is for what has to be said even when it is not there.
func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Second).String()
}

func (a *app) clockCommand() *cobra.Command {
	printClock := func(s edgeclaim.ClockStatus) error {
		return facts(a.stdout,
			[2]string{"wall", when(s.Wall)}, [2]string{"floor", orNone(when(s.Floor))}, [2]string{"state", string(s.State)})
	}
	showClock := func(cmd *cobra.Command, _ []string) error {
		return show(cmd.Context(), a, request{http.MethodGet, "/api/v1/clock", nil}, printClock)
	}
	c := &cobra.Command{Use: "clock", Short: "The box's idea of time", Args: cobra.NoArgs, RunE: showClock}
	c.AddCommand(
		&cobra.Command{Use: "show", Short: "Show the wall clock and the floor below which time is not believed", Args: cobra.NoArgs, RunE: showClock},
		&cobra.Command{
			Use: "reset", Short: "Set the floor back to the build's date, after the box believed a wrong time", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return show(cmd.Context(), a, request{http.MethodPost, "/api/v1/clock/reset", nil}, printClock)
			},
		})
	return c
}
