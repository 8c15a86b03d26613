package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

func (a *app) documentsCommand() *cobra.Command {
	var filter registry.DocumentFilter
	var box, tenant, kind string
	var all, boxes bool
	c := &cobra.Command{
		Use: "documents", Short: "List the documents that are published, or what boxes have of them", Args: cli.NoArguments,
		Long: "List the documents that are published for some box, and how many boxes say that they have them; BEHIND are\n" +
			"those that are to have it and do not, REFUSED those of them that refused it. --all lists those as well that\n" +
			"newer ones have taken the place of, as far as they are kept.\n\n" +
			"With --box or --boxes, what a box has, as it said last: AGE is how long ago, at that time, anybody had\n" +
			"confirmed to it that this was the newest; NEWEST is what it is to have.",
		Example: "  edgehub documents --tenant 5f1c0b7e-…\n  edgehub documents --box 9f0c… --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (box != "" || boxes) && (kind != "" || tenant != "" || all) || box != "" && boxes {
				return cli.Usagef("--box and --boxes: go with nothing else")
			}
			var err error
			if tenant != "" {
				if filter.Tenant, err = edgeclaim.ParseTenantID(tenant); err != nil {
					return cli.Usagef("--tenant: %v", err)
				}
			}
			if filter.Type, err = documentType(kind); err != nil {
				return err
			}
			filter.InForce, filter.Limit = !all, pageRows
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				if box != "" || boxes {
					return printBoxDocuments(ctx, a, db, box)
				}
				return printDocuments(ctx, a, db, filter)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&box, "box", "", "what this box has")
	f.BoolVar(&boxes, "boxes", false, "what each box has")
	f.StringVar(&tenant, "tenant", "", "those of this tenant, a UUID")
	f.StringVar(&kind, "type", "", "those of this type")
	f.BoolVar(&all, "all", false, "those as well that are not in force any more")
	c.AddCommand(a.documentsShow())
	return c
}

// documentType reads a type's name; empty stays so.
func documentType(text string) (edgeclaim.DocumentType, error) {
	if text == "" {
		return "", nil
	}
	names := ""
	for _, t := range edgeclaim.DocumentTypes() {
		if string(t) == text {
			return t, nil
		}
		names += ", " + string(t)
	}
	return "", cli.Usagef("--type: want one of %s", names[2:])
}

// publishedDocument is a document, and how far it has come.
type publishedDocument struct {
	registry.Published
	Boxes arrival `json:"boxes"`
}

// arrival counts the boxes that are to have a version, as they said last.
type arrival struct {
	Have    int `json:"have"`
	Behind  int `json:"behind"`  // they have another one, or none
	Refused int `json:"refused"` // those of them that refused it
	Stale   int `json:"stale"`   // those that have it, unconfirmed for too long
}

// documentVersion names one version of a document.
type documentVersion struct {
	id      edgeclaim.DocumentID
	version uint64
}

// arrivals counts, for each version that is to be somewhere, where it is.
func arrivals(ctx context.Context, db *registry.DB) (map[documentVersion]arrival, error) {
	all := map[documentVersion]arrival{}
	err := db.EachBoxDocument(ctx, func(d registry.BoxDocument) error {
		which := documentVersion{d.DocumentID, d.Newest}
		n := all[which]
		switch {
		case !d.Behind:
			n.Have++
			if d.Stale {
				n.Stale++
			}
		default:
			n.Behind++
			if d.Refused != "" && d.RefusedVersion == d.Newest {
				n.Refused++
			}
		}
		all[which] = n
		return nil
	})
	return all, err
}

func printDocuments(ctx context.Context, a *app, db *registry.DB, filter registry.DocumentFilter) error {
	come, err := arrivals(ctx, db)
	if err != nil {
		return err
	}
	l := lister[publishedDocument]{
		head: []string{"DOCUMENT", "VERSION", "FOR", "IN_FORCE", "HAVE", "BEHIND", "REFUSED", "STALE", "ISSUED", "PUBLISHED", "KEY", "SIZE"},
		row: func(p publishedDocument) []string {
			return []string{
				p.String(), versionText(p.Version), scopeText(p.Box, p.Site), yes(p.InForce), number(int64(p.Boxes.Have)), number(int64(p.Boxes.Behind)),
				number(int64(p.Boxes.Refused)), number(int64(p.Boxes.Stale)), cli.When(p.IssuedAt), cli.When(p.PublishedAt), p.KeyID, number(int64(p.Size)),
			}
		},
		page: func(ctx context.Context, last *publishedDocument) ([]publishedDocument, error) {
			f := filter
			if last != nil {
				f.After = last.Number
			}
			page, err := db.Documents(ctx, f)
			rows := make([]publishedDocument, len(page))
			for i := range page {
				rows[i] = publishedDocument{page[i], come[documentVersion{page[i].DocumentID, page[i].Version}]}
			}
			return rows, err
		},
	}
	return l.print(ctx, a)
}

