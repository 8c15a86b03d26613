package main

import (
	"context"
	"fmt"
	"slices"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

// revoking is what the command line says of revocations.
type revoking struct {
	drafting
	devices, hardware, keys             []string
	backDevices, backHardware, backKeys []string
}

func (a *app) draftRevocations() *cobra.Command {
	var o revoking
	c := &cobra.Command{
		Use: "revocations --tenant TENANT", Short: "Draft which devices, hardware and keys of a tenant are void", Args: cli.NoArguments,
		Long: "Draft which devices, hardware and keys of a tenant are void, at all boxes. It starts from what is published\n" +
			"and only grows: what is taken back has to be named, and stays named, for a box may have missed the version\n" +
			"that said so. Devices made with a revoked key stay; their boxes list them (edgeclaim key show --devices).",
		Example: "  edgehub draft revocations --tenant 5f1c0b7e-… --add-device 8f1c0b7e-… --out draft.json\n" +
			"  edgehub draft revocations --tenant 5f1c0b7e-… --reinstate-hardware AA:BB:CC:00:11:22",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var add edgeclaim.Revocations
			if err := readBody(a, o.from, &add); err != nil {
				return err
			}
			return o.run(a, cmd, func(ctx context.Context, d *drafter) ([]draft, error) {
				return o.draft(ctx, a, d, &add)
			})
		},
	}
	o.flags(c, false)
	f := c.Flags()
	f.StringArrayVar(&o.devices, "add-device", nil, "device id to be revoked; may be repeated, as the others")
	f.StringArrayVar(&o.hardware, "add-hardware", nil, "hardware id to be revoked")
	f.StringArrayVar(&o.keys, "add-key", nil, "provisioning key to be revoked, its SHA-256")
	f.StringArrayVar(&o.backDevices, "reinstate-device", nil, "device id to be taken back")
	f.StringArrayVar(&o.backHardware, "reinstate-hardware", nil, "hardware id to be taken back")
	f.StringArrayVar(&o.backKeys, "reinstate-key", nil, "key to be taken back, its SHA-256")
	return c
}

func (o *revoking) draft(ctx context.Context, a *app, d *drafter, add *edgeclaim.Revocations) ([]draft, error) {
	fold, err := d.folding(ctx)
	if err != nil {
		return nil, err
	}
	for i := range add.Hardware {
		if add.Hardware[i], err = fold(add.Hardware[i]); err != nil {
			return nil, err
		}
	}
	named, err := o.named(fold)
	if err != nil {
		return nil, err
	}
	if err := d.ownDevices(ctx, a, named.Devices); err != nil {
		return nil, err
	}
	add.Devices = append(add.Devices, named.Devices...)
	add.Hardware = append(add.Hardware, named.Hardware...)
	add.Keys = append(add.Keys, named.Keys...)
	back := named.Reinstated
	if add.Reinstated != nil {
		back.Devices = append(back.Devices, add.Reinstated.Devices...)
		back.Hardware = append(back.Hardware, add.Reinstated.Hardware...)
		back.Keys = append(back.Keys, add.Reinstated.Keys...)
		add.Reinstated = nil
	}
	if err := contradiction(add, back); err != nil {
		return nil, err
	}
	return d.revocations(ctx, add, back)
}

// named reads the flags.
func (o *revoking) named(fold folding) (r edgeclaim.Revocations, err error) {
	r.Reinstated = &edgeclaim.Reinstations{}
	if r.Devices, err = parseEach("--add-device", o.devices, edgeclaim.ParseDeviceID); err != nil {
		return r, err
	}
	if r.Hardware, err = parseEach("--add-hardware", o.hardware, fold.parse); err != nil {
		return r, err
	}
	if r.Keys, err = parseEach("--add-key", o.keys, edgeclaim.ParseKeyHash); err != nil {
		return r, err
	}
	if r.Reinstated.Devices, err = parseEach("--reinstate-device", o.backDevices, edgeclaim.ParseDeviceID); err != nil {
		return r, err
	}
	if r.Reinstated.Hardware, err = parseEach("--reinstate-hardware", o.backHardware, fold.parse); err != nil {
		return r, err
	}
	r.Reinstated.Keys, err = parseEach("--reinstate-key", o.backKeys, edgeclaim.ParseKeyHash)
	return r, err
}

// contradiction refuses what is revoked and taken back at once.
func contradiction(add *edgeclaim.Revocations, back *edgeclaim.Reinstations) error {
	const text = "a %s is revoked and reinstated at once"
	switch {
	case intersects(add.Devices, back.Devices):
		return cli.Usagef(text, "device")
	case intersects(add.Hardware, back.Hardware):
		return cli.Usagef(text, "hardware")
	case intersects(add.Keys, back.Keys):
		return cli.Usagef(text, "key")
	}
	return nil
}

func intersects[T comparable](one, other []T) bool {
	return slices.ContainsFunc(other, func(v T) bool { return slices.Contains(one, v) })
}

// parseEach reads the values of a flag that may be repeated.
func parseEach[T any](flag string, texts []string, parse func(string) (T, error)) ([]T, error) {
	values := make([]T, 0, len(texts))
	for _, text := range texts {
		value, err := parse(text)
		if err != nil {
			return nil, cli.Usagef("%s: %v", flag, err)
		}
		values = append(values, value)
	}
	return values, nil
}

// folding reads hardware ids as a tenant's templates do.
type folding func(edgeclaim.HardwareID) (edgeclaim.HardwareID, error)

func (f folding) parse(text string) (edgeclaim.HardwareID, error) {
	id, err := edgeclaim.ParseHardwareID(text)
	if err != nil {
		return id, err
	}
	return f(id)
}

// folding is as the tenant's published templates say; without any, ids are as
// they are spelled.
func (d *drafter) folding(ctx context.Context) (folding, error) {
	known, err := d.known(ctx, edgeclaim.DocumentTemplates)
	if err != nil {
		return nil, err
	}
	for i := range known {
		if !known[i].InForce {
			continue
		}
		document, _, err := d.read(ctx, &known[i])
		if err != nil {
			return nil, err
		}
		for j := range document.Templates.Templates {
			if document.Templates.Templates[j].HardwareIDFormat == edgeclaim.FormatMAC {
				return edgeclaim.FoldMAC, nil
			}
		}
	}
	return func(id edgeclaim.HardwareID) (edgeclaim.HardwareID, error) { return id, nil }, nil
}

// ownDevices refuses devices that are another tenant's, and says which of them no
// box has told of: an id may be revoked before anybody claimed it, or be mistyped.
func (d *drafter) ownDevices(ctx context.Context, a *app, ids []edgeclaim.DeviceID) error {
	for _, id := range ids {
		found, err := d.db.Devices(ctx, registry.DeviceFilter{Device: id, Limit: 1})
		switch {
		case err != nil:
			return err
		case len(found) == 0:
			_, _ = fmt.Fprintf(a.stderr, "edgehub: no box has told of device %s\n", id)
		case found[0].Tenant != d.tenant:
			return cli.Usagef("--add-device: %s is another tenant's", id)
		}
	}
	return nil
}
