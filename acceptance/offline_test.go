package acceptance

import (
	"fmt"
	"net/http"
	"testing"
)

// TestLifecycleOffline: all of it without a link, and with a power cut behind
// it. What was done holds at once on the box, and upstream agrees when it hears
// of it, in whatever order (P2, P6).
func TestLifecycleOffline(t *testing.T) {
	t.Parallel()
	l := newLinked(t)
	key := l.key()
	var devices [5]claimed
	for i := range devices {
		devices[i] = l.claimOne(key, fmt.Sprint("OFFLINE-", i))
	}
	// The last two are claimed while nobody listens.
	l.drained()
	l.hub.stop()
	unheard := l.claimSome(key, "UNHEARD-", 2)

	rotated, renewed, revoked, released, swapped := devices[0], devices[1], devices[2], devices[3], devices[4]
	first := l.rotate(rotated.id, "1h")
	second := l.rotate(rotated.id, "1h")
	ask := fmt.Sprintf(`{"claim_nonce":%q}`, randomNonce())
	lost := l.rotateSelf(renewed.apiKey, ask).renewal(t)
	l.json(nil, "device", "revoke", revoked.id)
	l.json(nil, "device", "release", released.id)
	again := l.claimOne(key, released.hardware)
	l.json(nil, "device", "swap", swapped.id, "--hardware-id", "OFFLINE-NEW")
	fresh := l.claimOne(key, "OFFLINE-NEW")
	third := l.rotate(unheard[0].id, "0s")
	l.json(nil, "device", "revoke", unheard[1].id)
	l.kill()
	l.start()
	if found := l.rotateSelf(renewed.apiKey, ask).renewal(t); found.APIKey != lost.APIKey {
		t.Error("after the power cut the same nonce did not get the same key")
	}
	l.hub.start()

	l.wantAgreed("rotated twice", rotated.id, []string{first.APIKey, second.APIKey}, []string{rotated.apiKey})
	l.wantAgreed("rotated by itself", renewed.id, []string{renewed.apiKey, lost.APIKey}, nil)
	l.wantAgreed("revoked", revoked.id, nil, []string{revoked.apiKey})
	l.wantAgreed("released and claimed anew", released.id, []string{again.apiKey}, []string{released.apiKey})
	l.wantAgreed("swapped and claimed", swapped.id, []string{fresh.apiKey}, []string{swapped.apiKey})
	l.wantAgreed("claimed and rotated unheard", unheard[0].id, []string{third.APIKey}, []string{unheard[0].apiKey})
	l.wantAgreed("claimed and revoked unheard", unheard[1].id, nil, []string{unheard[1].apiKey})
	for _, hardware := range []string{revoked.hardware, swapped.hardware, unheard[1].hardware} {
		if said := l.post(claimBody(key, "n", hardware)); said.status != http.StatusForbidden || said.body != denied {
			t.Errorf("after the power cut, the claim of %s: %d %s", hardware, said.status, said.body)
		}
	}
	l.hub.wantHas([]claimed{rotated, renewed, released, {fresh.id, fresh.apiKey, "OFFLINE-NEW"}, unheard[0]})
	if found := l.hub.conflicts(); len(found) > 0 {
		t.Errorf("conflicts of one box with itself: %+v", found)
	}
}
