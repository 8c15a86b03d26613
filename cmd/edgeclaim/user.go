package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/internal/userhash"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func (a *app) userCommand() *cobra.Command {
	c := &cobra.Command{Use: "user", Short: "Named users on the line", Args: cobra.NoArgs, RunE: cli.WantCommand}
	c.AddCommand(&cobra.Command{
		Use: "hash", Short: "Print the hash of a password, for users in the configuration", Args: cli.NoArguments,
		Long: `Read a password, from the terminal without showing it or as one line from standard
input, and print its hash: the password_hash of a user in the configuration.`,
		Example: `  edgeclaim user hash
  pwgen 24 1 | edgeclaim user hash`,
		RunE: func(*cobra.Command, []string) error {
			password, err := a.readPassword()
			if err != nil {
				return err
			}
			hash, err := userhash.Hash(password)
			if err != nil {
				return cli.Usagef("%v", err)
			}
			if a.json {
				return a.printJSON(struct {
					Hash string `json:"password_hash"`
				}{hash})
			}
			_, err = fmt.Fprintln(a.stdout, hash)
			return err
		},
	})
	return c
}

// readPassword reads one line. A terminal does not show it, and asks twice:
// nobody sees what he types.
func (a *app) readPassword() (edgeclaim.Secret, error) {
	file, ok := a.stdin.(*os.File)
	if !ok || !terminal(file) {
		text, err := readSecret(a.stdin)
		if err != nil {
			return edgeclaim.Secret{}, cli.Usagef("password: want one line of 1 to %d bytes and nothing after it", userhash.MaxPassword)
		}
		return edgeclaim.NewSecret(text), nil
	}
	var said [2][]byte
	for i, prompt := range []string{"Password: ", "Again: "} {
		_, _ = fmt.Fprint(a.stderr, prompt)
		var err error
		said[i], err = term.ReadPassword(int(file.Fd()))
		_, _ = fmt.Fprintln(a.stderr)
		if err != nil {
			return edgeclaim.Secret{}, fmt.Errorf("password: %w", err)
		}
	}
	if !bytes.Equal(said[0], said[1]) {
		return edgeclaim.Secret{}, errors.New("the two differ")
	}
	return edgeclaim.NewSecret(string(said[0])), nil
}
