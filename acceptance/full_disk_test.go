package acceptance

import (
	"fmt"
	"net/http"
	"path/filepath"
	"testing"

	"edgeclaim/internal/mqttwire"
)

// TestRestartOnFullDisk: a box that comes up on a disk with no more room than
// its reserve takes claims, which the reserve is for, and puts telemetry off:
// 503 over HTTP, no PUBACK and a disconnect over MQTT. When there is room it
// goes on, and has lost nothing that it acknowledged.
func TestRestartOnFullDisk(t *testing.T) {
	const reserve = 8 << 20
	dir := smallDisk(t, 32)
	b := newBox(t, "--config", quickConfig(t, fmt.Sprintf("telemetry: {segment_bytes: 1048576, disk_reserve: %d}\n", reserve)))
	b.data = filepath.Join(dir, "data")
	b.start()
	key := b.key()
	before := b.claimSome(key, "BEFORE-", 3)
	const point = `{"numeric_values":{"n":1}}`
	post := func() answer {
		t.Helper()
		said, err := b.asks(before[0], http.MethodPost, telemetryPath, "application/json", point)
		if err != nil {
			t.Fatal(err)
		}
		return said
	}
	if said := post(); said.status != http.StatusOK {
		t.Fatalf("with room: %d %s", said.status, said.body)
	}
	b.stop()
	disk := &ballast{t: t, path: filepath.Join(dir, "fill")}
	disk.fill(reserve / 2)

	b.start()
	refused := post()
	if refused.status != http.StatusServiceUnavailable || refused.code(t) != 14 || refused.header.Get("Retry-After") == "" {
		t.Errorf("telemetry on a full disk: %d %s", refused.status, refused.body)
	}
	for _, v := range []mqttwire.Version{mqttwire.V311, mqttwire.V5} {
		code, err := say(at(t, b, before[1], v, nil), telemetryOf(before[1].id), point)
		if err == nil {
			t.Errorf("MQTT %d: answered with %#x", v, code)
		}
		if v == mqttwire.V5 && code != 0x89 && code != 0x97 {
			t.Errorf("MQTT 5: disconnected with %#x, %v", code, err)
		}
	}
	if w := b.working(); !w.Telemetry.Reserved || w.Telemetry.Rejected["disk_full"] == 0 {
		t.Errorf("status says %+v", w.Telemetry)
	}
	during := b.claimSome(key, "DURING-", 20)
	b.wantLogins(before, during)

	disk.drop()
	until(t, "telemetry is taken again", func() bool { return post().status == http.StatusOK }) // once
	if code, err := say(at(t, b, before[1], mqttwire.V311, nil), telemetryOf(before[1].id), point); err != nil || code != 0 {
		t.Errorf("with room again: code %#x, %v", code, err)
	}
	w := b.working()
	if lane := w.Outbox["tel"]; lane.Pending != 3 || lane.Dropped != 0 || w.Telemetry.Accepted != 2 {
		t.Errorf("lane tel is %+v, %d accepted, and one point was acknowledged before the restart, two after it", lane, w.Telemetry.Accepted)
	}
	if w.Telemetry.Reserved {
		t.Error("status still says that the disk is full")
	}
}
