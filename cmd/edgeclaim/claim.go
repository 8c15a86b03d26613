package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/device"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

const (
	// nonceBytes is how many random bytes a claim_nonce made here has; the
	// contract wants 16 to 64.
	nonceBytes = 32
	// maxNonceFile, maxCSRFile and maxRootsFile are more than each ever takes,
	// in bytes.
	maxNonceFile = 1 << 10
	maxCSRFile   = 16 << 10
	maxRootsFile = 4 << 20
)

// claimFlags are the flags that are read before the device asks.
type claimFlags struct {
	url, key, nonce, csr, out string
	ca, cert, certKey         string
}

func (a *app) claimCommand() *cobra.Command {
	var flags claimFlags
	var ask device.Request
	c := &cobra.Command{
		Use: "claim", Short: "Be a device and claim, for demonstrations and line checks", Args: cli.NoArguments,
		Long: `Claim as a device does, and print the credential: it is said this once.

With --claim-nonce an answer that is lost can be asked for again: the file is made,
and is on the disk, before the claim is sent, and the same command gets the same
credential until it is first used. A certificate goes into the folder of --out:
cert.pem, chain.pem (what others verify it by) and, without --csr, key.pem.

Over https and mqtts the box is trusted by --ca: "edgeclaim ca root" prints what
belongs there.`,
		Example: `  edgeclaim claim --url mqtt://192.168.7.1 --key - --name 'Sensor 14' --hardware-id AA:BB:CC:00:11:22 < key.txt
  edgeclaim claim --url mqtts://192.168.7.1 --ca root.pem --key - --name 'Sensor 14' --hardware-id AA:BB:CC:00:11:22 \
    --claim-nonce nonce.txt --csr device.csr --out credential < key.txt
  edgeclaim claim --url https://192.168.7.1:8443 --ca root.pem --key - --name 'Sensor 15' --hardware-id AA:BB:CC:00:11:23 --wait 10m < key.txt`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.prepare(&flags, &ask); err != nil {
				return err
			}
			return a.claim(cmd.Context(), &flags, ask)
		},
	}
	f := c.Flags()
	f.StringVar(&flags.url, "url", "", "box to claim from: http://host:port, https://, mqtt://host[:port] or mqtts://")
	f.StringVar(&flags.key, "key", "", "provisioning key; - reads it from standard input, which no other process can see")
	f.StringVar(&ask.Name, "name", "", "name of the device")
	f.StringVar(&ask.HardwareID, "hardware-id", "", "hardware id of the device")
	f.StringVar(&ask.RequestID, "request-id", "", "request id, which the answer repeats")
	f.StringVar(&flags.nonce, "claim-nonce", "", "file of the claim's nonce; made when it is not there")
	f.StringVar(&flags.csr, "csr", "", "file of a certificate request, PEM")
	f.StringVar(&flags.out, "out", "", "folder for the certificate, its chain and its key; made when it is not there")
	f.StringVar(&flags.ca, "ca", "", "file of the certificates to trust the box by, PEM (default the system's)")
	f.StringVar(&flags.cert, "cert", "", "file of a client certificate, PEM")
	f.StringVar(&flags.certKey, "key-file", "", "file of the client certificate's key, PEM")
	f.DurationVar(&ask.Patience, "wait", 0, "how long to wait where an operator has to approve, such as 10m")
	required(c, "url", "key", "name", "hardware-id")
	c.MarkFlagsRequiredTogether("cert", "key-file")
	return c
}

// prepare reads and makes all that a claim needs, so that nothing of it can go
// wrong once the box has decided.
func (a *app) prepare(flags *claimFlags, ask *device.Request) error {
	if ask.Patience < 0 {
		return cli.Usagef("--wait: want a duration of at least 0s")
	}
	var err error
	if ask.TLS, err = a.trusting(flags); err != nil {
		return err
	}
	if flags.key == "-" {
		if flags.key, err = readSecret(a.stdin); err != nil {
			return cli.Usagef("--key: %v", err)
		}
	}
	ask.Key = edgeclaim.NewSecret(flags.key)
	if flags.csr != "" {
		document, err := a.readInput(flags.csr, maxCSRFile)
		if err != nil {
			return fmt.Errorf("--csr: %w", err)
		}
		ask.CSR = string(document)
	}
	if flags.out != "" {
		if err := os.MkdirAll(flags.out, 0o700); err != nil {
			return fmt.Errorf("--out: %w", err)
		}
	}
	if flags.nonce != "" {
		ask.Nonce, err = a.nonceOf(flags.nonce)
	}
	return err
}

