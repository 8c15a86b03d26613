package mint_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"edgeclaim"
	"edgeclaim/internal/mint"

	"pgregory.net/rapid"
)

// vector is a known answer, in testdata/mint.json.
type vector struct {
	Purpose mint.Purpose             `json:"purpose"`
	Type    edgeclaim.CredentialType `json:"type"`
	Tenant  edgeclaim.TenantID       `json:"tenant_id"`
	Device  edgeclaim.DeviceID       `json:"device_id"`
	Key     edgeclaim.KeyHash        `json:"key_sha256"`
	BoxKey  string                   `json:"box_key"` // hexadecimal, as is all below
	Nonce   string                   `json:"nonce"`
	Salt    string                   `json:"salt"`
	Message string                   `json:"message"`
	Derived string                   `json:"derived"`
}

func vectors(t *testing.T) []vector {
	t.Helper()
	text, err := os.ReadFile("testdata/mint.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) < 6 {
		t.Fatalf("%d vectors", len(all))
	}
	return all
}

func bytesOf(t *testing.T, digits string) []byte {
	t.Helper()
	b, err := hex.DecodeString(digits)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (v *vector) input(t *testing.T) *mint.Input {
	t.Helper()
	return &mint.Input{
		Purpose: v.Purpose, Type: v.Type, Tenant: v.Tenant, Device: v.Device, Key: v.Key,
		Nonce: bytesOf(t, v.Nonce), Salt: [mint.Size]byte(bytesOf(t, v.Salt)),
	}
}

// TestKnownAnswers: what a box derived yesterday it derives tomorrow. The
// vectors were made by another program.
func TestKnownAnswers(t *testing.T) {
	for _, v := range vectors(t) {
		in := v.input(t)
		if got := hex.EncodeToString(mint.Message(in)); got != v.Message {
			t.Errorf("%s %s: message %s, want %s", v.Purpose, v.Type, got, v.Message)
		}
		derived := mint.Derive(edgeclaim.NewSecret(string(bytesOf(t, v.BoxKey))), in)
		if got := hex.EncodeToString(derived[:]); got != v.Derived {
			t.Errorf("%s %s: derived %s, want %s", v.Purpose, v.Type, got, v.Derived)
		}
	}
}

// TestOpenSSLAgrees: the vectors are HMAC-SHA256 by somebody else's hand.
func TestOpenSSLAgrees(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	for _, v := range vectors(t) {
		cmd := exec.CommandContext(t.Context(), openssl, "dgst", "-sha256", "-mac", "HMAC", "-macopt", "hexkey:"+v.BoxKey) //nolint:gosec // our own vectors
		cmd.Stdin = bytes.NewReader(bytesOf(t, v.Message))
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(strings.TrimSpace(string(out)), v.Derived) {
			t.Errorf("openssl says %s, want %s", out, v.Derived)
		}
	}
}

// inputs draws any input.
func inputs(t *rapid.T, name string) *mint.Input {
	sized := func(what string, least, most int) []byte {
		return rapid.SliceOfN(rapid.ByteRange(0, 3), least, most).Draw(t, name+what)
	}
	in := mint.Input{
		Purpose: rapid.SampledFrom([]mint.Purpose{mint.ForClaim, mint.ForRotate}).Draw(t, name+"purpose"),
		Type: rapid.SampledFrom([]edgeclaim.CredentialType{
			edgeclaim.CredentialAPIKey, edgeclaim.CredentialPSK, edgeclaim.CredentialX509,
		}).Draw(t, name+"type"),
		Nonce: sized("nonce", 16, 64), Salt: [mint.Size]byte(sized("salt", mint.Size, mint.Size)),
	}
	var errs [3]error
	in.Tenant, errs[0] = edgeclaim.TenantIDFromBytes(sized("tenant", 16, 16))
	in.Device, errs[1] = edgeclaim.DeviceIDFromBytes(sized("device", 16, 16))
	in.Key, errs[2] = edgeclaim.KeyHashFromBytes(sized("key", 32, 32))
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return &in
}

func same(a, b *mint.Input) bool {
	return a.Purpose == b.Purpose && a.Type == b.Type && a.Tenant == b.Tenant && a.Device == b.Device &&
		a.Key == b.Key && a.Salt == b.Salt && bytes.Equal(a.Nonce, b.Nonce)
}

// TestInputsAreToldApart: no two inputs have one message, whatever is moved
// from one member into the next.
func TestInputsAreToldApart(t *testing.T) {
	box := edgeclaim.NewSecret(strings.Repeat("k", mint.Size))
	rapid.Check(t, func(t *rapid.T) {
		a, b := inputs(t, "a "), inputs(t, "b ")
		// Most draws differ everywhere: make them differ in one thing at most.
		switch rapid.IntRange(0, 7).Draw(t, "differ in") {
		case 0:
			c := *a
			c.Nonce = b.Nonce
			b = &c
		case 1:
			c := *a
			c.Salt = b.Salt
			b = &c
		case 2:
			c := *a
			c.Purpose, c.Type = b.Purpose, b.Type
			b = &c
		case 3:
			c := *a
			c.Device = b.Device
			b = &c
		case 4:
			c := *a
			c.Key, c.Tenant = b.Key, b.Tenant
			b = &c
		}
		if bytes.Equal(mint.Message(a), mint.Message(b)) != same(a, b) {
			t.Fatalf("%+v and %+v", a, b)
		}
		if (mint.Derive(box, a) == mint.Derive(box, b)) != same(a, b) {
			t.Fatalf("%+v and %+v derive as one", a, b)
		}
		if mint.Derive(edgeclaim.NewSecret("another box"), a) == mint.Derive(box, a) {
			t.Fatal("another box derives the same")
		}
	})
}

func TestSealKey(t *testing.T) {
	var derived, other [mint.Size]byte
	_, _ = rand.Read(derived[:])
	_, _ = rand.Read(other[:])
	pkcs8 := []byte("a private key")
	sealed, err := mint.SealKey(derived, pkcs8)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, pkcs8) {
		t.Error("it is in the clear")
	}
	if got, err := mint.OpenKey(derived, sealed); err != nil || !bytes.Equal(got, pkcs8) {
		t.Errorf("opened %q, %v", got, err)
	}
	if got, err := mint.OpenKey(other, sealed); err == nil {
		t.Errorf("another secret opens it: %q", got)
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if got, err := mint.OpenKey(derived, changed); err == nil {
			t.Errorf("changed at %d it opens: %q", i, got)
		}
	}
	for _, short := range [][]byte{nil, {}, sealed[:15], sealed[:16]} {
		if _, err := mint.OpenKey(derived, short); err == nil {
			t.Errorf("%d bytes open", len(short))
		}
	}
}

