package telemetry_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
)

// Who was at work when the program ended is told as away by the next one, until
// somebody has heard of it: else upstream believes for ever what it was told.
func TestAtWorkInTheLastRun(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	b.say(1, `{"t":1}`)
	b.say(2, `{"t":1}`)
	b.Gone(admission(t, 2).Device)
	for range 2 { // nobody has heard of it in the first
		b.restart()
		s, ok := b.State(admission(t, 1).Device)
		if !ok || s.Presence != edgeclaim.PresenceOffline || s.Tenant != admission(t, 1).Tenant {
			t.Fatalf("state %+v, %t", s, ok)
		}
	}
	said, upto := b.states(0, 10, false)
	if diff := cmp.Diff([]string{"1 offline"}, said); diff != "" {
		t.Fatal(diff)
	}
	b.states(upto, 10, false) // heard
	b.restart()
	if said, _ := b.states(0, 10, false); len(said) != 0 {
		t.Errorf("who was heard of is told again: %q", said)
	}
}

// The list is there for a program that is killed, not only for one that stops.
func TestAtWorkIsWrittenAtOnce(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	b.say(1, `{"t":1}`)
	path := filepath.Join(b.cfg.Dir, "telemetry", "online")
	id := admission(t, 1).Device
	b.until("it is written", func() bool {
		text, _ := os.ReadFile(path)
		return bytes.Contains(text, id.Bytes())
	})
}

// Nobody is told that a device is at work before it is on the list: what a
// program says that is killed right after, the next one could not take back.
func TestToldWhenListed(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	path := filepath.Join(b.cfg.Dir, "telemetry", "online")
	for i := range 200 {
		b.say(i, `{"t":1}`)
		states, err := b.Changed(t.Context(), 0, 1000, false)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := os.ReadFile(path) // not there: nobody may be told of
		for _, s := range states {
			if s.Presence == edgeclaim.PresenceOnline && !bytes.Contains(text, s.Device.Bytes()) {
				t.Fatalf("%s is told of, and not on the list", s.Device)
			}
		}
	}
	b.until("all are told of", func() bool {
		states, err := b.Changed(t.Context(), 0, 1000, false)
		return err == nil && len(states) == 200
	})
}

// A list that is damaged is no reason not to start, and is not believed.
func TestAtWorkDamaged(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	b.say(1, `{"t":1}`)
	b.stop()
	path := filepath.Join(b.cfg.Dir, "telemetry", "online")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range [][]byte{nil, []byte("?"), whole[:len(whole)-1], append(bytes.Clone(whole), 0), bytes.Replace(whole, []byte("1\n"), []byte("2\n"), 1)} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		b.start()
		if said, _ := b.states(0, 10, false); len(said) != 0 {
			t.Errorf("%q is believed: %q", text, said)
		}
		b.stop()
	}
}
