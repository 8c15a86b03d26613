package store_test

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"golang.org/x/sys/unix"

	"edgeclaim/store"
)

func registry(cfg store.Config) string { return filepath.Join(cfg.Dir, "registry.db") }

func TestFileModes(t *testing.T) {
	cfg := config(t)
	cfg.Dir = filepath.Join(cfg.Dir, "new", "data")
	db := open(t, cfg)
	noErr(t, claim(t, db, stock(t, db), "board-1"))
	noErr(t, filepath.WalkDir(cfg.Dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode().Perm(), want)
		}
		return nil
	}))
}

func TestFolderOfOthersKeepsItsMode(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files []string
		want  fs.FileMode
	}{
		{"empty", nil, 0o700},
		{"a registry of ours among them", []string{"registry.db"}, 0o755},
		{"somebody's files", []string{"letter.txt"}, 0o755},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config(t)
			noErr(t, os.Chmod(cfg.Dir, 0o755)) //nolint:gosec // that is the case
			for _, name := range tc.files {
				noErr(t, os.WriteFile(filepath.Join(cfg.Dir, name), []byte("x"), 0o600))
			}
			for start := range 3 { // the first leaves a registry behind
				var said bytes.Buffer
				cfg.Logger = slog.New(slog.NewTextHandler(&said, nil))
				db, err := store.Open(cfg)
				noErr(t, err)
				checkAndClose(t, db)
				info, err := os.Stat(cfg.Dir)
				noErr(t, err)
				if info.Mode().Perm() != tc.want {
					t.Fatalf("mode is %v after start %d, want %v", info.Mode().Perm(), start+1, tc.want)
				}
				want := 0
				if tc.want != 0o700 {
					want = 1
				}
				if warned := strings.Count(said.String(), "folder is open to others"); warned != want {
					t.Errorf("warned %d times at start %d, want %d", warned, start+1, want)
				}
			}
		})
	}
}

func TestSecondOpenIsLockedOutAndDisturbsNothing(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	k := stock(t, db)
	leftover := registry(cfg) + ".tmp" // what a second process must not tidy up
	noErr(t, os.WriteFile(leftover, []byte("x"), 0o600))
	before := listing(t, cfg.Dir)

	_, err := store.Open(cfg)
	wantErr(t, err, store.ErrLocked)
	for _, part := range []string{cfg.Dir, strconv.Itoa(os.Getpid())} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %s", err, part)
		}
	}
	wantErr(t, store.CheckFile(t.Context(), cfg.Dir), store.ErrLocked)
	_, _, err = store.Compact(cfg.Dir)
	wantErr(t, err, store.ErrLocked)
	if diff := cmp.Diff(before, listing(t, cfg.Dir)); diff != "" {
		t.Errorf("the second process changed:\n%s", diff)
	}
	noErr(t, claim(t, db, k, "board-1"))
}

// A process that is being started has copies of all that is open here until it
// runs its program. They must not hold the lock after Close.
func TestCloseUnlocksWhateverIsStarting(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	kept := copies(t, filepath.Join(cfg.Dir, "lock"))
	if len(kept) == 0 {
		t.Fatal("the lock is not open")
	}
	noErr(t, db.Close())
	db, err := store.Open(cfg)
	noErr(t, err)
	noErr(t, db.Close())
}

// copies duplicates all that this process has open of a file.
func copies(t *testing.T, path string) (kept []int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	noErr(t, err)
	for _, fd := range all {
		number, err := strconv.Atoi(fd.Name())
		noErr(t, err)
		if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); to != path {
			continue
		}
		duplicate, err := unix.FcntlInt(uintptr(number), unix.F_DUPFD_CLOEXEC, 0)
		noErr(t, err)
		kept = append(kept, duplicate)
		t.Cleanup(func() { noErr(t, unix.Close(duplicate)) })
	}
	return kept
}

// listing is all files of a folder with their times.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	noErr(t, err)
	var list []string
	for _, e := range entries {
		info, err := e.Info()
		noErr(t, err)
		list = append(list, e.Name()+" "+info.ModTime().Format(time.RFC3339Nano))
	}
	return list
}

