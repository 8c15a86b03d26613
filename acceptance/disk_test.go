package acceptance

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"edgeclaim/internal/mqttwire"
)

// TestFullDisk: on a full disk claims are answered 503, code 14, over HTTP, and
// never acknowledged over MQTT; the box stays up, and goes on when there is
// room. What was answered before is kept.
func TestFullDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "edgeclaim-test", dir).CombinedOutput(); err != nil {
		t.Skipf("mounting a small disk takes root: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	b := newBox(t)
	b.data = filepath.Join(dir, "data")
	b.start()
	key := b.key()
	promised := &credentials{keys: map[string]string{}, hw: map[string]string{}}
	remember := func(said answer, hardware string) {
		t.Helper()
		promised.add(said.text(t, "device_id"), said.text(t, "api_key"), hardware)
	}
	remember(b.post(claimBody(key, "n", "BEFORE")), "BEFORE")

	fill := filepath.Join(dir, "fill")
	fillUp(t, fill)
	refused := ""
	for i := 0; refused == ""; i++ { // there is some room left in the file itself
		hardware := fmt.Sprint("FULL-", i)
		said := b.post(claimBody(key, "n", hardware))
		switch {
		case said.status == http.StatusOK:
			remember(said, hardware)
		case said.status != http.StatusServiceUnavailable || said.code(t) != 14 || said.header.Get("Retry-After") == "":
			t.Fatalf("on a full disk: %d %s", said.status, said.body)
		default:
			refused = hardware
		}
	}
	for _, v := range []mqttwire.Version{mqttwire.V311, mqttwire.V5} {
		said, puback, err := mqttClaim(b.mqttAddr, v, claimBody(key, "n", "FULL-MQTT"))
		if puback.Type != 0 && puback.Code() == 0 {
			t.Errorf("MQTT %d: an uncommitted claim was acknowledged", v)
		}
		if err == nil {
			t.Errorf("MQTT %d: the connection was kept", v)
		}
		if said.body != "" && said.code(t) != 14 {
			t.Errorf("MQTT %d: %s", v, said.body)
		}
	}
	if get(t, "http://"+b.httpAddr+"/healthz") == "" {
		t.Error("the box is not alive")
	}
	if said := b.post(claimBody(key, "n", "BEFORE")); said.status != http.StatusOK {
		t.Errorf("a re-claim, which needs no room: %d", said.status)
	}

	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	for _, hardware := range []string{refused, "FULL-MQTT"} {
		remember(b.post(claimBody(key, "n", hardware)), hardware)
	}
	b.stop()
	if out, errOut, code := b.command("", "check"); code != 0 {
		t.Errorf("check: exit code %d: %s%s", code, out, errOut)
	}
	b.start()
	verify(t, b, promised)
}

// fillUp writes a file until there is no room for another byte.
func fillUp(t *testing.T, path string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for size := 64 << 10; size > 0; {
		if _, err := file.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	if err := file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
}
