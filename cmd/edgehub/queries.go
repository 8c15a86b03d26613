package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

// pageRows is how many rows one query asks for: lists are printed as they are
// read, and never held.
const pageRows = 500

// lister prints a list page by page: one JSON array of all, or a table.
type lister[T any] struct {
	head []string
	row  func(T) []string
	// page reads what is behind the last one; nil, the first page.
	page func(ctx context.Context, last *T) ([]T, error)
	// hides leaves rows out; nil: none.
	hides func(T) bool
}

// print writes the whole list.
func (l *lister[T]) print(ctx context.Context, a *app) error {
	out := bufio.NewWriter(a.stdout)
	print, end := l.asTable(out)
	if a.json {
		print, end = l.asJSON(out)
	}
	var last *T
	for {
		page, err := l.page(ctx, last)
		if err != nil {
			return err
		}
		for i := range page {
			if l.hides != nil && l.hides(page[i]) {
				continue
			}
			if err := print(page[i]); err != nil {
				return err
			}
		}
		if len(page) < pageRows {
			break
		}
		last = &page[len(page)-1]
	}
	if err := end(); err != nil {
		return err
	}
	return out.Flush()
}

func (l *lister[T]) asTable(out io.Writer) (func(T) error, func() error) {
	table := cli.NewTable(out, l.head...)
	return func(v T) error { table.Row(l.row(v)...); return nil }, table.End
}

func (l *lister[T]) asJSON(out *bufio.Writer) (func(T) error, func() error) {
	separator := "["
	print := func(v T) error {
		encoded, err := json.Marshal(v)
		if err != nil {
			return err
		}
		_, _ = out.WriteString(separator) // the error comes with the next write
		separator = ","
		_, err = out.Write(encoded)
		return err
	}
	end := func() error {
		if separator == "[" {
			_, _ = out.WriteString("[")
		}
		_, err := out.WriteString("]\n")
		return err
	}
	return print, end
}

func (a *app) sitesCommand() *cobra.Command {
	return &cobra.Command{
		Use: "sites", Short: "List the sites", Args: cobra.NoArgs, Example: "  edgehub sites --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				l := lister[registry.Site]{
					head: []string{"SITE", "BOXES", "ONLINE", "DEVICES", "LAST_SEEN"},
					row: func(s registry.Site) []string {
						return []string{s.Site, number(s.Boxes), number(s.Online), number(s.Held), cli.When(s.LastSeen)}
					},
					page: func(ctx context.Context, last *registry.Site) ([]registry.Site, error) {
						after := ""
						if last != nil {
							after = last.Site
						}
						return db.Sites(ctx, after, pageRows)
					},
				}
				return l.print(ctx, a)
			})
		},
	}
}

func (a *app) boxesCommand() *cobra.Command {
	var filter registry.BoxFilter
	c := &cobra.Command{
		Use: "boxes", Short: "List the boxes: who is there, and how far each is behind", Args: cobra.NoArgs,
		Long: "List the boxes. LAG is how many records of a lane are known to wait in the box: the last that\n" +
			"it said it has, less the last that is committed here. APP: it is in a session with this hub.",
		Example: "  edgehub boxes --site plant-7",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				return printBoxes(ctx, a, db, filter)
			})
		},
	}
	c.Flags().StringVar(&filter.Site, "site", "", "those of this site")
	c.Flags().StringVar(&filter.Box, "box", "", "this one")
	return c
}

func printBoxes(ctx context.Context, a *app, db *registry.DB, filter registry.BoxFilter) error {
	l := lister[registry.Box]{
		head: []string{"BOX", "SITE", "ONLINE", "APP", "ENROLLED", "DEVICES", "LAG_PROV", "LAG_EVT", "LAG_TEL", "LAST_SEEN", "EPOCH", "FENCED"},
		row: func(b registry.Box) []string {
			return []string{
				b.Box, b.Site, yes(b.Online), yes(b.App), yes(b.Enrolled), strconv.FormatUint(b.Held, 10),
				strconv.FormatUint(b.Lanes[edgeclaim.LaneProv].Lag, 10), strconv.FormatUint(b.Lanes[edgeclaim.LaneEvt].Lag, 10),
				strconv.FormatUint(b.Lanes[edgeclaim.LaneTel].Lag, 10),
				cli.When(b.LastSeen), b.Epoch, yes(b.Fenced),
			}
		},
		page: func(ctx context.Context, last *registry.Box) ([]registry.Box, error) {
			f := filter
			f.Limit = pageRows
			if last != nil {
				f.After = last.Box
			}
			return db.Boxes(ctx, f)
		},
	}
	return l.print(ctx, a)
}

