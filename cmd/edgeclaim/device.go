package main

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

const devicesPath = "/api/v1/devices"

func (a *app) deviceCommand() *cobra.Command {
	c := &cobra.Command{Use: "device", Short: "Devices that claimed", Args: cobra.NoArgs, RunE: cli.WantCommand}
	c.AddCommand(a.deviceListCommand(), a.deviceShowCommand(), a.deviceRotateCommand(), a.deviceRevokeCommand(),
		a.deviceReleaseCommand(), a.deviceSwapCommand(), a.deviceCommandCommand(), a.deviceConfigCommand())
	return c
}

// deviceStates are what --state takes.
var deviceStates = []edgeclaim.State{
	edgeclaim.StateClaimed, edgeclaim.StateConfirmed, edgeclaim.StateRotating, edgeclaim.StateReleased, edgeclaim.StateRevoked,
}

func (a *app) deviceListCommand() *cobra.Command {
	var state string
	c := &cobra.Command{
		Use: "list", Short: "List the devices", Args: cli.NoArguments,
		Long: `List the devices by their states: claimed, with a credential that was never used;
confirmed, which has logged in; rotating, whose old credential is good as well;
released, whose hardware may claim anew; revoked, whose hardware is refused.`,
		Example: `  edgeclaim device list --json
  edgeclaim device list --state claimed`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := devicesPath
			if cmd.Flags().Changed("state") {
				if !knownState(state) {
					return cli.Usagef("--state: want claimed, confirmed, rotating, released or revoked")
				}
				path += "?" + url.Values{"state": {state}}.Encode()
			}
			head := []string{"DEVICE ID", "HARDWARE ID", "NAME", "STATE", "PRESENCE", "TENANT", "CLAIMED", "VIA"}
			return list(cmd.Context(), a, path, head, func(d shownDevice) []string {
				return []string{
					d.ID.String(), d.Hardware.String(), d.Name, string(d.State), string(d.Presence), d.Tenant.String(),
					cli.When(d.ClaimedAt), string(d.ClaimedVia),
				}
			})
		},
	}
	c.Flags().StringVar(&state, "state", "", "only those in this state")
	return c
}

func knownState(text string) bool {
	for _, state := range deviceStates {
		if text == string(state) {
			return true
		}
	}
	return false
}

func (a *app) deviceShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a device", Args: cobra.ExactArgs(1),
		Example: "  edgeclaim device show 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10",
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := devicePath(args[0], "")
			if err != nil {
				return err
			}
			return show(cmd.Context(), a, request{http.MethodGet, path, nil}, a.printDevice)
		},
	}
}

// devicePath is where a device is, and what is done to it.
func devicePath(text, verb string) (string, error) {
	id, err := edgeclaim.ParseDeviceID(text)
	if err != nil {
		return "", cli.Usagef("%v", err)
	}
	return devicesPath + "/" + url.PathEscape(id.String()) + verb, nil
}

// shownDevice is a device with its state by the box's clock.
type shownDevice struct {
	edgeclaim.Device
	State    edgeclaim.State    `json:"state"`
	Presence edgeclaim.Presence `json:"presence"`
	Since    time.Time          `json:"presence_since"`
	Seen     time.Time          `json:"last_seen"`
}

// presence is whether the device is at work, and since when.
func presence(d *shownDevice) string {
	if d.Since.IsZero() {
		return string(d.Presence)
	}
	return string(d.Presence) + " since " + cli.When(d.Since)
}

func (a *app) printDevice(d shownDevice) error {
	credential := string(d.Credential.Type)
	if d.Credential.Hash.IsZero() {
		credential = "void"
	}
	pairs := [][2]string{
		{"device_id", d.ID.String()},
		{"tenant_id", d.Tenant.String()},
		{"hardware_id", d.Hardware.String()},
		{"name", d.Name},
		{"status", string(d.Status)},
		{"state", string(d.State)},
		{"presence", presence(&d)},
		{"last_seen", cli.When(d.Seen)},
		{"generation", strconv.Itoa(d.Generation)},
		{"template_id", d.Template.String()},
		{"key_id", d.Key.String()},
		{"profile_id", d.Profile},
		{"groups", strings.Join(d.Groups, ", ")},
		{"credential", credential},
		{"issued_at", cli.When(d.Credential.IssuedAt)},
		{"not_after", cli.When(d.Credential.NotAfter)},
		{"confirmed_at", cli.When(d.Credential.ConfirmedAt)},
	}
	if d.State == edgeclaim.StateRotating {
		pairs = append(pairs, [2]string{"previous_until", cli.When(d.PreviousUntil)}, [2]string{"rotated_by", string(d.RotatedBy)})
	}
	return cli.Facts(a.stdout, append(pairs,
		[2]string{"claimed_at", cli.When(d.ClaimedAt)},
		[2]string{"claimed_via", string(d.ClaimedVia)},
	)...)
}