func TestLeftoversOfACrashAreTidied(t *testing.T) {
	cfg := config(t)
	for _, name := range []string{"registry.db.tmp", "box-id.tmp", "registry.suspect.tmp"} {
		noErr(t, os.WriteFile(filepath.Join(cfg.Dir, name), []byte("half"), 0o600))
	}
	open(t, cfg)
	left, err := filepath.Glob(filepath.Join(cfg.Dir, "*.tmp"))
	noErr(t, err)
	if len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestReopenKeepsEverything(t *testing.T) {
	cfg := config(t)
	db, err := store.Open(cfg)
	noErr(t, err)
	k := stock(t, db)
	noErr(t, claim(t, db, k, "board-1"))
	noErr(t, db.Append(t.Context(), event(1)))
	noErr(t, db.SetTimeFloor(t.Context(), moment))
	before, box, epoch := snapshot(t, db), db.BoxID(), db.Epoch()
	checkAndClose(t, db)

	db = open(t, cfg)
	if diff := cmp.Diff(before, snapshot(t, db)); diff != "" {
		t.Errorf("changed over a reopen:\n%s", diff)
	}
	floor, err := db.TimeFloor(t.Context())
	noErr(t, err)
	if db.BoxID() != box || db.Epoch() != epoch || !floor.Equal(moment) {
		t.Errorf("box id %s, epoch %s, floor %v: want %s, %s, %v", db.BoxID(), db.Epoch(), floor, box, epoch, moment)
	}
	select {
	case <-db.Appended():
	default:
		t.Error("no signal for what the earlier life left in the outbox")
	}
}

// TestDamageIsSetAside damages a registry in many ways: the box starts, keeps
// its name, has a new epoch, and the old file is kept byte for byte.
func TestDamageIsSetAside(t *testing.T) {
	tests := []struct {
		name   string
		damage func(t *testing.T, name string, data []byte)
	}{
		{"empty", func(t *testing.T, name string, _ []byte) { noErr(t, os.Truncate(name, 0)) }},
		{"one byte", func(t *testing.T, name string, _ []byte) { noErr(t, os.Truncate(name, 1)) }},
		{"cut inside the meta pages", func(t *testing.T, name string, _ []byte) { noErr(t, os.Truncate(name, 5000)) }},
		{"cut after the first pages", func(t *testing.T, name string, _ []byte) { noErr(t, os.Truncate(name, 24*4096)) }},
		{"both meta pages", func(t *testing.T, name string, data []byte) {
			copy(data[16:], "not bolt")
			copy(data[4096+16:], "not bolt")
			noErr(t, os.WriteFile(name, data, 0o600))
		}},
		{"all but the meta pages", func(t *testing.T, name string, data []byte) {
			for i := 8192; i < len(data); i++ {
				data[i] = 0xa5
			}
			noErr(t, os.WriteFile(name, data, 0o600))
		}},
		{"zeroes but the meta pages", func(t *testing.T, name string, data []byte) {
			clear(data[8192:])
			noErr(t, os.WriteFile(name, data, 0o600))
		}},
		{"not a registry", func(t *testing.T, name string, _ []byte) {
			noErr(t, os.WriteFile(name, []byte(strings.Repeat("hello ", 10_000)), 0o600))
		}},
		{"another bolt file", func(t *testing.T, name string, _ []byte) {
			noErr(t, os.Remove(name))
			other, err := bolt.Open(name, 0o600, nil)
			noErr(t, err)
			noErr(t, other.Close())
		}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config(t)
			db, err := store.Open(cfg)
			noErr(t, err)
			k := stock(t, db)
			fill(t, db, always(k), 0, 500, 16)
			box, epoch := db.BoxID(), db.Epoch()
			checkAndClose(t, db)
			data, err := os.ReadFile(registry(cfg))
			noErr(t, err)
			tc.damage(t, registry(cfg), data)
			data, err = os.ReadFile(registry(cfg))
			noErr(t, err)

			if err := store.CheckFile(t.Context(), cfg.Dir); err == nil {
				t.Error("the offline check finds nothing")
			}
			db = open(t, cfg)
			if db.BoxID() != box || db.Epoch() == epoch {
				t.Errorf("box id %s, epoch %s: want %s and another than %s", db.BoxID(), db.Epoch(), box, epoch)
			}
			kept, err := os.ReadFile(db.Info().SetAside)
			noErr(t, err)
			if !slices.Equal(kept, data) {
				t.Error("what was set aside is not what was there")
			}
			noErr(t, claim(t, db, stock(t, db), "board-1"))
		})
	}
}

