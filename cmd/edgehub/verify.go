package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

// maxKey is the longest API key that is read, in bytes.
const maxKey = 4096

func (a *app) verifyCommand() *cobra.Command {
	var fingerprint string
	c := &cobra.Command{
		Use: "verify", Short: "Say whether a device's API key or PSK, read from the standard input, is valid", Args: cli.NoArguments,
		Long: "Say whether a credential is valid: a device's API key or PSK, one line on the standard input, or\n" +
			"--fingerprint, its SHA-256, of a certificate that of its DER. Exit code 0: it is; 4: it is not.",
		Example: "  printf '%s\\n' \"$API_KEY\" | edgehub verify\n  edgehub verify --fingerprint 9f86d081884c7d65…",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var hash edgeclaim.KeyHash
			var err error
			if cmd.Flags().Changed("fingerprint") {
				hash, err = edgeclaim.ParseKeyHash(fingerprint)
			} else {
				hash, err = readKeyHash(a.stdin)
			}
			if err != nil {
				return cli.Usagef("verify: %v", err)
			}
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				return a.verify(ctx, db, hash)
			})
		},
	}
	c.Flags().StringVar(&fingerprint, "fingerprint", "", "SHA-256 of the key or of the certificate's DER, 64 hexadecimal digits, instead of the key")
	return c
}

// readKeyHash reads one line and forgets it but for its hash.
func readKeyHash(r io.Reader) (edgeclaim.KeyHash, error) {
	line, err := bufio.NewReaderSize(io.LimitReader(r, maxKey+1), maxKey+1).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return edgeclaim.KeyHash{}, fmt.Errorf("standard input: %w", err)
	}
	key := strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
	if key == "" || len(key) > maxKey {
		return edgeclaim.KeyHash{}, fmt.Errorf("want an API key of 1 to %d bytes, one line on the standard input", maxKey)
	}
	return edgeclaim.NewSecret(key).Hash(), nil
}

func (a *app) verify(ctx context.Context, db *registry.DB, hash edgeclaim.KeyHash) error {
	v, err := db.Verify(ctx, hash)
	if err != nil {
		return err
	}
	if a.json {
		err = a.printJSON(v)
	} else {
		err = printVerification(a.stdout, &v)
	}
	if err == nil && !v.Valid {
		return &refusedError{"not valid: " + v.Reason}
	}
	return err
}

func printVerification(out io.Writer, v *registry.Verification) error {
	pairs := [][2]string{{"valid", yes(v.Valid)}, {"reason", v.Reason}}
	if !v.Device.IsZero() {
		pairs = append(pairs, [2]string{"device_id", v.Device.String()}, [2]string{"tenant_id", v.Tenant.String()},
			[2]string{"hardware_id", v.Hardware.String()}, [2]string{"box_id", v.Box},
			[2]string{"status", string(v.Status)}, [2]string{"credential", string(v.Credential)}, [2]string{"valid_until", cli.When(v.Until)})
	}
	if v.Overlap {
		pairs = append(pairs, [2]string{"overlap", "yes: a rotation has taken its place"})
	}
	return cli.Facts(out, pairs...)
}
