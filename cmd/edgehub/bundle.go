package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/internal/signeddoc"

	"github.com/spf13/cobra"
)

func (a *app) bundleCommand() *cobra.Command {
	var box, site, out string
	c := &cobra.Command{
		Use: "bundle --box BOX", Short: "Write all documents and shares of a box into a file, for `edgeclaim import` there", Args: cli.NoArguments,
		Long: "Write all documents that are for a box, and its shares of keys, for `edgeclaim import` on a box without a\n" +
			"link. It holds no secret; the box takes what it has not, and nothing that is older.",
		Example: "  edgehub bundle --box 9f0c… --out bundle.ndjson",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.settings(cmd)
			if err != nil {
				return err
			}
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				names, err := boxNames(ctx, db, box, site)
				if err != nil {
					return err
				}
				w := bundler{db: db, dir: s.Data, names: names}
				if err := w.collect(ctx); err != nil {
					return err
				}
				return a.printBundle(&w, out)
			})
		},
	}
	c.Flags().StringVar(&box, "box", "", "for which box, a box id")
	c.Flags().StringVar(&site, "site", "", "of which site, for a box that has told this hub nothing yet")
	c.Flags().StringVar(&out, "out", "", "file, written whole or not at all (default the standard output)")
	_ = c.MarkFlagRequired("box") // fails only for a name that is no flag
	return c
}

// boxNames is the box as it told, or as --site says of one that told nothing.
func boxNames(ctx context.Context, db *registry.DB, box, site string) (wire.Names, error) {
	known, err := db.Boxes(ctx, registry.BoxFilter{Box: box, Limit: 1})
	switch {
	case err != nil:
		return wire.Names{}, err
	case len(known) > 0 && site != "" && site != known[0].Site:
		return wire.Names{}, cli.Usagef("--site: the box is of site %s", known[0].Site)
	case len(known) > 0:
		return wire.Names{Site: known[0].Site, Box: box}, nil
	case site == "":
		return wire.Names{}, fmt.Errorf("box %s: %w: give --site of one that has told nothing yet", box, edgeclaim.ErrNotFound)
	}
	names, err := wire.NewNames(site, box)
	if err != nil {
		return names, cli.Usagef("--box, --site: %v", err)
	}
	return names, nil
}

// bundler collects what a box is to have.
type bundler struct {
	db        *registry.DB
	dir       string // with the hub's key
	names     wire.Names
	text      bytes.Buffer
	documents int
	shares    int
}

func (b *bundler) collect(ctx context.Context) error {
	offers, err := b.db.DocumentsFor(ctx, b.names)
	if err != nil {
		return err
	}
	for _, offer := range offers {
		_, text, err := b.db.DocumentText(ctx, offer.DocumentID, offer.Version)
		if err != nil {
			return err
		}
		if err := b.add(text); err != nil {
			return err
		}
	}
	b.documents = len(offers)
	if b.documents > edgeclaim.MaxDocuments {
		return fmt.Errorf("%d documents are for this box, and a bundle holds %d", b.documents, edgeclaim.MaxDocuments)
	}
	return b.addShares(ctx)
}

func (b *bundler) add(line []byte) error {
	b.text.Write(line)
	b.text.WriteByte('\n')
	if b.text.Len() > signeddoc.MaxBundle {
		return fmt.Errorf("what is for this box is larger than a bundle, %d bytes", signeddoc.MaxBundle)
	}
	return nil
}

// addShares adds what the box was granted, signed by the hub's key.
func (b *bundler) addShares(ctx context.Context) error {
	said := signeddoc.Shares{Box: b.names.Box, Time: time.Now().UTC()}
	for after, more := (edgeclaim.KeyID{}), true; more; more = !after.IsZero() {
		var page []edgeclaim.ShareGrant
		var err error
		if page, after, err = b.db.SharesFor(ctx, b.names, after, pageRows); err != nil {
			return err
		}
		said.Shares = append(said.Shares, page...)
	}
	b.shares = len(said.Shares)
	if b.shares == 0 {
		return nil
	}
	key, err := b.signingKey(ctx)
	if err != nil {
		return err
	}
	line, err := signeddoc.SignShares(key, &said)
	if err != nil {
		return err
	}
	return b.add(line)
}

// signingKey is the key that boxes trust, and no other: it is not made here.
func (b *bundler) signingKey(ctx context.Context) (ed25519.PrivateKey, error) {
	known, err := b.db.SigningKey(ctx)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(b.dir, hub.KeyFile)
	if !hub.HasKey(b.dir, hub.KeyFile) {
		return nil, wrongFolder(known, fmt.Sprintf("there is no %s", path))
	}
	key, err := hub.LoadKey(b.dir)
	if err != nil {
		return nil, err
	}
	if own := wire.KeyName(publicOf(key)); known != own {
		return nil, wrongFolder(known, fmt.Sprintf("%s is %s", path, own))
	}
	return key, nil
}

func (a *app) printBundle(b *bundler, out string) error {
	if b.text.Len() == 0 {
		return fmt.Errorf("box %s: %w: nothing is published for it", b.names.Box, edgeclaim.ErrNotFound)
	}
	write := func(w io.Writer) error { _, err := w.Write(b.text.Bytes()); return err }
	if out == "" || cli.IsStdout(out) {
		return write(a.stdout)
	}
	if err := cli.WriteWhole(out, write); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"box_id": b.names.Box, "site": b.names.Site, "documents": b.documents, "shares": b.shares})
	}
	return cli.Facts(a.stdout, [2]string{"box_id", b.names.Box}, [2]string{"documents", number(int64(b.documents))}, [2]string{"shares", number(int64(b.shares))})
}
