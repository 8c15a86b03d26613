package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

const commandsPath = "/api/v1/commands"

func (a *app) deviceCommandCommand() *cobra.Command {
	var payload, expires, id string
	c := &cobra.Command{
		Use: "command ID --payload JSON", Short: "Have a device do something",
		Long: `Give a device a command. The box keeps it until the device has answered, it expires
or it is taken back; a device that sleeps gets it when it comes. The device is told
again until it answers, so that it has to know a command that it has done already by
its command_id.

--payload is any JSON value, @FILE or - for standard input.`,
		Example: `  edgeclaim device command 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10 --payload '{"relay":"on"}' --expires 10m
  edgeclaim device command 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10 --payload @update.json --command-id update-17`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := devicePath(args[0], "/commands")
			if err != nil {
				return err
			}
			var ask struct {
				ID        string          `json:"command_id,omitempty"`
				Payload   json.RawMessage `json:"payload"`
				ExpiresIn int64           `json:"expires_in_seconds,omitempty"`
			}
			if ask.Payload, err = a.readJSON("--payload", payload, edgeclaim.MaxCommandPayload); err != nil {
				return err
			}
			if cmd.Flags().Changed("expires") {
				in, err := cli.ParseSpan(expires)
				if err != nil || in < time.Second {
					return cli.Usagef("--expires: want a length of time such as 7d, 24h or 30m, at least 1s")
				}
				ask.ExpiresIn = int64(in / time.Second)
			}
			if cmd.Flags().Changed("command-id") {
				known, err := edgeclaim.ParseCommandID(id)
				if err != nil {
					return cli.Usagef("--%v", strings.Replace(err.Error(), "_", "-", 1))
				}
				ask.ID = known.String()
			}
			err = show(cmd.Context(), a, request{http.MethodPost, path, ask}, a.printCommand)
			err = worded(err, edgeclaim.CodeAlreadyExists, "the device has another command of this id")
			return hint(deviceWords(err), edgeclaim.CodeAborted, "a revoked device gets none")
		},
	}
	f := c.Flags()
	f.StringVar(&payload, "payload", "", "what the device is to do: JSON, @FILE or -")
	f.StringVar(&expires, "expires", "", "how long it is worth doing (default commands.default_expiry of the box, 24h)")
	f.StringVar(&id, "command-id", "", "id of your own (default one is made); a second command of the same id is the first one")
	required(c, "payload")
	return c
}

// readJSON reads a flag's JSON: the text itself, @FILE, or - for standard input.
func (a *app) readJSON(flag, text string, limit int64) (json.RawMessage, error) {
	document := []byte(text)
	path, named := strings.CutPrefix(text, "@")
	if text == "-" || named {
		var err error
		if document, err = a.readInput(cmp.Or(path, "-"), limit); err != nil {
			if _, ok := errors.AsType[*os.PathError](err); ok {
				return nil, fmt.Errorf("%s: %w", flag, err)
			}
			return nil, err
		}
	}
	if !json.Valid(document) {
		return nil, cli.Usagef("%s: want JSON, @FILE or -", flag)
	}
	return document, nil
}

func (a *app) commandCommand() *cobra.Command {
	c := &cobra.Command{Use: "command", Short: "What devices were told to do, and what became of it", Args: cobra.NoArgs, RunE: cli.WantCommand}
	c.AddCommand(a.commandListCommand(), a.commandShowCommand(), a.commandCancelCommand())
	return c
}

