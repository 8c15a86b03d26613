package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"edgeclaim"
	"edgeclaim/bridge"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

// watchEvery is how often status --watch looks.
const watchEvery = 2 * time.Second

func (a *app) statusCommand() *cobra.Command {
	var watch bool
	c := &cobra.Command{
		Use: "status", Short: "The box at a glance", Args: cli.NoArguments,
		Long: `Show the box at a glance. The way up has three lamps: link is TCP, and TLS; broker,
that the MQTT broker has acknowledged; app, that the application behind it has
welcomed the box and what is on its way makes progress (with --upstream-ack app).
Alarms are counted from the start of the program.`,
		Example: `  edgeclaim status --watch
  edgeclaim status --json | jq .upstream.alarms`,
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
		{"connections", connected(&s.Connections)},
	}
	pairs = append(pairs, upstreamFacts(&s.Upstream)...)
	pairs = append(pairs, outboxFacts(s.Outbox)...)
	pairs = append(pairs, workFacts(&s)...)
	pairs = append(pairs, documentFacts(&s)...)
	pairs = append(pairs,
		[2]string{"clock", string(s.Clock.State) + ", " + cli.When(s.Clock.Wall) + ", floor " + orNone(cli.When(s.Clock.Floor))},
		[2]string{"store", fmt.Sprintf("%s, %d bytes", s.Store.Path, s.Store.Bytes)},
		[2]string{"store set aside", s.Store.SetAside})
	pairs = append(pairs, trustFacts(&s)...)
	for _, name := range listenerNames {
		pairs = append(pairs, [2]string{"listener " + name, s.Listeners[name]})
	}
	return cli.Facts(a.stdout, pairs...)
}

func connected(c *edgeclaim.ConnectionStatus) string {
	text := fmt.Sprintf("%d devices, %d claimants", c.Devices, c.Claimants)
	if c.Consumers > 0 {
		text += fmt.Sprintf(", %d users", c.Consumers)
	}
	return text
}

// workFacts are what devices say, and are told.
func workFacts(s *edgeclaim.Status) [][2]string {
	said := &s.Telemetry
	text := fmt.Sprintf("%d devices online, %d points and events accepted", said.Online, said.Accepted)
	for _, reason := range slices.Sorted(maps.Keys(said.Rejected)) {
		if n := said.Rejected[reason]; n > 0 {
			text += fmt.Sprintf(", %d rejected (%s)", n, reason)
		}
	}
	if said.FleetingDropped > 0 {
		text += fmt.Sprintf(", %d of QoS 0 dropped", said.FleetingDropped)
	}
	if said.EventsDropped > 0 {
		text += fmt.Sprintf(", %d events dropped", said.EventsDropped)
	}
	pairs := [][2]string{{"telemetry", text}}
	if said.EventsWaiting > 0 {
		pairs = append(pairs, [2]string{"events waiting", strconv.FormatUint(said.EventsWaiting, 10)})
	}
	if said.Reserved {
		pairs = append(pairs, [2]string{"disk", "down to what only claims may use: telemetry loses its oldest"})
	}
	if s.Commands.Waiting > 0 {
		pairs = append(pairs, [2]string{"commands waiting", strconv.Itoa(s.Commands.Waiting)})
	}
	return pairs
}

// upstreamFacts are the three lamps, and what they hang on.
func upstreamFacts(up *edgeclaim.UpstreamStatus) [][2]string {
	pairs := [][2]string{
		{"upstream", fmt.Sprintf("link %s, broker %s, app %s", up.Link, up.Broker, up.App)},
		{"upstream url", up.URL},
		{"upstream error", up.LastError},
	}
	if up.NextTrySeconds > 0 {
		pairs = append(pairs, [2]string{"upstream next try", "in " + seconds(up.NextTrySeconds)})
	}
	pairs = append(pairs, [2]string{"upstream acknowledges", map[string]string{
		bridge.AckPuback: "puback: the broker", bridge.AckApp: "app: the application behind the broker",
	}[up.Ack]}, [2]string{"upstream_id", up.UpstreamID})
	switch {
	case up.Enrolled:
		pairs = append(pairs, [2]string{"enrolled", "yes: only what the enrolled key has signed is taken from upstream"})
	case up.Ack == bridge.AckApp:
		pairs = append(pairs, [2]string{"enrolled", "no: whoever may publish on this box's down/ topics can make it forget records"})
	}
	saysCredit := up.Credit > 0 || up.App == edgeclaim.LampUp
	if up.InFlight > 0 || saysCredit {
		text := strconv.Itoa(up.InFlight)
		if saysCredit {
			text += " of " + strconv.Itoa(up.Credit)
		}
		pairs = append(pairs, [2]string{"upstream in flight", text})
	}
	return append(pairs, alarmFacts(up.Alarms)...)
}