// TestDamageIsNeverOverwritten sets a registry aside again and again while the
// clock reads the same, as it does at each boot of a box without a battery, and
// once with a name of a later time there.
func TestDamageIsNeverOverwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // whose clock stands still
		cfg := config(t)
		later := registry(cfg) + ".damaged-20991231T235959.000Z"
		noErr(t, os.WriteFile(later, []byte("later"), 0o600))
		want := map[string]string{later: "later"}
		for n := range 12 { // numbers do not sort as text
			text := "damage " + strconv.Itoa(n)
			noErr(t, os.WriteFile(registry(cfg), []byte(text), 0o600))
			db, err := store.Open(cfg)
			noErr(t, err)
			newest := db.Info().SetAside
			checkAndClose(t, db)
			if _, ok := want[newest]; ok {
				t.Errorf("set aside %d times: the newest is said to be %s", n+1, newest)
			}
			want[newest] = text
		}
		got := make(map[string]string)
		names, err := filepath.Glob(registry(cfg) + ".damaged-*")
		noErr(t, err)
		for _, name := range names {
			text, err := os.ReadFile(name)
			noErr(t, err)
			got[name] = string(text)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("set aside (-want +got):\n%s", diff)
		}
	})
}

// TestRandomDamageNeverStopsTheBox flips bytes anywhere: the store opens, with
// the file or without it, and whatever it then meets is an error, not an end
// of the process; and once it met something, the next start is sound.
func TestRandomDamageNeverStopsTheBox(t *testing.T) {
	rounds := 200
	if testing.Short() {
		rounds = 25
	}
	cfg := config(t)
	db, err := store.Open(cfg)
	noErr(t, err)
	k := stock(t, db)
	fill(t, db, always(k), 0, 2000, 64)
	checkAndClose(t, db)
	whole, err := os.ReadFile(registry(cfg))
	noErr(t, err)

	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same damage each time
	met := 0
	for range rounds {
		data := slices.Clone(whole)
		for range 1 + random.IntN(40) {
			at := random.IntN(len(data) / 16 * 16)
			if random.IntN(2) == 0 {
				at = at / 4096 * 4096 // page headers
			}
			copy(data[at:], []byte{byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32())})
		}
		noErr(t, os.WriteFile(registry(cfg), data, 0o600))
		if use(t, cfg, k) {
			continue
		}
		met++
		db, err := store.Open(cfg)
		noErr(t, err)
		checkAndClose(t, db)
		left, err := filepath.Glob(registry(cfg) + ".damaged-*")
		noErr(t, err)
		for _, name := range left {
			noErr(t, os.Remove(name))
		}
	}
	if met == 0 {
		t.Error("no damage was met: nothing was tested")
	}
}

// use opens a store that may be damaged and reads and writes it, and reports
// whether it met no damage.
func use(t *testing.T, cfg store.Config, k edgeclaim.Key) bool {
	t.Helper()
	db, err := store.Open(cfg)
	noErr(t, err)
	ctx := t.Context()
	fine := true
	see := func(err error) { fine = fine && (err == nil || errors.Is(err, edgeclaim.ErrNotFound)) }
	for n := range 2000 {
		_, err := holder(db, board(n))
		see(err)
	}
	_, err = db.Devices(ctx, edgeclaim.DeviceID{}, 5000)
	see(err)
	_, err = db.Next(ctx, at(db, edgeclaim.LaneProv, 0), 5000)
	see(err)
	for n := range 100 {
		see(claim(t, db, k, board(2000+n)))
	}
	see(db.Ack(ctx, at(db, edgeclaim.LaneProv, 1000)))
	_ = db.Close() // may fail on a damaged file
	return fine
}

// TestFileCutWhileRunning takes the pages away under the running store, as a
// dying disk does: what then touches the mapped file faults.
func TestFileCutWhileRunning(t *testing.T) {
	for name, touch := range map[string]func(*store.DB, edgeclaim.Key) error{
		"read": func(db *store.DB, _ edgeclaim.Key) error {
			_, err := db.Devices(t.Context(), edgeclaim.DeviceID{}, 5000)
			return err
		},
		"write": func(db *store.DB, k edgeclaim.Key) error { return claim(t, db, k, "board-new") },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			db, err := store.Open(cfg)
			noErr(t, err)
			k := stock(t, db)
			fill(t, db, always(k), 0, 2000, 64)
			noErr(t, os.Truncate(registry(cfg), 2*4096))
			if err := touch(db, k); err == nil {
				t.Fatal("nothing was met: nothing was tested")
			}
			<-db.Fatal()
			if err := claim(t, db, k, "board-late"); !errors.Is(err, edgeclaim.ErrUnavailable) {
				t.Errorf("a store that failed says %v, want unavailable: nobody may take it for stored", err)
			}
			noErr(t, db.Close())
			db = open(t, cfg)
			if db.Info().SetAside == "" {
				t.Error("not set aside")
			}
		})
	}
}

