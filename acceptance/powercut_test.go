package acceptance

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"edgeclaim/internal/mqttwire"
)

// victim is a device, one of whose claims the power cut strikes.
type victim struct {
	name, kind, face string
	nonce            string // empty for none
	csr, key         string // PEM of its own; empty for none
	body             string // of each of its claims
	first            string // the answer that it was told, or was on its way; empty for none
}

// victims are one of each sort: type of credential, face, with a nonce and
// without.
func victims(t testing.TB, b *box) []*victim {
	t.Helper()
	keys := map[string]string{}
	var all []*victim
	for _, kind := range []string{kindAPIKey, kindPSK, kindX509, kindX509 + " of a CSR"} {
		for _, face := range []string{"mqtt", "http"} {
			for _, lost := range []string{"", randomNonce()} {
				v := &victim{face: face, nonce: lost, kind: kind, name: kind + " over " + face}
				if lost != "" {
					v.name += " with a nonce"
				}
				if v.kind != kindAPIKey && v.kind != kindPSK {
					if v.kind = kindX509; kind != kindX509 {
						v.csr, v.key = request(t)
					}
				}
				if keys[v.kind] == "" {
					keys[v.kind] = b.key("--credential", v.kind)
				}
				v.body = body(t, map[string]string{
					"provision_key": keys[v.kind], "device_name": "n", "hardware_id": fmt.Sprintf("V-%d", len(all)), "claim_nonce": lost, "csr": v.csr,
				})
				all = append(all, v)
			}
		}
	}
	return all
}

// request is a CSR with its key, both PEM.
func request(t testing.TB) (csr, key string) {
	t.Helper()
	made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, made)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(made)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf(pemRequest, der), pemOf(pemKey, pkcs8)
}

// over claims over a face, at those addresses of the two.
func over(face, httpAddr, mqttAddr, body string) (answer, error) {
	if face == "mqtt" {
		said, _, err := mqttClaim(mqttAddr, mqttwire.V311, body)
		if said.body != "" {
			err = nil // it was answered, whatever came after
		}
		return said, err
	}
	return httpClaim(&http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}, httpAddr, "application/json", body)
}

// claims claims over a face, as often as it takes while the box comes up.
func (v *victim) claims(b *box, face string) string {
	b.t.Helper()
	said, err := over(face, b.httpAddr, b.mqttAddr, v.body)
	if err != nil {
		b.t.Fatalf("%s: %v", v.name, err)
	}
	return said.body
}

// other is the face that the victim did not claim over.
func (v *victim) other() string {
	return map[string]string{"mqtt": "http", "http": "mqtt"}[v.face]
}

// nothing is what known hardware hears when there is nothing to tell it.
func nothing(t testing.TB, said string) bool {
	t.Helper()
	a := answer{body: said}
	return said == fmt.Sprintf(`{"device_id":%q,"api_key":""}`, a.text(t, "device_id"))
}

// cuts are where the power fails. Each makes all victims claim, and kills the
// box.
var cuts = []struct {
	name   string
	traced bool
	strike func(t *testing.T, b *box, all []*victim)
	// stored says what becomes of a claim that was not told to its device.
	stored, unstored bool
}{
	{name: "before the commit", traced: true, strike: cutBeforeCommit, unstored: true},
	{name: "after the commit, before the answer", traced: true, strike: cutAfterCommit, stored: true, unstored: true},
	{name: "the answer is lost on its way", strike: cutWhileAnswering, stored: true},
	{name: "the device forgets the answer", strike: cutAfterTheAnswer, stored: true},
}

// TestPowerCutInAClaim: wherever the power fails, for every type of credential
// and over both faces, a device with a nonce gets its credential by claiming
// again, over the other face; the same to the byte where it could have heard
// it before. One without gets it, or the operator's release is the way out.
// Once a credential was used, nobody hears it again, though the power fails right
// behind the CONNACK.
func TestPowerCutInAClaim(t *testing.T) {
	t.Parallel()
	for _, cut := range cuts {
		t.Run(cut.name, func(t *testing.T) {
			if cut.traced {
				if testing.Short() {
					t.Skip("runs the box under strace")
				}
				if _, err := exec.LookPath("strace"); err != nil {
					t.Fatalf("strace is needed: %v", err)
				}
			}
			t.Parallel()
			b := newBox(t).secure()
			b.start()
			root := b.root()
			all := victims(t, b)
			cut.strike(t, b, all)
			b.start()
			found := map[bool]int{}
			holders := map[*victim]identity{}
			for _, v := range all {
				i, stored := v.recover(b)
				holders[v] = i
				found[stored]++
			}
			if (found[true] > 0 && !cut.stored) || (found[false] > 0 && !cut.unstored) || (found[true] == 0 && cut.stored) {
				t.Errorf("%d claims without a nonce were on record and %d were not", found[true], found[false])
			}
			usedUp(b, root, all, holders)
		})
	}
}

