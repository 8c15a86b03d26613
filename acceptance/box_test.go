// Package acceptance drives the built program as its users do: over MQTT, HTTP
// and the command line, with real clients, a real upstream broker, kills and
// full disks. It imports nothing of the program's but its wire-level clients.
package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long anything that should happen soon is waited for. It is no
// expectation of speed: on a good day nothing here waits a second.
const patience = 30 * time.Second

// program is the built binary, made once for all tests.
var program string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if addrFile := os.Getenv(peerVariable); addrFile != "" {
		return servePeer(addrFile)
	}
	if os.Getenv(chatterVariable) != "" {
		return serveChatter()
	}
	dir, err := os.MkdirTemp("", "edgeclaim-acceptance-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "edgeclaim")
	build := exec.Command("go", "build", "-trimpath", "-tags", "nomsgpack", "-o", program, "edgeclaim/cmd/edgeclaim")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the program: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

const tenant = "3f0e3f5e-7f4e-4a57-9a0b-6a1c2d3e4f50"

// box is one running program and its data folder.
type box struct {
	t    testing.TB
	data string
	args []string // of serve, besides --data and the listeners
	env  []string

	httpAddr, mqttAddr   string // fixed once known, so that a restart keeps them
	httpsAddr, mqttsAddr string // empty: no such listener
	metricsAddr          string

	cmd    *exec.Cmd
	exited chan error
	log    *logBuffer
}

// newBox makes a box that is not running yet.
func newBox(t testing.TB, args ...string) *box {
	t.Helper()
	b := &box{
		t: t, data: filepath.Join(t.TempDir(), "data"), args: args, log: &logBuffer{},
		httpAddr: "127.0.0.1:0", mqttAddr: "127.0.0.1:0", metricsAddr: "127.0.0.1:0",
	}
	t.Cleanup(func() {
		b.kill()
		if t.Failed() {
			t.Logf("log of the box:\n%s", b.log.tail(8000))
		}
	})
	return b
}

// secure gives the box listeners with TLS as well, once it starts.
func (b *box) secure() *box {
	b.httpsAddr, b.mqttsAddr = "127.0.0.1:0", "127.0.0.1:0"
	return b
}

// startBox makes a box and starts it.
func startBox(t testing.TB, args ...string) *box {
	t.Helper()
	b := newBox(t, args...)
	b.start()
	return b
}

// start runs the program and returns when it is ready.
func (b *box) start() {
	b.t.Helper()
	b.launch()
	b.waitReady()
}

func (b *box) launch() {
	b.t.Helper()
	line := []string{"serve", "--data", b.data, "--http", b.httpAddr, "--mqtt", b.mqttAddr, "--admin", b.metricsAddr}
	if b.httpsAddr != "" {
		line = append(line, "--https", b.httpsAddr, "--mqtt-tls", b.mqttsAddr)
	}
	b.cmd = exec.Command(program, append(line, b.args...)...)
	b.cmd.Env = append(os.Environ(), b.env...)
	b.cmd.Stdout, b.cmd.Stderr = b.log, b.log
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(b.cmd, b.exited)
}

func (b *box) waitReady() {
	b.t.Helper()
	until(b.t, "the box is ready", func() bool {
		select {
		case err := <-b.exited:
			b.exited <- err
			b.t.Fatalf("the box ended: %v\n%s", err, b.log.tail(4000))
		default:
		}
		status, err := b.tryStatus()
		if err != nil || status.Listeners["http"] == "" || status.Listeners["mqtt"] == "" {
			return false
		}
		for name, addr := range map[string]*string{
			"http": &b.httpAddr, "mqtt": &b.mqttAddr, "metrics": &b.metricsAddr, "https": &b.httpsAddr, "mqtt_tls": &b.mqttsAddr,
		} {
			if *addr != status.Listeners[name] { // after a restart it is the same, and others read it
				*addr = status.Listeners[name]
			}
		}
		response, err := http.Get("http://" + b.httpAddr + "/readyz")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// kill ends the program as a power cut would.
func (b *box) kill() { _, _ = b.end(syscall.SIGKILL) }

// stop ends it as systemd does and returns its exit code.
func (b *box) stop() int {
	b.t.Helper()
	code, err := b.end(syscall.SIGTERM)
	if err != nil {
		b.t.Fatal(err)
	}
	return code
}

func (b *box) end(signal syscall.Signal) (int, error) {
	if b.cmd == nil {
		return 0, nil
	}
	cmd := b.cmd
	b.cmd = nil
	_ = cmd.Process.Signal(signal) // it may have ended by itself
	select {
	case <-b.exited:
		return cmd.ProcessState.ExitCode(), nil
	case <-time.After(patience):
		_ = cmd.Process.Kill()
		<-b.exited
		return 0, errors.New("the box did not stop")
	}
}

// status is what the tests read of `edgeclaim status --json`.
type status struct {
	BoxID     string `json:"box_id"`
	Site      string `json:"site"`
	Devices   uint64 `json:"devices"`
	Version   string `json:"version"`
	Listeners map[string]string
	Outbox    map[string]struct {
		Pending, Bytes, Appended, Acked, Dropped uint64
		OldestAgeSeconds                         float64 `json:"oldest_age_seconds"`
	}
	Upstream struct{ Link, Broker, App string }
	Clock    struct{ State string }
}

func (b *box) status() status {
	b.t.Helper()
	s, err := b.tryStatus()
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func (b *box) tryStatus() (status, error) {
	var s status
	out, _, code := b.command("", "status", "--json")
	if code != 0 {
		return s, fmt.Errorf("status: exit code %d", code)
	}
	return s, json.Unmarshal(out, &s)
}

// command runs an edgeclaim command against the box.
func (b *box) command(stdin string, args ...string) (stdout, stderr []byte, code int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append(args, "--data", b.data)...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		b.t.Fatalf("edgeclaim %s: %v", strings.Join(args, " "), err)
	}
	return out.Bytes(), errOut.Bytes(), cmd.ProcessState.ExitCode()
}

// json runs a command that must succeed and reads its JSON.
func (b *box) json(dst any, args ...string) {
	b.t.Helper()
	out, errOut, code := b.command("", append(args, "--json")...)
	if code != 0 {
		b.t.Fatalf("edgeclaim %s: exit code %d: %s", strings.Join(args, " "), code, errOut)
	}
	if dst == nil {
		return
	}
	if err := json.Unmarshal(out, dst); err != nil {
		b.t.Fatalf("edgeclaim %s: %v in %s", strings.Join(args, " "), err, out)
	}
}

// template makes a template with more flags and returns its id.
func (b *box) template(flags ...string) string {
	b.t.Helper()
	var made struct {
		TemplateID string `json:"template_id"`
	}
	b.json(&made, append([]string{"template", "create", "--tenant", tenant, "--name", "T"}, flags...)...)
	return made.TemplateID
}

// issued is one row of `key issue --json`.
type issued struct {
	KeyID        string `json:"key_id"`
	ProvisionKey string `json:"provision_key"`
}

func (b *box) issue(template string, count int) []issued {
	b.t.Helper()
	var keys []issued
	b.json(&keys, "key", "issue", "--template", template, "--count", fmt.Sprint(count))
	if len(keys) != count {
		b.t.Fatalf("%d keys issued, want %d", len(keys), count)
	}
	return keys
}

// key makes a template with those flags and one key of it.
func (b *box) key(flags ...string) string {
	b.t.Helper()
	return b.issue(b.template(flags...), 1)[0].ProvisionKey
}

// device is what the tests read of a device.
type device struct {
	DeviceID   string `json:"device_id"`
	HardwareID string `json:"hardware_id"`
	Status     string `json:"status"`
	Name       string `json:"name"`
	ClaimedVia string `json:"claimed_via"`
	KeyID      string `json:"key_id"`
}

func (b *box) devices() []device {
	b.t.Helper()
	var devices []device
	b.json(&devices, "device", "list")
	return devices
}

// until polls what until it holds.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if holds() {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("waited %v in vain until %s", patience, what)
		case <-tick.C:
		}
	}
}

// logBuffer keeps what a program prints.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logBuffer) tail(n int) string {
	s := l.String()
	return s[max(0, len(s)-n):]
}

