package provision_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/provision"

	"pgregory.net/rapid"
)

// mDevice is a device as the model has it: what DESIGN.md says, and nothing of
// how it is done.
type mDevice struct {
	id        edgeclaim.DeviceID
	hardware  string
	status    edgeclaim.DeviceStatus
	current   string // what was said; empty for none
	previous  string
	until     time.Time
	byDevice  bool   // asked for the present one itself
	confirmed bool   // the present one was used
	nonce     string // that gets the present one again; empty for none
	asked     string // by which credential, of a rotation; empty of a claim
}

// world is the model of everything that one run touches, beside the box.
type world struct {
	r        *rig
	t        *rapid.T
	keys     []edgeclaim.Secret // of a template for each type
	kinds    []edgeclaim.CredentialType
	names    []string            // of boards
	boards   map[string]*mDevice // nil, or not there: it has no device
	denied   map[string]*mDevice // swapped out of that device's place
	devices  []*mDevice
	history  []word // all that was ever said
	rotation int    // that devices asked for; six an hour are let through
}

// word is a credential that was said, and to which device.
type word struct {
	device *mDevice
	text   string
}

func (w *world) now() time.Time { return w.r.clock.Now() }

func (d *mDevice) lets(text string, now time.Time) bool {
	if d.status != edgeclaim.DeviceActive || text == "" {
		return false
	}
	return text == d.current || text == d.previous && d.previousGoes(now)
}

func (d *mDevice) previousGoes(now time.Time) bool {
	return now.Before(d.until) || d.byDevice && !d.confirmed
}

func (d *mDevice) void(status edgeclaim.DeviceStatus) {
	*d = mDevice{id: d.id, hardware: d.hardware, status: status}
}

func secretOf(s said) string { return s.APIKey + s.PSK + s.Certificate }

// hear takes a new credential, which nobody may have heard before.
func (w *world) hear(d *mDevice, s said) {
	text := secretOf(s)
	if text == "" {
		w.t.Fatalf("answer %s, want a credential", s.raw)
	}
	if slices.ContainsFunc(w.history, func(said word) bool { return said.text == text }) {
		w.t.Fatal("a credential was made twice")
	}
	w.history = append(w.history, word{d, text})
	d.current = text
}

func (w *world) wantRefused(s said) {
	if s.Code != edgeclaim.CodePermissionDenied && s.Code != edgeclaim.CodeResourceExhausted {
		w.t.Fatalf("answer %s, want a refusal", s.raw)
	}
}

func (w *world) claim() {
	name := rapid.SampledFrom(w.names).Draw(w.t, "board")
	nonce := rapid.SampledFrom([]string{"", nonceA, nonceB}).Draw(w.t, "nonce")
	d := w.boards[name]
	which := rapid.IntRange(0, len(w.keys)-1).Draw(w.t, "type")
	body := claimOf(w.keys[which], name)
	if nonce != "" {
		body = body.with("claim_nonce", nonce)
	}
	s := w.r.ask(body.json(w.r.t))
	switch {
	case w.denied[name] != nil, d != nil && d.status == edgeclaim.DeviceRevoked:
		w.wantRefused(s)
		return
	case d == nil:
		d = &mDevice{id: s.id(w.r.t)}
		w.boards[name], w.devices = d, append(w.devices, d)
	case d.id != s.id(w.r.t):
		w.t.Fatalf("%s is %s, and was %s", name, s.DeviceID, d.id)
	case d.status == edgeclaim.DeviceActive:
		want := ""
		// Each type has a key of its own: another key is another claim.
		if nonce != "" && nonce == d.nonce && d.asked == w.keys[which].Reveal() && !d.confirmed {
			want = d.current
		}
		if s.Code != 0 || secretOf(s) != want {
			w.t.Fatalf("a re-claim hears %s, want %q", s.raw, want)
		}
		return
	}
	d.void(edgeclaim.DeviceActive)
	d.hardware, d.nonce, d.asked = name, nonce, w.keys[which].Reveal()
	w.hear(d, s)
}

