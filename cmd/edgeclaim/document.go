package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

const documentsPath = "/api/v1/documents"

// maxBundleFile is the largest file of documents, in bytes.
const maxBundleFile = 64 << 20

func (a *app) importCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "import FILE", Short: "Import signed documents from a file",
		Long: `Take what upstream rules from a file: signed documents, one a line, as "edgehub sign"
and "edgehub bundle" write them; - reads standard input. It is the way for a box that
has no link, and needs neither link nor network.

The box has to be enrolled with the key that signs documents (edgeclaim enroll). Each
document is taken or refused for itself: a lower version than the box has, one for
another box, or one that the key has not signed changes nothing. What became of each is
said, and the exit code is 1 where one was refused.`,
		Example: `  edgehub bundle --box 5b0e6c1e-7d5b-4c39-9a57-0d3c1b1f4e10 > bundle.ndjson   # upstream
  edgeclaim import bundle.ndjson                                             # on the box`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.importDocuments(cmd, args[0]) },
	}
	c.AddCommand(&cobra.Command{
		Use: "bundle FILE", Short: "The same", Args: cobra.ExactArgs(1),
		Example: "  edgeclaim import bundle bundle.ndjson",
		RunE:    func(cmd *cobra.Command, args []string) error { return a.importDocuments(cmd, args[0]) },
	})
	return c
}

// importedDocuments is what became of a bundle, line by line.
type importedDocuments struct {
	Documents []struct {
		Line int `json:"line"`
		edgeclaim.DocumentID
		Version uint64 `json:"version"`
		Outcome string `json:"outcome"`
		Reason  string `json:"reason"`
	} `json:"documents"`
	Applied int    `json:"applied"`
	Same    int    `json:"same"`
	Refused int    `json:"refused"`
	Shares  string `json:"shares"`
}

func (a *app) importDocuments(cmd *cobra.Command, file string) error {
	bundle, err := a.readInput(file, maxBundleFile)
	if err != nil {
		return err
	}
	refused := 0
	ask := request{http.MethodPost, documentsPath, rawBody(bundle)}
	err = showSlow(cmd.Context(), a, ask, func(done importedDocuments) error {
		refused = done.Refused
		t := cli.NewTable(a.stdout, "LINE", "DOCUMENT", "VERSION", "OUTCOME", "REASON")
		for _, d := range done.Documents {
			name := d.String()
			if d.Type == "" { // nobody could read it
				name = ""
			}
			t.Row(strconv.Itoa(d.Line), name, strconv.FormatUint(d.Version, 10), d.Outcome, d.Reason)
		}
		if done.Shares != "" {
			t.Row("", "shares", "", done.Shares, "")
		}
		return t.End()
	})
	if err == nil && refused > 0 {
		return fmt.Errorf("%d refused", refused)
	}
	return err
}

func (a *app) documentCommand() *cobra.Command {
	c := &cobra.Command{Use: "document", Short: "What upstream rules", Args: cobra.NoArgs, RunE: cli.WantCommand}
	c.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List the documents from upstream, their versions and ages", Args: cli.NoArguments,
			Example: "  edgeclaim document list --json",
			RunE: func(cmd *cobra.Command, _ []string) error {
				head := []string{"DOCUMENT", "VERSION", "ISSUED", "APPLIED", "AGE", "STATE"}
				return list(cmd.Context(), a, documentsPath, head, func(d edgeclaim.DocumentState) []string {
					return []string{
						d.String(), strconv.FormatUint(d.Version, 10), cli.When(d.IssuedAt), cli.When(d.AppliedAt),
						age(d.Age), documentState(&d),
					}
				})
			},
		},
		&cobra.Command{
			Use: "show ID", Short: "Print a document as it was signed", Args: cobra.ExactArgs(1),
			Long:    "Print a document as it was signed, one line. ID is what list says: type/tenant/name.",
			Example: "  edgeclaim document show templates/5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10/",
			RunE: func(cmd *cobra.Command, args []string) error {
				id, err := edgeclaim.ParseDocumentID(args[0])
				if err != nil {
					return cli.Usagef("%v", err)
				}
				body, err := newClient(a.dir()).open(cmd.Context(), request{http.MethodGet, documentsPath + "/" + url.PathEscape(id.String()), nil})
				if err != nil {
					return err
				}
				defer body.Close() //nolint:errcheck // only read
				return copyLine(a.stdout, body)
			},
		})
	return c
}

// documentState is what an operator has to know of a document.
func documentState(d *edgeclaim.DocumentState) string {
	text := "fresh"
	switch {
	case d.Version == 0:
		text = "none"
	case d.Stale:
		text = "stale: " + string(d.Policy)
	case !d.Confirmed:
		text = "not confirmed"
	}
	if d.Refused == "" {
		return text
	}
	if d.RefusedVersion > 0 {
		return text + fmt.Sprintf("; version %d refused: %s", d.RefusedVersion, d.Refused)
	}
	return text + "; an offer refused: " + d.Refused
}

// age is in days where it is long: what counts is whether it is too long.
func age(s float64) string {
	const day = 24 * time.Hour
	d := time.Duration(s * float64(time.Second))
	if d < 2*day {
		return seconds(s)
	}
	return strconv.FormatInt(int64(d/day), 10) + " days"
}

// documentFacts are the documents from upstream in a line, and each that
// somebody has to look at.
func documentFacts(s *edgeclaim.Status) (pairs [][2]string) {
	if len(s.Documents) > 0 {
		var held int
		var oldest float64
		for i := range s.Documents {
			if s.Documents[i].Version > 0 {
				held++
				oldest = max(oldest, s.Documents[i].Age)
			}
		}
		pairs = append(pairs, [2]string{"documents", fmt.Sprintf("%d, the oldest word on one %s ago: see edgeclaim document list", held, age(oldest))})
	}
	for i := range s.Documents {
		if d := &s.Documents[i]; d.Stale || d.Refused != "" {
			pairs = append(pairs, [2]string{"document " + d.String(), fmt.Sprintf("version %d, %s old, %s", d.Version, age(d.Age), documentState(d))})
		}
	}
	for i := range s.Shares {
		share := &s.Shares[i]
		text := fmt.Sprintf("%d of %d left", share.Left(), share.Granted)
		if share.Exhausted {
			text += ", and upstream has no more"
		}
		pairs = append(pairs, [2]string{"share of key " + share.Key.String(), text})
	}
	return pairs
}
