package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/device"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

func (a *app) claimCommand() *cobra.Command {
	var address, key string
	var ask device.Request
	c := &cobra.Command{
		Use: "claim", Short: "Be a device and claim, for demonstrations and line checks", Args: cobra.NoArgs,
		Example: `  edgeclaim claim --url mqtt://192.168.7.1 --key - --name 'Sensor 14' --hardware-id AA:BB:CC:00:11:22 < key.txt`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if key == "-" {
				var err error
				if key, err = readSecret(a.stdin); err != nil {
					return cli.Usagef("--key: %v", err)
				}
			}
			ask.Key = edgeclaim.NewSecret(key)
			return a.claim(cmd.Context(), address, ask)
		},
	}
	f := c.Flags()
	f.StringVar(&address, "url", "", "box to claim from: http://host:port or mqtt://host[:port]")
	f.StringVar(&key, "key", "", "provisioning key; - reads it from standard input, which no other process can see")
	f.StringVar(&ask.Name, "name", "", "name of the device")
	f.StringVar(&ask.HardwareID, "hardware-id", "", "hardware id of the device")
	f.StringVar(&ask.RequestID, "request-id", "", "request id, which the answer repeats")
	required(c, "url", "key", "name", "hardware-id")
	return c
}

// claim asks once and prints the answer; what the box refuses is an error. The
// API key is printed: it is what a device claims for.
func (a *app) claim(ctx context.Context, address string, ask device.Request) error {
	answer, err := device.Claim(ctx, address, ask)
	if errors.Is(err, edgeclaim.ErrInvalid) {
		return cli.Usagef("--%v", err) // its field is the flag's name
	}
	if err != nil {
		return err
	}
	if answer.Code != edgeclaim.CodeOK {
		return &boxError{Code: answer.Code, Message: answer.Message, RetryAfter: int(answer.RetryAfter / time.Second)}
	}
	if a.json {
		_, err := fmt.Fprintf(a.stdout, "%s\n", answer.Body.Reveal())
		return err
	}
	apiKey := answer.APIKey.Reveal()
	if apiKey == "" {
		apiKey = "none: this hardware has claimed before"
	}
	return cli.Facts(a.stdout, [2]string{"device_id", answer.Device.String()}, [2]string{"api_key", apiKey},
		[2]string{"request_id", answer.RequestID})
}
