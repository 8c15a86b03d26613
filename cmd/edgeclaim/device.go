package main

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

const devicesPath = "/api/v1/devices"

func (a *app) deviceCommand() *cobra.Command {
	c := &cobra.Command{Use: "device", Short: "Devices that claimed", Args: cobra.NoArgs, RunE: cli.WantCommand}
	c.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List the devices", Args: cobra.NoArgs, Example: "  edgeclaim device list --json",
			RunE: func(cmd *cobra.Command, _ []string) error {
				head := []string{"DEVICE ID", "HARDWARE ID", "NAME", "STATUS", "TENANT", "CLAIMED", "VIA"}
				return list(cmd.Context(), a, devicesPath, head, func(d edgeclaim.Device) []string {
					return []string{
						d.ID.String(), d.Hardware.String(), d.Name, string(d.Status), d.Tenant.String(),
						cli.When(d.ClaimedAt), string(d.ClaimedVia),
					}
				})
			},
		},
		a.deviceVerb("show", "Show a device", http.MethodGet, ""),
		a.deviceVerb("release", "Void a device's credential, so that its hardware may claim anew", http.MethodPost, "/release"),
	)
	return c
}

// deviceVerb is a command on one device.
func (a *app) deviceVerb(use, short, method, suffix string) *cobra.Command {
	return &cobra.Command{
		Use: use + " ID", Short: short, Args: cobra.ExactArgs(1),
		Example: "  edgeclaim device " + use + " 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := edgeclaim.ParseDeviceID(args[0])
			if err != nil {
				return cli.Usagef("%v", err)
			}
			path := devicesPath + "/" + url.PathEscape(id.String()) + suffix
			return show(cmd.Context(), a, request{method, path, nil}, a.printDevice)
		},
	}
}

func (a *app) printDevice(d edgeclaim.Device) error {
	credential := string(d.Credential.Type)
	if d.Credential.Hash.IsZero() {
		credential = "void"
	}
	return cli.Facts(a.stdout,
		[2]string{"device_id", d.ID.String()},
		[2]string{"tenant_id", d.Tenant.String()},
		[2]string{"hardware_id", d.Hardware.String()},
		[2]string{"name", d.Name},
		[2]string{"status", string(d.Status)},
		[2]string{"generation", strconv.Itoa(d.Generation)},
		[2]string{"template_id", d.Template.String()},
		[2]string{"key_id", d.Key.String()},
		[2]string{"profile_id", d.Profile},
		[2]string{"groups", strings.Join(d.Groups, ", ")},
		[2]string{"credential", credential},
		[2]string{"claimed_at", cli.When(d.ClaimedAt)},
		[2]string{"claimed_via", string(d.ClaimedVia)},
	)
}
