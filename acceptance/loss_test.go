package acceptance

import (
	"os"
	"path/filepath"
	"testing"

	"edgeclaim/internal/mosquitto"
)

// Each test here is a row of "When one side is lost" in docs/protocol.md.

// plant is a broker, a hub and an enrolled box with a key, nothing in between.
type plant struct {
	broker *mosquitto.Server
	hub    *hub
	box    *box
	key    string
}

func newPlant(t testing.TB) *plant {
	t.Helper()
	p := &plant{broker: mosquitto.Start(t, mosquitto.Options{})}
	p.hub = newHub(t, p.broker.Addr()).quick()
	p.hub.start()
	p.box = p.newBox(t)
	p.box.start()
	p.box.enrol(p.hub)
	p.key = p.box.key()
	p.box.welcome()
	return p
}

func (p *plant) newBox(t testing.TB) *box {
	t.Helper()
	return appBox(t, p.broker.Addr(), "--site", "plant7")
}

// replaceData makes a copy of from the box's data folder, while it is stopped.
func (b *box) replaceData(from string) {
	b.t.Helper()
	if err := os.RemoveAll(b.data); err != nil {
		b.t.Fatal(err)
	}
	copyFolder(b.t, from, b.data)
}

// saved is a copy of a data folder.
func saved(t testing.TB, data string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	copyFolder(t, data, to)
	return to
}

// devicesAre waits until the box has so many.
func (b *box) devicesAre(want uint64) {
	b.t.Helper()
	until(b.t, "the box has its devices", func() bool {
		s, err := b.trySynced()
		return err == nil && s.Devices == want
	})
}

// TestBoxCrashed: power cut with records on their way; the same epoch, each
// record once.
func TestBoxCrashed(t *testing.T) {
	p := newPlant(t)
	var all []claimed
	for _, round := range []string{"A-", "B-", "C-"} {
		all = append(all, p.box.claimSome(p.key, round, 40)...)
		p.box.kill()
		p.box.start()
	}
	p.box.drained()
	p.hub.wantHas(all)
	p.hub.wantWhole(p.box) // of one epoch
	p.box.wantLogins(all[:3])
}

// TestRegistryDamaged: the file is set aside; an enrolled box takes its devices
// back, which log in with the keys they have. Templates and keys are gone.
func TestRegistryDamaged(t *testing.T) {
	p := newPlant(t)
	before := p.box.claimSome(p.key, "BEFORE-", 30)
	p.box.drained()
	p.box.stop()
	damage(t, filepath.Join(p.box.data, "registry.db"))
	p.box.start()
	if s := p.box.synced(); s.Store.SetAside == "" || !s.Upstream.Enrolled {
		t.Errorf("set aside %q, enrolled %v", s.Store.SetAside, s.Upstream.Enrolled)
	}
	p.box.devicesAre(30)
	p.box.wantLogins(before)
	after := p.box.claimSome(p.box.key(), "AFTER-", 5)
	p.box.drained()
	p.hub.wantHas(before, after)
	for _, d := range []claimed{before[0], after[0]} {
		if _, valid := p.hub.verify(d.apiKey); !valid {
			t.Errorf("the hub does not know the key of %s", d.hardware)
		}
	}
	if p.hub.hasConflict("two_boxes") || p.hub.hasConflict("box_cloned") {
		t.Errorf("conflicts %v", p.hub.conflicts())
	}
}

// damage overwrites a file's beginning.
func damage(t testing.TB, path string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	junk := make([]byte, 64<<10)
	for i := range junk {
		junk[i] = 0xa5
	}
	if _, err := file.WriteAt(junk, 0); err != nil {
		t.Fatal(err)
	}
}

