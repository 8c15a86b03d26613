package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/internal/signeddoc"

	"github.com/spf13/cobra"
)

// maxDrafts bounds a file of documents to be signed, in bytes.
const maxDrafts = 64 << 20

// signCommand needs neither database nor network: the key is where no hub is.
func (a *app) signCommand() *cobra.Command {
	var s signing
	c := &cobra.Command{
		Use: "sign FILE|- --key KEY", Short: "Sign documents for boxes, where the key is: no hub is needed", Args: cobra.MaximumNArgs(1),
		Long: "Sign documents for boxes: JSON as `edgehub draft` writes it, one or several, each of them checked as a box\n" +
			"checks it. It prints a signed line each, for `edgehub publish`. It asks no database and no network: the key\n" +
			"is kept off the hub, and whoever has it rules all boxes.\n\n" +
			"--new-key makes a key: the private half in FILE, which is never replaced, the public half in FILE.pub and on\n" +
			"the output, for `edgehub serve --document-key`.",
		Example: "  edgehub sign --new-key document.key\n  edgehub sign revocations.json --key document.key --out revocations.signed",
		RunE: func(_ *cobra.Command, args []string) error {
			switch {
			case s.newKey != "" && (len(args) > 0 || s.key != "" || s.out != "" || s.public):
				return cli.Usagef("--new-key: goes with nothing else")
			case s.newKey != "":
				return a.newDocumentKey(s.newKey)
			case s.key == "":
				return cli.Usagef("--key: required")
			case s.public && (len(args) > 0 || s.out != ""):
				return cli.Usagef("--public: goes with --key alone")
			case !s.public && len(args) == 0:
				return cli.Usagef("want a FILE, or - for the standard input")
			}
			key, err := readKeyFile(s.key)
			if err != nil {
				return err
			}
			if s.public {
				return a.printPublic(publicOf(key))
			}
			return a.sign(key, args[0], s.out)
		},
	}
	f := c.Flags()
	f.StringVar(&s.key, "key", "", "file with the private key")
	f.StringVar(&s.out, "out", "", "file for the signed lines, written whole or not at all (default the standard output)")
	f.StringVar(&s.newKey, "new-key", "", "make a key: file for the private half, mode 0600")
	f.BoolVar(&s.public, "public", false, "print the public half of --key, and sign nothing")
	return c
}

// signing is what the command line of sign asks for.
type signing struct {
	key, out, newKey string
	public           bool
}

func (a *app) newDocumentKey(path string) error {
	public, err := makeKey(path)
	if err != nil {
		return err
	}
	return a.printPublic(public)
}

func (a *app) printPublic(key ed25519.PublicKey) error {
	if a.json {
		return a.printJSON(map[string]string{"public_key": signeddoc.EncodePublic(key), "key_id": signeddoc.KeyName(key)})
	}
	_, err := fmt.Fprintln(a.stdout, signeddoc.EncodePublic(key))
	return err
}

// signedFact is what was signed, for people.
type signedFact struct {
	edgeclaim.DocumentID
	Version uint64 `json:"version"`
	Box     string `json:"box_id,omitempty"`
	Site    string `json:"site,omitempty"`
	Hash    string `json:"sha256"`
	KeyID   string `json:"key_id"`
	Size    int    `json:"size"` // of the signed text, in bytes
}

func factOf(s *signeddoc.Signed) signedFact {
	d := s.Document
	return signedFact{DocumentID: d.DocumentID, Version: d.Version, Box: d.Box, Site: d.Site, Hash: s.Hash, KeyID: s.KeyID, Size: len(s.Text)}
}

// sign signs all documents of a file, or none.
func (a *app) sign(key ed25519.PrivateKey, from, to string) error {
	payloads, err := a.readDocuments(from)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	facts := make([]signedFact, len(payloads))
	for i, payload := range payloads {
		signed, err := signeddoc.Sign(key, payload)
		if err != nil {
			return inDocument(i, len(payloads), err)
		}
		facts[i] = factOf(signed)
		text.Write(signed.Text)
		text.WriteByte('\n')
	}
	if to == "" || cli.IsStdout(to) {
		_, err := a.stdout.Write(text.Bytes())
		return err
	}
	if err := cli.WriteWhole(to, func(w io.Writer) error { _, err := w.Write(text.Bytes()); return err }); err != nil {
		return err
	}
	return a.printFacts(facts)
}

// inDocument says which of several documents an error is about.
func inDocument(i, of int, err error) error {
	if of == 1 {
		return err
	}
	return fmt.Errorf("document %d of %d: %w", i+1, of, err)
}

// readDocuments reads the JSON values of a file, one behind the other.
func (a *app) readDocuments(from string) ([]json.RawMessage, error) {
	text, err := a.readInput(from, maxDrafts)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	var payloads []json.RawMessage
	for {
		var payload json.RawMessage
		err := decoder.Decode(&payload)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, cli.Usagef("%s: document %d: not JSON: %v", from, len(payloads)+1, err)
		}
		payloads = append(payloads, payload)
	}
	if len(payloads) == 0 {
		return nil, cli.Usagef("%s: empty", from)
	}
	return payloads, nil
}

// readInput reads a file, or the standard input for -, of at most max bytes.
func (a *app) readInput(from string, max int64) ([]byte, error) {
	in := a.stdin
	if from != "-" {
		file, err := os.Open(from)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	text, err := io.ReadAll(io.LimitReader(in, max+1))
	if err == nil && int64(len(text)) > max {
		err = cli.Usagef("%s: larger than %d bytes", from, max)
	}
	return text, err
}

func (a *app) printFacts(facts []signedFact) error {
	if a.json {
		return a.printJSON(facts)
	}
	table := cli.NewTable(a.stdout, "TYPE", "TENANT", "NAME", "VERSION", "FOR", "SIZE", "SHA256", "KEY")
	for _, fact := range facts {
		table.Row(string(fact.Type), tenantText(fact.Tenant), fact.Name, fmt.Sprint(fact.Version), scopeText(fact.Box, fact.Site),
			number(int64(fact.Size)), fact.Hash, fact.KeyID)
	}
	return table.End()
}

func tenantText(id edgeclaim.TenantID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

// scopeText says whom a document is for.
func scopeText(box, site string) string {
	switch {
	case box == "" && site == "":
		return "all"
	case box == "":
		return "site " + site
	case site == "":
		return "box " + box
	}
	return "box " + box + " of site " + site
}
