package edgeclaim_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"edgeclaim"
)

// TestMintStaysHome holds P5: a device in JSON, as the admin API and the
// snapshot upstream say it, tells nothing of what its credential is made from.
func TestMintStaysHome(t *testing.T) {
	salt := [32]byte([]byte(strings.Repeat("salt", 8)))
	device := edgeclaim.Device{Told: true, Mint: &edgeclaim.Mint{
		Salt: salt, Proof: edgeclaim.NewSecret("secret").Hash(),
		Certificate: []byte("certificate"), Chain: [][]byte{[]byte("chain")}, SealedKey: []byte("sealed"),
	}}
	bare, err := json.Marshal(edgeclaim.Device{})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := json.Marshal(device); err != nil || string(text) != string(bare) {
		t.Errorf("%v\n%s\n%s", err, text, bare)
	}
}

func TestDeviceState(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	hash := edgeclaim.NewSecret("k").Hash()
	used := edgeclaim.Credential{Type: edgeclaim.CredentialAPIKey, Hash: hash, ConfirmedAt: now}
	fresh := edgeclaim.Credential{Type: edgeclaim.CredentialAPIKey, Hash: hash}
	for _, c := range []struct {
		name   string
		device edgeclaim.Device
		want   edgeclaim.State
	}{
		{"never used", edgeclaim.Device{Credential: fresh}, edgeclaim.StateClaimed},
		{"used", edgeclaim.Device{Credential: used}, edgeclaim.StateConfirmed},
		{"overlap", edgeclaim.Device{Credential: used, Previous: used, PreviousUntil: now.Add(1)}, edgeclaim.StateRotating},
		{"overlap over", edgeclaim.Device{Credential: used, Previous: used, PreviousUntil: now}, edgeclaim.StateConfirmed},
		{
			"overlap over, the device never used what it asked for",
			edgeclaim.Device{Credential: fresh, Previous: used, PreviousUntil: now, RotatedBy: edgeclaim.RotatorDevice},
			edgeclaim.StateRotating,
		},
		{
			"overlap over, it never used what the operator made",
			edgeclaim.Device{Credential: fresh, Previous: used, PreviousUntil: now, RotatedBy: edgeclaim.RotatorOperator},
			edgeclaim.StateClaimed,
		},
		{"released", edgeclaim.Device{Status: edgeclaim.DeviceReleased}, edgeclaim.StateReleased},
		{"revoked", edgeclaim.Device{Status: edgeclaim.DeviceRevoked, Previous: used, PreviousUntil: now.Add(1)}, edgeclaim.StateRevoked},
	} {
		if c.device.Status == "" {
			c.device.Status = edgeclaim.DeviceActive
		}
		if got := c.device.State(now); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestFoldMAC(t *testing.T) {
	const want = "AA:BB:CC:00:11:2F"
	for _, good := range []string{want, "aabbcc00112f", "AA-bb-CC-00-11-2f", "aabb.cc00.112F"} {
		folded, err := edgeclaim.FoldMAC(parse(t, edgeclaim.ParseHardwareID, good))
		if err != nil || folded.String() != want {
			t.Errorf("%s: %s, %v", good, folded, err)
		}
	}
	for _, bad := range []string{
		"aabbcc00112", "aabbcc00112f0", "aabbcc00112g", "aa:bb:cc:00:11", "aa:bb:cc:00:11:2f:00", "aa:bb-cc:00-11:2f",
		"aab:bcc:00:11:2f", "a:abb:cc:00:11:2f", ":aa:bb:cc:00:11:2f", "aabbcc.00112f", "aa.bb.cc.00.11.2f", "-----------",
	} {
		if folded, err := edgeclaim.FoldMAC(parse(t, edgeclaim.ParseHardwareID, bad)); err == nil {
			t.Errorf("%s was folded to %s", bad, folded)
		}
	}
}
