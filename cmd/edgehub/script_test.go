package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/internal/mosquitto"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes the test binary be the program as well, so that the scripts
// run what the tests were built from.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"edgehub": main})
}

// patience is how long a hub may take to get ready.
const patience = 20 * time.Second

func TestScripts(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{})
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			// Or each of the many short programs sleeps for a second at its end,
			// when built with the race detector.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("EDGEHUB_DATA", filepath.Join(env.WorkDir, "hub"))
			env.Setenv("BROKER", "mqtt://"+broker.Addr())
			config, err := filepath.Abs("../../configs/edgehub.yaml")
			env.Setenv("EXAMPLE", config)
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"wait-http": waitHTTP,
			"wait-text": waitText,
			"terminate": terminate,
			"exits":     exits,
			"pick":      pick,
			"export":    export,
		},
	})
}

// waitHTTP FILE PATH CODE waits until the hub whose standard output is in FILE
// answers PATH with CODE, and prints what it answers.
func waitHTTP(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: wait-http FILE PATH CODE")
	}
	want, err := strconv.Atoi(args[2])
	ts.Check(err)
	await(ts, func() (bool, string) {
		got, body := ask(ts, args[0], args[1])
		if got == want {
			_, _ = ts.Stdout().Write(body)
		}
		return got == want, fmt.Sprintf("%s answers %d %s, want %d", args[1], got, body, want)
	})
}

// waitText FILE TEXT waits until a file has a text in it.
func waitText(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: wait-text FILE TEXT")
	}
	await(ts, func() (bool, string) {
		text, _ := os.ReadFile(ts.MkAbs(args[0]))
		return strings.Contains(string(text), args[1]), fmt.Sprintf("%s has no %q: %s", args[0], args[1], text)
	})
}

// await polls until something holds; else it fails with why it does not.
func await(ts *testscript.TestScript, holds func() (bool, string)) {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		is, why := holds()
		if is {
			return
		}
		select {
		case <-again.C:
		case <-deadline.C:
			ts.Fatalf("in vain: %s", why)
		}
	}
}

// ask makes one request; 0 when nobody is there.
func ask(ts *testscript.TestScript, file, path string) (int, []byte) {
	text, err := os.ReadFile(ts.MkAbs(file))
	if err != nil {
		return 0, nil
	}
	_, address, found := strings.Cut(string(text), "http listening on ")
	address, _, whole := strings.Cut(address, "\n")
	if !found || !whole {
		return 0, text
	}
	res, err := http.Get("http://" + address + path)
	if err != nil {
		return 0, []byte(err.Error())
	}
	defer res.Body.Close()
	var body bytes.Buffer
	_, _ = body.ReadFrom(res.Body)
	return res.StatusCode, body.Bytes()
}

// terminate NAME sends SIGTERM, which the scripts' own kill does not know, to
// the background command whose process id is in NAME.
func terminate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: terminate FILE")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[0])))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGTERM))
}

// exits CODE program args… runs a program that must end with that code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE program [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		failed, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = failed.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// pick VARIABLE PATH sets an environment variable to a value of the JSON that
// the last command printed; PATH is like 0.box_id.
func pick(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: pick VARIABLE PATH")
	}
	var value any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &value))
	for step := range strings.SplitSeq(args[1], ".") {
		switch at := value.(type) {
		case map[string]any:
			value = at[step]
		case []any:
			i, err := strconv.Atoi(step)
			ts.Check(err)
			if i >= len(at) {
				ts.Fatalf("%s: only %d elements", args[1], len(at))
			}
			value = at[i]
		}
	}
	switch found := value.(type) {
	case string:
		ts.Setenv(args[0], found)
	case float64:
		ts.Setenv(args[0], strconv.FormatFloat(found, 'f', -1, 64))
	default:
		ts.Fatalf("%s is not there", args[1])
	}
}

const tenantID = "5f1c0b7e-3d2a-4f56-9a10-2c4e6f8b1d33"

