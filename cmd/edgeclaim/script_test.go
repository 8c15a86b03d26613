package main

import (
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"edgeclaim"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes the test binary be the program as well, so that the scripts
// run what the tests were built from.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"edgeclaim": main})
}

// patience is how long a box may take to get ready.
const patience = 20 * time.Second

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			// Or each of the many short programs sleeps for a second at its end,
			// when built with the race detector.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("EDGECLAIM_DATA", filepath.Join(env.WorkDir, "box"))
			long := filepath.Join(env.WorkDir, strings.Repeat("long", 50))
			env.Setenv("LONG", long)
			config, err := filepath.Abs("../../configs/edgeclaim.yaml")
			env.Setenv("EXAMPLE", config)
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"wait-ready":   waitReady,
			"wait-devices": waitDevices,
			"terminate":    terminate,
			"exits":        exits,
			"pick":         pick,
			"pick-by":      pickBy,
			"wait-pending": waitPending,
			"lines":        lines,
			"hub-key":      hubKey,
			"hub-ack":      hubAck,
			"park":         park,
			"mode":         mode,
		},
	})
}

// waitReady DIR waits for the box on DIR and sets $HTTP, $HTTPS, $MQTT, $MQTTS,
// $METRICS and $SOCKET to where it listens.
func waitReady(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: wait-ready DIR")
	}
	status := waitStatus(ts, args[0], func(edgeclaim.Status) bool { return true })
	for name, variable := range map[string]string{
		listenerHTTP: "HTTP", listenerMQTT: "MQTT", listenerMetrics: "METRICS", listenerAdmin: "SOCKET",
		listenerHTTPS: "HTTPS", listenerMQTTTLS: "MQTTS",
	} {
		ts.Setenv(variable, status.Listeners[name])
	}
}

// waitDevices DIR N waits until N devices are connected to the box on DIR.
func waitDevices(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: wait-devices DIR N")
	}
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	waitStatus(ts, args[0], func(s edgeclaim.Status) bool { return s.Connections.Devices == want })
}

// waitPending DIR N waits until N claims wait for an operator of the box on DIR.
func waitPending(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: wait-pending DIR N")
	}
	want, err := strconv.ParseUint(args[1], 10, 64)
	ts.Check(err)
	waitStatus(ts, args[0], func(s edgeclaim.Status) bool { return s.Pending == want })
}

// pickBy NAME VALUE VARIABLE FIELD sets an environment variable to a field of
// the object, in the array that the last command printed, whose NAME is VALUE.
func pickBy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: pick-by NAME VALUE VARIABLE FIELD")
	}
	var rows []map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &rows))
	for _, row := range rows {
		if text, ok := row[args[3]].(string); ok && row[args[0]] == args[1] {
			ts.Setenv(args[2], text)
			return
		}
	}
	ts.Fatalf("no row whose %s is %s", args[0], args[1])
}

// waitStatus asks the box on dir until its status is as wanted.
func waitStatus(ts *testscript.TestScript, dir string, wanted func(edgeclaim.Status) bool) edgeclaim.Status {
	c := newClient(ts.MkAbs(dir))
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		document, err := c.call(context.Background(), request{"GET", "/api/v1/status", nil})
		var status edgeclaim.Status
		if err == nil {
			ts.Check(json.Unmarshal(document, &status))
			if wanted(status) {
				return status
			}
		}
		select {
		case <-again.C:
		case <-deadline.C:
			ts.Fatalf("the box does not get there: %s, %v", document, err)
		}
	}
}

// terminate DIR sends SIGTERM, which the scripts' own kill does not know, to
// the box whose process id the lock of DIR says.
func terminate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: terminate DIR")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(filepath.Join(args[0], "lock"))))
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
// the last command printed; PATH is like 0.provision_key.
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

// lines FILE N checks how many lines a file has.
func lines(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: lines FILE N")
	}
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	if got := strings.Count(ts.ReadFile(args[0]), "\n"); got != want {
		ts.Fatalf("%s has %d lines, want %d", args[0], got, want)
	}
}