func deviceID(t *testing.T, text string) edgeclaim.DeviceID {
	t.Helper()
	id, err := edgeclaim.ParseDeviceID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestSealPSK: it opens with upstream's key, for the box, device and hash that
// the record tells, and for no others.
func TestSealPSK(t *testing.T) {
	key, err := mint.GenerateOpener()
	if err != nil {
		t.Fatal(err)
	}
	thief, err := mint.GenerateOpener()
	if err != nil {
		t.Fatal(err)
	}
	to, err := mint.ParseRecipient(key.PublicKey().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	one := deviceID(t, "8f1c0b7e-3d2a-5f56-9a10-2c4e6f8b1d33")
	other := deviceID(t, "8f1c0b7e-3d2a-5f56-9a10-2c4e6f8b1d34")
	psk := edgeclaim.NewSecret("ZYXWVUTSRQPONMLKJIHGFEDCBAzyxwvutsrqponmlkj")
	sealed, err := mint.SealPSK(to, "box", one, psk)
	if err != nil {
		t.Fatal(err)
	}
	if twice, err := mint.SealPSK(to, "box", one, psk); err != nil || bytes.Equal(sealed, twice) {
		t.Errorf("the same twice: %v", err)
	}
	if got, err := mint.OpenPSK(key, "box", one, psk.Hash(), sealed); err != nil || !got.Equal(psk) {
		t.Errorf("opened %v", err)
	}
	changed := bytes.Clone(sealed)
	changed[len(changed)-1] ^= 1
	for name, opened := range map[string]func() (edgeclaim.Secret, error){
		"another key":    func() (edgeclaim.Secret, error) { return mint.OpenPSK(thief, "box", one, psk.Hash(), sealed) },
		"another box":    func() (edgeclaim.Secret, error) { return mint.OpenPSK(key, "bax", one, psk.Hash(), sealed) },
		"another device": func() (edgeclaim.Secret, error) { return mint.OpenPSK(key, "box", other, psk.Hash(), sealed) },
		"another hash": func() (edgeclaim.Secret, error) {
			return mint.OpenPSK(key, "box", one, edgeclaim.NewSecret("x").Hash(), sealed)
		},
		"changed": func() (edgeclaim.Secret, error) { return mint.OpenPSK(key, "box", one, psk.Hash(), changed) },
		"nothing": func() (edgeclaim.Secret, error) { return mint.OpenPSK(key, "box", one, psk.Hash(), nil) },
	} {
		if got, err := opened(); err == nil {
			t.Errorf("%s opens it: %d characters", name, len(got.Reveal()))
		}
	}
}

// TestSealedYesterday: what was sealed by an earlier version opens still.
func TestSealedYesterday(t *testing.T) {
	var saved struct {
		Private string             `json:"private_key"` // hexadecimal
		KeyID   string             `json:"key_id"`
		Box     string             `json:"box_id"`
		Device  edgeclaim.DeviceID `json:"device_id"`
		PSK     string             `json:"psk"`
		Sealed  string             `json:"sealed"` // base64url
	}
	text, err := os.ReadFile("testdata/sealed.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &saved); err != nil {
		t.Fatal(err)
	}
	key, err := mint.ParseOpener(bytesOf(t, saved.Private))
	if err != nil {
		t.Fatal(err)
	}
	if got := mint.KeyID(key.PublicKey()); got != saved.KeyID {
		t.Errorf("key id %s, want %s", got, saved.KeyID)
	}
	sealed, err := base64.RawURLEncoding.DecodeString(saved.Sealed)
	if err != nil {
		t.Fatal(err)
	}
	psk, err := mint.OpenPSK(key, saved.Box, saved.Device, edgeclaim.NewSecret(saved.PSK).Hash(), sealed)
	if err != nil || psk.Reveal() != saved.PSK {
		t.Errorf("opened %v", err)
	}
}

func TestParseKeys(t *testing.T) {
	for _, raw := range [][]byte{nil, {}, make([]byte, 31), make([]byte, 33)} {
		if _, err := mint.ParseRecipient(raw); err == nil {
			t.Errorf("a public key of %d bytes", len(raw))
		}
		if _, err := mint.ParseOpener(raw); err == nil {
			t.Errorf("a private key of %d bytes", len(raw))
		}
	}
	// A point of small order has no secret: sealing for it must fail, not leak.
	if to, err := mint.ParseRecipient(make([]byte, mint.Size)); err == nil {
		if _, err := mint.SealPSK(to, "box", deviceID(t, "8f1c0b7e-3d2a-5f56-9a10-2c4e6f8b1d33"), edgeclaim.NewSecret("psk")); err == nil {
			t.Error("sealed for a key that everybody has")
		}
	}
}

// FuzzOpen: nothing that is not sealed opens, and nothing panics.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(make([]byte, 32))
	f.Add(make([]byte, 91))
	key, err := mint.ParseOpener(bytes.Repeat([]byte{7}, mint.Size))
	if err != nil {
		f.Fatal(err)
	}
	id, err := edgeclaim.ParseDeviceID("8f1c0b7e-3d2a-5f56-9a10-2c4e6f8b1d33")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if _, err := mint.OpenPSK(key, "box", id, edgeclaim.NewSecret("psk").Hash(), sealed); err == nil {
			t.Error("opened")
		}
		if _, err := mint.OpenKey([mint.Size]byte{}, sealed); err == nil && len(sealed) != 16 {
			t.Error("opened")
		}
	})
}