// recover claims again over the other face. It returns what the device has then,
// and whether its first claim had been stored.
func (v *victim) recover(b *box) (i identity, stored bool) {
	b.t.Helper()
	said := v.claims(b, v.other())
	if v.nonce != "" {
		if v.first != "" && said != v.first {
			b.t.Errorf("%s: claimed again, it hears %s\nwant %s", v.name, said, v.first)
		}
		return identityOf(b.t, v.kind, said, v.key), v.first != ""
	}
	if !nothing(b.t, said) {
		if v.first != "" {
			b.t.Errorf("%s: without a nonce, it hears %s", v.name, said)
		}
		return identityOf(b.t, v.kind, said, v.key), false
	}
	b.json(nil, "device", "release", answer{body: said}.text(b.t, "device_id"))
	return identityOf(b.t, v.kind, v.claims(b, v.other()), v.key), true
}

// usedUp logs every device in, cuts the power, and has all claim again.
func usedUp(b *box, root string, all []*victim, holders map[*victim]identity) {
	b.t.Helper()
	for _, v := range all {
		i := holders[v]
		if !b.logsIn(root, &i) {
			b.t.Errorf("%s: its credential does not log in", v.name)
		}
	}
	b.kill()
	b.start()
	for _, v := range all {
		if said := v.claims(b, v.face); !nothing(b.t, said) {
			b.t.Errorf("%s: it logged in, and hears %s", v.name, said)
		}
		if i := holders[v]; !b.logsIn(root, &i) {
			b.t.Errorf("%s: its credential does not log in after the second cut", v.name)
		}
	}
}

// cutBeforeCommit: the pages are written, and the first sync kills the box.
func cutBeforeCommit(t *testing.T, b *box, all []*victim) {
	t.Helper()
	traced := attach(t, b.cmd.Process.Pid, "-o", filepath.Join(t.TempDir(), "trace"), "-P", filepath.Join(b.data, "registry.db"),
		"-e", "trace=fdatasync", "-e", "inject=fdatasync:signal=KILL")
	claimAll(t, b, all, func(v *victim, said answer, err error) {
		if err == nil {
			t.Errorf("%s: answered %s, and nothing is stored", v.name, said.body)
		}
	})
	b.ends()
	traced()
}

// cutAfterCommit: the second commit, which many of the claims share, is written
// and not yet answered. What the kernel has been told to write outlives the box.
func cutAfterCommit(t *testing.T, b *box, all []*victim) {
	t.Helper()
	registry := filepath.Join(b.data, "registry.db")
	traced := attach(t, b.cmd.Process.Pid, "-o", filepath.Join(t.TempDir(), "trace"), "-P", registry,
		"-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_exit=400000") // microseconds: both syncs of a commit take long
	before := metaPages(t, registry)
	var struck sync.WaitGroup
	struck.Go(func() {
		claimAll(t, b, all, func(v *victim, said answer, err error) {
			if err == nil {
				v.first = said.body // of the first commit
			}
		})
	})
	for range 2 {
		until(t, "a commit is written", func() bool { return !bytes.Equal(before, metaPages(t, registry)) })
		before = metaPages(t, registry)
	}
	b.kill()
	struck.Wait()
	traced()
}

// metaPages are the two pages of the registry that make a commit count.
func metaPages(t *testing.T, path string) []byte {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	pages := make([]byte, 2*os.Getpagesize())
	if _, err := io.ReadFull(file, pages); err != nil {
		t.Fatal(err)
	}
	return pages
}

// claimAll has all claim at once.
func claimAll(t *testing.T, b *box, all []*victim, take func(v *victim, said answer, err error)) {
	t.Helper()
	var claims sync.WaitGroup
	for _, v := range all {
		claims.Go(func() {
			said, err := over(v.face, b.httpAddr, b.mqttAddr, v.body)
			take(v, said, err)
		})
	}
	claims.Wait()
}

// cutWhileAnswering: the box has answered, and a cable has eaten it.
func cutWhileAnswering(t *testing.T, b *box, all []*victim) {
	t.Helper()
	var claims sync.WaitGroup
	for _, v := range all {
		cable := newRelay(t, map[string]string{"mqtt": b.mqttAddr, "http": b.httpAddr}[v.face])
		claims.Go(func() {
			if err := v.claimsInVain(cable); err == nil {
				t.Errorf("%s: the cable let the answer through", v.name)
			}
		})
		until(t, "the answer is on its way", func() bool {
			v.first = wholeAnswer(cable.said())
			return v.first != ""
		})
	}
	b.kill()
	claims.Wait()
}