func TestSuspectFileIsCheckedAtTheNextStart(t *testing.T) {
	cfg := config(t)
	mark := filepath.Join(cfg.Dir, "registry.suspect")
	db, err := store.Open(cfg)
	noErr(t, err)
	noErr(t, claim(t, db, stock(t, db), "board-1"))
	checkAndClose(t, db)

	noErr(t, os.WriteFile(mark, []byte("why"), 0o600))
	db, err = store.Open(cfg) // it is sound
	noErr(t, err)
	if n, err := db.Count(t.Context()); err != nil || n != 1 || db.Info().SetAside != "" {
		t.Errorf("count is %d, %v, set aside %q", n, err, db.Info().SetAside)
	}
	checkAndClose(t, db)
	if _, err := os.Stat(mark); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the mark stays: %v", err)
	}

	// A sum that does not agree is met by the check alone.
	edit(t, cfg, func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("device_index")).Put(make([]byte, 16), ascendingKey(77))
	})
	db, err = store.Open(cfg)
	noErr(t, err)
	if db.Info().SetAside != "" {
		t.Error("set aside without a reason")
	}
	noErr(t, db.Close())
	noErr(t, os.WriteFile(mark, []byte("why"), 0o600))
	db = open(t, cfg)
	if n, err := db.Count(t.Context()); err != nil || n != 0 || db.Info().SetAside == "" {
		t.Errorf("count is %d, %v, set aside %q", n, err, db.Info().SetAside)
	}
	told, err := db.Next(t.Context(), at(db, edgeclaim.LaneEvt, 0), 10)
	noErr(t, err)
	if len(told) != 2 || told[0].Type != edgeclaim.TypeGap || !strings.Contains(string(told[0].Data), `"lane":"prov","reason":"registry_set_aside"`) {
		t.Errorf("upstream is told %v, want a gap for each lane", told)
	}
}

// edit changes a closed registry behind the store's back.
func edit(t *testing.T, cfg store.Config, change func(*bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(registry(cfg), 0o600, &bolt.Options{Timeout: time.Second})
	noErr(t, err)
	noErr(t, db.Update(change))
	noErr(t, db.Close())
}

func TestCheckFindsWhatDoesNotAgree(t *testing.T) {
	put := func(bucket, key string, value []byte) func(*bolt.Tx) error {
		return func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucket)).Put([]byte(key), value) }
	}
	remove := func(bucket string, key []byte) func(*bolt.Tx) error {
		return func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucket)).Delete(key) }
	}
	tests := []struct {
		name   string
		change func(*bolt.Tx) error
	}{
		{"device missing", remove("devices", ascendingKey(2))},
		{"last device missing", remove("devices", ascendingKey(3))},
		{"device cut short", put("devices", string(ascendingKey(2)), make([]byte, 17))},
		{"index to nowhere", put("device_index", strings.Repeat("x", 16), ascendingKey(9))},
		{"key without template", remove("templates", ascendingKey(1))},
		{"key without hash", func(tx *bolt.Tx) error {
			return tx.Bucket([]byte("key_hashes")).Delete(key(t, "key-1", "t").Hash.Bytes())
		}},
		{"hash without key", put("key_hashes", strings.Repeat("x", 32), []byte("key-9"))},
		{"record missing", remove("outbox_prov", ascendingKey(2))},
		{"record unreadable", put("outbox_prov", string(ascendingKey(2)), []byte{0xff})},
		{"record too many", put("outbox_evt", string(ascendingKey(5)), []byte{0xa0})},
		{"state unreadable", put("meta", "state", []byte("?"))},
		{"quarantined missing", remove("quarantine", append([]byte("e"), ascendingKey(2)...))},
		{"quarantined unreadable", put("quarantine", "e"+string(ascendingKey(2)), []byte{0xff})},
		{"quarantined and pending", func(tx *bolt.Tx) error {
			value := tx.Bucket([]byte("quarantine")).Get(append([]byte("e"), ascendingKey(2)...))
			return tx.Bucket([]byte("quarantine")).Put(append([]byte("e"), ascendingKey(1)...), value)
		}},
		{"quarantined without its device", func(tx *bolt.Tx) error {
			key, _ := tx.Bucket([]byte("quarantine_devices")).Cursor().First()
			return tx.Bucket([]byte("quarantine_devices")).Delete(key)
		}},
		{"device without quarantined", put("quarantine_devices", "e"+strings.Repeat("x", 24), []byte("e"))},
		{"move that nobody began", put("moves", "e"+strings.Repeat("x", 16), []byte{0xa0})},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config(t)
			db, err := store.Open(cfg)
			noErr(t, err)
			k := stock(t, db)
			fill(t, db, always(k), 0, 3, 1)
			noErr(t, db.Append(t.Context(), event(1)))
			appendAbout(t, db, 1)
			noErr(t, db.Park(t.Context(), at(db, evt, 2), ""))
			checkAndClose(t, db)
			noErr(t, store.CheckFile(t.Context(), cfg.Dir))
			edit(t, cfg, tc.change)
			if err := store.CheckFile(t.Context(), cfg.Dir); err == nil {
				t.Error("the check finds nothing")
			}
		})
	}
}

