package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

const (
	// defaultCommandLife is how long a command is worth something, unless
	// --expires says otherwise, and maxCommandLife the longest that may be.
	defaultCommandLife = "24h"
	maxCommandLife     = 365 * cli.Day
)

func (a *app) commandCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "command", Short: "Tell devices what to do, through the boxes that hold them", Args: cobra.NoArgs,
		Long: "Tell devices what to do. A running hub tells the box that holds the device, at once or when it is back,\n" +
			"again until the box says a status; the box keeps the command until the device has it, or it expires.",
		RunE: cli.WantCommand,
	}
	c.AddCommand(a.commandSend(), a.commandList(), a.commandShow(), a.commandCancel())
	return c
}

func (a *app) commandSend() *cobra.Command {
	var device, payload, id, expires string
	c := &cobra.Command{
		Use: "send --device ID --payload JSON", Short: "Give a device a command", Args: cobra.NoArgs,
		Long: "Give a device a command: any JSON, --payload - reads it from the standard input. With --id, the same\n" +
			"command given twice is one.",
		Example: "  edgehub command send --device 8f1c0b7e-… --payload '{\"valve\":\"open\"}' --expires 1h",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := edgeclaim.Order{Origin: edgeclaim.OriginUpstream, By: operator()}
			var err error
			if o.Device, err = edgeclaim.ParseDeviceID(device); err != nil {
				return cli.Usagef("--device: %v", err)
			}
			if id != "" {
				if o.ID, err = edgeclaim.ParseCommandID(id); err != nil {
					return cli.Usagef("--id: %v", err)
				}
			}
			life, err := cli.ParseSpan(expires)
			if err != nil || life == 0 || life > maxCommandLife {
				return cli.Usagef("--expires: want a length of time such as 7d, 24h or 30m, %dd at most", maxCommandLife/cli.Day)
			}
			if o.Payload, err = a.payload(payload); err != nil {
				return err
			}
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				o.ExpiresAt = time.Now().Add(life)
				given, err := db.GiveCommand(ctx, o)
				if err != nil {
					return err
				}
				return a.printCommand(&given)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&device, "device", "", "device id")
	f.StringVar(&payload, "payload", "", "JSON, of at most 16 KiB; - for the standard input")
	f.StringVar(&id, "id", "", "id of the command, 1 to 64 of A-Z a-z 0-9 . _ - (default: one is made)")
	f.StringVar(&expires, "expires", defaultCommandLife, "how long from now it is worth something")
	for _, name := range []string{"device", "payload"} {
		_ = c.MarkFlagRequired(name) // fails only for a name that is no flag
	}
	return c
}

// payload is what --payload means.
func (a *app) payload(text string) (json.RawMessage, error) {
	raw := []byte(text)
	if text == "-" {
		var err error
		if raw, err = io.ReadAll(io.LimitReader(a.stdin, edgeclaim.MaxCommandPayload+1)); err != nil {
			return nil, fmt.Errorf("standard input: %w", err)
		}
	}
	raw = bytes.TrimSpace(raw)
	if len(raw) > edgeclaim.MaxCommandPayload || !json.Valid(raw) {
		return nil, cli.Usagef("--payload: want JSON of at most %d bytes", edgeclaim.MaxCommandPayload)
	}
	return raw, nil
}

// operator is who uses the command line, as boxes write it.
func operator() string { return fmt.Sprintf("uid:%d", os.Getuid()) }

// commandStatuses are those that commands have, here and in a box.
func commandStatuses() []string {
	all := []string{string(registry.CommandPending)}
	for _, status := range edgeclaim.CommandStatuses() {
		all = append(all, string(status))
	}
	return all
}

