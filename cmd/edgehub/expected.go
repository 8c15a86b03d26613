package main

import (
	"context"
	"fmt"
	"strings"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

func (a *app) expectedCommand() *cobra.Command {
	var tenant, template, hardware string
	var open bool
	c := &cobra.Command{
		Use: "expected --tenant TENANT", Short: "List the announced boards, and the devices that they have become", Args: cli.NoArguments,
		Long: "List the boards that `edgehub devices import` announced, and the devices that they have become, as boxes told.\n" +
			"EXPECTED is the id by which the platform knows a board, where it is not the derived one; DEVICE is what the\n" +
			"board is.",
		Example: "  edgehub expected --tenant 5f1c0b7e-… --open\n  edgehub expected --tenant 5f1c0b7e-… --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter := registry.ExpectedFilter{Limit: pageRows}
			var err error
			if filter.Tenant, err = edgeclaim.ParseTenantID(tenant); err != nil {
				return cli.Usagef("--tenant: %v", err)
			}
			if template != "" {
				if filter.Template, err = edgeclaim.ParseTemplateID(template); err != nil {
					return cli.Usagef("--template: %v", err)
				}
			}
			if hardware != "" {
				if filter.Hardware, err = edgeclaim.ParseHardwareID(hardware); err != nil {
					return cli.Usagef("--hardware-id: %v", err)
				}
			}
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				return printExpected(ctx, a, db, filter, open)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&tenant, "tenant", "", "whose, a UUID")
	f.StringVar(&template, "template", "", "those of this template")
	f.StringVar(&hardware, "hardware-id", "", "this one")
	f.BoolVar(&open, "open", false, "only those that no box has told of")
	_ = c.MarkFlagRequired("tenant") // fails only for a name that is no flag
	c.AddCommand(a.expectedRemove())
	return c
}

func printExpected(ctx context.Context, a *app, db *registry.DB, filter registry.ExpectedFilter, open bool) error {
	l := lister[registry.Expected]{
		head: []string{"HARDWARE", "TEMPLATE", "NAME", "EXPECTED", "DEVICE", "STATUS", "BOXES", "FIRST_SEEN", "IMPORTED"},
		row: func(e registry.Expected) []string {
			return []string{
				e.Hardware.String(), e.Template.String(), e.Name, deviceText(e.Device), deviceText(e.Claimed), string(e.Status),
				strings.Join(e.Boxes, ", "), cli.When(e.FirstSeen), cli.When(e.ImportedAt),
			}
		},
		page: func(ctx context.Context, last *registry.Expected) ([]registry.Expected, error) {
			f := filter
			if last != nil {
				f.AfterHardware, f.AfterTemplate = last.Hardware, last.Template
			}
			return db.ExpectedRows(ctx, f)
		},
	}
	if open {
		l.hides = func(e registry.Expected) bool { return !e.Claimed.IsZero() }
	}
	return l.print(ctx, a)
}

func deviceText(id edgeclaim.DeviceID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

func (a *app) expectedRemove() *cobra.Command {
	var tenant, template string
	c := &cobra.Command{
		Use: "remove HARDWARE… --tenant TENANT --template TEMPLATE", Short: "Take back boards that were announced", Args: cobra.MinimumNArgs(1),
		Long: "Take back boards that were announced. Boxes that heard of them hear of it by `edgehub draft allow-list\n" +
			"--remove-hardware`; a device that one has become stays.",
		Example: "  edgehub expected remove AA:BB:CC:00:11:22 --tenant 5f1c0b7e-… --template pumps",
		RunE: func(cmd *cobra.Command, args []string) error {
			of, err := edgeclaim.ParseTenantID(tenant)
			if err != nil {
				return cli.Usagef("--tenant: %v", err)
			}
			id, err := edgeclaim.ParseTemplateID(template)
			if err != nil {
				return cli.Usagef("--template: %v", err)
			}
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				d := drafter{db: db, tenant: of}
				fold, err := d.folding(ctx)
				if err != nil {
					return err
				}
				boards, err := parseEach("HARDWARE", args, fold.parse)
				if err != nil {
					return err
				}
				if err := db.RemoveExpected(ctx, of, id, boards); err != nil {
					return err
				}
				if a.json {
					return a.printJSON(map[string]int{"removed": len(boards)})
				}
				_, err = fmt.Fprintf(a.stdout, "%d boards are not expected any more\n", len(boards))
				return err
			})
		},
	}
	c.Flags().StringVar(&tenant, "tenant", "", "whose, a UUID")
	c.Flags().StringVar(&template, "template", "", "which template expected them, a template id")
	for _, name := range []string{"tenant", "template"} {
		_ = c.MarkFlagRequired(name) // fails only for a name that is no flag
	}
	return c
}