// claimBody is a claim in JSON.
func claimBody(key, name, hardware string) string {
	body, err := json.Marshal(map[string]string{"provision_key": key, "device_name": name, "hardware_id": hardware})
	if err != nil {
		panic(err) // strings encode
	}
	return string(body)
}

// answer is what either face says to a claim.
type answer struct {
	status int // of HTTP; 0 over MQTT
	header http.Header
	body   string
}

func (a answer) field(t testing.TB, name string) any {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal([]byte(a.body), &fields); err != nil {
		t.Fatalf("answer %q: %v", a.body, err)
	}
	return fields[name]
}

func (a answer) text(t testing.TB, name string) string {
	t.Helper()
	text, ok := a.field(t, name).(string)
	if !ok {
		t.Fatalf("answer %q has no text %s", a.body, name)
	}
	return text
}

func (a answer) code(t testing.TB) int {
	t.Helper()
	code, ok := a.field(t, "code").(float64)
	if !ok {
		return 0
	}
	return int(code)
}

// httpClaim posts a body as a device does.
func httpClaim(client *http.Client, addr, contentType, body string) (answer, error) {
	response, err := client.Post("http://"+addr+"/api/v1/provision", contentType, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, string(said)}, err
}

func (b *box) post(body string) answer {
	b.t.Helper()
	a, err := httpClaim(http.DefaultClient, b.httpAddr, "application/json", body)
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}
