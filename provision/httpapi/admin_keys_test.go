package httpapi_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"edgeclaim"
)

// made are the ids of the devices that the API says a key has made.
func (f *face) made(key, query string) (ids []string) {
	f.t.Helper()
	var devices []struct {
		ID    string `json:"device_id"`
		Key   string `json:"key_id"`
		State string
	}
	if status := f.call("GET", "/api/v1/keys/"+key+"/devices"+query, "", &devices); status != 200 {
		f.t.Fatalf("devices of a key: %d", status)
	}
	for _, d := range devices {
		ids = append(ids, d.ID)
		if d.Key != key || d.State == "" {
			f.t.Errorf("of key %s: %+v", key, d)
		}
	}
	return ids
}

// TestKeyDevices: those of a key and no others, whole and by the page.
func TestKeyDevices(t *testing.T) {
	f := newFace(t)
	_, one, first := f.issue()
	_, two, second := f.issue()
	var want []string
	for i := range 7 {
		want = append(want, f.claimed(first, fmt.Sprintf("A%d", i)).DeviceID)
		f.claimed(second, fmt.Sprintf("B%d", i))
	}
	if got := f.made(one, ""); !slices.Equal(got, want) {
		t.Errorf("made %q, want %q", got, want)
	}
	var paged []string
	for page := f.made(one, "?limit=3"); len(page) > 0; page = f.made(one, "?limit=3&after="+page[len(page)-1]) {
		paged = append(paged, page...)
	}
	if !slices.Equal(paged, want) {
		t.Errorf("by the page %q, want %q", paged, want)
	}
	// Released and claimed anew, a device is of the key that it claimed with.
	if status := f.call("POST", "/api/v1/devices/"+want[0]+"/release", "", nil); status != 200 {
		t.Fatalf("release: %d", status)
	}
	var device edgeclaim.Device
	f.call("GET", "/api/v1/devices/"+want[0], "", &device)
	f.claimed(second, device.Hardware.String())
	if got := f.made(one, ""); !slices.Equal(got, want[1:]) {
		t.Errorf("without the one that moved: %q, want %q", got, want[1:])
	}
	if got := f.made(two, ""); len(got) != 8 || !slices.Contains(got, want[0]) {
		t.Errorf("with the one that moved: %q", got)
	}
}

// TestKeyRevoked: the devices stay as they are until somebody asks for them;
// then each is written down by itself, and the key with their number.
func TestKeyRevoked(t *testing.T) {
	f := newFace(t)
	_, key, secret := f.issue()
	_, _, other := f.issue()
	var ids []string
	for i := range 5 {
		ids = append(ids, f.claimed(secret, fmt.Sprintf("A%d", i)).DeviceID)
	}
	kept := f.claimed(other, "B").DeviceID
	type revoked struct {
		Status  edgeclaim.KeyStatus
		Devices int `json:"devices_revoked"`
		Before  int `json:"devices_revoked_before"`
	}
	ask := func(body string, want revoked) {
		t.Helper()
		var got revoked
		if status := f.call("POST", "/api/v1/keys/"+key+"/revoke", body, &got); status != 200 || got != want {
			t.Errorf("%s: %d %+v, want %+v", body, status, got, want)
		}
	}
	state := func(id string) string {
		t.Helper()
		var d struct{ State string }
		f.call("GET", "/api/v1/devices/"+id, "", &d)
		return d.State
	}
	ask("", revoked{edgeclaim.KeyRevoked, 0, 0})
	for _, id := range append(ids, kept) {
		if got := state(id); got != "claimed" {
			t.Errorf("%s is %s with its key alone", id, got)
		}
	}
	if status := f.call("POST", "/api/v1/devices/"+ids[0]+"/revoke", "", nil); status != 200 {
		t.Fatalf("revoke: %d", status)
	}
	before := len(f.changes())
	ask(`{"devices":true,"reason":"leaked"}`, revoked{edgeclaim.KeyRevoked, 4, 1})
	var devices, keys int
	for _, e := range f.changes()[before:] {
		switch e["kind"] {
		case "device.revoked":
			devices++
		case "key.revoked":
			keys++
			if e["key_id"] != key || fmt.Sprint(e["count"]) != "4" {
				t.Errorf("audited as %v", e)
			}
		}
		if e["reason"] != "leaked" || !strings.HasPrefix(fmt.Sprint(e["who"]), "uid:") {
			t.Errorf("audited as %v", e)
		}
	}
	if devices != 4 || keys != 1 {
		t.Errorf("%d entries of devices and %d of the key, want 4 and 1", devices, keys)
	}
	for _, id := range ids {
		if got := state(id); got != "revoked" {
			t.Errorf("%s is %s", id, got)
		}
	}
	if got := state(kept); got != "claimed" {
		t.Errorf("another key's device is %s", got)
	}
	ask(`{"devices":true}`, revoked{edgeclaim.KeyRevoked, 0, 5})
}
