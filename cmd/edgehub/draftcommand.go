package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/internal/signeddoc"

	"github.com/spf13/cobra"
)

func (a *app) draftCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "draft", Short: "Write the next version of a document, to be looked at and signed elsewhere", Args: cobra.NoArgs,
		Long: "Write the next version of a document: what is published, with what came to it since. It is JSON, one\n" +
			"document or several, for `edgehub sign` where the key is. Nothing is published by it. Exit code 1: there is\n" +
			"nothing to say that is not published.",
		RunE: cli.WantCommand,
	}
	c.AddCommand(a.draftRevocations(), a.draftTemplates(), a.draftProfiles(), a.draftAliases(), a.draftAllowList(), a.draftSigner(), a.draftAgain())
	return c
}

// drafting is what all commands that draft have on their command line.
type drafting struct {
	tenant, from, out, stale, maxAge, box, site string
}

func (o *drafting) flags(c *cobra.Command, scoped bool) {
	f := c.Flags()
	f.StringVar(&o.tenant, "tenant", "", "whose, a UUID")
	f.StringVar(&o.from, "from", "", "file with more, JSON as the body of such a document; - for the standard input")
	f.StringVar(&o.out, "out", "", "file for the draft, written whole or not at all (default the standard output)")
	f.StringVar(&o.maxAge, "max-age", "", "how long it counts as fresh without a word from upstream, such as 30d; 0: the box's own setting (default as before)")
	f.StringVar(&o.stale, "stale", "", "what follows then: warn, or deny new devices (default as before)")
	if scoped {
		f.StringVar(&o.box, "box", "", "for this box alone (default all)")
		f.StringVar(&o.site, "site", "", "for the boxes of this site alone (default all)")
	}
	_ = c.MarkFlagRequired("tenant") // fails only for a name that is no flag
}

// drafter reads the command line.
func (o *drafting) drafter() (*drafter, error) {
	d := &drafter{now: time.Now(), scope: wire.Names{Site: o.site, Box: o.box}}
	var err error
	if d.tenant, err = edgeclaim.ParseTenantID(o.tenant); err != nil {
		return nil, cli.Usagef("--tenant: %v", err)
	}
	if o.maxAge != "" {
		span, err := cli.ParseSpan(o.maxAge)
		seconds := int64(span / time.Second)
		if err != nil || seconds > signeddoc.MaxAge {
			return nil, cli.Usagef("--max-age: want a length of time such as 30d, %dd at most", signeddoc.MaxAge/(24*60*60))
		}
		d.maxAge = &seconds
	}
	if o.stale != "" {
		policy := edgeclaim.StalePolicy(o.stale)
		if policy != edgeclaim.StaleWarn && policy != edgeclaim.StaleDeny {
			return nil, cli.Usagef("--stale: want %s or %s", edgeclaim.StaleWarn, edgeclaim.StaleDeny)
		}
		d.stale = &policy
	}
	return d, nil
}

// run drafts with the registry and prints what came of it.
func (o *drafting) run(a *app, cmd *cobra.Command, do func(context.Context, *drafter) ([]draft, error)) error {
	d, err := o.drafter()
	if err != nil {
		return err
	}
	return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
		d.db = db
		drafts, err := do(ctx, d)
		if err != nil {
			return err
		}
		return a.printDrafts(drafts, o.out)
	})
}

// printDrafts prints drafts for people to look at before they sign, or one a line
// for programs.
func (a *app) printDrafts(drafts []draft, out string) error {
	var text bytes.Buffer
	for _, one := range drafts {
		if a.json {
			text.Write(one.payload)
		} else if err := json.Indent(&text, one.payload, "", "  "); err != nil {
			return err
		}
		text.WriteByte('\n')
	}
	write := func(w io.Writer) error { _, err := w.Write(text.Bytes()); return err }
	if out == "" || cli.IsStdout(out) {
		return write(a.stdout)
	}
	if err := cli.WriteWhole(out, write); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(draftFacts(drafts))
	}
	table := cli.NewTable(a.stdout, "DOCUMENT", "VERSION", "SIZE")
	for _, one := range draftFacts(drafts) {
		table.Row(one.String(), fmt.Sprint(one.Version), number(int64(one.Size)))
	}
	return table.End()
}

// draftFact is what was drafted.
type draftFact struct {
	edgeclaim.DocumentID
	Version uint64 `json:"version"`
	Size    int    `json:"size"` // of its JSON, in bytes
}

func draftFacts(drafts []draft) []draftFact {
	facts := make([]draftFact, len(drafts))
	for i, one := range drafts {
		facts[i] = draftFact{one.DocumentID, one.version, len(one.payload)}
	}
	return facts
}