// TestBoxReplacedByAnEmptyOne: without the old one's name it is another box;
// with it, it takes over what the old one told.
func TestBoxReplacedByAnEmptyOne(t *testing.T) {
	t.Run("with its box-id", func(t *testing.T) {
		p := newPlant(t)
		before := p.box.claimSome(p.key, "BEFORE-", 30)
		name := p.box.drained().BoxID
		p.box.stop()
		successor := p.newBox(t)
		if err := os.MkdirAll(successor.data, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(successor.data, "box-id"), []byte(name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		successor.start()
		if got := successor.synced().BoxID; got != name {
			t.Fatalf("the box is called %s, want %s", got, name)
		}
		successor.enrol(p.hub)
		successor.devicesAre(30)
		successor.wantLogins(before)
		after := successor.claimSome(successor.key(), "AFTER-", 5)
		successor.drained()
		p.hub.wantHas(before, after)
	})
	t.Run("without", func(t *testing.T) {
		p := newPlant(t)
		before := p.box.claimSome(p.key, "H", 3)
		p.box.drained()
		p.box.stop()
		stranger := p.newBox(t)
		stranger.start()
		stranger.enrol(p.hub)
		again := stranger.claimOne(stranger.key(), before[0].hardware)
		stranger.drained()
		if again.id != before[0].id {
			t.Errorf("the same hardware is device %s, was %s", again.id, before[0].id)
		}
		for _, d := range []claimed{before[0], again} {
			if _, valid := p.hub.verify(d.apiKey); !valid {
				t.Error("one of the two credentials is not valid, and nobody has decided")
			}
		}
		if !p.hub.hasConflict("two_boxes") {
			t.Error("no conflict")
		}
		if s := stranger.synced(); s.Devices != 1 {
			t.Errorf("a new box has %d devices", s.Devices)
		}
	})
}

// TestBoxRestoredFromAnOldCopy: the copy does not know what was told since, and
// would tell other records under the same sequences.
func TestBoxRestoredFromAnOldCopy(t *testing.T) {
	for name, since := range map[string]int{"and told less since": 3, "and told as much since": 10, "and told more since": 20} {
		t.Run(name, func(t *testing.T) {
			p := newPlant(t)
			first := p.box.claimSome(p.key, "FIRST-", 20)
			p.box.drained()
			p.box.stop()
			old := saved(t, p.box.data)
			p.box.start()
			lost := p.box.claimSome(p.key, "LOST-", 10) // of which the copy knows nothing
			p.box.drained()
			p.box.stop()
			p.box.replaceData(old)
			p.broker.Kill() // it works without a link before anybody notices
			p.box.start()
			after := p.box.claimSome(p.key, "AFTER-", since)
			p.broker.Restart()
			p.box.waitAlarm("stale_epoch")
			p.box.drained()
			p.hub.untilHas(first, lost, after)
			p.box.devicesAre(uint64(30 + since))
			p.box.wantLogins(first[:3], lost, after)
			for _, d := range []claimed{first[0], lost[0], after[0]} {
				if _, valid := p.hub.verify(d.apiKey); !valid {
					t.Errorf("the hub does not know the key of %s", d.hardware)
				}
			}
		})
	}
}

// TestBoxCloned: two live holders of one identity. One is fenced, both raise an
// alarm, neither loses anything; an operator makes the fenced one the holder.
func TestBoxCloned(t *testing.T) {
	p := newPlant(t)
	first := p.box.claimSome(p.key, "FIRST-", 10)
	p.box.drained()
	p.box.stop()
	clone := p.newBox(t)
	copyFolder(t, p.box.data, clone.data)
	p.box.start()
	clone.start()
	boxes := map[string]*box{"original": p.box, "clone": clone}
	kept := map[string][]claimed{}
	for name, b := range boxes {
		kept[name] = b.claimSome(p.key, name+"-", 10)
	}
	fenced, holder := "", ""
	until(t, "one of the two is fenced", func() bool {
		for name, b := range boxes {
			if s, err := b.trySynced(); err == nil && s.alarms("fenced") > 0 {
				fenced = name
			}
		}
		return fenced != ""
	})
	holder = map[string]string{"original": "clone", "clone": "original"}[fenced]
	t.Logf("fenced is the %s", fenced)
	until(t, "the hub notes it", func() bool { return p.hub.hasConflict("box_cloned") })
	later := boxes[fenced].claimSome(p.key, "FENCED-", 3) // it goes on serving
	kept[fenced] = append(kept[fenced], later...)
	p.hub.untilHas(first, kept[holder])
	if s := boxes[fenced].synced(); s.Outbox["prov"].Pending < 3 {
		t.Errorf("the fenced box has %+v", s.Outbox["prov"])
	}

	boxes[holder].stop() // what an operator does: there must be one
	boxes[fenced].json(nil, "outbox", "renew", "--yes")
	boxes[fenced].drained()
	p.hub.untilHas(first, kept[holder], kept[fenced])
	boxes[fenced].wantLogins(kept[fenced])
}

// TestHubRestoredFromAnOldBackup: the box has forgotten what the backup does not
// have, and tells its registry.
func TestHubRestoredFromAnOldBackup(t *testing.T) {
	p := newPlant(t)
	first := p.box.claimSome(p.key, "FIRST-", 10)
	p.box.drained()
	p.hub.stop()
	backup := saved(t, p.hub.data)
	p.hub.start()
	lost := p.box.claimSome(p.key, "LOST-", 300)
	p.box.drained()
	p.hub.stop()
	waiting := p.box.claimSome(p.key, "WAITING-", 10)
	if err := os.RemoveAll(p.hub.data); err != nil {
		t.Fatal(err)
	}
	copyFolder(t, backup, p.hub.data)
	p.hub.start()
	p.box.waitAlarm("upstream_behind")
	p.box.drained()
	p.hub.untilHas(first, lost, waiting)
	wantHole(t, p, 11, 310)
	if _, valid := p.hub.verify(lost[299].apiKey); !valid {
		t.Error("the hub does not know a key that the backup had lost")
	}
}

// wantHole fails unless the hub has noted that it lacks these sequences of prov,
// and holds all others once.
func wantHole(t *testing.T, p *plant, from, to uint64) {
	t.Helper()
	books, _ := p.hub.books(p.box)
	book := books["prov"]
	book.named = []span{{From: from, To: to, Reason: "backup"}}
	for _, fault := range book.faults() {
		t.Error(fault)
	}
}

// TestHubLost: a new database with the old key, and then with a new one too.
func TestHubLost(t *testing.T) {
	t.Run("the same key", func(t *testing.T) {
		p := newPlant(t)
		before := p.box.claimSome(p.key, "BEFORE-", 30)
		p.box.drained()
		p.hub.stop()
		keepOnly(t, p.hub.data, "hub.key")
		p.hub.start()
		after := p.box.claimSome(p.key, "AFTER-", 5)
		p.box.waitAlarm("upstream_behind")
		p.box.drained()
		p.hub.untilHas(before, after)
		wantHole(t, p, 1, 30)
	})
	t.Run("a new key", func(t *testing.T) {
		p := newPlant(t)
		before := p.box.claimSome(p.key, "BEFORE-", 30)
		p.box.drained()
		p.hub.stop()
		keepOnly(t, p.hub.data)
		p.hub.start()
		after := p.box.claimSome(p.key, "AFTER-", 5)
		p.box.waitAlarm("forged")
		p.box.wantPending("a hub that the box does not trust", 5)
		p.box.enrol(p.hub, "--replace")
		p.box.drained()
		p.hub.untilHas(before, after)
	})
}

// keepOnly removes all else from a data folder.
func keepOnly(t testing.TB, data string, names ...string) {
	t.Helper()
	to := t.TempDir()
	for _, name := range names {
		if err := os.Rename(filepath.Join(data, name), filepath.Join(to, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	copyFolder(t, to, data)
}
