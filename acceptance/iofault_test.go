package acceptance

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"edgeclaim/internal/mqttwire"
)

// TestDiskFails: when a sync fails, nobody is told of a success (P1), and the
// box ends by itself, so that its supervisor starts it again. Then the same
// claim succeeds, and the store is whole.
func TestDiskFails(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the box under strace")
	}
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatalf("strace is needed: %v", err)
	}
	for _, face := range []struct {
		name  string
		claim func(t *testing.T, b *box, body string)
	}{
		{"HTTP", unavailableOverHTTP},
		{"MQTT 3.1.1", unavailableOverMQTT(mqttwire.V311)},
		{"MQTT 5", unavailableOverMQTT(mqttwire.V5)},
	} {
		t.Run(face.name, func(t *testing.T) {
			b := startBox(t)
			key := b.key()
			traced := attach(t, b.cmd.Process.Pid, "-o", filepath.Join(t.TempDir(), "trace"),
				"-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO")
			body := claimBody(key, "n", "FAULT")
			face.claim(t, b, body)
			othersHearNoSuccess(t, b, key)
			if code := b.ends(); code <= 0 {
				t.Errorf("exit code %d, want a failure", code)
			}
			traced()

			b.start()
			if said := b.post(body); said.status != http.StatusOK || said.text(t, "api_key") == "" {
				t.Errorf("after the restart: %d %s", said.status, said.body)
			}
			if code := b.stop(); code != 0 {
				t.Errorf("exit code %d after the restart", code)
			}
			if out, errOut, code := b.command("", "check"); code != 0 {
				t.Errorf("check: exit code %d: %s%s", code, out, errOut)
			}
		})
	}
}

func unavailableOverHTTP(t *testing.T, b *box, body string) {
	t.Helper()
	if said := b.post(body); said.status != http.StatusServiceUnavailable || said.code(t) != 14 {
		t.Errorf("%d %s, want 503 and code 14", said.status, said.body)
	}
}

func unavailableOverMQTT(v mqttwire.Version) func(t *testing.T, b *box, body string) {
	return func(t *testing.T, b *box, body string) {
		t.Helper()
		said, puback, err := mqttClaim(b.mqttAddr, v, body)
		if puback.Type != 0 && (v < mqttwire.V5 || puback.Code() < 0x80) {
			t.Error("an uncommitted claim was acknowledged")
		}
		if err == nil {
			t.Error("the connection was kept")
		}
		if said.body != "" && said.code(t) != 14 {
			t.Errorf("answered %s, want code 14", said.body)
		}
	}
}

// othersHearNoSuccess claims over both faces while the box ends.
func othersHearNoSuccess(t *testing.T, b *box, key string) {
	t.Helper()
	var others sync.WaitGroup
	for worker := range 8 {
		others.Go(func() {
			client := httpClient(1)
			defer client.CloseIdleConnections()
			said, err := stormClaim(b, client, worker, claimBody(key, "n", fmt.Sprint("OTHER-", worker)))
			if err == nil && said.code(t) == 0 {
				t.Errorf("heard a success: %s", said.body)
			}
		})
	}
	others.Wait()
}

// ends waits for the program to end by itself and returns its exit code.
func (b *box) ends() int {
	b.t.Helper()
	cmd := b.cmd
	select {
	case <-b.exited:
		b.cmd = nil
		return cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		b.t.Fatal("the box goes on with a failed store")
		return 0
	}
}