// enter logs in with any credential that was ever said.
func (w *world) enter() (word, edgeclaim.Admission, bool) {
	if len(w.history) == 0 {
		return word{}, edgeclaim.Admission{}, false
	}
	said := w.history[rapid.IntRange(0, len(w.history)-1).Draw(w.t, "credential")]
	d := said.device
	a, err := w.r.Admit(w.r.t.Context(), w.loginOf(said))
	if want := d.lets(said.text, w.now()); (err == nil) != want || err != nil && !errors.Is(err, edgeclaim.ErrUnauthenticated) {
		w.t.Fatalf("log-in: %v, want %v", err, want)
	}
	if err == nil && said.text == d.current && !d.confirmed {
		d.confirmed, d.nonce, d.asked = true, "", ""
		if !w.now().Before(d.until) {
			d.previous = ""
		}
	}
	return said, a, err == nil
}

func (w *world) loginOf(said word) edgeclaim.Login {
	l := edgeclaim.Login{Device: said.device.id, Key: edgeclaim.NewSecret(said.text)}
	if len(said.text) > 100 {
		l.Chain = certificates(w.r.t, said.text)
	}
	return l
}

// renew asks for another one on a session that was let in.
func (w *world) renew() {
	said, a, ok := w.enter()
	if !ok || w.rotation == 6 {
		return
	}
	d := said.device
	nonce := rapid.SampledFrom([]string{"", nonceA, nonceB}).Draw(w.t, "nonce")
	body := fields{}
	if nonce != "" {
		body["claim_nonce"] = nonce
	}
	s := w.r.renew(a, body)
	switch {
	case said.text == d.current:
		d.previous = d.current
	case !d.byDevice || d.confirmed:
		w.wantRefused(s)
		return
	case nonce != "" && nonce == d.nonce && d.asked == said.text:
		if secretOf(s) != d.current {
			w.t.Fatalf("again: %s", s.raw)
		}
		return
	}
	w.rotation++
	d.until, d.byDevice, d.confirmed, d.nonce, d.asked = w.now().Add(provision.DefaultDeviceOverlap), true, false, nonce, said.text
	w.hear(d, s)
}

func (w *world) some() *mDevice {
	if len(w.devices) == 0 {
		return nil
	}
	return w.devices[rapid.IntRange(0, len(w.devices)-1).Draw(w.t, "device")]
}

func (w *world) wantErr(err, want error) {
	if !errors.Is(err, want) {
		w.t.Fatalf("error %v, want %v", err, want)
	}
}

func (w *world) rotate() {
	d := w.some()
	if d == nil {
		return
	}
	overlap := rapid.SampledFrom([]time.Duration{0, time.Hour, 40 * time.Hour}).Draw(w.t, "overlap")
	issued, err := w.r.Rotate(w.r.operator(), d.id, rotation(overlap))
	if d.status != edgeclaim.DeviceActive {
		w.wantErr(err, edgeclaim.ErrConflict)
		return
	}
	w.wantErr(err, nil)
	d.previous, d.until = d.current, w.now().Add(overlap)
	if overlap == 0 {
		d.previous, d.until = "", time.Time{}
	}
	d.byDevice, d.confirmed, d.nonce, d.asked = false, false, "", ""
	w.hear(d, said{APIKey: issued.Secret.Reveal(), Certificate: issued.Certificate})
}

func (w *world) revoke() {
	if d := w.some(); d != nil {
		_, err := w.r.Revoke(w.r.operator(), d.id, "")
		w.wantErr(err, nil)
		d.void(edgeclaim.DeviceRevoked)
	}
}

func (w *world) release() {
	d := w.some()
	if d == nil {
		return
	}
	reinstate := rapid.Bool().Draw(w.t, "reinstate")
	_, err := w.r.Release(w.r.operator(), d.id, reinstate)
	if d.status == edgeclaim.DeviceRevoked && !reinstate {
		w.wantErr(err, edgeclaim.ErrConflict)
		return
	}
	w.wantErr(err, nil)
	d.void(edgeclaim.DeviceReleased)
}