// TestForeignSchemaIsRefusedAndKept: a file of a newer program, or of one so
// old that no migration is left, is not damaged, and nothing touches it.
func TestForeignSchemaIsRefusedAndKept(t *testing.T) {
	for version, newer := range map[uint64]bool{99: true, 0: false} {
		cfg := config(t)
		db, err := store.Open(cfg)
		noErr(t, err)
		checkAndClose(t, db)
		edit(t, cfg, func(tx *bolt.Tx) error {
			return tx.Bucket([]byte("meta")).Put([]byte("schema"), ascendingKey(version))
		})
		before, err := os.ReadFile(registry(cfg))
		noErr(t, err)

		_, err = store.Open(cfg)
		if err == nil || errors.Is(err, store.ErrNewerSchema) != newer {
			t.Errorf("schema %d: %v", version, err)
		}
		after, err := os.ReadFile(registry(cfg))
		noErr(t, err)
		if !slices.Equal(before, after) {
			t.Errorf("schema %d: the file was changed", version)
		}
		if left, _ := filepath.Glob(registry(cfg) + ".*"); len(left) > 0 {
			t.Errorf("schema %d: left behind: %v", version, left)
		}
	}
}

func TestBoxIDSurvivesTheRegistry(t *testing.T) {
	cfg := config(t)
	db, err := store.Open(cfg)
	noErr(t, err)
	box := db.BoxID()
	checkAndClose(t, db)

	noErr(t, os.Remove(filepath.Join(cfg.Dir, "box-id"))) // then the registry's counts
	db, err = store.Open(cfg)
	noErr(t, err)
	if db.BoxID() != box {
		t.Errorf("box id is %s, was %s", db.BoxID(), box)
	}
	checkAndClose(t, db)
	noErr(t, os.Remove(registry(cfg))) // then the copy's counts
	var log bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	db = open(t, cfg)
	if db.BoxID() != box {
		t.Errorf("box id is %s, was %s", db.BoxID(), box)
	}
	if !strings.Contains(log.String(), "no registry, though") {
		t.Errorf("nothing is said of the registry that is gone: %s", &log)
	}
}

