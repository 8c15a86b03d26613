package acceptance

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"edgeclaim/internal/mosquitto"
)

// TestDemo runs what `make demo` runs: both boxes' devices in one list, the
// hardware of both in it once and as a conflict, and nothing left behind.
func TestDemo(t *testing.T) {
	mosquitto.New(t, mosquitto.Options{}) // skips where there is none
	hubPath, err := buildHub()
	if err != nil {
		t.Fatal(err)
	}
	temporary := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	demo := exec.CommandContext(ctx, "sh", "../scripts/demo.sh")
	demo.Env = append(os.Environ(), "BIN="+filepath.Dir(hubPath), "TMPDIR="+temporary)
	var said bytes.Buffer
	demo.Stdout, demo.Stderr = &said, &said
	if err := demo.Run(); err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	_, list, _ := strings.Cut(said.String(), "edgehub devices")
	list, rest, _ := strings.Cut(list, "edgehub conflicts")
	conflicts, verified, _ := strings.Cut(rest, "edgehub verify")
	ids := regexp.MustCompile(`device ([0-9a-f-]{36})`).FindAllStringSubmatch(said.String(), -1)
	devices := map[string]int{}
	for _, id := range ids {
		devices[id[1]]++
	}
	if len(ids) != 8 || len(devices) != 7 {
		t.Errorf("%d claims made %d devices, want 8 and 7", len(ids), len(devices))
	}
	for id, claims := range devices {
		if strings.Count(list, id) != 1 {
			t.Errorf("device %s is %d times in the list", id, strings.Count(list, id))
		}
		if strings.Contains(conflicts, id) != (claims == 2) {
			t.Errorf("device %s, claimed %d times: a conflict is %v", id, claims, strings.Contains(conflicts, id))
		}
		if claims == 2 && !strings.Contains(verified, id) {
			t.Errorf("its key is not known as device %s:\n%s", id, verified)
		}
	}
	if strings.Contains(said.String(), "sk_live_") {
		t.Error("the demo prints an API key")
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if t.Failed() {
		t.Log(said.String())
	}
}
