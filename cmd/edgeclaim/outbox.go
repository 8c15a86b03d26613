package main

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/provision/httpapi"

	"github.com/spf13/cobra"
)

const (
	outboxPath     = "/api/v1/outbox"
	quarantinePath = outboxPath + "/quarantine"
)

// maxAckFile is more than an ack takes, in bytes.
const maxAckFile = 1 << 20

func (a *app) outboxCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "outbox", Short: "Records on their way up: the quarantine, and files for a stick", Args: cobra.NoArgs, RunE: cli.WantCommand,
	}
	c.AddCommand(a.outboxListCommand(), a.outboxShowCommand(), a.outboxRequeueCommand(), a.outboxDiscardCommand(),
		a.outboxExportCommand(), a.outboxAckCommand(), a.outboxRenewCommand())
	return c
}

func (a *app) outboxListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the records that upstream will never take as they are",
		Long: `List the quarantine: the records that the application upstream refused for good,
with its reason, and the later ones of the same device, which wait behind them.
All other devices go on. Mend what the reason names, then requeue; or discard.`,
		Example: `  edgeclaim outbox list
  edgeclaim outbox list --json | jq -r '.[] | select(.reason) | .id + " " + .reason'`,
		Args: cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			head := []string{"ID", "LANE", "SEQUENCE", "DEVICE", "TYPE", "REASON", "PARKED AT"}
			return list(cmd.Context(), a, quarantinePath, head, func(q edgeclaim.Quarantined) []string {
				return []string{
					q.ID, string(q.Lane), strconv.FormatUint(q.Sequence, 10), deviceOrNone(q.Device), string(q.Type),
					oneLine(q.Reason), cli.When(q.ParkedAt),
				}
			})
		},
	}
}

func (a *app) outboxShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a record in quarantine, with its data",
		Example: `  edgeclaim outbox show prov-00000000000000000042-MZXW6Y`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := recordPath(args[0], "")
			if err != nil {
				return err
			}
			return show(cmd.Context(), a, request{http.MethodGet, path, nil}, func(q httpapi.QuarantinedRecord) error {
				return cli.Facts(a.stdout, append(quarantinedFacts("id", &q.Quarantined),
					[2]string{"data", string(q.Data)}, [2]string{"data_base64", base64.StdEncoding.EncodeToString(q.Raw)})...)
			})
		},
	}
}

func (a *app) outboxRequeueCommand() *cobra.Command {
	var device string
	var all bool
	c := &cobra.Command{
		Use: "requeue ID", Short: "Tell records in quarantine again",
		Long: `Put a record in quarantine back into the outbox, at its end and under a new
sequence, with all others of its device, so that they keep their order. Do so when
what upstream refused it for is mended there.`,
		Example: `  edgeclaim outbox requeue prov-00000000000000000042-MZXW6Y
  edgeclaim outbox requeue --device 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10
  edgeclaim outbox requeue --all`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 == (all || device != "") {
				return cli.Usagef("want one of an id, --device and --all")
			}
			if all {
				return a.requeueAll(cmd)
			}
			if device != "" {
				id, err := edgeclaim.ParseDeviceID(device)
				if err != nil {
					return cli.Usagef("--device: %v", err)
				}
				ask := struct {
					Device edgeclaim.DeviceID `json:"device_id"`
				}{id}
				return worded(showSlow(cmd.Context(), a, request{http.MethodPost, quarantinePath + "/requeue", ask}, a.printRequeued),
					edgeclaim.CodeNotFound, "nothing of this device is in quarantine")
			}
			path, err := recordPath(args[0], "/requeue")
			if err != nil {
				return err
			}
			return showSlow(cmd.Context(), a, request{http.MethodPost, path, nil}, a.printRequeued)
		},
	}
	c.Flags().StringVar(&device, "device", "", "all records of this device")
	c.Flags().BoolVar(&all, "all", false, "everything in quarantine")
	c.MarkFlagsMutuallyExclusive("device", "all")
	return c
}

// requeueAll asks for part after part. What upstream refuses again meanwhile is
// not followed around: it ends when as many went back as lay there.
func (a *app) requeueAll(cmd *cobra.Command) error {
	ctx, c := cmd.Context(), newSlowClient(a.dir())
	var status edgeclaim.Status
	if err := c.read(ctx, request{http.MethodGet, "/api/v1/status", nil}, &status); err != nil {
		return err
	}
	lay := 0
	for _, lane := range status.Outbox {
		lay += int(lane.Quarantined)
	}
	var total httpapi.Requeued
	for part := (httpapi.Requeued{}); ; {
		ask := struct {
			All   bool   `json:"all"`
			After string `json:"after,omitempty"`
		}{true, part.Next}
		part = httpapi.Requeued{}
		if err := c.read(ctx, request{http.MethodPost, quarantinePath + "/requeue", ask}, &part); err != nil {
			return err
		}
		if total.Records += part.Records; part.Next == "" || total.Records >= lay {
			break
		}
	}
	if a.json {
		return a.printJSON(total)
	}
	return a.printRequeued(total)
}