func (a *app) commandList() *cobra.Command {
	var device, status string
	c := &cobra.Command{
		Use: "list", Short: "List the commands, those that others gave on the boxes among them", Args: cobra.NoArgs,
		Long: "List the commands in the order they became known. pending: no box has said anything of it yet;\n" +
			"the other statuses are the boxes' words.",
		Example: "  edgehub command list --status pending",
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter := registry.CommandFilter{Status: edgeclaim.CommandStatus(status), Limit: pageRows}
			if status != "" && !slices.Contains(commandStatuses(), status) {
				return cli.Usagef("--status: want one of %s", strings.Join(commandStatuses(), ", "))
			}
			if device != "" {
				var err error
				if filter.Device, err = edgeclaim.ParseDeviceID(device); err != nil {
					return cli.Usagef("--device: %v", err)
				}
			}
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				return printCommands(ctx, a, db, filter)
			})
		},
	}
	c.Flags().StringVar(&device, "device", "", "those of this device")
	c.Flags().StringVar(&status, "status", "", "those of this status")
	return c
}

func printCommands(ctx context.Context, a *app, db *registry.DB, filter registry.CommandFilter) error {
	l := lister[registry.Command]{
		head: []string{"COMMAND", "DEVICE", "STATUS", "SINCE", "EXPIRES", "BOX", "ORIGIN", "BY", "ATTEMPTS", "REASON"},
		row: func(c registry.Command) []string {
			return []string{
				c.ID.String(), c.Device.String(), string(c.Status), cli.When(c.StatusAt), cli.When(c.ExpiresAt), c.Box,
				string(c.Origin), c.By, number(c.Attempts), c.Reason,
			}
		},
		page: func(ctx context.Context, last *registry.Command) ([]registry.Command, error) {
			f := filter
			if last != nil {
				f.After = last.Number
			}
			return db.Commands(ctx, f)
		},
	}
	return l.print(ctx, a)
}

func (a *app) commandShow() *cobra.Command {
	return a.oneCommand("show", "Show a command and what became of it",
		func(ctx context.Context, db *registry.DB, device edgeclaim.DeviceID, id edgeclaim.CommandID) (registry.Command, error) {
			return db.Command(ctx, device, id)
		})
}

func (a *app) commandCancel() *cobra.Command {
	c := a.oneCommand("cancel", "Take a command back",
		func(ctx context.Context, db *registry.DB, device edgeclaim.DeviceID, id edgeclaim.CommandID) (registry.Command, error) {
			return db.CancelCommand(ctx, device, id, operator())
		})
	c.Long = "Take a command back. One that no box was told is cancelled at once. Of any other its box decides: the\n" +
		"status says what came of it. One that has come to its end stays as it is."
	return c
}

// oneCommand is a command of the program about one command of a device.
func (a *app) oneCommand(name, short string,
	do func(context.Context, *registry.DB, edgeclaim.DeviceID, edgeclaim.CommandID) (registry.Command, error),
) *cobra.Command {
	var device string
	c := &cobra.Command{
		Use: name + " --device ID COMMAND", Short: short, Args: cobra.ExactArgs(1),
		Example: "  edgehub command " + name + " --device 8f1c0b7e-… valve-17",
		RunE: func(cmd *cobra.Command, args []string) error {
			of, err := edgeclaim.ParseDeviceID(device)
			if err != nil {
				return cli.Usagef("--device: %v", err)
			}
			id, err := edgeclaim.ParseCommandID(args[0])
			if err != nil {
				return cli.Usagef("COMMAND: %v", err)
			}
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				found, err := do(ctx, db, of, id)
				if err != nil {
					return err
				}
				return a.printCommand(&found)
			})
		},
	}
	c.Flags().StringVar(&device, "device", "", "device id")
	_ = c.MarkFlagRequired("device") // fails only for a name that is no flag
	return c
}

func (a *app) printCommand(c *registry.Command) error {
	if a.json {
		return a.printJSON(c)
	}
	return cli.Facts(a.stdout,
		[2]string{"command_id", c.ID.String()}, [2]string{"device_id", c.Device.String()}, [2]string{"status", string(c.Status)},
		[2]string{"since", cli.When(c.StatusAt)}, [2]string{"expires", cli.When(c.ExpiresAt)}, [2]string{"box_id", c.Box},
		[2]string{"origin", string(c.Origin)}, [2]string{"by", c.By}, [2]string{"attempts", number(c.Attempts)},
		[2]string{"reason", c.Reason}, [2]string{"cancelled_by", c.CancelledBy},
		[2]string{"payload", string(c.Payload)}, [2]string{"result", string(c.Result)})
}