func (a *app) devicesCommand() *cobra.Command {
	var text struct{ site, box, tenant, hardware, device string }
	c := &cobra.Command{
		Use: "devices", Short: "List the devices of all boxes, each once", Args: cobra.NoArgs,
		Example: "  edgehub devices --hardware-id AA:BB:CC:00:11:22\n  edgehub devices --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter := registry.DeviceFilter{Site: text.site, Box: text.box, Hardware: text.hardware, Limit: pageRows}
			var err error
			if text.tenant != "" {
				if filter.Tenant, err = edgeclaim.ParseTenantID(text.tenant); err != nil {
					return cli.Usagef("--tenant: %v", err)
				}
			}
			if text.device != "" {
				if filter.Device, err = edgeclaim.ParseDeviceID(text.device); err != nil {
					return cli.Usagef("--device: %v", err)
				}
			}
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				return printDevices(ctx, a, db, filter)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&text.site, "site", "", "those that a box of this site holds")
	f.StringVar(&text.box, "box", "", "those that this box holds")
	f.StringVar(&text.tenant, "tenant", "", "those of this tenant, a UUID")
	f.StringVar(&text.hardware, "hardware-id", "", "those of this hardware")
	f.StringVar(&text.device, "device", "", "this one")
	c.AddCommand(a.devicesImport())
	return c
}

func printDevices(ctx context.Context, a *app, db *registry.DB, filter registry.DeviceFilter) error {
	l := lister[registry.Device]{
		head: []string{"DEVICE", "TENANT", "HARDWARE", "NAME", "VALID", "PRESENCE", "BOXES", "FIRST_SEEN"},
		row: func(d registry.Device) []string {
			return []string{
				d.ID.String(), d.Tenant.String(), d.Hardware.String(), d.Name, yes(anyValid(d.Holdings)), presence(d.Holdings),
				holders(d.Holdings), cli.When(d.FirstSeen),
			}
		},
		page: func(ctx context.Context, last *registry.Device) ([]registry.Device, error) {
			f := filter
			if last != nil {
				f.After = last.ID
			}
			return db.Devices(ctx, f)
		},
	}
	return l.print(ctx, a)
}

func anyValid(holdings []registry.Holding) bool {
	for _, h := range holdings {
		if h.Valid {
			return true
		}
	}
	return false
}

// presence is what the boxes say of a device: online where one does. Of a box
// that is away nobody knows whether its word still holds.
func presence(holdings []registry.Holding) string {
	said := ""
	for _, h := range holdings {
		word := string(h.Presence)
		if word != "" && !h.BoxOnline {
			word += " (box away)"
		}
		if said == "" || h.Presence == edgeclaim.PresenceOnline && (h.BoxOnline || !strings.HasPrefix(said, string(edgeclaim.PresenceOnline))) {
			said = word
		}
	}
	return said
}

// holders names the boxes that hold a device, and of each how, where it is not
// a valid credential.
func holders(holdings []registry.Holding) string {
	var boxes []string
	for _, h := range holdings {
		how := ""
		switch {
		case h.Valid:
		case h.Void != "":
			how = " (" + h.Void + ")"
		default:
			how = " (" + string(h.Status) + ")"
		}
		boxes = append(boxes, h.Site+"/"+h.Box+how)
	}
	return strings.Join(boxes, ", ")
}

func yes(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

func (a *app) conflictsCommand() *cobra.Command {
	var open bool
	c := &cobra.Command{
		Use: "conflicts", Short: "List what boxes contradict each other in; resolve one", Args: cobra.NoArgs,
		Example: "  edgehub conflicts --open\n  edgehub conflicts resolve 7 --keep 9f0c…",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				return printConflicts(ctx, a, db, open)
			})
		},
	}
	c.Flags().BoolVar(&open, "open", false, "only those that are not resolved")
	c.AddCommand(a.resolveCommand())
	return c
}

func printConflicts(ctx context.Context, a *app, db *registry.DB, open bool) error {
	l := lister[registry.Conflict]{
		head: []string{"ID", "KIND", "DEVICE", "BOXES", "OPENED", "RESOLVED", "RESOLUTION", "KEPT", "DETAIL"},
		row: func(c registry.Conflict) []string {
			device := ""
			if !c.Device.IsZero() {
				device = c.Device.String()
			}
			return []string{
				number(c.ID), c.Kind, device, strings.Join(c.Boxes, ", "), cli.When(c.OpenedAt), cli.When(c.ResolvedAt),
				c.Resolution, c.Kept, c.Detail,
			}
		},
		page: func(ctx context.Context, last *registry.Conflict) ([]registry.Conflict, error) {
			f := registry.ConflictFilter{Open: open, Limit: pageRows}
			if last != nil {
				f.After = last.ID
			}
			return db.Conflicts(ctx, f)
		},
	}
	return l.print(ctx, a)
}

func (a *app) resolveCommand() *cobra.Command {
	var keep string
	c := &cobra.Command{
		Use: "resolve ID", Short: "Keep one box's credential of a device; those of the others are void", Args: cobra.ExactArgs(1),
		Long: "Keep one box's credential of a device; those of the others are void. Where there is nothing to choose\n" +
			"(box_cloned, clone_suspected, audit_rewritten), the conflict is closed and nothing else happens.",
		Example: "  edgehub conflicts resolve 7 --keep 9f0c…",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return cli.Usagef("ID: want a number, as conflicts lists it")
			}
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				if err := db.Resolve(ctx, id, keep); err != nil {
					return err
				}
				if a.json {
					return a.printJSON(map[string]any{"id": id, "kept_box_id": keep})
				}
				_, err := fmt.Fprintf(a.stdout, "conflict %d resolved: %s is kept\n", id, keep)
				return err
			})
		},
	}
	c.Flags().StringVar(&keep, "keep", "", "box whose credential stays valid")
	_ = c.MarkFlagRequired("keep") // fails only for a name that is no flag
	return c
}
