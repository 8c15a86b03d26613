package acceptance

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"edgeclaim/internal/mosquitto"
)

// told is the credential in the last event of that type about a device, in a
// batch.
func (w *watcher) told(t testing.TB, kind, id string) map[string]any {
	t.Helper()
	var last map[string]any
	for line := range strings.Lines(w.everything()) {
		var batch struct {
			Data []event `json:"data"`
		}
		if json.Unmarshal([]byte(line), &batch) != nil {
			continue // of another kind
		}
		for _, e := range batch.Data {
			if e.Type == kind && e.Data["device_id"] == id {
				last, _ = e.Data["credential"].(map[string]any)
			}
		}
	}
	if last == nil {
		t.Fatalf("no %s with a credential of %s", kind, id)
	}
	return last
}

// unsealed is the PSK that the hub reads out of what a box sealed for it; empty
// where there is none.
func (h *hub) unsealed(id string) string {
	h.t.Helper()
	out, errOut, code := h.command("", "unseal", "--device", id)
	if code != 0 && code != 1 {
		h.t.Errorf("unseal: exit code %d: %s", code, errOut)
	}
	return strings.TrimSpace(string(out))
}

// TestCredentialsToldUpstream: upstream learns what it takes to know a device
// and no more: the hash of a key, the fingerprint of a certificate. A PSK it can
// read once the box knows for whom to seal it; before, the event says that
// nobody can. What is on the broker has no secret in it.
func TestCredentialsToldUpstream(t *testing.T) {
	t.Parallel()
	between := mosquitto.Start(t, mosquitto.Options{})
	overheard := watch(t, between.Addr())
	h := newHub(t, between.Addr()).quick()
	h.start()
	b := appBox(t, between.Addr())
	b.start()
	psk, x509Key := b.key("--credential", kindPSK), b.key("--credential", kindX509)
	claim := func(kind, key, hardware string) identity {
		t.Helper()
		return identityOf(t, kind, b.post(claimBody(key, "n", hardware)).body, "")
	}
	early := claim(kindPSK, psk, "EARLY")
	b.drained()
	b.enrol(h)
	b.welcome()
	sealed, certified := claim(kindPSK, psk, "SEALED"), claim(kindX509, x509Key, "CERTIFIED")
	b.drained()

	if got := overheard.told(t, "device.provisioned", early.id); got["unsealed"] != "no_upstream_key" || got["sealed"] != nil {
		t.Errorf("without an enrolment: %v", got)
	}
	if got := h.unsealed(early.id); got != "" {
		t.Errorf("the hub reads %q of the first", got)
	}
	if got := h.unsealed(sealed.id); got != sealed.secret {
		t.Errorf("the hub reads %q, want the device's PSK", got)
	}
	for _, i := range []identity{early, sealed} {
		if id, valid := h.verify(i.secret); !valid || id != i.id {
			t.Errorf("the hub says of a PSK %s, %v", id, valid)
		}
	}
	fingerprint := sha256.Sum256(certified.pair(t)[0].Certificate[0])
	if got := overheard.told(t, "device.provisioned", certified.id); got["fingerprint"] != hex.EncodeToString(fingerprint[:]) {
		t.Errorf("told of the certificate: %v", got)
	}
	var rotated map[string]string
	b.json(&rotated, "device", "rotate", sealed.id)
	b.drained()
	if got := h.unsealed(sealed.id); got == "" || got != rotated["psk"] {
		t.Errorf("after the rotation the hub reads %q", got)
	}
	heard := overheard.everything()
	for name, secret := range map[string]string{
		"a PSK": early.secret, "the sealed PSK": sealed.secret, "the rotated PSK": rotated["psk"], "a provisioning key": psk, "a private key": "PRIVATE",
	} {
		if strings.Contains(heard, secret) {
			t.Errorf("%s is on the broker", name)
		}
	}
}

// TestCertificateInCBOR: what is PEM in JSON is DER in CBOR, over both faces.
func TestCertificateInCBOR(t *testing.T) {
	t.Parallel()
	b := newBox(t).secure()
	b.start()
	key, root := b.key("--credential", kindX509), b.root()
	for n, face := range []string{"mqtt", "http"} {
		claim, err := cbor.Marshal(map[string]string{"provision_key": key, "device_name": "n", "hardware_id": fmt.Sprint("C", n)})
		if err != nil {
			t.Fatal(err)
		}
		var said answer
		if face == "http" {
			said, err = httpClaim(http.DefaultClient, b.httpAddr, "application/cbor", string(claim))
		} else {
			host, port, _ := strings.Cut(b.mqttAddr, ":")
			said.body = shell(t, "mosquitto_rr", "-h", host, "-p", port, "-q", "1", "-W", "20", "-N",
				"-t", "provision/request/cbor", "-e", "provision/response/cbor", "-m", string(claim)) // its -f sends nothing
		}
		var fields struct {
			DeviceID    string `cbor:"device_id"`
			Certificate []byte `cbor:"certificate"`
			Chain       []byte `cbor:"ca_chain"`
			PrivateKey  []byte `cbor:"private_key"`
		}
		if err == nil {
			err = cbor.Unmarshal([]byte(said.body), &fields)
		}
		if err != nil {
			t.Fatalf("%s: %v", face, err)
		}
		if chain, err := x509.ParseCertificates(fields.Chain); err != nil || len(chain) != 1 {
			t.Errorf("%s: a chain of %d: %v", face, len(chain), err)
		}
		i := identity{
			id: fields.DeviceID, kind: kindX509,
			certificate: pemOf(pemCertificate, fields.Certificate), privateKey: pemOf(pemKey, fields.PrivateKey),
		}
		if !b.logsIn(root, &i) {
			t.Errorf("%s: it does not log in", face)
		}
		var again map[string]json.RawMessage
		if said := b.post(claimBody(key, "n", fmt.Sprint("C", n))); json.Unmarshal([]byte(said.body), &again) != nil || len(again) != 2 {
			t.Errorf("%s: claimed again: %s", face, said.body)
		}
	}
}
