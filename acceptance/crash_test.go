package acceptance

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim/internal/mqttwire"
)

// credentials are what answered claims promised.
type credentials struct {
	mu   sync.Mutex
	keys map[string]string // device id → api key
	hw   map[string]string // device id → hardware id
}

func (c *credentials) add(id, key, hardware string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys[id], c.hw[id] = key, hardware
}

// TestKilledInAStorm kills the box while devices claim, again and again: every
// claim that was answered is on record, its key logs in, the store is whole.
func TestKilledInAStorm(t *testing.T) {
	rounds := 20
	if testing.Short() {
		rounds = 3
	}
	b := startBox(t)
	key := b.key()
	promised := &credentials{keys: map[string]string{}, hw: map[string]string{}}
	for round := range rounds {
		checked := len(promised.keys)
		stormAndKill(t, b, key, round, promised)
		t.Logf("round %d: %d claims answered before the kill", round, len(promised.keys)-checked)
		if out, errOut, code := b.command("", "check"); code != 0 {
			t.Fatalf("check: exit code %d: %s%s", code, out, errOut)
		}
		b.start()
		verify(t, b, promised)
	}
}

// stormAndKill claims over both faces until the kill breaks every connection.
func stormAndKill(t *testing.T, b *box, key string, round int, promised *credentials) {
	t.Helper()
	var storm sync.WaitGroup
	answered := make(chan struct{}, 1<<16)
	for worker := range 16 {
		storm.Go(func() {
			client := httpClient(1)
			defer client.CloseIdleConnections()
			for i := 0; ; i++ {
				hardware := fmt.Sprintf("R%d-W%d-%d", round, worker, i)
				said, err := stormClaim(b, client, worker, claimBody(key, "n", hardware))
				if err != nil {
					return
				}
				if said.code(t) == 0 {
					promised.add(said.text(t, "device_id"), said.text(t, "api_key"), hardware)
					answered <- struct{}{}
				}
			}
		})
	}
	// Somewhere in the middle of the storm, by its own progress.
	for range 50 + rand.IntN(1500) {
		select {
		case <-answered:
		case <-time.After(patience):
			t.Error("the storm does not get on")
			return
		}
	}
	b.kill()
	storm.Wait()
}

func stormClaim(b *box, client *http.Client, worker int, body string) (answer, error) {
	if worker%2 == 0 {
		return httpClaim(client, b.httpAddr, "application/json", body)
	}
	said, _, err := mqttClaim(b.mqttAddr, mqttwire.V311, body)
	if said.body != "" {
		return said, nil // it was answered, whatever came after
	}
	return said, err
}

// verify looks every promise up and logs some of them in.
func verify(t *testing.T, b *box, promised *credentials) {
	t.Helper()
	onRecord := map[string]string{}
	for _, d := range b.devices() {
		onRecord[d.DeviceID] = d.HardwareID
	}
	logins := 0
	for id, key := range promised.keys {
		if onRecord[id] != promised.hw[id] {
			t.Fatalf("device %s of %s was answered and is not on record", id, promised.hw[id])
		}
		if logins++; logins <= 300 { // a map's order is random: others each round
			if code := loginCode(t, b.mqttAddr, id, key); code != 0 {
				t.Fatalf("the key of %s was answered and does not log in: %#x", promised.hw[id], code)
			}
		}
	}
}

// TestFsyncBeforeTheAnswer reads the order off a trace of system calls: the
// claim arrives, the registry is synced twice, only then the answer leaves (P1).
// A commit of bbolt's is two syncs: the pages, then the meta page that makes
// them count.
func TestFsyncBeforeTheAnswer(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the box under strace")
	}
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatalf("strace is needed: %v", err)
	}
	b := startBox(t)
	trace := filepath.Join(t.TempDir(), "trace")
	traced := attach(t, b.cmd.Process.Pid, "-y", "-s", "256", "-e", "trace=read,write,writev,fsync,fdatasync", "-o", trace)
	key := b.key()
	if said := b.post(claimBody(key, "n", "TRACED-HTTP")); said.status != http.StatusOK {
		t.Fatal(said.body)
	}
	if said := b.ask(mqttwire.V311, claimBody(key, "n", "TRACED-MQTT")); said.code(t) != 0 {
		t.Fatal(said.body)
	}
	b.stop()
	traced()
	lines := readLines(t, trace)
	for face, call := range map[string]struct{ arrives, answers string }{
		"HTTP": {`TRACED-HTTP`, `HTTP/1\.1 200 OK`},
		"MQTT": {`TRACED-MQTT`, `provision/response\{\\"device_id`},
	} {
		arrived := find(lines, 0, regexp.MustCompile(`(read\(|read resumed).*`+call.arrives))
		if arrived < 0 {
			t.Fatalf("%s: the claim's arrival is not in the trace", face)
		}
		answered := find(lines, arrived, regexp.MustCompile(`writev?\(\d+<(socket|TCP).*`+call.answers))
		// fdatasync alone: a file that grows is synced whole besides.
		synced := regexp.MustCompile(`fdatasync(\(\d+<.*registry\.db>\)| resumed.*) += 0`)
		pages := find(lines, arrived, synced)
		meta := find(lines, pages+1, synced)
		if answered < 0 || pages < 0 || meta < 0 || meta > answered {
			t.Errorf("%s: arrival in line %d, pages synced in line %d, meta page in line %d, answer in line %d",
				face, arrived, pages, meta, answered)
		}
	}
}

