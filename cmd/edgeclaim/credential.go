package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// rotated is a credential that was just made, the only time that it is said
// (P5). Only what goes with its type is there.
type rotated struct {
	Device        edgeclaim.DeviceID `json:"device_id"`
	APIKey        string             `json:"api_key"`
	PSKIdentity   string             `json:"psk_identity"`
	PSK           string             `json:"psk"`
	Certificate   string             `json:"certificate"`
	Chain         string             `json:"ca_chain"`
	PrivateKey    string             `json:"private_key"`
	PreviousUntil time.Time          `json:"previous_until"`
}

func (a *app) deviceRotateCommand() *cobra.Command {
	var overlap, csr string
	c := &cobra.Command{
		Use: "rotate ID", Short: "Give a device another credential; it is shown this once",
		Long: `Make a new credential for a device and print it: bring it to the device. The old one
is good as well until the overlap is over; sessions that logged in with it end then.
With --overlap 0s the old one is void at once.

A device of type x509 gets a certificate for --csr, or one with a key made here.`,
		Example: `  edgeclaim device rotate 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10
  edgeclaim device rotate 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10 --overlap 1h --csr device.csr`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := devicePath(args[0], "/rotate")
			if err != nil {
				return err
			}
			var ask struct {
				Overlap string `json:"overlap"`
				CSR     string `json:"csr,omitempty"`
			}
			until, err := cli.ParseSpan(overlap)
			if err != nil {
				return cli.Usagef("--overlap: %v", err)
			}
			ask.Overlap = until.String()
			if csr != "" {
				document, err := a.readInput(csr, maxCSRFile)
				if err != nil {
					return fmt.Errorf("--csr: %w", err)
				}
				ask.CSR = string(document)
			}
			err = show(cmd.Context(), a, request{http.MethodPost, path, ask}, a.printRotated)
			return hint(deviceWords(err), edgeclaim.CodeAborted, "a device that is revoked or released has no credential")
		},
	}
	c.Flags().StringVar(&overlap, "overlap", "24h", "how long the old credential is good as well, 0s to 30d")
	c.Flags().StringVar(&csr, "csr", "", "file of a certificate request, PEM; - reads standard input")
	return c
}

func (a *app) printRotated(r rotated) error {
	err := cli.Facts(a.stdout,
		[2]string{"device_id", r.Device.String()},
		[2]string{"api_key", r.APIKey},
		[2]string{"psk_identity", r.PSKIdentity},
		[2]string{"psk", r.PSK},
		[2]string{"previous_until", cli.When(r.PreviousUntil)})
	if err == nil {
		_, err = io.WriteString(a.stdout, r.Certificate+r.Chain+r.PrivateKey)
	}
	a.warnOnce("credential")
	return err
}

// warnOnce says to whoever looks on that a secret is not said again.
func (a *app) warnOnce(what string) {
	if file, ok := a.stdout.(*os.File); ok && terminal(file) {
		_, _ = fmt.Fprintf(a.stderr, "This %s is shown this once: keep it now.\n", what)
	}
}

func terminal(file *os.File) bool {
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

func (a *app) deviceRevokeCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "revoke ID", Short: "Void a device's credential, and refuse its hardware",
		Long: `Void all credentials of a device, close its sessions, and refuse its hardware from
then on, whatever key it claims with. "device release --reinstate" undoes it.`,
		Example: `  edgeclaim device revoke 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10 --reason 'stolen from line 3'`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ask := struct {
				Reason string `json:"reason,omitempty"`
			}{reason}
			return a.changeDevice(cmd, args[0], "/revoke", ask)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for upstream and the audit")
	return c
}

func (a *app) deviceReleaseCommand() *cobra.Command {
	var reinstate bool
	c := &cobra.Command{
		Use: "release ID", Short: "Void a device's credential, so that its hardware may claim anew",
		Long: `Void all credentials of a device and close its sessions. Its hardware may claim anew,
and gets the same device id with another credential. It is the way out for a device
that claimed without a nonce and lost the answer.`,
		Example: `  edgeclaim device release 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10
  edgeclaim device release 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10 --reinstate   # one that was revoked`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ask := struct {
				Reinstate bool `json:"reinstate"`
			}{reinstate}
			err := a.changeDevice(cmd, args[0], "/release", ask)
			if reinstate {
				return err
			}
			return hint(err, edgeclaim.CodeAborted, "--reinstate releases one that was revoked")
		},
	}
	c.Flags().BoolVar(&reinstate, "reinstate", false, "release it although it was revoked")
	return c
}

func (a *app) deviceSwapCommand() *cobra.Command {
	var to string
	c := &cobra.Command{
		Use: "swap ID --hardware-id H", Short: "Give a device's identity to another board",
		Long: `Give a device's id and history to a new board, which claims it with its own hardware
id. The old board is denied from then on: "deny --remove" lets it claim as a new
device.`,
		Example: `  edgeclaim device swap 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10 --hardware-id AA:BB:CC:00:11:23`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			hardware, err := edgeclaim.ParseHardwareID(to)
			if err != nil {
				return cli.Usagef("--hardware-id: %v", err)
			}
			ask := struct {
				Hardware edgeclaim.HardwareID `json:"hardware_id"`
			}{hardware}
			return hint(a.changeDevice(cmd, args[0], "/swap", ask), edgeclaim.CodeAborted,
				"the other board is a device already or is denied, or this device is revoked")
		},
	}
	c.Flags().StringVar(&to, "hardware-id", "", "hardware id of the new board")
	required(c, "hardware-id")
	return c
}

// changeDevice asks for a change of a device and prints what it is then.
func (a *app) changeDevice(cmd *cobra.Command, id, verb string, ask any) error {
	path, err := devicePath(id, verb)
	if err != nil {
		return err
	}
	return deviceWords(show(cmd.Context(), a, request{http.MethodPost, path, ask}, a.printDevice))
}

// deviceWords says what is not found.
func deviceWords(err error) error {
	return worded(err, edgeclaim.CodeNotFound, "no device has this id; device list shows them")
}
