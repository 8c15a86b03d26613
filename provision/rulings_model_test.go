package provision_test

import (
	"errors"
	"fmt"
	"testing"

	"edgeclaim"
	"edgeclaim/internal/signeddoc"

	"pgregory.net/rapid"
)

// ruled is the model of a box under documents and shares: what they say, and
// nothing of how it is done.
type ruled struct {
	r       *rig
	t       *rapid.T
	p       *platform
	key     edgeclaim.KeyID
	secret  edgeclaim.Secret
	boards  []string
	status  map[string]edgeclaim.DeviceStatus // of those that claimed
	revoked map[string]bool                   // by upstream
	granted uint32
	claims  uint32
	said    []signedDocument // all that was ever published
}

type signedDocument struct {
	signed *signeddoc.Signed
	held   edgeclaim.HeldDocument
}

func (w *ruled) board() string { return rapid.SampledFrom(w.boards).Draw(w.t, "board") }

func (w *ruled) claim() {
	board := w.board()
	s := w.r.claim(w.secret, board)
	status, known := w.status[board]
	want := edgeclaim.CodeOK
	switch {
	case w.revoked[board]:
		want = edgeclaim.CodePermissionDenied
	case !known && w.claims >= w.granted:
		want = edgeclaim.CodeResourceExhausted
	}
	if s.Code != want {
		w.t.Fatalf("%s claims: %s, want code %d", board, s.raw, want)
	}
	if want != edgeclaim.CodeOK {
		return
	}
	if again := status == edgeclaim.DeviceActive; again != (s.APIKey == "") {
		w.t.Fatalf("%s, which is %q, claims: %s", board, status, s.raw)
	}
	if !known {
		w.claims++
	}
	w.status[board] = edgeclaim.DeviceActive
}

// revocations publishes what is revoked now, with what is taken back.
func (w *ruled) revocations(back ...string) {
	var r edgeclaim.Revocations
	for _, board := range w.boards {
		if w.revoked[board] {
			r.Hardware = append(r.Hardware, hardwareOf(w.r.t, board))
		}
	}
	if len(back) > 0 {
		r.Reinstated = &edgeclaim.Reinstations{}
		for _, board := range back {
			r.Reinstated.Hardware = append(r.Reinstated.Hardware, hardwareOf(w.r.t, board))
		}
	}
	signed, held := w.p.sign(revocations(r))
	if err := w.r.Obey(w.r.t.Context(), signed, held); err != nil {
		w.t.Fatal(err)
	}
	w.p.versions[held.ID] = held.Version
	w.said = append(w.said, signedDocument{signed, held})
}

func (w *ruled) revoke() {
	board := w.board()
	w.revoked[board] = true
	if _, known := w.status[board]; known {
		w.status[board] = edgeclaim.DeviceRevoked
	}
	w.revocations()
}

func (w *ruled) reinstate() {
	board := w.board()
	if !w.revoked[board] {
		return
	}
	delete(w.revoked, board)
	if _, known := w.status[board]; known {
		w.status[board] = edgeclaim.DeviceReleased
	}
	w.revocations(board)
}

// amnesty takes everything back.
func (w *ruled) amnesty() {
	var back []string
	for _, board := range w.boards {
		if w.revoked[board] {
			back = append(back, board)
		}
	}
	clear(w.revoked)
	if len(back) > 0 {
		w.revocations(back...)
	}
}

// replay has the box hear an old document again.
func (w *ruled) replay() {
	if len(w.said) < 2 {
		return
	}
	old := rapid.SampledFrom(w.said[:len(w.said)-1]).Draw(w.t, "old")
	refused, ok := errors.AsType[*edgeclaim.DocumentError](w.r.Obey(w.r.t.Context(), old.signed, old.held))
	if !ok || refused.Reason != edgeclaim.DocumentOldVersion {
		w.t.Fatalf("version %d again: %v", old.held.Version, refused)
	}
}

func (w *ruled) release() {
	board := w.board()
	if _, known := w.status[board]; !known {
		return
	}
	id := edgeclaim.NewDeviceID(w.p.tenant, hardwareOf(w.r.t, board), 1)
	_, err := w.r.Release(w.r.operator(), id, true)
	if w.revoked[board] {
		if !errors.Is(err, edgeclaim.ErrConflict) {
			w.t.Fatalf("%s, which upstream revoked, is released: %v", board, err)
		}
		return
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.status[board] = edgeclaim.DeviceReleased
}

func (w *ruled) grant() {
	granted := rapid.Uint32Range(0, 6).Draw(w.t, "granted")
	w.granted = max(w.granted, granted)
	if err := w.r.Share(w.r.t.Context(), []edgeclaim.ShareGrant{{Key: w.key, Granted: granted}}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *ruled) check() {
	key, err := w.r.Key(w.r.t.Context(), w.key)
	if err != nil || key.Claims != w.claims || key.Granted != w.granted || key.Claims > key.Granted {
		w.t.Fatalf("%+v, %v; want %d claims of %d", key, err, w.claims, w.granted)
	}
	devices, err := w.r.DevicesByKey(w.r.t.Context(), w.key, edgeclaim.DeviceID{}, 100)
	if err != nil || len(devices) != len(w.status) {
		w.t.Fatalf("%d devices, %v; want %d", len(devices), err, len(w.status))
	}
	for _, d := range devices {
		if want := w.status[d.Hardware.String()]; d.Status != want {
			w.t.Fatalf("%s is %s, want %s", d.Hardware, d.Status, want)
		}
	}
}

// TestRulingsModel holds documents and shares against a naive model: claims,
// revocations and what takes them back, old documents once more, operators,
// shares, and crashes between any two.
func TestRulingsModel(t *testing.T) {
	if testing.Short() {
		t.Skip("takes ten seconds")
	}
	r := newRig(t)
	p := newPlatform(r)
	var run int
	rapid.Check(t, func(rt *rapid.T) {
		run++
		shared := p.upstreams(fmt.Sprint("shared-", run), func(t *edgeclaim.Template) { t.MaxClaims = 100 })
		key, secret := p.keyed(shared, fmt.Sprint("key-", run))
		p.publish(templatesOf([]edgeclaim.TemplateKey{key}, shared))
		w := &ruled{r: r, t: rt, p: p, key: key.ID, secret: secret, status: map[string]edgeclaim.DeviceStatus{}, revoked: map[string]bool{}}
		for i := range 5 {
			w.boards = append(w.boards, fmt.Sprintf("RUN%d-%d", run, i))
		}
		defer w.amnesty() // the next run's documents begin with nobody revoked
		steps := map[string]func(*rapid.T){}
		for name, step := range map[string]func(){
			"claim": w.claim, "claim more": w.claim, "revoke": w.revoke, "reinstate": w.reinstate, "replay": w.replay,
			"release": w.release, "grant": w.grant, "crash": r.restart,
		} {
			steps[name] = func(*rapid.T) { step() }
		}
		steps[""] = func(*rapid.T) { w.check() }
		rt.Repeat(steps)
	})
}
