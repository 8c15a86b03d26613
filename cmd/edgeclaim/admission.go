package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

const (
	denyPath      = "/api/v1/deny"
	approvalsPath = "/api/v1/approvals"
)

func (a *app) denyCommand() *cobra.Command {
	var hardware, tenant string
	var remove bool
	c := &cobra.Command{
		Use: "deny --hardware-id H", Short: "Refuse a hardware's claims, whatever its key", Args: cli.NoArguments,
		Long: `Refuse the claims of a hardware, of one tenant or of every one. A device that it is
already goes on: "device revoke" ends that.

--remove lets it claim again. A board that was swapped out comes back as a new
device, with a new id.`,
		Example: `  edgeclaim deny --hardware-id AA:BB:CC:00:11:22
  edgeclaim deny --hardware-id AA:BB:CC:00:11:22 --remove
  edgeclaim deny list`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask := edgeclaim.Denial{}
			var err error
			if ask.Hardware, err = edgeclaim.ParseHardwareID(hardware); err != nil {
				return cli.Usagef("--hardware-id: %v", err)
			}
			if cmd.Flags().Changed("tenant") {
				if ask.Tenant, err = edgeclaim.ParseTenantID(tenant); err != nil {
					return cli.Usagef("--tenant: %v", err)
				}
			}
			if remove && !cmd.Flags().Changed("tenant") {
				if ask, err = a.deniedBy(cmd.Context(), ask.Hardware); err != nil {
					return err
				}
			}
			if remove {
				return worded(show(cmd.Context(), a, request{http.MethodDelete, undenyPath(&ask), nil}, a.printDenial),
					edgeclaim.CodeNotFound, notDenied)
			}
			body := struct {
				Hardware edgeclaim.HardwareID `json:"hardware_id"`
				Tenant   edgeclaim.TenantID   `json:"tenant_id,omitzero"`
			}{ask.Hardware, ask.Tenant}
			return show(cmd.Context(), a, request{http.MethodPost, denyPath, body}, a.printDenial)
		},
	}
	f := c.Flags()
	f.StringVar(&hardware, "hardware-id", "", "hardware that is refused")
	f.StringVar(&tenant, "tenant", "", "tenant it is refused for (default every one; with --remove, the one that it is denied for)")
	f.BoolVar(&remove, "remove", false, "let it claim again")
	required(c, "hardware-id")
	c.AddCommand(a.denyListCommand())
	return c
}

const notDenied = "this hardware is not denied; deny list shows what is"

// deniedBy returns the one denial of a hardware, of its tenant or of every one: a
// board that was swapped out is denied for its own. A MAC address may be spelled
// in any way.
func (a *app) deniedBy(ctx context.Context, hardware edgeclaim.HardwareID) (edgeclaim.Denial, error) {
	folded, err := edgeclaim.FoldMAC(hardware)
	if err != nil {
		folded = hardware
	}
	body, err := newClient(a.dir()).open(ctx, request{http.MethodGet, denyPath, nil})
	if err != nil {
		return edgeclaim.Denial{}, err
	}
	defer body.Close() //nolint:errcheck // only read
	var found []edgeclaim.Denial
	err = each(body, func(d edgeclaim.Denial) {
		if d.Hardware == hardware || d.Hardware == folded {
			found = append(found, d)
		}
	})
	switch {
	case err != nil:
		return edgeclaim.Denial{}, err
	case len(found) == 0:
		return edgeclaim.Denial{}, &boxError{Code: edgeclaim.CodeNotFound, Message: notDenied, Details: []json.RawMessage{}}
	case len(found) > 1:
		return edgeclaim.Denial{}, cli.Usagef("it is denied %d times: say which with --tenant; deny list shows them", len(found))
	default:
		return found[0], nil
	}
}

func undenyPath(of *edgeclaim.Denial) string {
	path := denyPath + "/" + url.PathEscape(of.Hardware.String())
	if !of.Tenant.IsZero() {
		path += "?" + url.Values{"tenant_id": {of.Tenant.String()}}.Encode()
	}
	return path
}