func TestCompact(t *testing.T) {
	cfg := config(t)
	db, err := store.Open(cfg)
	noErr(t, err)
	k := stock(t, db)
	fill(t, db, always(k), 0, 5000, 64)
	noErr(t, db.Ack(t.Context(), at(db, edgeclaim.LaneProv, 4990)))
	want := snapshot(t, db)
	checkAndClose(t, db)
	service := os.Geteuid()
	if service == 0 { // compacted by root, it must stay the service's
		service = 65534
		noErr(t, os.Chown(registry(cfg), service, service))
	}

	before, after, err := store.Compact(cfg.Dir)
	noErr(t, err)
	if after >= before {
		t.Errorf("compacted from %d to %d bytes", before, after)
	}
	info, err := os.Stat(registry(cfg))
	noErr(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v", info.Mode().Perm())
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != service {
		t.Errorf("the owner is %d, was %d", owner, service)
	}
	noErr(t, store.CheckFile(t.Context(), cfg.Dir))
	db = open(t, cfg)
	if diff := cmp.Diff(want, snapshot(t, db)); diff != "" {
		t.Errorf("changed by compaction:\n%s", diff)
	}
	noErr(t, claim(t, db, k, "board-new"))

	_, _, err = store.Compact(filepath.Join(cfg.Dir, "nowhere"))
	wantErr(t, err, fs.ErrNotExist)
}

func TestValidateNamesTheKey(t *testing.T) {
	for key, change := range map[string]func(*store.Config){
		"dir":              func(c *store.Config) { c.Dir = "" },
		"max_bytes":        func(c *store.Config) { c.MaxBytes = 1 },
		"prov_max_records": func(c *store.Config) { c.ProvMaxRecords = 1 },
		"prov_max_bytes":   func(c *store.Config) { c.ProvMaxBytes = 1 },
		"evt_max_records":  func(c *store.Config) { c.EvtMaxRecords = 1 },
		"evt_max_bytes":    func(c *store.Config) { c.EvtMaxBytes = 1 },
		"max_templates":    func(c *store.Config) { c.MaxTemplates = 0 },
		"linger":           func(c *store.Config) { c.Linger = time.Second },
		"stamp":            func(c *store.Config) { c.Stamp = nil },
		"logger":           func(c *store.Config) { c.Logger = nil },
	} {
		cfg := config(t)
		noErr(t, cfg.Validate())
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), key+": ") {
			t.Errorf("%s: %v", key, err)
		}
		if _, err := store.Open(cfg); err == nil {
			t.Errorf("%s: opened all the same", key)
		}
	}
}

// TestKilledWithManyFreePages: after a great backlog was drained, the list of
// free pages is not in the file, and opening it after a crash reads all of it;
// what that meets must not end the process either.
func TestKilledWithManyFreePages(t *testing.T) {
	if testing.Short() {
		t.Skip("writes some 100 MiB")
	}
	cfg := config(t)
	db := open(t, cfg)
	k := stock(t, db)
	backlog(t, db, k, 20_000, 3000)
	noErr(t, db.Ack(t.Context(), at(db, edgeclaim.LaneProv, 20_000)))
	noErr(t, claim(t, db, k, "last"))
	data, err := os.ReadFile(registry(cfg)) // as a kill would leave it
	noErr(t, err)

	killed := config(t)
	noErr(t, os.WriteFile(registry(killed), data, 0o600))
	survivor := open(t, killed)
	if n, err := survivor.Count(t.Context()); err != nil || n != 20_001 || survivor.Info().SetAside != "" {
		t.Fatalf("count is %d, %v, set aside %q", n, err, survivor.Info().SetAside)
	}
	holdsNewest(t, survivor)

	random := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // the same damage each time
	aside := 0
	for range 20 {
		damagedCopy := slices.Clone(data)
		for range 300 {
			at := (2 + random.IntN(len(data)/4096-2)) * 4096
			copy(damagedCopy[at:], []byte{0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99, 0x88, 0x77, 0x66})
		}
		cfg := config(t)
		noErr(t, os.WriteFile(registry(cfg), damagedCopy, 0o600))
		db, err := store.Open(cfg)
		noErr(t, err)
		if db.Info().SetAside != "" {
			aside++
		}
		noErr(t, db.Close())
	}
	if aside == 0 {
		t.Error("no damage was met: nothing was tested")
	}
}

func holdsNewest(t *testing.T, db *store.DB) {
	t.Helper()
	_, err := holder(db, "last")
	noErr(t, err)
}

// backlog claims boards from 0 with records of more than padding bytes.
func backlog(t *testing.T, db *store.DB, k edgeclaim.Key, count, padding int) {
	t.Helper()
	var g errgroup.Group
	for w := range 64 {
		g.Go(func() error {
			for n := w; n < count; n += 64 {
				ref := refer(t, k, board(n))
				err := db.Mint(t.Context(), ref, func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
					m, err := mint(ref)(p)
					m.Record.Data = append(m.Record.Data, make([]byte, padding)...)
					return m, err
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	noErr(t, g.Wait())
}