// printBoxDocuments prints what a box has, or what each has for "".
func printBoxDocuments(ctx context.Context, a *app, db *registry.DB, box string) error {
	l := lister[registry.BoxDocument]{
		head: []string{"BOX", "DOCUMENT", "VERSION", "NEWEST", "STATE", "AGE", "REPORTED", "REFUSED", "REFUSED_VERSION"},
		row: func(d registry.BoxDocument) []string {
			age := ""
			if !d.ReportedAt.IsZero() {
				age = time.Duration(d.Age * float64(time.Second)).Round(time.Second).String()
			}
			return []string{
				d.Box, d.String(), versionText(d.Version), versionText(d.Newest), boxDocumentState(&d), age, cli.When(d.ReportedAt),
				d.Refused, versionText(d.RefusedVersion),
			}
		},
	}
	out := bufio.NewWriter(a.stdout)
	print, end := l.asTable(out)
	if a.json {
		print, end = l.asJSON(out)
	}
	err := error(nil)
	if box == "" {
		err = db.EachBoxDocument(ctx, print)
	} else {
		var held []registry.BoxDocument
		held, err = db.BoxDocuments(ctx, box)
		for i := 0; i < len(held) && err == nil; i++ {
			err = print(held[i])
		}
	}
	if err != nil {
		return err
	}
	return errors.Join(end(), out.Flush())
}

// boxDocumentState is what is worst of how a box stands to a document.
func boxDocumentState(d *registry.BoxDocument) string {
	switch {
	case d.ReportedAt.IsZero():
		return "not told"
	case d.Behind && d.Refused != "":
		return "refused"
	case d.Behind:
		return "behind"
	case d.Stale:
		return "stale"
	case !d.Confirmed:
		return "not confirmed"
	}
	return "newest"
}

func (a *app) documentsShow() *cobra.Command {
	var which uint64
	var signed bool
	c := &cobra.Command{
		Use: "show DOCUMENT", Short: "Print what a published document says, or its signed line", Args: cobra.ExactArgs(1),
		Long: "Print what a published document says, in JSON, or its signed line. DOCUMENT is as `edgehub documents`\n" +
			"lists it, type/tenant/name.",
		Example: "  edgehub documents show revocations/5f1c0b7e-3d2a-4f56-9a10-2c4e6f8b1d33/",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := edgeclaim.ParseDocumentID(args[0])
			if err != nil {
				return cli.Usagef("DOCUMENT: %v", err)
			}
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				_, text, err := db.DocumentText(ctx, id, which)
				if err != nil {
					return err
				}
				if !signed {
					if text, err = payloadOf(text); err != nil {
						return err
					}
				}
				return a.printDocument(text, !signed)
			})
		},
	}
	c.Flags().Uint64Var(&which, "version", 0, "this version (default the newest)")
	c.Flags().BoolVar(&signed, "signed", false, "the signed line, as boxes get it")
	return c
}

// payloadOf is the JSON that a signed text is about. Whose the signature is
// nobody looks at.
func payloadOf(signed []byte) ([]byte, error) {
	var envelope struct {
		Payload string `json:"payload"`
	}
	if err := json.Unmarshal(signed, &envelope); err != nil {
		return nil, fmt.Errorf("a signed document: %w", err)
	}
	return base64.RawURLEncoding.DecodeString(envelope.Payload)
}

// printDocument prints JSON, for people to look at unless they asked for a line.
func (a *app) printDocument(text []byte, laidOut bool) error {
	var out bytes.Buffer
	if laidOut && !a.json {
		if err := json.Indent(&out, text, "", "  "); err != nil {
			return err
		}
	} else {
		out.Write(text)
	}
	out.WriteByte('\n')
	_, err := a.stdout.Write(out.Bytes())
	return err
}