func (a *app) denyListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the hardware that is refused", Args: cli.NoArguments, Example: "  edgeclaim deny list --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			head := []string{"HARDWARE ID", "TENANT", "REASON", "BY", "AT", "DEVICE"}
			return list(cmd.Context(), a, denyPath, head, func(d edgeclaim.Denial) []string {
				return []string{d.Hardware.String(), tenantOrEvery(d.Tenant), string(d.Reason), d.By, cli.When(d.At), deviceOrNone(d.Device)}
			})
		},
	}
}

func tenantOrEvery(tenant edgeclaim.TenantID) string {
	if tenant.IsZero() {
		return "every"
	}
	return tenant.String()
}

func (a *app) printDenial(d edgeclaim.Denial) error {
	return cli.Facts(a.stdout,
		[2]string{"hardware_id", d.Hardware.String()},
		[2]string{"tenant_id", tenantOrEvery(d.Tenant)},
		[2]string{"reason", string(d.Reason)},
		[2]string{"by", d.By},
		[2]string{"at", cli.When(d.At)},
		[2]string{"device_id", deviceOrNone(d.Device)})
}

func (a *app) approvalCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "approval", Short: "Claims that wait for an operator", Args: cobra.NoArgs, RunE: cli.WantCommand,
	}
	c.AddCommand(&cobra.Command{
		Use: "list", Short: "List the claims that wait for an operator", Args: cli.NoArguments,
		Example: "  edgeclaim approval list\n  edgeclaim approve 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10",
		RunE: func(cmd *cobra.Command, _ []string) error {
			head := []string{"DEVICE ID", "HARDWARE ID", "NAME", "STATUS", "ASKED", "SINCE", "FROM", "VIA"}
			return list(cmd.Context(), a, approvalsPath, head, func(p edgeclaim.Pending) []string {
				return []string{
					p.ID.String(), p.Hardware.String(), p.Name, string(p.Status), strconv.FormatUint(p.Asked, 10),
					cli.When(p.AskedAt), p.Source, string(p.Via),
				}
			})
		},
	})
	return c
}

func (a *app) approveCommand() *cobra.Command {
	var refuse bool
	c := &cobra.Command{
		Use: "approve ID", Short: "Let a waiting claim through, or refuse it",
		Long: `Let the claim of a template with "approval: manual" through: who asked over MQTT and
is still connected gets the answer at once, others when they ask again. ID is the
device id that "approval list" shows.

--refuse refuses the claim, and its hardware from then on: see "deny list".`,
		Example: `  edgeclaim approve 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10
  edgeclaim approve 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10 --refuse`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := edgeclaim.ParseDeviceID(args[0])
			if err != nil {
				return cli.Usagef("%v", err)
			}
			verb := "/approve"
			if refuse {
				verb = "/refuse"
			}
			path := approvalsPath + "/" + url.PathEscape(id.String()) + verb
			return worded(show(cmd.Context(), a, request{http.MethodPost, path, nil}, func(p edgeclaim.Pending) error {
				if refuse {
					p.Status = "refused" // it is on record no more
				}
				return a.printPending(p)
			}), edgeclaim.CodeNotFound, "no claim of this device waits; approval list shows which do")
		},
	}
	c.Flags().BoolVar(&refuse, "refuse", false, "refuse it, and deny its hardware")
	return c
}

func (a *app) printPending(p edgeclaim.Pending) error {
	return cli.Facts(a.stdout,
		[2]string{"device_id", p.ID.String()},
		[2]string{"tenant_id", p.Tenant.String()},
		[2]string{"hardware_id", p.Hardware.String()},
		[2]string{"name", p.Name},
		[2]string{"status", string(p.Status)},
		[2]string{"template_id", p.Template.String()},
		[2]string{"key_id", p.Key.String()},
		[2]string{"asked_at", cli.When(p.AskedAt)},
		[2]string{"by", p.By})
}
