package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"edgeclaim/cmd/internal/cli"
	"edgeclaim/internal/adminsocket"
	"edgeclaim/internal/ca"

	"github.com/spf13/cobra"
)

const caPath = "/api/v1/ca"

func (a *app) caCommand() *cobra.Command {
	c := &cobra.Command{Use: "ca", Short: "The box's certificate authority", Args: cobra.NoArgs, RunE: cli.WantCommand}
	c.AddCommand(a.caRootCommand(), a.caShowCommand(), a.caCSRCommand(), a.caImportCommand())
	return c
}

func (a *app) caRootCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "root", Short: "Print the certificate that devices have to trust, PEM", Args: cli.NoArguments,
		Long: `Print the root that the box's own certificates lead to. It is not secret. The box
need not run.`,
		Example: `  edgeclaim ca root --out root.pem
  curl --cacert root.pem https://192.168.7.1:8443/healthz`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			root, err := newClient(a.dir()).call(cmd.Context(), request{http.MethodGet, caPath + "/root", nil})
			if errors.Is(err, adminsocket.ErrNotRunning) {
				if offline, readErr := rootOf(a.dir()); !errors.Is(readErr, os.ErrNotExist) {
					root, err = offline, readErr
				}
			}
			if err != nil {
				return err
			}
			return a.printPEM("root", root, out)
		},
	}
	c.Flags().StringVar(&out, "out", "", "file to write (default standard output)")
	return c
}

// issuerFile is the file of the authority that has its chain, the root last.
const issuerFile = "ca/issuer.pem"

// rootOf reads the root from the data folder of a box that does not run.
func rootOf(dir string) ([]byte, error) {
	rest, err := os.ReadFile(filepath.Join(dir, issuerFile))
	if err != nil {
		return nil, err
	}
	var root *pem.Block
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			root = block
		}
	}
	if root == nil {
		return nil, fmt.Errorf("%s: no certificate in it", issuerFile)
	}
	return pem.EncodeToMemory(root), nil
}

// printPEM prints a document, or writes it into a file.
func (a *app) printPEM(what string, document []byte, out string) error {
	switch {
	case out == "" || cli.IsStdout(out):
		if a.json {
			return a.printJSON(map[string]string{what: string(document)})
		}
		_, err := a.stdout.Write(document)
		return err
	default:
		err := cli.WriteWhole(out, func(w io.Writer) error {
			_, err := w.Write(document)
			return err
		})
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(map[string]string{"file": out})
		}
		return cli.Facts(a.stdout, [2]string{"file", out})
	}
}

func (a *app) caShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show who issues the box's certificates", Args: cli.NoArguments, Example: "  edgeclaim ca show --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return show(cmd.Context(), a, request{http.MethodGet, caPath, nil}, a.printCA)
		},
	}
}

func (a *app) printCA(info ca.Info) error {
	return cli.Facts(a.stdout,
		[2]string{"subject", info.Subject},
		[2]string{"not_before", cli.When(info.NotBefore)},
		[2]string{"not_after", cli.When(info.NotAfter)},
		[2]string{"fingerprint", info.Fingerprint.String()},
		[2]string{"self_signed", yesNo(info.SelfSigned)},
		[2]string{"retired", strconv.Itoa(info.Retired)})
}

func (a *app) caCSRCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "csr", Short: "Print a request for an intermediate certificate of the plant's CA, PEM", Args: cli.NoArguments,
		Long: `Print a request with a new key, which stays on the box. Have the plant's CA sign it
as an intermediate (CA:TRUE), then "ca import" the chain. The same request comes
until then, and the box issues as before.`,
		Example: `  edgeclaim ca csr --out box.csr
  edgeclaim ca import chain.pem`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.fetchPEM(cmd.Context(), "csr", request{http.MethodPost, caPath + "/csr", nil}, out)
		},
	}
	c.Flags().StringVar(&out, "out", "", "file to write (default standard output)")
	return c
}

func (a *app) fetchPEM(ctx context.Context, what string, ask request, out string) error {
	document, err := newClient(a.dir()).call(ctx, ask)
	if err != nil {
		return err
	}
	return a.printPEM(what, document, out)
}

func (a *app) caImportCommand() *cobra.Command {
	return &cobra.Command{
		Use: "import FILE", Short: "Issue certificates under the plant's CA from now on",
		Long: `Import the chain that the plant's CA made for the request of "ca csr", leaf first and
the root last, PEM; - reads standard input. Devices that have a certificate of
before go on; those that trust the box's former root need the new one: "ca root".`,
		Example: "  edgeclaim ca import chain.pem",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			document, err := a.readInput(args[0], ca.MaxChainText)
			if err != nil {
				return err
			}
			return show(cmd.Context(), a, request{http.MethodPost, caPath + "/import", upload{mediaPEM, bytes.NewReader(document)}}, a.printCA)
		},
	}
}
