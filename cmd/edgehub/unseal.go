package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"edgeclaim"
	"edgeclaim/bridge/hub"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

func (a *app) unsealCommand() *cobra.Command {
	var text string
	c := &cobra.Command{
		Use: "unseal", Short: "Print a device's PSK, which its box sealed for this hub", Args: cli.NoArguments,
		Long: "Print a device's PSK, which its box sealed for this hub when it told of it. It takes seal.key, in the\n" +
			"data folder. The PSK is a secret: whoever has it is the device. Exit code 1: no box sealed one; 4: it\n" +
			"is not valid any more.",
		Example: "  edgehub unseal --device 8f1c0b7e-3d2a-5f56-9a10-2c4e6f8b1d33",
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := edgeclaim.ParseDeviceID(text)
			if err != nil {
				return cli.Usagef("--device: %v", err)
			}
			s, err := a.settings(cmd)
			if err != nil {
				return err
			}
			return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
				return a.unseal(ctx, db, s.Data, id)
			})
		},
	}
	c.Flags().StringVar(&text, "device", "", "whose, a device id")
	_ = c.MarkFlagRequired("device") // fails only for a name that is no flag
	return c
}

func (a *app) unseal(ctx context.Context, db *registry.DB, dir string, id edgeclaim.DeviceID) error {
	sealed, err := db.Sealed(ctx, id)
	switch {
	case errors.Is(err, edgeclaim.ErrNotFound):
		return fmt.Errorf("no box sealed a PSK of %s for a hub: %w", id, edgeclaim.ErrNotFound)
	case err != nil:
		return err
	case !sealed.Valid:
		return &refusedError{"not valid: " + sealed.Reason}
	case !hub.HasKey(dir, hub.SealKeyFile):
		return fmt.Errorf("there is no %s: restore it from the backup", filepath.Join(dir, hub.SealKeyFile))
	}
	key, err := hub.LoadSealKey(dir)
	if err != nil {
		return err
	}
	psk, err := hub.Unseal(key, id, &sealed)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]string{
			"device_id": id.String(), "box_id": sealed.Box, "psk_identity": id.String(), "psk": psk.Reveal(),
		})
	}
	_, err = fmt.Fprintln(a.stdout, psk.Reveal())
	return err
}