// trusting is whom to trust, and who to be, over TLS.
func (a *app) trusting(f *claimFlags) (*tls.Config, error) {
	secure := strings.HasPrefix(f.url, "https:") || strings.HasPrefix(f.url, "mqtts:")
	if !secure && (f.ca != "" || f.cert != "") {
		return nil, cli.Usagef("--ca, --cert and --key-file need https:// or mqtts://")
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		document, err := a.readInput(f.ca, maxRootsFile)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(document) {
			return nil, cli.Usagef("--ca: %s: no certificate in it", f.ca)
		}
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.certKey)
		if err != nil {
			return nil, cli.Usagef("--cert and --key-file: %v", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// nonceOf reads the nonce of a file, or makes both. It is on the disk before
// anybody is asked with it: a device that forgets its nonce has none.
func (a *app) nonceOf(path string) (edgeclaim.Secret, error) {
	document, err := a.readInput(path, maxNonceFile)
	if err == nil {
		text := strings.TrimSpace(string(document)) // the box judges it
		if text == "" {
			return edgeclaim.Secret{}, cli.Usagef("--claim-nonce: %s: empty", path) // no nonce is another claim
		}
		return edgeclaim.NewSecret(text), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return edgeclaim.Secret{}, fmt.Errorf("--claim-nonce: %w", err)
	}
	random := make([]byte, nonceBytes)
	_, _ = rand.Read(random) // it never fails (crypto/rand)
	text := base64.RawURLEncoding.EncodeToString(random)
	err = cli.WriteWhole(path, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, text)
		return err
	})
	if err != nil {
		return edgeclaim.Secret{}, fmt.Errorf("--claim-nonce: %w", err)
	}
	return edgeclaim.NewSecret(text), nil
}

// claim asks and prints the answer; what the box refuses is an error. The
// credential is printed: it is what a device claims for.
func (a *app) claim(ctx context.Context, flags *claimFlags, ask device.Request) error {
	answer, err := device.Claim(ctx, flags.url, ask)
	if errors.Is(err, edgeclaim.ErrInvalid) {
		return cli.Usagef("--%v", err) // its field is the flag's name
	}
	if err != nil {
		return err
	}
	if answer.Code != edgeclaim.CodeOK {
		return &boxError{Code: answer.Code, Message: answer.Message, RetryAfter: int(answer.RetryAfter / time.Second)}
	}
	var kept error
	if flags.out != "" {
		if err := keep(flags.out, &answer); err != nil {
			kept = fmt.Errorf("the box gave a certificate, and it is not kept but printed: %w", err)
			flags.out = "" // it is not said again
		}
	}
	if a.json {
		_, err := fmt.Fprintf(a.stdout, "%s\n", answer.Body.Reveal())
		return errors.Join(kept, err)
	}
	return errors.Join(kept, a.printClaimed(flags, &answer))
}

// keep writes what a certificate's device needs into a folder: the key first,
// without which the rest is worth nothing. What the answer has not is not
// touched, and nothing is where another credential is there: it may be the only
// copy of it.
func keep(folder string, answer *device.Answer) error {
	files := []struct{ name, text string }{
		{"key.pem", answer.PrivateKey.Reveal()}, {"cert.pem", answer.Certificate}, {"chain.pem", answer.Chain},
	}
	for _, file := range files[:2] {
		there, err := os.ReadFile(filepath.Join(folder, file.name)) //nolint:gosec // the folder that the operator names
		if err == nil && file.text != "" && string(there) != file.text {
			return fmt.Errorf("--out: another credential is in %s", filepath.Join(folder, file.name))
		}
	}
	for _, file := range files {
		if file.text == "" {
			continue
		}
		err := cli.WriteWhole(filepath.Join(folder, file.name), func(w io.Writer) error {
			_, err := io.WriteString(w, file.text)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *app) printClaimed(flags *claimFlags, answer *device.Answer) error {
	pairs := [][2]string{{"device_id", answer.Device.String()}}
	apiKey := answer.APIKey.Reveal()
	switch {
	case answer.Certificate != "" && flags.out != "":
		pairs = append(pairs, [2]string{"certificate", filepath.Join(flags.out, "cert.pem")})
	case answer.Certificate != "":
	case !answer.PSK.IsZero():
		pairs = append(pairs, [2]string{"psk_identity", answer.PSKIdentity}, [2]string{"psk", answer.PSK.Reveal()})
	case apiKey == "":
		pairs = append(pairs, [2]string{"api_key", "none: this hardware has claimed before"})
	default:
		pairs = append(pairs, [2]string{"api_key", apiKey})
	}
	if err := cli.Facts(a.stdout, append(pairs, [2]string{"request_id", answer.RequestID})...); err != nil {
		return err
	}
	if flags.out != "" {
		return nil
	}
	_, err := io.WriteString(a.stdout, answer.Certificate+answer.Chain+answer.PrivateKey.Reveal())
	return err
}