func (a *app) printRequeued(r httpapi.Requeued) error {
	return cli.Facts(a.stdout, [2]string{"requeued", strconv.Itoa(r.Records)})
}

func (a *app) outboxDiscardCommand() *cobra.Command {
	return &cobra.Command{
		Use: "discard ID", Short: "Give a record in quarantine up for good",
		Long: `Delete one record in quarantine. Upstream is told by a gap record that it will
never come. Later records of the same device stay in quarantine until they are
requeued or discarded themselves.`,
		Example: `  edgeclaim outbox discard prov-00000000000000000042-MZXW6Y`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := recordPath(args[0], "/discard")
			if err != nil {
				return err
			}
			return show(cmd.Context(), a, request{http.MethodPost, path, nil}, func(q edgeclaim.Quarantined) error {
				return cli.Facts(a.stdout, quarantinedFacts("discarded", &q)...)
			})
		},
	}
}

// quarantinedFacts tells of a record in quarantine; head is what its id is called.
func quarantinedFacts(head string, q *edgeclaim.Quarantined) [][2]string {
	return [][2]string{
		{head, q.ID},
		{"lane", string(q.Lane)},
		{"sequence", strconv.FormatUint(q.Sequence, 10)},
		{"epoch", q.Epoch},
		{"type", string(q.Type)},
		{"device_id", deviceOrNone(q.Device)},
		{"time", cli.When(q.Time)},
		{"reason", oneLine(q.Reason)},
		{"parked_at", cli.When(q.ParkedAt)},
	}
}

func (a *app) outboxAckCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ack FILE", Short: "Forget what the ack of an export names",
		Long: `Read the ack that "edgehub ingest" wrote for an export of this box, and forget the
records that it names; - reads standard input. Reading it twice does no harm.

An ack counts only for the export whose nonce it names, and for nothing above what
that export held. On an enrolled box it has to be signed by the enrolled key.`,
		Example: `  edgeclaim outbox export --out /media/stick/up.ndjson
  edgehub ingest /media/stick/up.ndjson --out /media/stick/ack.json  # upstream
  edgeclaim outbox ack /media/stick/ack.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			document, err := a.readInput(args[0], maxAckFile)
			if err != nil {
				return err
			}
			return showSlow(cmd.Context(), a, request{http.MethodPost, outboxPath + "/ack", rawBody(document)}, a.printAccepted)
		},
	}
}

func (a *app) printAccepted(accepted httpapi.Accepted) error {
	var pairs [][2]string
	for _, lane := range edgeclaim.Lanes() {
		if upto, ok := accepted.Upto[lane]; ok {
			pairs = append(pairs, [2]string{string(lane), "forgotten up to " + strconv.FormatUint(upto, 10)})
		}
	}
	if accepted.Parked > 0 {
		pairs = append(pairs, [2]string{"quarantine", strconv.Itoa(accepted.Parked) + " refused upstream for good: see edgeclaim outbox list"})
	}
	return cli.Facts(a.stdout, pairs...)
}

func (a *app) outboxRenewCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "renew", Short: "Make this box the holder of its name upstream, under a new epoch",
		Long: `Begin a new epoch: a new life of the outbox. What waits is told again under it,
from sequence 1; nothing is lost.

Use it when upstream has fenced this box (alarm "fenced" in edgeclaim status): two
boxes live under one name, a copy and the original, and this is the one to go on.
The other is fenced from then on. Turn it off, or give it a data folder of its own,
first: two boxes that renew in turn fence each other for ever.

A box that upstream calls an old copy of itself (alarm "stale_epoch") does this by
itself where it has a connection; after an ack file said so, it is done here. It is
of no use for anything else.`,
		Example: `  edgeclaim outbox renew
  edgeclaim outbox renew --yes   # in scripts`,
		Args: cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !yes {
				_, _ = fmt.Fprint(a.stderr, "Another box of this name will be fenced. Type yes to go on: ")
				if line := firstLine(a.stdin); line != "yes" {
					return cli.Usagef("not renewed; --yes does not ask")
				}
			}
			return show(cmd.Context(), a, request{http.MethodPost, outboxPath + "/renew", nil}, func(r httpapi.Renewed) error {
				return cli.Facts(a.stdout, [2]string{"epoch", r.Epoch}, [2]string{"previous_epoch", r.Previous})
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// firstLine is an answer typed; empty when there is none.
func firstLine(r io.Reader) string {
	const longest = 256
	line, _ := bufio.NewReader(io.LimitReader(r, longest)).ReadString('\n') // half a line is no yes
	return strings.TrimSpace(line)
}

// recordPath is where a record in quarantine is, and what is done to it.
func recordPath(id, verb string) (string, error) {
	if id == "" || strings.ContainsAny(id, "/?#%") { // it is one level of a path; the box knows the rest
		return "", cli.Usagef("id: want the id of a record in quarantine")
	}
	return quarantinePath + "/" + url.PathEscape(id) + verb, nil
}

func deviceOrNone(id edgeclaim.DeviceID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

// oneLine is upstream's own text, for one cell of a table: without what moves a
// terminal's cursor.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return r <= ' ' || !strconv.IsPrint(r)
	}), " ")
}