func (a *app) draftTemplates() *cobra.Command {
	var o drafting
	var replace bool
	c := &cobra.Command{
		Use: "templates --tenant TENANT --from FILE", Short: "Draft a tenant's templates and keys", Args: cli.NoArguments,
		Long: "Draft a tenant's templates and keys: those that are published, with those of --from in their place or\n" +
			"behind, {\"templates\": […], \"keys\": […]}. With --replace, those of --from alone: boxes disable what is not\n" +
			"among them. Keys are named by their SHA-256.",
		Example: "  edgehub draft templates --tenant 5f1c0b7e-… --from templates.json --out draft.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var more templatesBody
			if err := readBody(a, o.from, &more); err != nil {
				return err
			}
			return o.run(a, cmd, func(ctx context.Context, d *drafter) ([]draft, error) { return d.templates(ctx, &more, replace) })
		},
	}
	o.flags(c, true)
	c.Flags().BoolVar(&replace, "replace", false, "leave out what --from has not")
	return c
}

func (a *app) draftProfiles() *cobra.Command {
	var o drafting
	var replace bool
	c := &cobra.Command{
		Use: "profiles --tenant TENANT --from FILE", Short: "Draft what a tenant's devices inherit", Args: cli.NoArguments,
		Long: "Draft what a tenant's devices inherit: what is published, with the profiles of --from in their place or\n" +
			"behind, {\"default\": {…}, \"profiles\": […]}. With --replace, those of --from alone.",
		Example: "  edgehub draft profiles --tenant 5f1c0b7e-… --from profiles.json --out draft.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var more profilesBody
			if err := readBody(a, o.from, &more); err != nil {
				return err
			}
			return o.run(a, cmd, func(ctx context.Context, d *drafter) ([]draft, error) { return d.profiles(ctx, &more, replace) })
		},
	}
	o.flags(c, true)
	c.Flags().BoolVar(&replace, "replace", false, "leave out what --from has not")
	return c
}

func (a *app) draftAliases() *cobra.Command {
	var o drafting
	c := &cobra.Command{
		Use: "aliases --tenant TENANT", Short: "Draft the device ids of boards that do not follow from their hardware ids", Args: cli.NoArguments,
		Long: "Draft a tenant's aliases: those that are published, the device ids of announced boards where they are not\n" +
			"the derived ones, the swaps that boxes told of, and those of --from, {\"aliases\": […]}.",
		Example: "  edgehub draft aliases --tenant 5f1c0b7e-… --out draft.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var more edgeclaim.Aliases
			if err := readBody(a, o.from, &more); err != nil {
				return err
			}
			return o.run(a, cmd, func(ctx context.Context, d *drafter) ([]draft, error) { return d.aliases(ctx, more.Aliases) })
		},
	}
	o.flags(c, false)
	return c
}

func (a *app) draftAllowList() *cobra.Command {
	var o drafting
	var template string
	var add, remove []string
	c := &cobra.Command{
		Use: "allow-list --tenant TENANT --template TEMPLATE", Short: "Draft the hardware that a template expects", Args: cli.NoArguments,
		Long: "Draft the hardware that a template expects: what is published, the boards that `edgehub devices import`\n" +
			"took, and those of --from, {\"template_id\": \"…\", \"rows\": […]}, and of --add-hardware. What is more than one\n" +
			"document holds goes into several.",
		Example: "  edgehub draft allow-list --tenant 5f1c0b7e-… --template pumps --out draft.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := edgeclaim.ParseTemplateID(template)
			if err != nil {
				return cli.Usagef("--template: %v", err)
			}
			more := edgeclaim.AllowList{Template: id}
			if err := readBody(a, o.from, &more); err != nil {
				return err
			}
			if more.Template != id {
				return cli.Usagef("--from: %s: template_id: another than --template", o.from)
			}
			return o.run(a, cmd, func(ctx context.Context, d *drafter) ([]draft, error) {
				return d.allowListOf(ctx, &more, add, remove)
			})
		},
	}
	o.flags(c, false)
	c.Flags().StringVar(&template, "template", "", "whose list, a template id")
	c.Flags().StringArrayVar(&add, "add-hardware", nil, "hardware id to be added; may be repeated")
	c.Flags().StringArrayVar(&remove, "remove-hardware", nil, "hardware id to be taken off; may be repeated")
	_ = c.MarkFlagRequired("template") // fails only for a name that is no flag
	return c
}

// allowListOf is allowList with what flags say, as the tenant's templates read
// hardware ids.
func (d *drafter) allowListOf(ctx context.Context, more *edgeclaim.AllowList, add, remove []string) ([]draft, error) {
	fold, err := d.folding(ctx)
	if err != nil {
		return nil, err
	}
	for i := range more.Rows {
		if more.Rows[i].Hardware, err = fold(more.Rows[i].Hardware); err != nil {
			return nil, err
		}
	}
	added, err := parseEach("--add-hardware", add, fold.parse)
	if err != nil {
		return nil, err
	}
	for _, id := range added {
		more.Rows = append(more.Rows, edgeclaim.ManifestRow{Hardware: id})
	}
	gone, err := parseEach("--remove-hardware", remove, fold.parse)
	if err != nil {
		return nil, err
	}
	return d.allowList(ctx, more.Template, more.Rows, gone)
}