func (a *app) commandListCommand() *cobra.Command {
	var device, status string
	c := &cobra.Command{
		Use: "list", Short: "List the commands, the newest first", Args: cli.NoArguments,
		Long: `List the commands that wait, and the newest 10,000 that have come to an end:
queued, kept for a device that is not there; sent, written to it; delivered, it has
it; successful or failed, it said so; expired; cancelled.`,
		Example: `  edgeclaim command list --status failed
  edgeclaim command list --device 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10 --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			only := url.Values{}
			if cmd.Flags().Changed("device") {
				id, err := edgeclaim.ParseDeviceID(device)
				if err != nil {
					return cli.Usagef("--device: %v", err)
				}
				only.Set("device_id", id.String())
			}
			if cmd.Flags().Changed("status") {
				if !slices.Contains(edgeclaim.CommandStatuses(), edgeclaim.CommandStatus(status)) {
					return cli.Usagef("--status: want queued, sent, delivered, successful, failed, expired or cancelled")
				}
				only.Set("status", status)
			}
			path := commandsPath
			if len(only) > 0 {
				path += "?" + only.Encode()
			}
			head := []string{"COMMAND ID", "DEVICE ID", "STATUS", "CHANGED", "EXPIRES", "ORIGIN", "BY"}
			return list(cmd.Context(), a, path, head, func(c edgeclaim.Command) []string {
				return []string{
					c.ID.String(), c.Device.String(), string(c.Status), cli.When(c.ChangedAt), cli.When(c.ExpiresAt), string(c.Origin), c.By,
				}
			})
		},
	}
	c.Flags().StringVar(&device, "device", "", "only those of this device")
	c.Flags().StringVar(&status, "status", "", "only those that are so far")
	return c
}

func (a *app) commandShowCommand() *cobra.Command {
	return a.oneCommand("show", "Show a command", "", http.MethodGet)
}

func (a *app) commandCancelCommand() *cobra.Command {
	return a.oneCommand("cancel", "Take a command back; a device that has it already may do it all the same", "/cancel", http.MethodPost)
}

// oneCommand does one thing with a command, which its device's id belongs to.
func (a *app) oneCommand(use, short, verb, method string) *cobra.Command {
	var device string
	c := &cobra.Command{
		Use: use + " COMMAND_ID --device ID", Short: short, Args: cobra.ExactArgs(1),
		Example: "  edgeclaim command " + use + " update-17 --device 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := edgeclaim.ParseCommandID(args[0])
			if err != nil {
				return cli.Usagef("%v", err)
			}
			path, err := devicePath(device, "/commands/"+url.PathEscape(id.String())+verb)
			if err != nil {
				return err
			}
			err = show(cmd.Context(), a, request{method, path, nil}, a.printCommand)
			err = worded(err, edgeclaim.CodeNotFound, "this device has no command of this id; command list shows them")
			return worded(err, edgeclaim.CodeAborted, "it has come to another end already; command show says to which")
		},
	}
	c.Flags().StringVar(&device, "device", "", "the command's device")
	required(c, "device")
	return c
}

func (a *app) printCommand(c edgeclaim.Command) error {
	return cli.Facts(a.stdout,
		[2]string{"command_id", c.ID.String()},
		[2]string{"device_id", c.Device.String()},
		[2]string{"status", string(c.Status)},
		[2]string{"reason", c.Reason},
		[2]string{"result", string(c.Result)},
		[2]string{"payload", string(c.Payload)},
		[2]string{"queued_at", cli.When(c.QueuedAt)},
		[2]string{"changed_at", cli.When(c.ChangedAt)},
		[2]string{"expires_at", cli.When(c.ExpiresAt)},
		[2]string{"attempts", strconv.Itoa(c.Attempts)},
		[2]string{"origin", string(c.Origin)},
		[2]string{"by", c.By},
	)
}

func (a *app) deviceConfigCommand() *cobra.Command {
	var set string
	c := &cobra.Command{
		Use: "config ID", Short: "Show a device's configuration, or set it",
		Long: `Show what a device is told of how to work. --set takes a JSON object, @FILE or - for
standard input, and puts it in the place of what was there; the device gets it at
once when it listens, else when it next does.`,
		Example: `  edgeclaim device config 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10
  edgeclaim device config 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10 --set '{"interval_seconds":30}'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := devicePath(args[0], "/config")
			if err != nil {
				return err
			}
			ask := request{http.MethodGet, path, nil}
			if cmd.Flags().Changed("set") {
				document, err := a.readJSON("--set", set, edgeclaim.MaxDeviceConfig)
				if err != nil {
					return err
				}
				ask = request{http.MethodPut, path, struct {
					Config json.RawMessage `json:"config"`
				}{document}}
			}
			return deviceWords(show(cmd.Context(), a, ask, func(c edgeclaim.DeviceConfig) error {
				return cli.Facts(a.stdout,
					[2]string{"version", strconv.FormatUint(c.Version, 10)}, [2]string{"config", string(c.Config)})
			}))
		},
	}
	c.Flags().StringVar(&set, "set", "", "another configuration: a JSON object, @FILE or -")
	return c
}
