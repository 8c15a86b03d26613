package main

import (
	"context"
	"fmt"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

func (a *app) sharesCommand() *cobra.Command {
	var key, box string
	c := &cobra.Command{
		Use: "shares", Short: "List what each box may make with a key that several have; release or grant a share", Args: cli.NoArguments,
		Long: "List what each box may make with a key that several boxes have, and what it has made. BOUND is the key's,\n" +
			"over all boxes; the shares together never exceed it.",
		Example: "  edgehub shares --key line-3\n  edgehub shares release --box 9f0c… --key line-3 --yes",
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter := registry.ShareFilter{Box: box, Limit: pageRows}
			if key != "" {
				var err error
				if filter.Key, err = edgeclaim.ParseKeyID(key); err != nil {
					return cli.Usagef("--key: %v", err)
				}
			}
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				return printShares(ctx, a, db, filter)
			})
		},
	}
	c.Flags().StringVar(&key, "key", "", "those of this key, a key id")
	c.Flags().StringVar(&box, "box", "", "those of this box")
	c.AddCommand(a.sharesRelease(), a.sharesGrant())
	return c
}

func printShares(ctx context.Context, a *app, db *registry.DB, filter registry.ShareFilter) error {
	l := lister[registry.BoxShare]{
		head: []string{"KEY", "TEMPLATE", "BOUND", "BOX", "SITE", "GRANTED", "CLAIMS", "ASKED"},
		row: func(s registry.BoxShare) []string {
			return []string{
				s.Key.String(), s.Template.String(), many(s.Bound), s.Box, s.Site, number(int64(s.Granted)), number(int64(s.Claims)), cli.When(s.AskedAt),
			}
		},
		page: func(ctx context.Context, last *registry.BoxShare) ([]registry.BoxShare, error) {
			f := filter
			if last != nil {
				f.AfterKey, f.AfterBox = last.Key, last.Box
			}
			return db.Shares(ctx, f)
		},
	}
	return l.print(ctx, a)
}

// many is a bound, nothing for none.
func many(bound uint32) string {
	if bound == 0 {
		return ""
	}
	return number(int64(bound))
}

// addShare gives a command the flags that name a share.
func addShare(c *cobra.Command, box, key *string) {
	c.Flags().StringVar(box, "box", "", "whose share, a box id")
	c.Flags().StringVar(key, "key", "", "of which key, a key id")
	for _, name := range []string{"box", "key"} {
		_ = c.MarkFlagRequired(name) // fails only for a name that is no flag
	}
}

func (a *app) sharesRelease() *cobra.Command {
	var box, key string
	var sure bool
	c := &cobra.Command{
		Use: "release --box BOX --key KEY --yes", Short: "Give back what a box has not used of its share: it is gone, or will not use it", Args: cli.NoArguments,
		Long: "Give back what a box has not used of its share, as far as it told, so that other boxes may make these\n" +
			"devices. It is for a box that is gone: one that is not, and does not hear of it, goes on with what it has,\n" +
			"and the key may then make more devices than it was meant for.",
		Example: "  edgehub shares release --box 9f0c… --key line-3 --yes",
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := edgeclaim.ParseKeyID(key)
			if err != nil {
				return cli.Usagef("--key: %v", err)
			}
			if !sure {
				return cli.Usagef("--yes: say it where the box is gone: it would go on with its share, and the key could make more than its bound")
			}
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				freed, err := db.ReleaseShares(ctx, box, id)
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(map[string]any{"key_id": id, "box_id": box, "freed": freed})
				}
				_, err = fmt.Fprintf(a.stdout, "%d devices of key %s are free for other boxes\n", freed, id)
				return err
			})
		},
	}
	addShare(c, &box, &key)
	c.Flags().BoolVar(&sure, "yes", false, "the box is gone, or will not use it")
	return c
}

func (a *app) sharesGrant() *cobra.Command {
	var box, key string
	var count uint32
	c := &cobra.Command{
		Use: "grant --box BOX --key KEY", Short: "Grant a box a share of a key that it cannot ask for itself", Args: cli.NoArguments,
		Long: "Grant a box more of a key, for one that has no link to ask by; `edgehub bundle` brings it there. It gets what\n" +
			"it would get if it asked: at most half of its even part of what is left.",
		Example: "  edgehub shares grant --box 9f0c… --key line-3 --count 50",
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := edgeclaim.ParseKeyID(key)
			if err != nil {
				return cli.Usagef("--key: %v", err)
			}
			if count == 0 {
				return cli.Usagef("--count: want 1 or more")
			}
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				return a.grantShare(ctx, db, box, wire.ShareWant{Key: id, Want: count})
			})
		},
	}
	addShare(c, &box, &key)
	c.Flags().Uint32Var(&count, "count", 1, "how many more devices")
	return c
}

// grantShare asks as the box would that has heard of all it was granted.
func (a *app) grantShare(ctx context.Context, db *registry.DB, box string, want wire.ShareWant) error {
	held, err := db.Shares(ctx, registry.ShareFilter{Key: want.Key, Box: box, Limit: 1})
	if err != nil {
		return err
	}
	if len(held) > 0 {
		want.Granted, want.Claims = held[0].Granted, held[0].Claims
	}
	grants, err := db.GrantShares(ctx, box, []wire.ShareWant{want})
	if err != nil {
		return err
	}
	if len(grants) == 0 {
		return fmt.Errorf("key %s: %w: no document for box %s shares it out", want.Key, edgeclaim.ErrNotFound, box)
	}
	if a.json {
		return a.printJSON(&grants[0])
	}
	g := &grants[0]
	return cli.Facts(a.stdout, [2]string{"key_id", g.Key.String()}, [2]string{"granted", number(int64(g.Granted))},
		[2]string{"claims", number(int64(g.Claims))}, [2]string{"exhausted", yes(g.Exhausted)})
}
