package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"log/slog"
	"os"
	"strconv"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
	"edgeclaim/store"

	"github.com/rogpeppe/go-internal/testscript"
)

// hubKey KEY ENROLMENT UPSTREAM makes a signing key, and the file that enrols
// boxes with it.
func hubKey(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: hub-key KEY ENROLMENT UPSTREAM")
	}
	private, document := keyPair(ts.Fatalf, args[2])
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), private.Seed(), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), document, 0o600))
}

// hubAck EXPORT ACK KEY [FIELD=VALUE...] writes the ack that a hub would for all
// of an export, signed with the key unless that is "-". FIELD is nonce, epoch,
// prov or refused, and says something else than the truth.
func hubAck(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: hub-ack EXPORT ACK KEY [FIELD=VALUE...]")
	}
	line, _, _ := bytes.Cut([]byte(ts.ReadFile(args[0])), []byte("\n"))
	var hello wire.Hello
	ts.Check(json.Unmarshal(line, &hello))
	head := wire.Head{Type: wire.TypeAck, Box: hello.Box, Epoch: hello.Epoch, Nonce: hello.Nonce, Time: time.Now().UTC()}
	upto := map[edgeclaim.Lane]uint64{}
	for lane, marks := range hello.Lanes {
		upto[lane] = marks.Appended
	}
	var message wire.Down
	for _, arg := range args[3:] {
		field, value, _ := bytes.Cut([]byte(arg), []byte("="))
		switch string(field) {
		case "nonce":
			head.Nonce = string(value)
		case "epoch":
			head.Epoch = string(value)
		case "prov":
			n, err := strconv.ParseUint(string(value), 10, 64)
			ts.Check(err)
			upto[edgeclaim.LaneProv] = n
		case "refused":
			head.Type = wire.TypeRefused
			message = &wire.Refused{Head: head, Code: wire.RefusedCode(value)}
		default:
			ts.Fatalf("%s is no field", field)
		}
	}
	if message == nil {
		message = &wire.Ack{Head: head, Upto: upto}
	}
	text, err := json.Marshal(message)
	if args[2] != "-" {
		text, err = wire.Seal(ed25519.NewKeyFromSeed([]byte(ts.ReadFile(args[2]))), message)
	}
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), append(text, '\n'), 0o600))
}

// park DIR SEQUENCE REASON puts a record of the provisioning lane, and those of
// its device behind it, in quarantine. The box must not be running.
func park(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: park DIR SEQUENCE REASON")
	}
	sequence, err := strconv.ParseUint(args[1], 10, 64)
	ts.Check(err)
	cfg := store.Defaults()
	cfg.Dir, cfg.Logger = ts.MkAbs(args[0]), slog.New(slog.DiscardHandler)
	db, err := store.Open(cfg)
	ts.Check(err)
	epoch, _, _, err := db.Marks(context.Background())
	ts.Check(err)
	ts.Check(db.Park(context.Background(), edgeclaim.Mark{Epoch: epoch, Lane: edgeclaim.LaneProv, Upto: sequence}, args[2]))
	ts.Check(db.Close())
}

// mode FILE PERMISSIONS checks a file's permissions, in octal.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode FILE PERMISSIONS")
	}
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := strconv.FormatUint(uint64(info.Mode().Perm()), 8); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}
