package acceptance

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"edgeclaim/internal/mqttwire"
)

// TestNonceIsOneDevices: a credential that was not used yet is said again to
// the nonce and the key that it was made for, whatever bounds the key has, and
// to nobody else. Another nonce with the same key looks like a second board; with
// another key it does not.
func TestNonceIsOneDevices(t *testing.T) {
	t.Parallel()
	b := startBox(t)
	template := b.template("--one-time", "--max-claims", "1", "--max-claims-per-minute", "1")
	keys := b.issue(template, 2)
	once := randomNonce()
	claim := func(key, nonce string) string {
		t.Helper()
		return b.post(body(t, map[string]string{"provision_key": key, "device_name": "n", "hardware_id": "H", "claim_nonce": nonce})).body
	}
	first := claim(keys[0].ProvisionKey, once)
	i := identityOf(t, kindAPIKey, first, "")
	for name, said := range map[string]string{
		"another key":           claim(keys[1].ProvisionKey, once),
		"another key and nonce": claim(keys[1].ProvisionKey, randomNonce()),
		"no nonce":              claim(keys[0].ProvisionKey, ""),
	} {
		if !nothing(t, said) {
			t.Errorf("%s: it hears %s", name, said)
		}
	}
	if n := b.alarm("device_cloned"); n != 0 {
		t.Errorf("%d alarms, and nobody looks cloned", n)
	}
	if said := claim(keys[0].ProvisionKey, randomNonce()); !nothing(t, said) {
		t.Errorf("another nonce: it hears %s", said)
	}
	until(t, "the alarm", func() bool { return b.alarm("device_cloned") > 0 })
	if said := claim(keys[0].ProvisionKey, once); said != first {
		t.Errorf("the device itself hears %s, want %s", said, first)
	}

	// Without its key the box has no word to say, and no wrong one.
	b.kill()
	if err := os.Remove(filepath.Join(b.data, "box.key")); err != nil {
		t.Fatal(err)
	}
	b.start()
	if said := claim(keys[0].ProvisionKey, once); !nothing(t, said) {
		t.Errorf("after the box lost its key: %s", said)
	}
	if code := loginCode(t, b.mqttAddr, i.id, i.secret); code != 0 {
		t.Errorf("after the box lost its key, the device's does not log in: %#x", code)
	}
	b.json(nil, "device", "release", i.id)
	again := claim(keys[0].ProvisionKey, once)
	if identityOf(t, kindAPIKey, again, "").secret == i.secret || claim(keys[0].ProvisionKey, once) != again {
		t.Errorf("released: %s", again)
	}
}

// TestNoRoomForACertificate: a client that takes no packet of that size hears
// so, and nothing was made for it.
func TestNoRoomForACertificate(t *testing.T) {
	t.Parallel()
	b := startBox(t)
	newPlantCA(t).adopt(b, time.Now().AddDate(1, 0, 0)) // a chain of two: some 2,450 bytes
	key := b.key("--credential", kindX509, "--one-time")
	for _, c := range []struct {
		room uint32
		fits bool
	}{{2300, false}, {9000, true}} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		client, ack, err := mqttwire.Dial(ctx, b.mqttAddr, mqttwire.V5, mqttwire.Login{
			ClientID: "device", Clean: true, Properties: mqttwire.Properties{MaximumPacketSize: c.room},
		})
		if err != nil || ack.Code() != 0 {
			t.Fatalf("connect: %v, code %#x", err, ack.Code())
		}
		defer client.Close()
		if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Subscribe("provision/response"); err != nil {
			t.Fatal(err)
		}
		said, _, err := askOver(client, claimBody(key, "n", "H"))
		if err != nil {
			t.Fatal(err)
		}
		if c.fits {
			identityOf(t, kindX509, said.body, "")
		} else if said.code(t) != 3 || len(b.devices()) != 0 {
			t.Errorf("with room for %d bytes: %s, and %d devices", c.room, said.body, len(b.devices()))
		}
	}
}
