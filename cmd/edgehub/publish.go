package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/internal/signeddoc"

	"github.com/spf13/cobra"
)

func (a *app) publishCommand() *cobra.Command {
	return &cobra.Command{
		Use: "publish FILE|-…", Short: "Give signed documents to the boxes that they are for", Args: cobra.MinimumNArgs(1),
		Long: "Give signed documents to the boxes that they are for: lines of `edgehub sign`, or bundles. A running hub\n" +
			"tells its boxes within a second or so; one that is away hears it when it is back. A document that cannot be\n" +
			"published keeps no other one out; then the exit code is 4. The same again changes nothing.",
		Example: "  edgehub publish revocations.signed\n  edgehub sign revocations.json --key document.key | ssh hub edgehub publish -",
		RunE: func(cmd *cobra.Command, args []string) error {
			lines, err := a.readSigned(args)
			if err != nil {
				return err
			}
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				return a.publish(ctx, db, lines)
			})
		},
	}
}

// The outcomes of publishing.
const (
	outcomePublished = "published"
	outcomeSame      = "same" // it was published before
	outcomeRefused   = "refused"
)

// publication is what became of one document.
type publication struct {
	signedFact
	File    string `json:"file,omitempty"`
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`

	signed *signeddoc.Signed // nil for what nobody could read
}

// readSigned reads the lines of all files, in the order in which they are
// applied: what a document rests on comes before it.
func (a *app) readSigned(files []string) ([]publication, error) {
	var lines []publication
	for _, file := range files {
		text, err := a.readInput(file, signeddoc.MaxBundle)
		if err != nil {
			return nil, err
		}
		bundle, err := signeddoc.ReadBundle(bytes.NewReader(text))
		if err != nil {
			return nil, cli.Usagef("%s: %v", file, err)
		}
		for _, line := range bundle.Documents {
			one := publication{File: file}
			if one.signed, err = signeddoc.Peek(line); err != nil {
				one.Outcome, one.Reason = outcomeRefused, err.Error()
			} else {
				one.signedFact = factOf(one.signed)
			}
			lines = append(lines, one)
		}
	}
	if len(lines) == 0 {
		return nil, cli.Usagef("%s: no documents", files[0])
	}
	slices.SortStableFunc(lines, func(x, y publication) int {
		types := edgeclaim.DocumentTypes()
		return cmp.Or(cmp.Compare(slices.Index(types, x.Type), slices.Index(types, y.Type)), cmp.Compare(x.Version, y.Version))
	})
	return lines, nil
}

// publish publishes what can be. An error of the database ends it; what was
// published by then is, and the same may be given again.
func (a *app) publish(ctx context.Context, db *registry.DB, lines []publication) error {
	if err := a.warnUnverified(ctx, db); err != nil {
		return err
	}
	refused, why := 0, ""
	for i := range lines {
		one := &lines[i]
		if err := publishOne(ctx, db, one); err != nil {
			return errors.Join(a.printPublications(lines[:i]), err)
		}
		if one.Outcome == outcomeRefused {
			refused, why = refused+1, one.Reason
		}
	}
	if err := a.printPublications(lines); err != nil {
		return err
	}
	switch {
	case refused == 0:
		return nil
	case len(lines) == 1:
		return &refusedError{why}
	}
	return &refusedError{fmt.Sprintf("%d of %d documents were not published", refused, len(lines))}
}

// publishOne says what became of a document; an error is the database's.
func publishOne(ctx context.Context, db *registry.DB, one *publication) error {
	if one.signed == nil {
		return nil
	}
	isNew, err := db.PublishDocument(ctx, one.signed)
	switch {
	case errors.Is(err, edgeclaim.ErrInvalid), errors.Is(err, edgeclaim.ErrConflict):
		one.Outcome, one.Reason = outcomeRefused, err.Error()
	case err != nil:
		return err
	case isNew:
		one.Outcome = outcomePublished
	default:
		one.Outcome = outcomeSame
	}
	return nil
}

// warnUnverified says that no signature is looked at here.
func (a *app) warnUnverified(ctx context.Context, db *registry.DB) error {
	key, err := db.DocumentKey(ctx)
	if err == nil && key == nil {
		_, _ = fmt.Fprintln(a.stderr, "edgehub: no key for documents is known here, so no signature is looked at; boxes look (edgehub serve --document-key)")
	}
	return err
}

func (a *app) printPublications(lines []publication) error {
	if a.json {
		return a.printJSON(append([]publication{}, lines...)) // an array, of none too
	}
	table := cli.NewTable(a.stdout, "TYPE", "TENANT", "NAME", "VERSION", "FOR", "OUTCOME", "REASON")
	for _, one := range lines {
		scope := ""
		if one.signed != nil {
			scope = scopeText(one.Box, one.Site)
		}
		table.Row(string(one.Type), tenantText(one.Tenant), one.Name, versionText(one.Version), scope, one.Outcome, one.Reason)
	}
	return table.End()
}

// versionText is a document's, nothing for none.
func versionText(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}
