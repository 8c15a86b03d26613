package hub_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/bridge/hub"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/mint"
)

// Whoever comes first makes the key, and all get the same.
func TestLoadKeyMakesOne(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	keys := make([]ed25519.PrivateKey, 20)
	var group errgroup.Group
	for i := range keys {
		group.Go(func() (err error) {
			keys[i], err = hub.LoadKey(dir)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if !key.Equal(keys[0]) || len(key) != ed25519.PrivateKeySize {
			t.Fatal("not one key")
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left in the folder: %v, %v", entries, err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, hub.KeyFile): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, want %v; %v", path, info.Mode(), want, err)
		}
	}
}

// A key that is there is never replaced: the boxes trust it.
func TestLoadKeyRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"empty":       {"", 0o600},
		"cut short":   {"AAAA\n", 0o600},
		"no base64":   {"not a key at all, and 43 characters long, is it\n", 0o600},
		"for all":     {"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n", 0o644},
		"for a group": {"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n", 0o640},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, hub.KeyFile)
		if err := os.WriteFile(path, []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := hub.LoadKey(dir); err == nil {
			t.Errorf("%s: taken", name)
		} else if bytes.Contains([]byte(err.Error()), []byte("AAAA")) {
			t.Errorf("%s: the error repeats the key: %v", name, err)
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != c.text {
			t.Errorf("%s: changed to %q, %v", name, text, err)
		}
	}
}

// What a box is told fits what it checks.
func TestEnrolment(t *testing.T) {
	dir := t.TempDir()
	key, err := hub.LoadKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	seal, err := hub.LoadSealKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	document := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	text, err := wire.Encode(hub.Enrolment("SOMEHUB", key, seal.PublicKey(), document))
	if err != nil {
		t.Fatal(err)
	}
	e, public, err := wire.DecodeEnrolment(text)
	if err != nil || e.Upstream != "SOMEHUB" || !public.Equal(key.Public()) {
		t.Errorf("%+v, %v", e, err)
	}
	sealFor, err := wire.SealKeyOf(&e)
	if err != nil || !bytes.Equal(sealFor.Bytes(), seal.PublicKey().Bytes()) {
		t.Errorf("%v, %v", sealFor, err)
	}
	again, err := hub.LoadSealKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	one, _ := seal.Bytes()
	if other, _ := again.Bytes(); !bytes.Equal(one, other) || bytes.Equal(one, key.Seed()) {
		t.Error("another key, or one for two uses")
	}
}

// What a box sealed with the enrolment is read here, for that box, device and
// PSK alone.
func TestUnseal(t *testing.T) {
	dir := t.TempDir()
	seal, err := hub.LoadSealKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	other, err := hub.LoadSealKey(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	tenant, _ := edgeclaim.ParseTenantID("5f1c0b7e-3d2a-4f56-9a10-2c4e6f8b1d33")
	hardware, _ := edgeclaim.ParseHardwareID("H-1")
	device, psk := edgeclaim.NewDeviceID(tenant, hardware, 1), edgeclaim.NewSecret("psk-of-a-device")
	value, err := mint.SealPSK(seal.PublicKey(), "box-1", device, psk)
	if err != nil {
		t.Fatal(err)
	}
	good := registry.Sealed{Box: "box-1", Hash: psk.Hash(), KeyID: mint.KeyID(seal.PublicKey()), Value: value}
	if got, err := hub.Unseal(seal, device, &good); err != nil || got.Reveal() != psk.Reveal() {
		t.Errorf("%v", err)
	}
	if _, err := hub.Unseal(other, device, &good); !errors.Is(err, hub.ErrOtherSealKey) {
		t.Errorf("another key: %v", err)
	}
	for name, change := range map[string]func(*registry.Sealed){
		"another box":  func(s *registry.Sealed) { s.Box = "box-2" },
		"another hash": func(s *registry.Sealed) { s.Hash = edgeclaim.NewSecret("x").Hash() },
		"changed":      func(s *registry.Sealed) { s.Value = bytes.Clone(value); s.Value[40] ^= 1 },
		"cut short":    func(s *registry.Sealed) { s.Value = value[:20] },
	} {
		bad := good
		change(&bad)
		if _, err := hub.Unseal(seal, device, &bad); err == nil || errors.Is(err, hub.ErrOtherSealKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := hub.Unseal(seal, edgeclaim.NewDeviceID(tenant, hardware, 2), &good); err == nil {
		t.Error("another device: taken")
	}
}