// claimsInVain claims through a cable that eats the answer, until the box is
// gone.
func (v *victim) claimsInVain(cable *relay) error {
	if v.face == "http" {
		cable.keep()
		_, err := over(v.face, cable.addr(), "", v.body)
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, _, err := mqttwire.Dial(ctx, cable.addr(), mqttwire.V311, mqttwire.Login{ClientID: "device", Clean: true, KeepAlive: 30})
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := client.Subscribe("provision/response"); err != nil {
		return err
	}
	cable.keep()
	return errors.Join(client.SetDeadline(time.Now().Add(patience)), roundTrip(client, v.body))
}

// wholeAnswer finds the document in what the box said, once all of it is there.
func wholeAnswer(said []byte) string {
	start := bytes.Index(said, []byte(`{"device_id"`))
	if start < 0 {
		return ""
	}
	var document json.RawMessage
	if json.NewDecoder(bytes.NewReader(said[start:])).Decode(&document) != nil {
		return ""
	}
	return string(document)
}

// cutAfterTheAnswer: the device has heard it all, and keeps none of it.
func cutAfterTheAnswer(t *testing.T, b *box, all []*victim) {
	t.Helper()
	claimAll(t, b, all, func(v *victim, said answer, err error) {
		if v.first = said.body; err != nil {
			t.Errorf("%s: %v", v.name, err)
		}
	})
	b.kill()
}

// TestNeverSaidAgain: what was void once is not said again, and lets nobody in:
// the same nonce gets another credential after a revocation or a release, and
// none while the device is revoked, though the power fails in between.
func TestNeverSaidAgain(t *testing.T) {
	t.Parallel()
	b := newBox(t).secure()
	b.start()
	root := b.root()
	for _, v := range victims(t, b) {
		if v.nonce == "" {
			continue
		}
		said := []string{v.claims(b, v.face)}
		void := []identity{identityOf(t, v.kind, said[0], v.key)}
		id := void[0].id
		b.json(nil, "device", "revoke", id)
		if again := v.claims(b, v.face); again != denied {
			t.Errorf("%s: revoked, it hears %s", v.name, again)
		}
		b.json(nil, "device", "release", id, "--reinstate")
		said = append(said, v.claims(b, v.other()))
		void = append(void, identityOf(t, v.kind, said[1], v.key))
		b.json(nil, "device", "release", id)
		b.kill()
		b.start()
		said = append(said, v.claims(b, v.face))
		now := identityOf(t, v.kind, said[2], v.key)
		if said[0] == said[1] || said[1] == said[2] || said[0] == said[2] {
			t.Errorf("%s: said again: %s", v.name, said[0])
		}
		for n := range void {
			if b.logsIn(root, &void[n]) {
				t.Errorf("%s: credential %d is void, and logs in", v.name, n)
			}
		}
		if again := v.claims(b, v.other()); again != said[2] {
			t.Errorf("%s: nobody has used it, and it hears %s", v.name, again)
		}
		if !b.logsIn(root, &now) {
			t.Errorf("%s: the last credential does not log in", v.name)
		}
	}
}

// TestNewKeyBeforeTheAnswerIsStored: a device that lost the answer made another
// key pair since. Its nonce gets a certificate for that one; the first is void.
func TestNewKeyBeforeTheAnswerIsStored(t *testing.T) {
	t.Parallel()
	b := newBox(t).secure()
	b.start()
	root, key, once := b.root(), b.key("--credential", kindX509), randomNonce()
	var all []identity
	for range 2 {
		csr, own := request(t)
		said := b.post(body(t, map[string]string{
			"provision_key": key, "device_name": "n", "hardware_id": "H", "claim_nonce": once, "csr": csr,
		}))
		all = append(all, identityOf(t, kindX509, said.body, own))
	}
	if b.logsIn(root, &all[0]) {
		t.Error("the first certificate logs in")
	}
	if !b.logsIn(root, &all[1]) {
		t.Error("the second certificate does not log in")
	}
}

// TestOneNonceAtOnce: a device that is impatient, on both faces, is one device
// with one credential.
func TestOneNonceAtOnce(t *testing.T) {
	t.Parallel()
	b := startBox(t)
	for n, v := range victims(t, b) {
		if v.nonce == "" {
			continue
		}
		said := make(chan string, 16)
		var claims sync.WaitGroup
		for i := range cap(said) {
			claims.Go(func() {
				a, err := over([]string{"mqtt", "http"}[i%2], b.httpAddr, b.mqttAddr, v.body)
				if err != nil {
					t.Errorf("%s: %v", v.name, err)
				}
				said <- a.body
			})
		}
		claims.Wait()
		first := <-said
		identityOf(t, v.kind, first, v.key)
		for range cap(said) - 1 {
			if other := <-said; other != first {
				t.Errorf("%s: one hears %s\nand another %s", v.name, first, other)
			}
		}
		if got := uint64(len(b.devices())); got != b.status().Outbox["prov"].Appended || got != uint64(n/2)+1 {
			t.Errorf("%s: %d devices, told %d times", v.name, got, b.status().Outbox["prov"].Appended)
		}
	}
}
