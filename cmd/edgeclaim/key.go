package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

const keysPath = "/api/v1/keys"

func (a *app) keyCommand() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Provisioning keys", Args: cobra.NoArgs, RunE: cli.WantCommand}
	c.AddCommand(a.keyIssueCommand(), a.keyImportCommand(), a.keyListCommand(),
		a.keyShowCommand(), a.keyRevokeCommand(),
		a.keyVerb("disable", "Refuse a key until it is enabled"),
		a.keyVerb("enable", "Accept a disabled key again"),
	)
	return c
}

// issuedKey is a key that was just made, the only time that it is said (P5).
type issuedKey struct {
	Key       edgeclaim.KeyID      `json:"key_id"`
	Secret    string               `json:"provision_key"`
	Template  edgeclaim.TemplateID `json:"template_id"`
	Status    edgeclaim.KeyStatus  `json:"status"`
	CreatedAt time.Time            `json:"created_at"`
	Warning   string               `json:"warning"`
}

func (a *app) keyIssueCommand() *cobra.Command {
	var template string
	var count int
	c := &cobra.Command{
		Use: "issue", Short: "Make provisioning keys; they are shown this once", Args: cli.NoArguments,
		Example: "  edgeclaim key issue --template 019ca7b2-4c1e-7d05-8f33-5a0b6c7d8e9f --count 10",
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := templateKeysPath(template)
			if err != nil {
				return err
			}
			ask := struct {
				Count int `json:"count"`
			}{count}
			return show(cmd.Context(), a, request{http.MethodPost, path, ask}, a.printIssued)
		},
	}
	c.Flags().StringVar(&template, "template", "", "template the keys are issued from")
	c.Flags().IntVar(&count, "count", 1, "how many")
	required(c, "template")
	return c
}

func templateKeysPath(template string) (string, error) {
	id, err := edgeclaim.ParseTemplateID(template)
	if err != nil {
		return "", cli.Usagef("--template: %v", err)
	}
	return templatesPath + "/" + url.PathEscape(id.String()) + "/keys", nil
}

func (a *app) printIssued(keys []issuedKey) error {
	t := cli.NewTable(a.stdout, "KEY ID", "PROVISION KEY", "TEMPLATE ID", "STATUS")
	warning := ""
	for _, k := range keys {
		t.Row(k.Key.String(), k.Secret, k.Template.String(), string(k.Status))
		if k.Warning != "" {
			warning = k.Warning
		}
	}
	if warning != "" {
		_, _ = fmt.Fprintf(a.stderr, "warning: %s\n", warning)
	}
	return t.End()
}

func (a *app) keyImportCommand() *cobra.Command {
	var template, sha256 string
	var fromStdin bool
	c := &cobra.Command{
		Use: "import", Short: "Import a key that the platform issued, by its SHA-256 or raw from standard input", Args: cli.NoArguments,
		Example: `  edgeclaim key import --template 019ca7b2-4c1e-7d05-8f33-5a0b6c7d8e9f --key-stdin < key.txt`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := templateKeysPath(template)
			if err != nil {
				return err
			}
			var ask struct {
				SHA256 string `json:"sha256,omitempty"`
				Raw    string `json:"provision_key,omitempty"`
			}
			if fromStdin {
				if ask.Raw, err = readSecret(a.stdin); err != nil {
					return cli.Usagef("--key-stdin: %v", err)
				}
			} else {
				hash, err := edgeclaim.ParseKeyHash(sha256)
				if err != nil {
					return cli.Usagef("--sha256: %v", err)
				}
				ask.SHA256 = hash.String()
			}
			return show(cmd.Context(), a, request{http.MethodPost, path + "/import", ask}, a.printKey)
		},
	}
	c.Flags().StringVar(&template, "template", "", "template the key belongs to")
	c.Flags().StringVar(&sha256, "sha256", "", "SHA-256 of the key, 64 hexadecimal digits")
	c.Flags().BoolVar(&fromStdin, "key-stdin", false, "read the key itself from standard input")
	required(c, "template")
	c.MarkFlagsOneRequired("sha256", "key-stdin")
	c.MarkFlagsMutuallyExclusive("sha256", "key-stdin")
	return c
}

// readSecret reads a key of at most edgeclaim.MaxKey characters, so that no
// secret need stand on a command line, where every process can read it. The
// input is one line, and its end is not part of the key: a file of many keys is
// refused, rather than one of them taken for all.
func readSecret(r io.Reader) (string, error) {
	const most = edgeclaim.MaxKey * utf8.UTFMax // bytes
	input, err := io.ReadAll(io.LimitReader(r, most+3))
	if err != nil {
		return "", err
	}
	line := strings.TrimSuffix(strings.TrimSuffix(string(input), "\n"), "\r")
	if line == "" || len(line) > most || strings.ContainsAny(line, "\r\n") {
		return "", fmt.Errorf("want one line of 1 to %d characters and nothing after it", edgeclaim.MaxKey)
	}
	if !utf8.ValidString(line) {
		return "", errors.New("invalid UTF-8") // JSON could not carry it: another key would be imported
	}
	return line, nil
}

