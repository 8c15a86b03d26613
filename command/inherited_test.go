package command_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"edgeclaim"
	"edgeclaim/command"
)

// profiles are those of the devices' tenant: a default, and those named as in
// stock; an empty text is one without a configuration.
func (r *rig) profiles(version uint64, byDefault string, profile ...string) {
	in := edgeclaim.Inherited{Default: &edgeclaim.Profile{Config: json.RawMessage(byDefault)}, Version: version}
	for _, text := range profile {
		in.Profile = &edgeclaim.Profile{ID: profileID, Config: json.RawMessage(text)}
	}
	r.inherits.Store(&in)
}

// TestInheritedConfig: a device's configuration is its tenant's default, its
// profile's and its own, one over the other.
func TestInheritedConfig(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		ctx, first := context.Background(), device(t, 1)
		is := func(what string, version uint64, text string) {
			t.Helper()
			got, err := r.Config(ctx, first)
			r.noErr(err)
			equal(t, what, got, edgeclaim.DeviceConfig{Version: version, Config: json.RawMessage(text)})
		}
		is("nobody has set anything", 0, `{}`)
		r.profiles(3, "", "")
		is("profiles without a configuration", 3, `{}`)
		r.profiles(4, `{"interval":30,"limits":{"low":1,"high":9}}`)
		is("the tenant's", 4, `{"interval":30,"limits":{"high":9,"low":1}}`)
		r.profiles(5, `{"interval":30,"limits":{"low":1,"high":9}}`, `{"interval":5,"limits":{"high":null}}`)
		is("the profile's goes before", 5, `{"interval":5,"limits":{"low":1}}`)

		set, err := r.SetConfig(ctx, first, []byte(`{"limits":{"low":2},"name":"press"}`), "uid:0")
		r.noErr(err)
		equal(t, "what holds is said", set,
			edgeclaim.DeviceConfig{Version: 6, Config: json.RawMessage(`{"interval":5,"limits":{"low":2},"name":"press"}`)})
		is("its own goes before all", 6, string(set.Config))
		equal(t, "woken", r.wakes(), []edgeclaim.DeviceID{first})
		again, err := r.SetConfig(ctx, first, []byte(`{"limits":{"low":2},"name":"press"}`), "uid:0")
		r.noErr(err)
		equal(t, "set again", again, set)
		equal(t, "woken for nothing", r.wakes(), []edgeclaim.DeviceID(nil))

		_, err = r.SetConfig(ctx, first, []byte(`{"interval":null,"limits":null}`), "uid:0")
		r.noErr(err)
		is("null takes the inherited away", 7, `{}`)
		r.profiles(6, `{"interval":1}`, `{"other":true}`)
		is("another version", 8, `{"other":true}`)
		r.profiles(7, "")
		is("nothing is inherited: its own as it was set", 9, `{"interval":null,"limits":null}`)

		if _, err := r.Config(ctx, device(t, 77)); !errors.Is(err, edgeclaim.ErrNotFound) {
			t.Errorf("a device that nobody knows: %v", err)
		}
		r.profiles(8, `{"broken":`)
		if got, err := r.Config(ctx, first); err == nil {
			t.Errorf("what cannot be merged: %+v", got)
		}
	})
}

// TestProfilesChanged: those who listen are looked at.
func TestProfilesChanged(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.ProfilesChanged()
		r.ProfilesChanged()
		if n := r.wokenAll.Load(); n != 2 {
			t.Errorf("all are woken %d times", n)
		}
	})
}

// TestBasesAreBounded: what was merged once is kept for the devices that have it
// in common, and not for ever.
func TestBasesAreBounded(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		read := func() {
			t.Helper()
			_, err := r.Config(context.Background(), device(t, 1))
			r.noErr(err)
		}
		for version := range uint64(10) {
			r.profiles(version+1, `{"a":1}`, `{"b":2}`)
			read()
			read()
			if n := r.Bases(); n != 1 {
				t.Fatalf("%d are kept of one version", n)
			}
		}
		for n := range 2 * command.MaxBases { // of one version: as many profiles
			r.profiles(11, `{"a":1}`, fmt.Sprintf(`{"b":%d}`, n))
			read()
		}
		if n := r.Bases(); n != command.MaxBases {
			t.Errorf("%d are kept", n)
		}
	})
}