// export FILE BOX LIFE N writes what `edgeclaim outbox export` would, of a box
// that has claimed the hardware H-1 to H-N, in its LIFEth epoch. The API key of
// H-i is key-BOX-i.
func export(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: export FILE BOX LIFE N")
	}
	life, err := strconv.Atoi(args[2])
	ts.Check(err)
	n, err := strconv.ParseUint(args[3], 10, 64)
	ts.Check(err)
	file, err := exported(args[1], life, n)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), file, 0o600))
}

func exported(box string, life int, n uint64) ([]byte, error) {
	names, err := wire.NewNames("plant-7", box)
	if err != nil {
		return nil, err
	}
	epoch := fmt.Sprintf("%sE%026d", strings.ReplaceAll(box, "-", ""), life)[:30]
	if life > 1 {
		epoch = epoch[:29] + strconv.Itoa(life)
	}
	hello := wire.Hello{
		Type: wire.TypeHello, Versions: []int{1}, Box: box, Site: "plant-7", Epoch: epoch, Nonce: rand.Text()[:22],
		Lanes: map[edgeclaim.Lane]edgeclaim.LaneMarks{
			edgeclaim.LaneProv: {First: 1, Appended: n}, edgeclaim.LaneEvt: {First: 1},
		},
		Time: time.Now().UTC(), Clock: edgeclaim.ClockSynced,
	}
	batch := wire.Batch{Box: box, Epoch: epoch, Lane: edgeclaim.LaneProv, Nonce: hello.Nonce, First: 1, Last: n}
	for sequence := uint64(1); sequence <= n; sequence++ {
		event, err := claimed(names, epoch, sequence)
		if err != nil {
			return nil, err
		}
		batch.Events = append(batch.Events, event)
	}
	first, err := wire.Encode(&hello)
	if err != nil || n == 0 {
		return append(first, '\n'), err
	}
	second, err := wire.EncodeBatch(names, &batch)
	return append(append(append(first, '\n'), second...), '\n'), err
}

func claimed(names wire.Names, epoch string, sequence uint64) ([]byte, error) {
	tenant, err := edgeclaim.ParseTenantID(tenantID)
	if err != nil {
		return nil, err
	}
	hardware, err := edgeclaim.ParseHardwareID(fmt.Sprintf("H-%d", sequence))
	if err != nil {
		return nil, err
	}
	device := edgeclaim.NewDeviceID(tenant, hardware, 1)
	key := edgeclaim.NewSecret(fmt.Sprintf("key-%s-%d", names.Box, sequence))
	return wire.EncodeEvent(names, epoch, &edgeclaim.Record{
		Lane: edgeclaim.LaneProv, Sequence: sequence, Type: edgeclaim.TypeDeviceProvisioned, Device: device,
		Stamp: edgeclaim.Stamp{Time: time.Unix(1_800_000_000, 0), Clock: edgeclaim.ClockSynced, Boot: "boot"},
		Data: fmt.Appendf(nil, `{"device_id":%q,"tenant_id":%q,"hardware_id":%q,"box_id":%q,"site":"plant-7","name":"Pump",`+
			`"template_id":"t","key_id":"k","credential":{"type":"api_key","sha256":%q},"claimed_via":"http",`+
			`"claimed_at":"2026-10-04T09:12:33Z"}`, device, tenantID, hardware, names.Box, key.Hash()),
	})
}

// The exit codes of the two programs are one contract.
func TestExitCodes(t *testing.T) {
	for code, err := range map[int]error{
		cli.ExitUsage:       cli.Usagef("x"),
		cli.ExitUnreachable: &unreachableError{errors.New("x")},
		cli.ExitRefused:     &refusedError{"x"},
		cli.ExitTryLater:    fmt.Errorf("x: %w", edgeclaim.ErrUnavailable),
		cli.ExitFailed:      errors.New("x"),
	} {
		if got := exitCode(err); got != code {
			t.Errorf("%T: exit code %d, want %d", err, got, code)
		}
	}
}
