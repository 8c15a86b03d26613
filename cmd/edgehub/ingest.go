package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"edgeclaim"
	"edgeclaim/bridge/hub"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

func (a *app) ingestCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "ingest FILE|-", Short: "Take a file that a box without a link has exported, and write its acknowledgement", Args: cobra.ExactArgs(1),
		Long: "Take a file of `edgeclaim outbox export`, from a box without a link, commit what is in it and write\n" +
			"the signed acknowledgement, for `edgeclaim outbox ack` on that box. A file may be ingested twice.",
		Example: "  edgehub ingest up.ndjson --out ack.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.applySettings(cmd)
			if err != nil {
				return err
			}
			if cli.IsStdout(out) {
				out = ""
			}
			return a.ingest(cmd.Context(), &s, args[0], out)
		},
	}
	addFlags(c, applyFlags...)
	addTenants(c)
	c.Flags().StringVar(&out, "out", "", "file for the acknowledgement, written whole or not at all (default the standard output)")
	return c
}

func (a *app) ingest(ctx context.Context, s *settings, from, to string) (err error) {
	in := a.stdin
	if from != "-" {
		file, err := os.Open(from)
		if err != nil {
			return err
		}
		defer file.Close()
		in = file
	}
	own, err := openIdentity(ctx, s, anew{}, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, own.db.Close()) }()
	stick := hub.Stick{DB: own.db, Key: own.sign}
	taken, err := stick.Ingest(ctx, in)
	if err != nil {
		return err
	}
	if err := a.answer(to, taken.Answer); err != nil {
		return err
	}
	return a.report(&taken, to)
}

// answer writes what goes back to the box.
func (a *app) answer(to string, message []byte) error {
	if to == "" {
		_, err := a.stdout.Write(message)
		return err
	}
	return cli.WriteWhole(to, func(w io.Writer) error {
		_, err := w.Write(message)
		return err
	})
}

// report says what the file came to, on the standard output where the answer
// is not there.
func (a *app) report(taken *hub.Ingested, to string) error {
	if to != "" {
		if err := a.printIngested(taken); err != nil {
			return err
		}
	}
	if r := taken.Refused; r != nil {
		return &refusedError{fmt.Sprintf("the box is refused (%s): %s", r.Code, r.Reason)}
	}
	if len(taken.Nack) > 0 {
		nack := &taken.Nack[0]
		return fmt.Errorf("lane %s stops at sequence %d (%s): %s", nack.Lane, nack.Sequence, nack.Code, nack.Reason)
	}
	return nil
}

func (a *app) printIngested(taken *hub.Ingested) error {
	if a.json {
		return a.printJSON(taken)
	}
	pairs := [][2]string{
		{"site", taken.Site}, {"box_id", taken.Box}, {"epoch", taken.Epoch},
		{"batches", number(int64(taken.Batches))}, {"records applied", number(int64(taken.Records))},
	}
	for _, lane := range edgeclaim.Lanes() {
		if upto, ok := taken.Upto[lane]; ok {
			pairs = append(pairs, [2]string{"acknowledged " + string(lane), fmt.Sprint(upto)})
		}
	}
	return cli.Facts(a.stdout, pairs...)
}

func (a *app) enrolmentCommand() *cobra.Command {
	var start anew
	c := &cobra.Command{
		Use: "enrolment", Short: "Print what a box has to know to trust this hub alone, for `edgeclaim enroll`", Args: cobra.NoArgs,
		Long: "Print what a box has to know to trust this hub and no other, for `edgeclaim enroll FILE`. It is not\n" +
			"secret, but a box has to get it from you. The keys and the database are made where they are missing.\n" +
			"seal_key is what boxes seal PSKs for, see edgehub unseal. document_key is what they know documents by; without\n" +
			"one they take none.",
		Example: "  edgehub enrolment --document-key document.key.pub > hub.json",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			s, err := a.settings(cmd, documentFlags...)
			if err != nil {
				return err
			}
			own, err := openIdentity(cmd.Context(), &s, start, nil)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, own.db.Close()) }()
			return a.printJSON(hub.Enrolment(own.db.ID(), own.sign, own.seal.PublicKey(), own.document))
		},
	}
	addAnew(c, &start)
	addFlags(c, documentFlags...)
	return c
}