func alarmFacts(alarms []edgeclaim.AlarmCount) (pairs [][2]string) {
	for _, alarm := range alarms {
		pairs = append(pairs, [2]string{"ALARM " + string(alarm.Alarm), fmt.Sprintf("%d, last %s", alarm.Count, cli.When(alarm.Last))})
	}
	return pairs
}

// trustFacts are who waits, what the box signs with, and what went wrong there.
func trustFacts(s *edgeclaim.Status) [][2]string {
	var pairs [][2]string
	if s.Pending > 0 {
		pairs = append(pairs, [2]string{"pending claims", fmt.Sprintf("%d wait for an operator: see edgeclaim approval list", s.Pending)})
	}
	for _, use := range slices.Sorted(maps.Keys(s.Certificates)) {
		certificate := s.Certificates[use]
		text := "until " + orNone(cli.When(certificate.NotAfter))
		if certificate.Problem != "" {
			text += "; " + certificate.Problem
		}
		pairs = append(pairs, [2]string{"certificate " + use, text})
	}
	audited := fmt.Sprintf("%d entries", s.Audit.Sequence)
	if s.Audit.Lost > 0 {
		audited += fmt.Sprintf(", %d lost", s.Audit.Lost)
	}
	return append(append(pairs, [2]string{"audit", audited}), alarmFacts(s.Alarms)...)
}

// outboxFacts are the lanes, and the quarantine where something is in it.
func outboxFacts(outbox map[edgeclaim.Lane]edgeclaim.LaneStats) [][2]string {
	var pairs [][2]string
	var quarantined uint64
	for _, lane := range edgeclaim.Lanes() {
		stats, ok := outbox[lane]
		if !ok {
			continue
		}
		text := fmt.Sprintf("%d pending (%d bytes, oldest %s), %d appended, %d acked, %d dropped",
			stats.Pending, stats.Bytes, seconds(stats.OldestAge), stats.Appended, stats.Acked, stats.Dropped)
		if stats.Parked > 0 {
			text += fmt.Sprintf(", %d parked", stats.Parked)
		}
		pairs = append(pairs, [2]string{"outbox " + string(lane), text})
		quarantined += stats.Quarantined
	}
	if quarantined > 0 {
		pairs = append(pairs, [2]string{"outbox quarantine", fmt.Sprintf("%d refused upstream for good, or behind one that was: see edgeclaim outbox list", quarantined)})
	}
	return pairs
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
		return cli.Facts(a.stdout,
			[2]string{"wall", cli.When(s.Wall)}, [2]string{"floor", orNone(cli.When(s.Floor))}, [2]string{"state", string(s.State)})
	}
	showClock := func(cmd *cobra.Command, _ []string) error {
		return show(cmd.Context(), a, request{http.MethodGet, "/api/v1/clock", nil}, printClock)
	}
	c := &cobra.Command{Use: "clock", Short: "The box's idea of time", Args: cobra.NoArgs, Example: "  edgeclaim clock", RunE: showClock}
	c.AddCommand(
		&cobra.Command{
			Use: "show", Short: "Show the wall clock and the floor below which time is not believed", Args: cli.NoArguments,
			Example: "  edgeclaim clock show --json", RunE: showClock,
		},
		&cobra.Command{
			Use: "reset", Short: "Set the floor back to the build's date, after the box believed a wrong time", Args: cli.NoArguments,
			Example: "  edgeclaim clock reset",
			RunE: func(cmd *cobra.Command, _ []string) error {
				return show(cmd.Context(), a, request{http.MethodPost, "/api/v1/clock/reset", nil}, printClock)
			},
		})
	return c
}
