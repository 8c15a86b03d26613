package acceptance

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"edgeclaim/internal/mosquitto"
)

// export writes what the box has to tell to a file.
func (b *box) export() string {
	b.t.Helper()
	path := filepath.Join(b.t.TempDir(), "up.ndjson")
	if _, errOut, code := b.command("", "outbox", "export", "--out", path); code != 0 {
		b.t.Fatalf("outbox export: exit code %d: %s", code, errOut)
	}
	return path
}

// ingest carries a file to the hub and brings its answer back.
func (h *hub) ingest(path string) string {
	h.t.Helper()
	ack := filepath.Join(h.t.TempDir(), "ack.json")
	if out, errOut, code := h.command("", "ingest", path, "--out", ack); code != 0 {
		h.t.Fatalf("ingest: exit code %d: %s%s", code, out, errOut)
	}
	return ack
}

// readAck gives the box what came back.
func (b *box) readAck(path string) (exitCode int, said string) {
	b.t.Helper()
	out, errOut, code := b.command("", "outbox", "ack", path)
	return code, string(append(out, errOut...))
}

func (b *box) wantPending(when string, want uint64) {
	b.t.Helper()
	if got := b.synced().Outbox["prov"].Pending; got != want {
		b.t.Errorf("%s: %d records wait, want %d", when, got, want)
	}
}

// TestAirGap: a box without any upstream, and the files that go to the hub and
// back: each is used, used twice, lost, or not its own.
func TestAirGap(t *testing.T) {
	h := newHub(t, "127.0.0.1:1") // it need not run
	b := startBox(t)
	b.enrol(h)
	key := b.key()
	first := b.claimSome(key, "FIRST-", 30)
	up := b.export()
	later := b.claimSome(key, "LATER-", 5)
	ack := h.ingest(up)
	h.wantHas(first)
	again := h.ingest(up) // the stick is read twice
	b.wantPending("before the ack", 35)
	for i, path := range []string{ack, again, ack} {
		if code, said := b.readAck(path); code != 0 {
			t.Errorf("ack %d: exit code %d: %s", i, code, said)
		}
		b.wantPending("after the ack of the first export", 5)
	}

	lost := b.export()
	if err := os.Remove(lost); err != nil {
		t.Fatal(err)
	}
	ingested := b.export() // and of this one the ack is lost
	h.ingest(ingested)
	last := b.claimSome(key, "LAST-", 2)
	if code, said := b.readAck(h.ingest(b.export())); code != 0 {
		t.Errorf("ack: exit code %d: %s", code, said)
	}
	b.wantPending("at the end", 0)
	h.wantHas(first, later, last)
	h.wantWhole(b)
}

// TestAirGapForeign: an ack of another box, of another hub or that was changed
// on the way makes the box forget nothing.
func TestAirGapForeign(t *testing.T) {
	h := newHub(t, "127.0.0.1:1")
	b, other := startBox(t), startBox(t)
	b.enrol(h)
	other.enrol(h)
	b.claimSome(b.key(), "H", 3)
	other.claimSome(other.key(), "O", 9)
	up := b.export()
	good := h.ingest(up)
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(t.TempDir(), "changed.json")
	middle := len(text) / 2
	flipped := append(bytes.Clone(text[:middle]), text[middle]^1)
	if err := os.WriteFile(changed, append(flipped, text[middle+1:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"of another box": h.ingest(other.export()), "of another hub": newHub(t, "127.0.0.1:1").ingest(up), "changed": changed, "the export": up,
	} {
		if code, said := b.readAck(path); code == 0 {
			t.Errorf("%s: taken: %s", name, said)
		}
		b.wantPending(name, 3)
	}
	if code, said := b.readAck(good); code != 0 {
		t.Errorf("the good one: exit code %d: %s", code, said)
	}
	b.wantPending("the good one", 0)
}

// TestStickAndLink: what travelled on a stick is not told again over the link,
// and the other way round.
func TestStickAndLink(t *testing.T) {
	broker := mosquitto.New(t, mosquitto.Options{})
	h := newHub(t, broker.Addr()).quick()
	b := appBox(t, broker.Addr())
	b.start()
	b.enrol(h)
	key := b.key()
	carried := b.claimSome(key, "CARRIED-", 10)
	ack := h.ingest(b.export()) // its ack comes late
	broker.Restart()
	h.start()
	sent := b.claimSome(key, "SENT-", 10)
	b.drained()
	if code, said := b.readAck(ack); code != 0 {
		t.Errorf("the late ack: exit code %d: %s", code, said)
	}
	h.wantHas(carried, sent)
	h.wantWhole(b)
}
