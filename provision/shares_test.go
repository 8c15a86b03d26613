package provision_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/provision"
)

// TestShare: a box makes no more devices with a key that others have too than
// its share is good for, however many claim at once; more comes, or nothing.
func TestShare(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	key, secret := p.one("shared", func(t *edgeclaim.Template) { t.MaxClaims = 100 })
	if kept, err := r.Template(t.Context(), p.upstreams("shared", nil).ID); err != nil || !kept.Leased {
		t.Fatalf("%+v, %v", kept, err)
	}
	r.wantPutOff(r.claim(secret, "EARLY"))
	r.grant(edgeclaim.ShareGrant{Key: key, Granted: 10})

	var wg sync.WaitGroup
	var mu sync.Mutex
	codes := map[edgeclaim.Code]int{}
	for i := range 64 {
		wg.Go(func() {
			s := r.claim(secret, fmt.Sprint("H", i))
			mu.Lock()
			defer mu.Unlock()
			codes[s.Code]++
		})
	}
	wg.Wait()
	if codes[edgeclaim.CodeOK] != 10 || codes[edgeclaim.CodeResourceExhausted] != 54 {
		t.Errorf("64 claims of a share of 10: %v", codes)
	}
	if k, err := r.Key(t.Context(), key); err != nil || k.Claims != 10 {
		t.Errorf("%+v, %v", k, err)
	}
	// Known hardware is answered, and a fresh start is not counted twice.
	var known string
	for i := range 64 {
		if s := r.claim(secret, fmt.Sprint("H", i)); s.Code == edgeclaim.CodeOK {
			known = fmt.Sprint("H", i)
			r.wantKnown(s, s.DeviceID)
			if _, err := r.Release(r.operator(), s.id(t), false); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	r.wantMinted(r.claim(secret, known))
	r.wantPutOff(r.claim(secret, "LATE"))

	// An old word changes nothing; a new one gives more; the last says that there is none.
	r.grant(edgeclaim.ShareGrant{Key: key, Granted: 5})
	r.wantPutOff(r.claim(secret, "LATE"))
	r.grant(edgeclaim.ShareGrant{Key: key, Granted: 11})
	r.wantMinted(r.claim(secret, "LATE"))
	r.restart()
	r.wantPutOff(r.claim(secret, "LATER"))
	r.grant(edgeclaim.ShareGrant{Key: key, Granted: 11, Exhausted: true})
	r.wantDenied(r.claim(secret, "LATER"), edgeclaim.ReasonKeyExhausted)
	if s := r.claim(secret, "LATE"); s.Code != edgeclaim.CodeOK {
		t.Errorf("known hardware: %s", s.raw)
	}
}

// TestShareOverMQTT: where there is no header, the body says when to come back.
func TestShareOverMQTT(t *testing.T) {
	r := newRig(t)
	_, secret := newPlatform(r).one("shared", func(t *edgeclaim.Template) { t.MaxClaims = 100 })
	s := r.answer(edgeclaim.Ask{
		Body: []byte(claimOf(secret, "H").json(t)), Format: edgeclaim.FormatJSON, Via: edgeclaim.ViaMQTT, ReceivedAt: time.Now(),
	})
	if want := `{"code":8,"message":"too many requests","details":[],"retry_after":5}`; s.raw != want {
		t.Errorf("answer %s, want %s", s.raw, want)
	}
}

// TestOwnKeys: what a document for this box alone brings is nobody else's, and
// not shared out.
func TestOwnKeys(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	own := p.upstreams("own", func(t *edgeclaim.Template) { t.MaxClaims = 2 })
	key, secret := p.keyed(own, "own-key")
	p.publish(templatesOf([]edgeclaim.TemplateKey{key}, own))
	r.wantPutOff(r.claim(secret, "A")) // for all boxes
	d := templatesOf([]edgeclaim.TemplateKey{key}, own)
	d.Box = "box"
	p.publish(d)
	if got := r.wanted(); got != nil {
		t.Errorf("asks for %v", got)
	}
	r.wantMinted(r.claim(secret, "A"))
	r.wantMinted(r.claim(secret, "B"))
	r.wantDenied(r.claim(secret, "C"), edgeclaim.ReasonKeyExhausted)
	if shares, err := r.Shares(t.Context()); err != nil || len(shares) > 0 {
		t.Errorf("%+v, %v", shares, err)
	}
}

// TestShareMeanwhile: the share is judged inside the transaction too.
func TestShareMeanwhile(t *testing.T) {
	r := newRig(t)
	key, secret := newPlatform(r).one("shared", func(t *edgeclaim.Template) { t.MaxClaims = 3 })
	r.grant(edgeclaim.ShareGrant{Key: key, Granted: 1})
	r.once(func() { r.wantMinted(r.claim(secret, "FIRST")) })
	r.wantPutOff(r.claim(secret, "SECOND"))
	r.grant(edgeclaim.ShareGrant{Key: key, Granted: 2})
	r.once(func() { r.grant(edgeclaim.ShareGrant{Key: key, Granted: 2, Claims: 2, Exhausted: true}) })
	r.wantDenied(r.claim(secret, "THIRD"), edgeclaim.ReasonKeyExhausted)
}

// TestOneTimeShare: a one-time key is good for one device over all boxes.
func TestOneTimeShare(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	once := p.upstreams("once", func(t *edgeclaim.Template) { t.OneTime = true })
	mine, mineSecret := p.keyed(once, "mine")
	others, othersSecret := p.keyed(once, "others")
	idle, _ := p.keyed(once, "idle")
	p.publish(templatesOf([]edgeclaim.TemplateKey{mine, others, idle}, once))
	if wanted := r.wanted(); len(wanted) > 0 {
		t.Errorf("asks for %v before anybody claims", wanted)
	}
	r.wantPutOff(r.claim(mineSecret, "A"))
	r.wantPutOff(r.claim(othersSecret, "B"))
	if got := r.wanted(); !slices.Equal(got, []edgeclaim.KeyID{mine.ID, others.ID}) {
		t.Errorf("asks for %v", got)
	}
	if got := r.alarmCount(edgeclaim.AlarmShareLow); got > 0 {
		t.Errorf("%d alarms though nobody had time to answer", got)
	}
	r.grant(edgeclaim.ShareGrant{Key: mine.ID, Granted: 1})
	r.grant(edgeclaim.ShareGrant{Key: others.ID, Exhausted: true})
	made := r.wantMinted(r.claim(mineSecret, "A"))
	r.wantDenied(r.claim(othersSecret, "B"), edgeclaim.ReasonKeyUsed)
	r.wantDenied(r.claim(mineSecret, "C"), edgeclaim.ReasonKeyUsed)
	r.wantKnown(r.claim(mineSecret, "A"), made.DeviceID)
	r.grant(edgeclaim.ShareGrant{Key: others.ID, Exhausted: true}) // asked once more, upstream says the same
	if wanted := r.wanted(); len(wanted) > 0 {
		t.Errorf("still asks for %v", wanted)
	}
	// A box that was restored is told that it has used it.
	r.wantPutOff(r.claim(r.idleSecret(), "D"))
	r.grant(edgeclaim.ShareGrant{Key: idle.ID, Granted: 1, Claims: 1})
	r.wantDenied(r.claim(r.idleSecret(), "D"), edgeclaim.ReasonKeyUsed)
}

func (r *rig) idleSecret() edgeclaim.Secret { return edgeclaim.NewSecret("pk_factory_idle") }

// wanted are the keys that upstream is asked for.
func (r *rig) wanted() []edgeclaim.KeyID {
	r.t.Helper()
	shares, err := r.Wanted(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	var keys []edgeclaim.KeyID
	for _, share := range shares {
		if !share.Low {
			r.t.Errorf("asks for %+v", share)
		}
		keys = append(keys, share.Key)
	}
	return keys
}

// woken reports whether there is something new to ask for.
func (r *rig) woken() bool {
	select {
	case <-r.WantShares():
		return true
	default:
		return false
	}
}

// TestExhaustedAgain: where upstream has no more, it is asked again now and then,
// as long as somebody claims: it may have more by then.
func TestExhaustedAgain(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	key, secret := p.one("shared", func(t *edgeclaim.Template) { t.MaxClaims = 10 })
	no := edgeclaim.ShareGrant{Key: key, Granted: 1, Exhausted: true}
	r.grant(no)
	r.wantMinted(r.claim(secret, "A"))
	if got := r.wanted(); got != nil {
		t.Errorf("asks for %v", got)
	}
	r.woken()
	for i := range 3 {
		r.wantDenied(r.claim(secret, "B"), edgeclaim.ReasonKeyExhausted)
		if first := i == 0; r.woken() != first || (r.wanted() != nil) != first {
			t.Errorf("refusal %d: asks for %v", i, r.wanted())
		}
		r.grant(no)
	}
	r.restart()
	r.wantDenied(r.claim(secret, "B"), edgeclaim.ReasonKeyExhausted)
	if shares, err := r.Wanted(t.Context()); err != nil || len(shares) != 1 || shares[0].Exhausted || !shares[0].Low {
		t.Errorf("asks for %+v, %v", shares, err)
	}
	r.grant(edgeclaim.ShareGrant{Key: key, Granted: 5})
	r.wantMinted(r.claim(secret, "B"))
	if got := r.wanted(); got != nil {
		t.Errorf("asks for %v", got)
	}
}

// TestShareLow: upstream is asked before the share is used up, and the operator
// told once, until there is more.
func TestShareLow(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	key, secret := p.one("shared", func(t *edgeclaim.Template) { t.MaxClaims = 100 })
	if !r.woken() {
		t.Error("new keys, and nobody is to ask for them")
	}
	if got := r.wanted(); !slices.Equal(got, []edgeclaim.KeyID{key}) {
		t.Errorf("asks for %v when its template came", got)
	}
	if got := r.alarmCount(edgeclaim.AlarmShareLow); got != 0 {
		t.Errorf("%d alarms before anybody claims", got)
	}
	// Nobody answers, and somebody claims.
	r.wantPutOff(r.claim(secret, "H0"))
	if got := r.alarmCount(edgeclaim.AlarmShareLow); got != 0 {
		t.Errorf("%d alarms though nobody had time to answer", got)
	}
	r.run(provision.ShareRetry)
	r.wantPutOff(r.claim(secret, "H0"))
	r.wantPutOff(r.claim(secret, "H1"))
	if got := r.alarmCount(edgeclaim.AlarmShareLow); got != 1 {
		t.Errorf("%d alarms, want one", got)
	}

	r.woken()
	r.grant(edgeclaim.ShareGrant{Key: key, Granted: 8})
	if got := r.wanted(); got != nil || r.woken() {
		t.Errorf("asks for %v with a share of 8", got)
	}
	for i := range 7 {
		r.wantMinted(r.claim(secret, fmt.Sprint("H", i)))
		// Low is: fewer than a quarter of 8 left.
		if low := i >= 6; r.woken() != low || (r.wanted() != nil) != low {
			t.Errorf("%d of 8 used: asks for %v", i+1, r.wanted())
		}
	}
	if got := r.alarmCount(edgeclaim.AlarmShareLow); got != 2 {
		t.Errorf("%d alarms, want another one since upstream gave more", got)
	}
	r.wantMinted(r.claim(secret, "H7"))
	r.wantPutOff(r.claim(secret, "H8"))
	if got := r.alarmCount(edgeclaim.AlarmShareLow); got != 2 {
		t.Errorf("%d alarms, want no more", got)
	}
	r.grant(edgeclaim.ShareGrant{Key: key, Granted: 9}) // which is still low
	r.wantMinted(r.claim(secret, "H8"))
	r.wantPutOff(r.claim(secret, "H9"))
	if got := r.alarmCount(edgeclaim.AlarmShareLow); got != 3 {
		t.Errorf("%d alarms, want one of the new share", got)
	}
	r.restart() // which forgets whom it asked for, and looks
	if got := r.wanted(); !slices.Equal(got, []edgeclaim.KeyID{key}) {
		t.Errorf("asks for %v after a restart", got)
	}
	r.grant(edgeclaim.ShareGrant{Key: key, Granted: 100}) // all there is
	for i := range 91 {
		r.wantMinted(r.claim(secret, fmt.Sprint("J", i)))
	}
	if got := r.wanted(); got != nil {
		t.Errorf("asks for %v where there is nothing more", got)
	}
	r.wantDenied(r.claim(secret, "K"), edgeclaim.ReasonKeyExhausted)
}

// TestWantedBounds: of very many keys no more than a bound are asked for at one
// time, and each comes its turn.
func TestWantedBounds(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	const keys = 1500
	shared := p.upstreams("shared", func(t *edgeclaim.Template) { t.MaxClaims = 10 })
	all := make([]edgeclaim.TemplateKey, keys)
	for i := range all {
		all[i], _ = p.keyed(shared, fmt.Sprintf("k%04d", i))
	}
	p.publish(templatesOf(all, shared))
	asked := map[edgeclaim.KeyID]bool{}
	for r.woken() {
		wanted := r.wanted()
		if len(wanted) > 1024 {
			t.Fatalf("asks for %d keys at one time", len(wanted))
		}
		var grants []edgeclaim.ShareGrant
		for _, key := range wanted {
			asked[key] = true
			grants = append(grants, edgeclaim.ShareGrant{Key: key, Granted: 5})
		}
		if err := r.Share(t.Context(), grants); err != nil {
			t.Fatal(err)
		}
	}
	if len(asked) != keys || r.wanted() != nil {
		t.Errorf("asked for %d of %d keys", len(asked), keys)
	}
	shares, err := r.Shares(t.Context())
	if err != nil || len(shares) != keys || shares[0].Granted != 5 || shares[0].Low {
		t.Errorf("%d shares, %v", len(shares), err)
	}
}

// TestSharesListed: what is listed is what the box has a share of, the low ones
// first; revoked and unknown keys are not asked for.
func TestSharesListed(t *testing.T) {
	r := newRig(t)
	p := newPlatform(r)
	shared := p.upstreams("shared", func(t *edgeclaim.Template) { t.MaxClaims = 100 })
	once := p.upstreams("once", func(t *edgeclaim.Template) { t.OneTime = true })
	a, _ := p.keyed(shared, "a")
	b, bSecret := p.keyed(shared, "b")
	c, _ := p.keyed(shared, "c")
	d, _ := p.keyed(once, "d")
	unasked, _ := p.keyed(once, "unasked")
	p.publish(templatesOf([]edgeclaim.TemplateKey{a, b, c, d, unasked}, shared, once))
	grants := []edgeclaim.ShareGrant{
		{Key: a.ID, Granted: 4}, {Key: b.ID, Granted: 1}, {Key: c.ID, Granted: 4}, {Key: d.ID, Granted: 1}, {Key: keyID(t, "nobody"), Granted: 4},
	}
	if err := r.Share(t.Context(), grants); err != nil {
		t.Fatal(err)
	}
	r.wantMinted(r.claim(bSecret, "H"))
	shares, err := r.Shares(t.Context())
	want := []edgeclaim.Share{
		{Key: b.ID, Template: shared.ID, Granted: 1, Claims: 1, Low: true},
		{Key: a.ID, Template: shared.ID, Granted: 4}, {Key: c.ID, Template: shared.ID, Granted: 4},
		{Key: d.ID, Template: once.ID, Granted: 1},
	}
	if err != nil || !slices.Equal(shares, want) {
		t.Errorf("%+v, %v; want %+v", shares, err, want)
	}
	if got := r.wanted(); !slices.Equal(got, []edgeclaim.KeyID{b.ID}) {
		t.Errorf("asks for %v", got)
	}
	if _, err := r.SetKeyStatus(r.operator(), b.ID, edgeclaim.KeyRevoked); err != nil {
		t.Fatal(err)
	}
	if got := r.wanted(); got != nil {
		t.Errorf("asks for %v, which is revoked", got)
	}
}