func (w *world) swap() {
	d := w.some()
	if d == nil {
		return
	}
	name := rapid.SampledFrom(w.names).Draw(w.t, "board")
	from := d.hardware
	_, err := w.r.Swap(w.r.operator(), d.id, hardwareOf(w.r.t, name))
	back := w.denied[name] == d
	if name == from || d.status == edgeclaim.DeviceRevoked || !back && (w.boards[name] != nil || w.denied[name] != nil) {
		w.wantErr(err, edgeclaim.ErrConflict)
		return
	}
	w.wantErr(err, nil)
	delete(w.denied, name)
	w.boards[name], w.denied[from] = d, d
	d.void(edgeclaim.DeviceReleased)
	d.hardware = name
}

func (w *world) undeny() {
	name := rapid.SampledFrom(w.names).Draw(w.t, "board")
	_, err := w.r.Undeny(w.r.operator(), tenantOf(w.r.t), hardwareOf(w.r.t, name))
	if w.denied[name] == nil {
		w.wantErr(err, edgeclaim.ErrNotFound)
		return
	}
	w.wantErr(err, nil)
	delete(w.denied, name)
	delete(w.boards, name) // it claims as its next generation
}

// check holds the box against the model: who is let in, and who is not.
func (w *world) check() {
	valid := map[*mDevice]int{}
	for _, said := range w.history {
		_, err := w.r.Identify(w.r.t.Context(), w.loginOf(said))
		if want := said.device.lets(said.text, w.now()); (err == nil) != want {
			w.t.Fatalf("a credential of %s is let in: %v, want %v", said.device.id, err, want)
		}
		if err == nil {
			valid[said.device]++
		}
	}
	for d, n := range valid {
		if n > 2 {
			w.t.Fatalf("%d credentials of %s are valid", n, d.id)
		}
	}
	for _, d := range w.devices {
		got := w.r.device(d.id)
		if got.Status != d.status || got.Hardware.String() != d.hardware {
			w.t.Fatalf("%s is %s %s, want %s %s", d.id, got.Status, got.Hardware, d.status, d.hardware)
		}
		if (got.Mint != nil) != (d.nonce != "") {
			w.t.Fatalf("%s can be told again: %v, want %v", d.id, got.Mint != nil, d.nonce != "")
		}
	}
}

// TestLifecycleModel holds the whole life of devices against a naive model:
// claims with and without nonces, log-ins by anything that was ever said,
// rotations by devices and operators, revocations, releases, swaps, the passing
// of time, and crashes between any two.
func TestLifecycleModel(t *testing.T) {
	r := newRig(t)
	var keys []edgeclaim.Secret
	types := []edgeclaim.CredentialType{edgeclaim.CredentialAPIKey, edgeclaim.CredentialPSK, edgeclaim.CredentialX509}
	for _, kind := range types {
		keys = append(keys, r.keyOf(kind))
	}
	var run int
	rapid.Check(t, func(rt *rapid.T) {
		run++
		w := &world{r: r, t: rt, keys: keys, kinds: types, boards: map[string]*mDevice{}, denied: map[string]*mDevice{}}
		for i := range 3 {
			w.names = append(w.names, fmt.Sprintf("RUN%d-%d", run, i))
		}
		steps := []func(){
			w.claim, w.claim, w.claim, func() { w.enter() }, func() { w.enter() }, w.renew, w.renew, w.rotate, w.revoke, w.release, w.swap, w.undeny,
			func() { r.pass(time.Hour) }, func() { r.pass(30 * time.Hour) }, r.restart,
		}
		names := []string{
			"claim", "claim", "claim", "enter", "enter", "renew", "renew", "rotate", "revoke", "release", "swap", "undeny", "hour", "day", "crash",
		}
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			at := rapid.IntRange(0, len(steps)-1).Draw(rt, "step")
			rt.Log(names[at])
			steps[at]()
			w.check()
		}
	})
}
