package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// buildHub builds edgehub beside the box's program, once for all tests that
// ask for it.
var buildHub = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(program), "edgehub")
	build := exec.Command("go", "build", "-trimpath", "-tags", "nomsgpack", "-o", path, "edgeclaim/cmd/edgehub")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build edgehub: %w\n%s", err, out)
	}
	return path, nil
})

// hub is one edgehub and its data folder.
type hub struct {
	t    testing.TB
	path string // of the program
	data string
	args []string // of serve, besides --data and --http
	// database is --database for serve and all commands; empty for SQLite in
	// the data folder.
	database string
	httpAddr string

	cmd    *exec.Cmd
	exited chan error
	log    *logBuffer
}

// newHub makes a hub that is not running yet. Its waits are short.
func newHub(t testing.TB, brokerAddr string, args ...string) *hub {
	t.Helper()
	path, err := buildHub()
	if err != nil {
		t.Fatal(err)
	}
	h := &hub{
		t: t, path: path, data: filepath.Join(t.TempDir(), "hub"), httpAddr: freeAddr(t), log: &logBuffer{},
		args: append([]string{"--broker", "mqtt://" + brokerAddr}, args...),
	}
	t.Cleanup(func() {
		h.kill()
		if t.Failed() {
			t.Logf("log of the hub:\n%s", h.log.tail(8000))
		}
	})
	return h
}

// quickHub is a hub's configuration whose waits are short: a test breaks more
// connections in a second than a site in a year.
const quickHub = `broker:
  keep_alive: 1s
  connect_timeout: 1s
  write_timeout: 1s
hub:
  ack_timeout: 2s
  backoff_base: 20ms
  backoff_limit: 200ms
  retry_base: 50ms
  retry_limit: 500ms
  again_every: 50ms
`

// quick makes the hub impatient.
func (h *hub) quick() *hub {
	h.t.Helper()
	path := filepath.Join(h.t.TempDir(), "edgehub.yaml")
	if err := os.WriteFile(path, []byte(quickHub), 0o600); err != nil {
		h.t.Fatal(err)
	}
	h.args = append(h.args, "--config", path)
	return h
}

// launch runs the program and does not wait.
func (h *hub) launch() {
	h.t.Helper()
	h.cmd = exec.Command(h.path, h.line(append([]string{"serve", "--http", h.httpAddr}, h.args...))...)
	h.cmd.Stdout, h.cmd.Stderr = h.log, h.log
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(h.cmd, h.exited)
}

// line adds what every command takes.
func (h *hub) line(args []string) []string {
	args = append(slices.Clone(args), "--data", h.data)
	if h.database != "" {
		args = append(args, "--database", h.database)
	}
	return args
}

// start runs the program and returns when it is ready: its database answers and
// its broker is there.
func (h *hub) start() {
	h.t.Helper()
	h.launch()
	h.waitReady()
}

func (h *hub) waitReady() {
	h.t.Helper()
	until(h.t, "the hub is ready", func() bool {
		select {
		case err := <-h.exited:
			h.exited <- err
			h.t.Fatalf("the hub ended: %v\n%s", err, h.log.tail(4000))
		default:
		}
		response, err := http.Get("http://" + h.httpAddr + "/readyz")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// kill ends the program as a power cut would.
func (h *hub) kill() { _ = h.end(syscall.SIGKILL) }

// stop ends it as systemd does.
func (h *hub) stop() {
	h.t.Helper()
	if err := h.end(syscall.SIGTERM); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hub) end(signal syscall.Signal) error {
	if h.cmd == nil {
		return nil
	}
	cmd := h.cmd
	h.cmd = nil
	_ = cmd.Process.Signal(signal) // it may have ended by itself
	select {
	case <-h.exited:
		return nil
	case <-time.After(patience):
		_ = cmd.Process.Kill()
		<-h.exited
		return errors.New("the hub did not stop")
	}
}

// command runs an edgehub command beside the running program, or without it.
func (h *hub) command(stdin string, args ...string) (stdout, stderr []byte, code int) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.path, h.line(args)...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		h.t.Fatalf("edgehub %s: %v", strings.Join(args, " "), err)
	}
	return out.Bytes(), errOut.Bytes(), cmd.ProcessState.ExitCode()
}

// json runs a command that must succeed and reads its JSON.
func (h *hub) json(dst any, args ...string) {
	h.t.Helper()
	out, errOut, code := h.command("", append(args, "--json")...)
	if code != 0 {
		h.t.Fatalf("edgehub %s: exit code %d: %s", strings.Join(args, " "), code, errOut)
	}
	if err := json.Unmarshal(out, dst); err != nil {
		h.t.Fatalf("edgehub %s: %v in %s", strings.Join(args, " "), err, out)
	}
}

// hubDevice is what the tests read of a row of `edgehub devices`.
type hubDevice struct {
	DeviceID   string `json:"device_id"`
	HardwareID string `json:"hardware_id"`
}

// devices is the hub's one list, by device id. An id that is listed twice fails
// the test.
func (h *hub) devices() map[string]hubDevice {
	h.t.Helper()
	var rows []hubDevice
	h.json(&rows, "devices")
	byID := map[string]hubDevice{}
	for _, d := range rows {
		if _, ok := byID[d.DeviceID]; ok {
			h.t.Errorf("the hub lists device %s twice", d.DeviceID)
		}
		byID[d.DeviceID] = d
	}
	return byID
}

// hubConflict is what the tests read of a row of `edgehub conflicts`.
type hubConflict struct {
	ID         json.RawMessage `json:"id"`
	Kind       string          `json:"kind"`
	DeviceID   string          `json:"device_id"`
	Resolution string          `json:"resolution"`
}

func (h *hub) conflicts() []hubConflict {
	h.t.Helper()
	var rows []hubConflict
	h.json(&rows, "conflicts")
	return rows
}

// hasConflict reports whether there is one of that kind.
func (h *hub) hasConflict(kind string) bool {
	h.t.Helper()
	return slices.ContainsFunc(h.conflicts(), func(c hubConflict) bool { return c.Kind == kind })
}

// verify asks the hub about an API key as a back-end does.
func (h *hub) verify(apiKey string) (deviceID string, valid bool) {
	h.t.Helper()
	out, errOut, code := h.command(apiKey+"\n", "verify", "--json")
	var said struct {
		Valid    bool   `json:"valid"`
		DeviceID string `json:"device_id"`
	}
	if err := json.Unmarshal(out, &said); err != nil {
		h.t.Fatalf("edgehub verify: exit code %d, %v in %s%s", code, err, out, errOut)
	}
	if said.Valid != (code == 0) || (!said.Valid && code != 4) {
		h.t.Errorf("edgehub verify: valid %v with exit code %d", said.Valid, code)
	}
	return said.DeviceID, said.Valid
}

// enrolment writes what `edgehub enrolment` prints to a file.
func (h *hub) enrolment() string {
	h.t.Helper()
	out, errOut, code := h.command("", "enrolment")
	if code != 0 {
		h.t.Fatalf("edgehub enrolment: exit code %d: %s", code, errOut)
	}
	path := filepath.Join(h.t.TempDir(), "enrolment.json")
	if err := os.WriteFile(path, out, 0o600); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// freeAddr returns a loopback address that nothing listens on just now.
func freeAddr(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
