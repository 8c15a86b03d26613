package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
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
	"edgeclaim/internal/mint"
	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/protocolschema"

	"github.com/go-json-experiment/json/jsontext"
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
			env.Setenv("TENANT", tenantID)
			env.Setenv("DEVICE", someDevice)
			env.Setenv("SHA", someHash)
			env.Setenv("OTHER", "6f1c0b7e-3d2a-4f56-9a10-2c4e6f8b1d33")
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
			"told":      told,
			"says":      says,
			"swaps":     swaps,
			"derived":   derived,
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

// told FILE BOX ENROLMENT writes the export of a box of that enrolment that has
// given H-1 a PSK, rotated the key of H-2 and suspects that it was cloned, given
// H-3 a certificate, and revoked H-4; and says where its audit log ends.
func told(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: told FILE BOX ENROLMENT")
	}
	e, _, err := wire.DecodeEnrolment([]byte(ts.ReadFile(args[2])))
	ts.Check(err)
	key, err := wire.SealKeyOf(&e)
	ts.Check(err)
	device := deviceOf(ts, 1)
	psk := edgeclaim.NewSecret("psk-of-H-1")
	sealed, err := mint.SealPSK(key, args[1], device, psk)
	ts.Check(err)
	soon := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	hash := func(text string) edgeclaim.KeyHash { return edgeclaim.NewSecret(text).Hash() }
	box := teller{ts: ts, box: args[1]}
	box.tell(1, edgeclaim.TypeDeviceProvisioned, `"credential":{"type":"psk","sha256":%q,"sealed":{"key_id":%q,"value":%q}},%s`,
		psk.Hash(), mint.KeyID(key), base64.RawURLEncoding.EncodeToString(sealed), claimFacts)
	box.tell(2, edgeclaim.TypeDeviceProvisioned, `"credential":{"type":"api_key","sha256":%q},%s`, hash("old-key"), claimFacts)
	box.tell(2, edgeclaim.TypeCredentialRotated, `"credential":{"type":"api_key","sha256":%q},"previous":{"type":"api_key","sha256":%q},`+
		`"previous_until":%q,"rotated_by":"operator","rotated_at":"2026-10-04T09:12:33Z"`, hash("new-key"), hash("old-key"), soon)
	box.tell(2, edgeclaim.TypeCloneSuspected, `"kind":"takeover","count":4,"window_seconds":60,"sources":["192.0.2.1"]`)
	box.tell(3, edgeclaim.TypeDeviceProvisioned, `"credential":{"type":"x509","fingerprint":%q,"not_after":%q},%s`, strings.Repeat("c", 64), soon, claimFacts)
	box.tell(4, edgeclaim.TypeDeviceProvisioned, `"credential":{"type":"api_key","sha256":%q},%s`, hash("revoked-key"), claimFacts)
	box.tell(4, edgeclaim.TypeCredentialRevoked, `"revoked_at":"2026-10-04T09:12:33Z","by":"uid:0"`)
	box.tell(0, edgeclaim.TypeAuditHead, `"segment":"000000000001.log","sequence":9,"hash":%q,"time":"2026-10-04T09:12:33Z"`, strings.Repeat("aa", 32))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), box.file(), 0o600))
}

const claimFacts = `"name":"Pump","template_id":"t","key_id":"k","claimed_via":"http","claimed_at":"2026-10-04T09:12:33Z","generation":1`

func deviceOf(ts *testscript.TestScript, n int) edgeclaim.DeviceID {
	tenant, err := edgeclaim.ParseTenantID(tenantID)
	ts.Check(err)
	hardware, err := edgeclaim.ParseHardwareID(fmt.Sprintf("H-%d", n))
	ts.Check(err)
	return edgeclaim.NewDeviceID(tenant, hardware, 1)
}

// teller is a box without a link, with what it has to tell.
type teller struct {
	ts     *testscript.TestScript
	box    string
	events map[edgeclaim.Lane][]jsontext.Value
}

func (b *teller) names() wire.Names { return wire.Names{Site: "plant-7", Box: b.box} }

func (b *teller) epoch() string {
	return fmt.Sprintf("%sE%026d", strings.ReplaceAll(b.box, "-", ""), 1)[:30]
}

// tell adds a record about the device of H-n, or of the box for 0.
func (b *teller) tell(n int, kind edgeclaim.RecordType, members string, args ...any) {
	r := edgeclaim.Record{
		Lane: edgeclaim.LaneEvt, Type: kind,
		Stamp: edgeclaim.Stamp{Time: time.Unix(1_800_000_000, 0), Clock: edgeclaim.ClockSynced, Boot: "boot"},
	}
	about := ""
	if n > 0 {
		r.Lane, r.Device = edgeclaim.LaneProv, deviceOf(b.ts, n)
		about = fmt.Sprintf(`"device_id":%q,"tenant_id":%q,"hardware_id":"H-%d",`, r.Device, tenantID, n)
	}
	r.Data = []byte("{" + about + fmt.Sprintf(`"box_id":%q,"site":"plant-7",`, b.box) + fmt.Sprintf(members, args...) + "}")
	b.record(&r)
}

// about adds a record about the device of H-1.
func (b *teller) about(lane edgeclaim.Lane, kind edgeclaim.RecordType, data string) {
	b.record(&edgeclaim.Record{
		Lane: lane, Type: kind, Device: deviceOf(b.ts, 1), Data: []byte(data),
		Stamp: edgeclaim.Stamp{Time: time.Unix(1_800_000_000, 0), Clock: edgeclaim.ClockSynced, Boot: "boot"},
	})
}

func (b *teller) record(r *edgeclaim.Record) {
	r.Sequence = uint64(len(b.events[r.Lane]) + 1)
	event, err := wire.EncodeEvent(b.names(), b.epoch(), r)
	b.ts.Check(err)
	b.ts.Check(protocolschema.Check(b.names().Up(string(r.Lane)), event))
	b.add(r.Lane, event)
}

func (b *teller) add(lane edgeclaim.Lane, event jsontext.Value) {
	if b.events == nil {
		b.events = map[edgeclaim.Lane][]jsontext.Value{}
	}
	b.events[lane] = append(b.events[lane], event)
}

// file is the export.
func (b *teller) file() []byte {
	hello := wire.Hello{
		Type: wire.TypeHello, Versions: []int{1}, Box: b.box, Site: "plant-7", Epoch: b.epoch(), Nonce: rand.Text()[:22],
		Lanes: map[edgeclaim.Lane]edgeclaim.LaneMarks{}, Time: time.Now().UTC(), Clock: edgeclaim.ClockSynced,
	}
	var batches []byte
	for _, lane := range edgeclaim.Lanes() {
		n := uint64(len(b.events[lane]))
		hello.Lanes[lane] = edgeclaim.LaneMarks{First: 1, Appended: n}
		if n == 0 {
			continue
		}
		text, err := wire.EncodeBatch(b.names(), &wire.Batch{
			Box: b.box, Epoch: b.epoch(), Lane: lane, Nonce: hello.Nonce, First: 1, Last: n, Events: b.events[lane],
		})
		b.ts.Check(err)
		batches = append(append(batches, text...), '\n')
	}
	first, err := wire.Encode(&hello)
	b.ts.Check(err)
	return append(append(first, '\n'), batches...)
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
