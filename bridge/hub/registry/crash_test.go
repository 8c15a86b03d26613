package registry_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
)

const (
	// crashVariable names the folder in which the test's own program applies
	// batches until it is killed.
	crashVariable = "EDGECLAIM_REGISTRY_CRASH"
	crashBatch    = 50
	crashRounds   = 4
)

// crashHelper applies batch after batch of two lanes, and the states of a
// device, from where the registry stands, and says each mark that it could
// acknowledge.
func crashHelper(dir string) int {
	t := &helper{}
	db, err := registry.Open(context.Background(), registry.Config{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for upto := greet(t, db, hello(box, 1, 1<<40)).Resume["prov"].Upto; ; {
		lines, points := make([]line, 0, crashBatch), make([]line, 0, crashBatch)
		for i := range uint64(crashBatch) {
			if sequence := upto + 1 + i; sequence%5 != 0 {
				lines = append(lines, provisioned(t, sequence, int(sequence), 1))
				points = append(points, point(t, sequence, 1))
			}
		}
		results, err := db.Apply(context.Background(), []registry.Item{
			prov(t, box, upto+1, upto+crashBatch, lines...),
			batch(t, box, 1, edgeclaim.LaneTel, upto+1, upto+crashBatch, points...),
			states(box, strconv.FormatUint(upto, 10), 1, true, wire.DeviceState{DeviceState: stateOf(t, 1, true, int(upto)+1)}),
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		upto = results[0].Upto
		fmt.Println(upto)
	}
}

// helper is a test outside of a test: it only fails.
type helper struct{ testing.TB }

func (*helper) Helper()           {}
func (*helper) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// TestCrash kills a program that applies, at any point, and opens what it left:
// whole, and with all that was acknowledged.
func TestCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("starts and kills programs")
	}
	dir := t.TempDir()
	for round := range crashRounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashVariable+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		acked, lines := uint64(0), bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if acked, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
				t.Error(err)
			}
			if n == 5+7*round {
				_ = cmd.Process.Kill() // what it has said until then is read on
			}
		}
		_ = cmd.Wait() // killed
		if acked == 0 {
			t.Fatal("nothing was acknowledged")
		}
		db := openAt(t, registry.Config{URL: "sqlite:" + filepath.Join(dir, registry.FileName)})
		for lane := 1; lane <= 3; lane += 2 { // prov and tel
			h := heldOf(t, db, box, lane)
			if err := h.whole(); err != nil || h.Upto < acked {
				t.Errorf("round %d, lane %d: upto %d, acknowledged %d: %v", round, lane, h.Upto, acked, err)
			}
		}
		if h := presenceOf(t, db, 1); h.Presence != edgeclaim.PresenceOnline || h.Since.Before(now.Add(time.Duration(acked-crashBatch)*time.Second)) {
			t.Errorf("round %d: %s since %v, acknowledged %d", round, h.Presence, h.Since, acked)
		}
		for _, n := range []int{1, int(acked) - 1} {
			if got := verify(t, db, n, 1); got != "valid by "+box {
				t.Errorf("round %d: device %d is %s", round, n, got)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzApply: whatever a batch's events are, what is before the first faulty one
// is applied, the mark never passes the batch, and nothing fails.
func FuzzApply(f *testing.F) {
	good := prov(f, box, 1, 6, provisioned(f, 1, 1, 1), released(f, 2, 1), rotated(f, 3, 1, 1, 2, time.Hour), revoked(f, 4, 1),
		swapped(f, 5, 1, 9), suspected(f, 6, 1, edgeclaim.SuspicionNonce))
	for _, event := range good.Batch.Events {
		f.Add([]byte(event))
	}
	f.Add([]byte(`{"specversion":"1.0","type":"device.provisioned","sequence":"00000000000000000002","data":{}}`))
	f.Add([]byte(`7`))
	f.Add([]byte(``))
	db := openAt(f, registry.Config{Dir: f.TempDir()})
	greet(f, db, hello(box, 1, 10))
	upto := uint64(0)
	f.Fuzz(func(t *testing.T, event []byte) {
		item := prov(t, box, upto+1, upto+3, noise(upto+1), noise(upto+2))
		item.Batch.Events[1] = event
		r := apply(t, db, item)[0]
		switch {
		case r.Refused != nil || r.Upto < upto+1 || r.Upto > upto+3 || r.Applied < 1:
			t.Errorf("%+v", r)
		case r.Nack != nil && (r.Nack.Sequence != r.Upto+1 || r.Nack.Reason == ""):
			t.Errorf("%+v, %+v", r, r.Nack)
		case r.Nack == nil && r.Upto != upto+3:
			t.Errorf("%+v", r)
		}
		upto = r.Upto
	})
}

// FuzzDecode reads any event: what has no fault has a sequence, what changes a
// device names it twice, and a fault is short and does not repeat a credential.
func FuzzDecode(f *testing.F) {
	good := prov(f, box, 1, 6, provisioned(f, 1, 1, 1), released(f, 2, 1), rotated(f, 3, 1, 1, 2, time.Hour), revoked(f, 4, 1),
		swapped(f, 5, 1, 9), suspected(f, 6, 1, edgeclaim.SuspicionNonce))
	for _, event := range good.Batch.Events {
		f.Add([]byte(event))
	}
	f.Add([]byte(`{"specversion":"1.0","type":"device.provisioned","sequence":"00000000000000000002","data":{}}`))
	f.Fuzz(func(t *testing.T, event []byte) {
		b := *good.Batch
		b.Events = []jsontext.Value{event}
		for _, d := range registry.Decode(names(box), &b) {
			switch {
			case d.Fault == "" && !json.Valid(event):
				t.Errorf("no fault in %q", event)
			case d.Fault != "" && d.Changes && d.Sequence == 0, len(d.Fault) > wire.MaxReason, !utf8.ValidString(d.Fault):
				t.Errorf("%+v", d)
			case d.Changes && !bytes.Contains(event, []byte("device")) && !bytes.Contains(event, []byte(`\u`)):
				t.Errorf("a change by %q", event)
			case strings.Contains(d.Fault, secret(1, 1).String()):
				t.Errorf("fault %q", d.Fault)
			}
		}
	})
}
