package edgeclaim_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"edgeclaim"

	"github.com/google/uuid"
)

// TestSecretPrintsNothing holds P5 against every way of printing that Go has.
func TestSecretPrintsNothing(t *testing.T) {
	const clear = "sk_live_do-not-print"
	secret := edgeclaim.NewSecret(clear)
	nested := struct {
		Exported edgeclaim.Secret
		hidden   edgeclaim.Secret
		list     []edgeclaim.Secret
		pointer  *edgeclaim.Secret
	}{secret, secret, []edgeclaim.Secret{secret}, &secret}

	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb, secret)
		fmt.Fprintf(&out, verb, nested)
		fmt.Fprintf(&out, verb, &nested)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "secret", secret, "nested", nested)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "secret", secret, "nested", nested)
	if err := json.NewEncoder(&out).Encode(nested); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(&out, fmt.Errorf("wrapped: %v", nested))
	if strings.Contains(out.String(), "do-not-print") || strings.Contains(out.String(), fmt.Sprintf("%x", clear)) {
		t.Errorf("a secret was printed:\n%s", out.String())
	}
	if got := secret.Reveal(); got != clear {
		t.Errorf("Reveal() = %q", got)
	}
}

func TestSecretHasNoEquals(t *testing.T) {
	if reflect.TypeFor[edgeclaim.Secret]().Comparable() {
		t.Error("edgeclaim.Secret can be compared with ==")
	}
	a, b, c := edgeclaim.NewSecret("a"), edgeclaim.NewSecret("a"), edgeclaim.NewSecret("b")
	if !a.Equal(b) || a.Equal(c) || a.Equal(edgeclaim.Secret{}) {
		t.Error("Equal is wrong")
	}
	if (edgeclaim.Secret{}).Reveal() != "" || !(edgeclaim.Secret{}).IsZero() {
		t.Error("the zero secret is not the empty string")
	}
}

// TestNewDeviceID holds P4 against an implementation that is not ours.
func TestNewDeviceID(t *testing.T) {
	const tenantText = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
	tenant := parse(t, edgeclaim.ParseTenantID, tenantText)
	for _, hardware := range []string{"AA:BB:CC:00:11:22", "www.example.com", "~", strings.Repeat("x", 128)} {
		id := edgeclaim.NewDeviceID(tenant, parse(t, edgeclaim.ParseHardwareID, hardware), 1)
		want := uuid.NewSHA1(uuid.MustParse(tenantText), []byte(hardware)).String()
		if id.String() != want {
			t.Errorf("device id of %q = %s, want %s", hardware, id, want)
		}
	}
	board := parse(t, edgeclaim.ParseHardwareID, "H0")
	second := edgeclaim.NewDeviceID(tenant, board, 2)
	if want := uuid.NewSHA1(uuid.MustParse(tenantText), []byte("H0#2")).String(); second.String() != want {
		t.Errorf("second generation = %s, want %s", second, want)
	}
}

func TestParsers(t *testing.T) {
	cases := []struct {
		name  string
		parse func(string) (string, error)
		good  []string
		bad   []string
		field string
	}{
		{
			"tenant", textOf(edgeclaim.ParseTenantID),
			[]string{"6ba7b810-9dad-11d1-80b4-00c04fd430c8"},
			[]string{"", "6ba7b8109dad11d180b400c04fd430c8", "6ba7b810-9dad-11d1-80b4-00c04fd430cg", "{6ba7b810-9dad-11d1-80b4-00c04fd430c8}", "6ba7b810-9dad-11d1-80b4-00c04fd430c8 "},
			"tenant_id",
		},
		{
			"device", textOf(edgeclaim.ParseDeviceID),
			[]string{"8f1c0b7e-3d2a-4f56-9a10-2c4e6f8b1d33"},
			[]string{"", "provision", "8f1c0b7e-3d2a-4f56-9a10-2c4e6f8b1d3", "8f1c0b7e/3d2a-4f56-9a10-2c4e6f8b1d33"},
			"device_id",
		},
		{
			"hardware", textOf(edgeclaim.ParseHardwareID),
			[]string{"a", "!", "~", "AA:BB:CC:00:11:22", strings.Repeat("x", 128), "a#b+c/d"},
			[]string{"", " ", "a b", "a\tb", "a\x00", "é", "\x7f", strings.Repeat("x", 129)},
			"hardware_id",
		},
		{
			"template", textOf(edgeclaim.ParseTemplateID),
			[]string{"a", "A-z_0.9", strings.Repeat("x", 64)}, []string{"", "a/b", "a b", "é", strings.Repeat("x", 65)},
			"template_id",
		},
		{
			"key", textOf(edgeclaim.ParseKeyID),
			[]string{"a", "019a-b"}, []string{"", "../x", "a\n"},
			"key_id",
		},
		{
			"hash", textOf(edgeclaim.ParseKeyHash),
			[]string{strings.Repeat("0a", 32)}, []string{"", strings.Repeat("0a", 31), strings.Repeat("0g", 32), strings.Repeat("0a", 33)},
			"sha256",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, text := range c.good {
				if got, err := c.parse(text); err != nil || got != text {
					t.Errorf("parse %q = %q, %v", text, got, err)
				}
			}
			for _, text := range c.bad {
				_, err := c.parse(text)
				invalid, ok := errors.AsType[*edgeclaim.InvalidError](err)
				if !ok || invalid.Field != c.field || !errors.Is(err, edgeclaim.ErrInvalid) {
					t.Errorf("parse %q: %v, want an InvalidError of %s", text, err, c.field)
				}
			}
		})
	}
}

