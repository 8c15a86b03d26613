package main

import (
	"context"
	"fmt"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/internal/signeddoc"

	"github.com/spf13/cobra"
)

func (a *app) draftSigner() *cobra.Command {
	var out, key string
	c := &cobra.Command{
		Use: "signer --public-key KEY", Short: "Draft the key that signs documents from the next one on", Args: cli.NoArguments,
		Long: "Draft the key that signs documents from the next one on. The draft has to be signed with the key that signs\n" +
			"now, which signs nothing after that; `edgehub draft again` says what is to be signed anew then. KEY is a\n" +
			"public key, or a file *.pub, of `edgehub sign --new-key`.",
		Example: "  edgehub draft signer --public-key next.key.pub --out draft.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			next, err := readPublicKey("--public-key", key)
			if err != nil {
				return err
			}
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				d := drafter{db: db, now: time.Now()}
				drafts, err := d.signer(ctx, signeddoc.EncodePublic(next))
				if err != nil {
					return err
				}
				return a.printDrafts(drafts, out)
			})
		},
	}
	c.Flags().StringVar(&key, "public-key", "", "the next key's public half")
	c.Flags().StringVar(&out, "out", "", "file for the draft, written whole or not at all (default the standard output)")
	_ = c.MarkFlagRequired("public-key") // fails only for a name that is no flag
	return c
}

func (a *app) draftAgain() *cobra.Command {
	var tenant, out string
	c := &cobra.Command{
		Use: "again", Short: "Print the documents in force that the present key has not signed", Args: cli.NoArguments,
		Long: "Print the documents in force that another key has signed than the one that signs now, as they are, to be\n" +
			"signed and published anew: boxes that are new, or were restored, take no others.",
		Example: "  edgehub draft again --out again.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var d drafter
			var err error
			if tenant != "" {
				if d.tenant, err = edgeclaim.ParseTenantID(tenant); err != nil {
					return cli.Usagef("--tenant: %v", err)
				}
			}
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				d.db = db
				drafts, err := d.again(ctx)
				if err != nil {
					return err
				}
				return a.printDrafts(drafts, out)
			})
		},
	}
	c.Flags().StringVar(&tenant, "tenant", "", "those of this tenant, a UUID")
	c.Flags().StringVar(&out, "out", "", "file for the documents, written whole or not at all (default the standard output)")
	return c
}

// signer drafts the next key for documents.
func (d *drafter) signer(ctx context.Context, key string) ([]draft, error) {
	id := edgeclaim.DocumentID{Type: edgeclaim.DocumentSigner}
	known, err := d.known(ctx, id.Type)
	if err != nil {
		return nil, err
	}
	_, newest := d.base(known, id)
	one, err := finish(d.head(id, newest, nil), edgeclaim.Signer{Key: key})
	return []draft{one}, err
}

// again lists what is in force and not signed by the key that signs now, word for
// word.
func (d *drafter) again(ctx context.Context) ([]draft, error) {
	present, err := d.signsNow(ctx)
	if err != nil {
		return nil, err
	}
	var all []draft
	for _, kind := range edgeclaim.DocumentTypes() {
		if kind == edgeclaim.DocumentSigner {
			continue // each is signed by the one before, for ever
		}
		known, err := d.known(ctx, kind)
		if err != nil {
			return nil, err
		}
		for i := range known {
			if p := &known[i]; p.InForce && p.KeyID != present {
				_, payload, err := d.read(ctx, p)
				if err != nil {
					return nil, err
				}
				all = append(all, draft{p.DocumentID, p.Version, payload})
			}
		}
	}
	if len(all) == 0 {
		return nil, errNothing
	}
	return all, nil
}

// signsNow names the key that signs documents now.
func (d *drafter) signsNow(ctx context.Context) (string, error) {
	signers := drafter{db: d.db}
	known, err := signers.known(ctx, edgeclaim.DocumentSigner)
	if err != nil {
		return "", err
	}
	if newest, _ := signers.base(known, edgeclaim.DocumentID{Type: edgeclaim.DocumentSigner}); newest != nil {
		document, _, err := signers.read(ctx, newest)
		if err != nil {
			return "", err
		}
		key, err := signeddoc.ParsePublic(document.Signer.Key)
		return signeddoc.KeyName(key), err
	}
	key, err := d.db.DocumentKey(ctx)
	if err == nil && key == nil {
		err = fmt.Errorf("the key that signs documents: %w: give it with edgehub enrolment --document-key", edgeclaim.ErrNotFound)
	}
	return signeddoc.KeyName(key), err
}