// attach runs strace with those options on a running program. The tracer ends
// with it; what is returned waits for that.
func attach(t *testing.T, pid int, options ...string) (wait func()) {
	t.Helper()
	said := &logBuffer{}
	tracer := exec.Command("strace", append([]string{"-f", "-p", fmt.Sprint(pid)}, options...)...)
	tracer.Stderr = said
	if err := tracer.Start(); err != nil {
		t.Fatal(err)
	}
	ended := sync.OnceFunc(func() { _ = tracer.Wait() })
	t.Cleanup(func() {
		_ = tracer.Process.Signal(os.Interrupt) // it detaches, if it has not ended
		ended()
	})
	until(t, "strace is attached", func() bool { return strings.Contains(said.String(), "attached") })
	return ended
}

func find(lines []string, from int, re *regexp.Regexp) int {
	for i := from; i < len(lines); i++ {
		if re.MatchString(lines[i]) {
			return i
		}
	}
	return -1
}

func readLines(t *testing.T, path string) []string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var lines []string
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		lines = append(lines, scanner.Text())
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

// TestTermDrains: a stop answers what it has taken, exits 0, and the next start
// is as if nothing had been.
func TestTermDrains(t *testing.T) {
	b := startBox(t)
	key := b.key()
	promised := &credentials{keys: map[string]string{}, hw: map[string]string{}}
	var claims sync.WaitGroup
	started := make(chan struct{}, 8)
	for worker := range 8 {
		claims.Go(func() {
			client := httpClient(1)
			defer client.CloseIdleConnections()
			for i := 0; ; i++ {
				hardware := fmt.Sprintf("W%d-%d", worker, i)
				said, err := httpClaim(client, b.httpAddr, "application/json", claimBody(key, "n", hardware))
				if err != nil {
					return
				}
				if said.status != http.StatusOK && said.status != http.StatusServiceUnavailable {
					t.Errorf("while stopping: %d %s", said.status, said.body)
				}
				if said.status == http.StatusOK {
					promised.add(said.text(t, "device_id"), said.text(t, "api_key"), hardware)
				}
				if i == 10 {
					started <- struct{}{}
				}
			}
		})
	}
	<-started
	if code := b.stop(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	claims.Wait()
	if strings.Contains(b.log.String(), "panic") {
		t.Error("the stop panicked")
	}
	b.start()
	verify(t, b, promised)
}

// TestSecondProcess: a second box on the same folder says why it does not
// start, and the first goes on, its socket included.
func TestSecondProcess(t *testing.T) {
	b := startBox(t)
	key := b.key()
	out, errOut, code := b.command("", "serve", "--http", "127.0.0.1:0", "--mqtt", "127.0.0.1:0")
	if code == 0 || !strings.Contains(string(errOut), "in use") {
		t.Errorf("second serve: exit code %d, %s%s", code, out, errOut)
	}
	for _, command := range []string{"check", "compact"} {
		if _, errOut, code := b.command("", command); code == 0 || len(errOut) == 0 {
			t.Errorf("%s on a running box: exit code %d, %s", command, code, errOut)
		}
	}
	if said := b.post(claimBody(key, "n", "H")); said.status != http.StatusOK {
		t.Errorf("the first box answers %d", said.status)
	}
	if got := len(b.devices()); got != 1 {
		t.Errorf("the first box's socket lists %d devices", got)
	}
}
