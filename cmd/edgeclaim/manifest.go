package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

func (a *app) manifestCommand() *cobra.Command {
	c := &cobra.Command{Use: "manifest", Short: "The hardware that a template expects", Args: cobra.NoArgs, RunE: cli.WantCommand}
	c.AddCommand(a.manifestImportCommand(), a.manifestListCommand())
	return c
}

func manifestPath(template string) (string, error) {
	id, err := edgeclaim.ParseTemplateID(template)
	if err != nil {
		return "", cli.Usagef("--template: %v", err)
	}
	return templatesPath + "/" + url.PathEscape(id.String()) + "/manifest", nil
}

// imported is what became of a manifest's rows.
type imported struct {
	Rows         int          `json:"rows"`
	Added        int          `json:"added"`
	Changed      int          `json:"changed"`
	Removed      int          `json:"removed"`
	Refused      []refusedRow `json:"refused"`
	RefusedCount int          `json:"refused_count"`
}

// refusedRow is a row that was not taken, by its line in the file.
type refusedRow struct {
	Line    int    `json:"line"`
	Field   string `json:"field"`
	Message string `json:"message"`
}

func (a *app) manifestImportCommand() *cobra.Command {
	var template string
	var replace, dry bool
	c := &cobra.Command{
		Use: "import FILE", Short: "Import the hardware that a template expects, from CSV",
		Long: `Add the rows of a CSV file (RFC 4180) to a template's manifest; - reads standard
input. Its first line names the columns: hardware_id, and of profile_id, name and
groups (with ; between them) those that there are. What they say takes the place of
the template's, and of the name that the device claims with.

The template lets nothing else claim when it was made with --allow-list. A row that
is wrong is said by its line and left out, and the exit code is 1; --dry-run says so
of all without a change. --replace removes what the file has not.`,
		Example: `  edgeclaim manifest import boards.csv --template 019ca7b2-4c1e-7d05-8f33-5a0b6c7d8e9f --dry-run
  edgeclaim manifest import boards.csv --template 019ca7b2-4c1e-7d05-8f33-5a0b6c7d8e9f --replace`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := manifestPath(template)
			if err != nil {
				return err
			}
			query := url.Values{}
			for name, set := range map[string]bool{"replace": replace, "dry_run": dry} {
				if set {
					query.Set(name, "true")
				}
			}
			if len(query) > 0 {
				path += "?" + query.Encode()
			}
			return a.importManifest(cmd, path, args[0])
		},
	}
	f := c.Flags()
	f.StringVar(&template, "template", "", "template whose manifest it is")
	f.BoolVar(&replace, "replace", false, "remove the rows that the file has not")
	f.BoolVar(&dry, "dry-run", false, "change nothing, say what would be")
	required(c, "template")
	return c
}

// importManifest sends a file as it is read: it may be longer than memory.
func (a *app) importManifest(cmd *cobra.Command, path, file string) error {
	from := a.stdin
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return err
		}
		defer opened.Close() //nolint:errcheck // only read
		if info, err := opened.Stat(); err == nil && info.IsDir() {
			return fmt.Errorf("%s is a folder", file)
		}
		from = opened
	}
	refused := 0
	// To close it is this command's alone.
	ask := request{http.MethodPut, path, upload{mediaCSV, io.NopCloser(from)}}
	err := showSlow(cmd.Context(), a, ask, func(done imported) error {
		refused = done.RefusedCount
		return a.printImported(done)
	})
	if err == nil && refused > 0 {
		return fmt.Errorf("%d rows were refused", refused)
	}
	return err
}

func (a *app) printImported(done imported) error {
	for _, row := range done.Refused {
		_, _ = fmt.Fprintf(a.stderr, "line %d: %s: %s\n", row.Line, row.Field, row.Message)
	}
	return cli.Facts(a.stdout,
		[2]string{"rows", strconv.Itoa(done.Rows)},
		[2]string{"added", strconv.Itoa(done.Added)},
		[2]string{"changed", strconv.Itoa(done.Changed)},
		[2]string{"removed", strconv.Itoa(done.Removed)},
		[2]string{"refused", strconv.Itoa(done.RefusedCount)})
}

func (a *app) manifestListCommand() *cobra.Command {
	var template string
	c := &cobra.Command{
		Use: "list", Short: "List the hardware that a template expects", Args: cli.NoArguments,
		Example: "  edgeclaim manifest list --template 019ca7b2-4c1e-7d05-8f33-5a0b6c7d8e9f",
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := manifestPath(template)
			if err != nil {
				return err
			}
			head := []string{"HARDWARE ID", "NAME", "PROFILE", "GROUPS"}
			return list(cmd.Context(), a, path, head, func(r edgeclaim.ManifestRow) []string {
				return []string{r.Hardware.String(), r.Name, r.Profile, strings.Join(r.Groups, ", ")}
			})
		},
	}
	c.Flags().StringVar(&template, "template", "", "template whose manifest it is")
	required(c, "template")
	return c
}
