package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/provision/httpapi"

	"github.com/spf13/cobra"
)

const enrolmentPath = "/api/v1/enrolment"

// maxEnrolmentFile is more than an enrolment file ever takes, in bytes.
const maxEnrolmentFile = 32 << 10

func (a *app) enrollCommand() *cobra.Command {
	var replace, remove, present bool
	c := &cobra.Command{
		Use: "enroll FILE", Short: "Trust one application upstream, and take nothing it has not signed",
		Long: `Pin the key of the application upstream, from the file that "edgehub enrolment"
printed there; - reads standard input. Carry the file by a way you trust: who can
change it can make this box forget records.

From then on the box takes nothing from upstream that this key has not signed.
What is not signed changes nothing and raises an alarm. A box that is not enrolled
takes all, with a warning. It needs no restart, and neither upstream nor a network.

The same key may be given again. Another one, or a file without the key that PSKs are
sealed for, is refused without --replace.`,
		Example: `  edgehub enrolment > hub.json         # upstream
  edgeclaim enroll hub.json            # on the box
  edgeclaim enroll --show              # whose key is pinned
  edgeclaim enroll --replace new.json  # upstream has a new key
  edgeclaim enroll --remove            # trust anybody again`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			switch {
			case (remove || present) == (len(args) == 1):
				return cli.Usagef("want a file, --show or --remove")
			case present:
				return show(ctx, a, request{http.MethodGet, enrolmentPath, nil}, a.printEnrolment)
			case remove:
				return show(ctx, a, request{http.MethodDelete, enrolmentPath, nil}, a.printUnenrolled)
			}
			document, err := a.readInput(args[0], maxEnrolmentFile)
			if err != nil {
				return err
			}
			path := enrolmentPath
			if replace {
				path += "?replace=true"
			}
			return hint(show(ctx, a, request{http.MethodPut, path, rawBody(document)}, a.printEnrolment),
				edgeclaim.CodeAborted, "--replace takes the file all the same")
		},
	}
	f := c.Flags()
	f.BoolVar(&replace, "replace", false, "take this key in the place of another")
	f.BoolVar(&remove, "remove", false, "forget the key, and trust whoever speaks upstream")
	f.BoolVar(&present, "show", false, "show whose key is pinned")
	c.MarkFlagsMutuallyExclusive("replace", "remove", "show")
	return c
}

func (a *app) printEnrolment(e httpapi.Enrolment) error {
	if e.Damaged {
		return cli.Facts(a.stdout, [2]string{"enrolled", "damaged: nothing is taken from upstream until the box is enrolled anew"})
	}
	return cli.Facts(a.stdout, [2]string{"enrolled", yesNo(e.Enrolled)}, [2]string{"upstream_id", e.Upstream}, [2]string{"key_id", e.Key})
}

func (a *app) printUnenrolled(e httpapi.Enrolment) error {
	_, _ = fmt.Fprintln(a.stderr, "warning: whoever may publish on this box's down/ topics upstream can make it forget records now")
	return a.printEnrolment(e)
}

func yesNo(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

// hint adds what would help to an error of the box with that code.
func hint(err error, code edgeclaim.Code, help string) error {
	if box, ok := errors.AsType[*boxError](err); ok && box.Code == code {
		box.Message += "; " + help
	}
	return err
}

// worded puts words in the place of an error of the box with that code.
func worded(err error, code edgeclaim.Code, words string) error {
	if box, ok := errors.AsType[*boxError](err); ok && box.Code == code {
		box.Message = words
	}
	return err
}

// readInput reads a file, or standard input for "-", of at most limit bytes.
func (a *app) readInput(path string, limit int64) ([]byte, error) {
	from := a.stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close() //nolint:errcheck // only read
		from = file
	}
	document, err := io.ReadAll(io.LimitReader(from, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(document)) > limit:
		return nil, cli.Usagef("%s: larger than %d bytes", path, limit)
	case len(document) == 0:
		return nil, cli.Usagef("%s: empty", path)
	}
	return document, nil
}
