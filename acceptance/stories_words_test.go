package acceptance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"edgeclaim/internal/mqttwire"
)

// storyKeys are the provisioning keys of the stories; scripts have the SHA-256 of
// each in $SHA_NAME.
var storyKeys = map[string]string{"SIX": "pk_factory_six", "OPEN": "pk_factory_open", "THEIRS": "pk_factory_theirs"}

func setKeys(setenv func(name, value string)) {
	for name, key := range storyKeys {
		sum := sha256.Sum256([]byte(key))
		setenv("SHA_"+name, hex.EncodeToString(sum[:]))
	}
}

type word = func(*testscript.TestScript, bool, []string)

// words are those of the stories beside the ones that run a program.
func (s *story) words() map[string]word {
	return map[string]word{
		"envsubst": s.envsubst, "truncate": truncateFile, "stdout-to": stdoutTo,
		"claim-all": s.claimAll, "wants-devices": s.wantsDevices, "pick-conflict": s.pickConflict,
		"listen": s.listen, "hung-up": s.hungUp, "logs-in": s.logsIn,
		"copy-box": s.copyBox, "restore-box": s.restoreBox,
	}
}

// envsubst FILE… puts the variables' values into files, as the program does.
func (s *story) envsubst(ts *testscript.TestScript, _ bool, args []string) {
	for _, file := range args {
		text := os.Expand(ts.ReadFile(file), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(file), []byte(text), 0o600))
	}
}

// truncate FILE OUT: OUT is the first half of FILE.
func truncateFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: truncate FILE OUT")
	}
	text := ts.ReadFile(args[0])
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text[:len(text)/2]), 0o600))
}

// stdout-to VARIABLE sets it to the line that was printed last.
func stdoutTo(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: stdout-to VARIABLE")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// claim-all BOX KEY PREFIX N [patiently]: so many boards claim there, and it is
// all one whether they are let in; patiently, one that is told to come again
// (429) does, until it is let in or refused.
func (s *story) claimAll(ts *testscript.TestScript, neg bool, args []string) {
	const usage = "claim-all BOX KEY PREFIX N [patiently]"
	b := s.box(ts, args, usage)
	patiently := len(args) == 5 && args[4] == "patiently"
	if neg || len(args) != 4 && !patiently {
		ts.Fatalf("usage: %s", usage)
	}
	n, err := strconv.Atoi(args[3])
	ts.Check(err)
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for i := 0; i < n; {
		said := b.post(claimBody(args[1], "n", fmt.Sprint(args[2], "-", i)))
		if said.status != 200 && said.status != 403 && said.status != 429 {
			ts.Fatalf("answered %d %s", said.status, said.body)
		}
		if !patiently || said.status != 429 {
			i++
			continue
		}
		select {
		case <-again.C:
		case <-deadline.C:
			ts.Fatalf("after %v %s-%d is still put off: %s", patience, args[2], i, said.body)
		}
	}
}

// wants-devices N: upstream comes to have that many, and the boxes no other.
func (s *story) wantsDevices(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: wants-devices N")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	all := func() int { return len(s.hub.devices()) }
	comesTrue(ts, func() string {
		if got := all(); got < want {
			return fmt.Sprintf("%d devices upstream, want %d", got, want)
		}
		return ""
	})
	for _, b := range s.boxes {
		b.drained()
	}
	if got := all(); got != want {
		ts.Fatalf("%d devices upstream, want %d", got, want)
	}
}

// comesTrue waits until nothing is missing any more, and fails the script with
// what is.
func comesTrue(ts *testscript.TestScript, missing func() string) {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		text := missing()
		if text == "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			ts.Fatalf("waited %v in vain: %s", patience, text)
		}
	}
}

// pick-conflict VARIABLE KIND: the id of the open conflict of that kind.
func (s *story) pickConflict(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: pick-conflict VARIABLE KIND")
	}
	var rows []struct {
		ID   json.Number
		Kind string
	}
	s.hub.json(&rows, "conflicts")
	for _, row := range rows {
		if row.Kind == args[1] {
			ts.Setenv(args[0], row.ID.String())
			return
		}
	}
	ts.Fatalf("no conflict of kind %s", args[1])
}

// login logs a device in.
func (s *story) login(ts *testscript.TestScript, args []string, usage string) (*mqttwire.Client, error) {
	b := s.box(ts, args, usage)
	if len(args) != 3 {
		ts.Fatalf("usage: %s", usage)
	}
	return dialLogin(b.mqttAddr, args[1], args[2])
}

var errNotLetIn = errors.New("not let in")

func dialLogin(addr, id, key string) (*mqttwire.Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, ack, err := mqttwire.Dial(ctx, addr, mqttwire.V311, mqttwire.Login{ClientID: id, Username: id, Password: key, Clean: true, KeepAlive: 300})
	if err != nil {
		return nil, err
	}
	if ack.Code() != 0 {
		client.Close()
		return nil, errNotLetIn
	}
	return client, nil
}

// logs-in BOX DEVICE KEY: the credential is good there; ! it comes to be no good.
func (s *story) logsIn(ts *testscript.TestScript, neg bool, args []string) {
	comesTrue(ts, func() string {
		client, err := s.login(ts, args, "logs-in BOX DEVICE KEY")
		if err == nil {
			client.Close()
		} else if !errors.Is(err, errNotLetIn) {
			ts.Fatalf("%v", err)
		}
		if (err == nil) == neg {
			return fmt.Sprintf("let in: %v", neg)
		}
		return ""
	})
}

// listen BOX DEVICE KEY: the device stays connected.
func (s *story) listen(ts *testscript.TestScript, neg bool, args []string) {
	client, err := s.login(ts, args, "listen BOX DEVICE KEY")
	ts.Check(err)
	gone := make(chan struct{})
	go func() { // ends with the connection
		defer close(gone)
		for {
			if _, err := client.Read(); err != nil {
				return
			}
		}
	}()
	ts.Defer(func() { client.Close() })
	s.listening[args[0]+" "+args[1]] = gone
}

// hung-up BOX DEVICE: the box ends that connection.
func (s *story) hungUp(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 || s.listening[strings.Join(args, " ")] == nil {
		ts.Fatalf("usage: hung-up BOX DEVICE, which has to listen")
	}
	if within(patience, s.listening[strings.Join(args, " ")]) {
		ts.Fatalf("the box does not hang up")
	}
}

// copy-box BOX DIR keeps a copy of a stopped box's data.
func (s *story) copyBox(ts *testscript.TestScript, neg bool, args []string) {
	b := s.box(ts, args, "copy-box BOX DIR")
	ts.Check(os.CopyFS(ts.MkAbs(args[1]), os.DirFS(b.data)))
}

// restore-box BOX DIR puts the copy in its place.
func (s *story) restoreBox(ts *testscript.TestScript, neg bool, args []string) {
	b := s.box(ts, args, "restore-box BOX DIR")
	ts.Check(os.RemoveAll(b.data))
	ts.Check(os.CopyFS(b.data, os.DirFS(ts.MkAbs(args[1]))))
	ts.Check(filepath.WalkDir(b.data, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	}))
}