func TestUUIDsFoldCase(t *testing.T) {
	id := parse(t, edgeclaim.ParseDeviceID, "8F1C0B7E-3D2A-4F56-9A10-2C4E6F8B1D33")
	if id.String() != "8f1c0b7e-3d2a-4f56-9a10-2c4e6f8b1d33" {
		t.Errorf("id = %s", id)
	}
}

func TestCheckName(t *testing.T) {
	for _, good := range []string{"x", "Cold Store Sensor 014", "温度計", strings.Repeat("é", 128)} {
		if err := edgeclaim.CheckName("name", good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "a\nb", "a\x7f", "a\u0085b", "\xff", strings.Repeat("é", 129)} {
		if err := edgeclaim.CheckName("name", bad); !errors.Is(err, edgeclaim.ErrInvalid) {
			t.Errorf("%q: %v, want ErrInvalid", bad, err)
		}
	}
}

// TestNounsSurviveJSON: what the admin API writes, the commands read back.
func TestNounsSurviveJSON(t *testing.T) {
	tenant := parse(t, edgeclaim.ParseTenantID, "6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	hardware := parse(t, edgeclaim.ParseHardwareID, "H1")
	device := edgeclaim.Device{
		ID: edgeclaim.NewDeviceID(tenant, hardware, 1), Tenant: tenant, Hardware: hardware, Name: "n",
		Template: parse(t, edgeclaim.ParseTemplateID, "t"), Key: parse(t, edgeclaim.ParseKeyID, "k"), Groups: []string{"g"},
		Generation: 1, Status: edgeclaim.DeviceActive, ClaimedVia: edgeclaim.ViaMQTT,
		Credential: edgeclaim.Credential{Type: edgeclaim.CredentialAPIKey, Hash: edgeclaim.NewSecret("s").Hash()},
	}
	encoded, err := json.Marshal(device)
	if err != nil {
		t.Fatal(err)
	}
	var back edgeclaim.Device
	if err := json.Unmarshal(encoded, &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, device) {
		t.Errorf("read back %+v\nwant %+v", back, device)
	}
	if err := json.Unmarshal([]byte(`{"device_id":"nonsense"}`), &back); !errors.Is(err, edgeclaim.ErrInvalid) {
		t.Errorf("a wrong id was read from JSON: %v", err)
	}
}

func TestRefusalsLookAlike(t *testing.T) {
	a, b := &edgeclaim.Refusal{Reason: edgeclaim.ReasonUnknownKey}, &edgeclaim.Refusal{Reason: edgeclaim.ReasonExpired}
	if a.Error() != b.Error() || !errors.Is(a, edgeclaim.ErrDenied) {
		t.Error("two refusals differ outside")
	}
}

func FuzzParseIDs(f *testing.F) {
	for _, seed := range []string{"", "8f1c0b7e-3d2a-4f56-9a10-2c4e6f8b1d33", "AA:BB:CC:00:11:22", strings.Repeat("0a", 32), "a b", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, parse := range []func(string) (string, error){
			textOf(edgeclaim.ParseTenantID), textOf(edgeclaim.ParseDeviceID), textOf(edgeclaim.ParseHardwareID),
			textOf(edgeclaim.ParseTemplateID), textOf(edgeclaim.ParseKeyID), textOf(edgeclaim.ParseKeyHash),
		} {
			printed, err := parse(text)
			if err != nil {
				continue
			}
			if !strings.EqualFold(printed, text) {
				t.Errorf("%q prints as %q", text, printed)
			}
			if again, err := parse(printed); err != nil || again != printed {
				t.Errorf("%q does not survive a round trip: %q, %v", text, again, err)
			}
		}
	})
}

func parse[T any](t *testing.T, parse func(string) (T, error), text string) T {
	t.Helper()
	v, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func textOf[T fmt.Stringer](parse func(string) (T, error)) func(string) (string, error) {
	return func(text string) (string, error) {
		v, err := parse(text)
		return v.String(), err
	}
}