func (a *app) keyListCommand() *cobra.Command {
	var template string
	c := &cobra.Command{
		Use: "list", Short: "List the keys", Args: cli.NoArguments, Example: "  edgeclaim key list --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := keysPath
			if template != "" {
				id, err := edgeclaim.ParseTemplateID(template)
				if err != nil {
					return cli.Usagef("--template: %v", err)
				}
				path += "?" + url.Values{"template_id": {id.String()}}.Encode()
			}
			head := []string{"KEY ID", "TEMPLATE ID", "STATUS", "CLAIMS", "USED BY", "CREATED"}
			return list(cmd.Context(), a, path, head, func(k edgeclaim.Key) []string {
				return []string{k.ID.String(), k.Template.String(), string(k.Status), claims(k), usedBy(k), cli.When(k.CreatedAt)}
			})
		},
	}
	c.Flags().StringVar(&template, "template", "", "only those of this template")
	return c
}

// keyPath names a key to the box.
func keyPath(text string) (string, error) {
	id, err := edgeclaim.ParseKeyID(text)
	if err != nil {
		return "", cli.Usagef("%v", err)
	}
	return keysPath + "/" + url.PathEscape(id.String()), nil
}

func (a *app) keyShowCommand() *cobra.Command {
	var devices bool
	c := &cobra.Command{
		Use: "show ID", Short: "Show a key, or the devices that were made with it", Args: cobra.ExactArgs(1),
		Example: `  edgeclaim key show 019ca7b2-4c1e-7d05-8f33-5a0b6c7d8e9f
  edgeclaim key show 019ca7b2-4c1e-7d05-8f33-5a0b6c7d8e9f --devices`,
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := keyPath(args[0])
			if err != nil {
				return err
			}
			if !devices {
				return show(cmd.Context(), a, request{http.MethodGet, path, nil}, a.printKey)
			}
			head := []string{"DEVICE ID", "HARDWARE ID", "NAME", "STATUS", "CLAIMED"}
			return list(cmd.Context(), a, path+"/devices", head, func(d edgeclaim.Device) []string {
				return []string{d.ID.String(), d.Hardware.String(), d.Name, string(d.Status), cli.When(d.ClaimedAt)}
			})
		},
	}
	c.Flags().BoolVar(&devices, "devices", false, "the devices whose credential was made with it")
	return c
}

func (a *app) keyRevokeCommand() *cobra.Command {
	var devices bool
	var reason string
	c := &cobra.Command{
		Use: "revoke ID", Short: "Refuse a key for good", Args: cobra.ExactArgs(1),
		Long: `Refuse a key for good. The devices that were made with it stay as they are, unless
--devices says that they are revoked with it: their sessions end, and their hardware is
refused. Have a look at them before: edgeclaim key show ID --devices.`,
		Example: `  edgeclaim key revoke 019ca7b2-4c1e-7d05-8f33-5a0b6c7d8e9f
  edgeclaim key revoke 019ca7b2-4c1e-7d05-8f33-5a0b6c7d8e9f --devices --reason "leaked"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := keyPath(args[0])
			if err != nil {
				return err
			}
			ask := struct {
				Devices bool   `json:"devices,omitempty"`
				Reason  string `json:"reason,omitempty"`
			}{devices, reason}
			return showSlow(cmd.Context(), a, request{http.MethodPost, path + "/revoke", ask}, a.printKey)
		},
	}
	c.Flags().BoolVar(&devices, "devices", false, "and revoke the devices that were made with it")
	c.Flags().StringVar(&reason, "reason", "", "why, of the devices; for upstream and the audit log")
	return c
}

// keyVerb is a command on one key.
func (a *app) keyVerb(use, short string) *cobra.Command {
	return &cobra.Command{
		Use: use + " ID", Short: short, Args: cobra.ExactArgs(1),
		Example: "  edgeclaim key " + use + " 019ca7b2-4c1e-7d05-8f33-5a0b6c7d8e9f",
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := keyPath(args[0])
			if err != nil {
				return err
			}
			return show(cmd.Context(), a, request{http.MethodPost, path + "/" + use, nil}, a.printKey)
		},
	}
}

func claims(k edgeclaim.Key) string { return strconv.FormatUint(uint64(k.Claims), 10) }

func usedBy(k edgeclaim.Key) string {
	if k.UsedBy.IsZero() {
		return ""
	}
	return k.UsedBy.String()
}

func (a *app) printKey(k edgeclaim.Key) error {
	return cli.Facts(a.stdout,
		[2]string{"key_id", k.ID.String()},
		[2]string{"template_id", k.Template.String()},
		[2]string{"sha256", k.Hash.String()},
		[2]string{"status", string(k.Status)},
		[2]string{"claims", claims(k)},
		[2]string{"used_by", usedBy(k)},
		[2]string{"created_at", cli.When(k.CreatedAt)},
	)
}
