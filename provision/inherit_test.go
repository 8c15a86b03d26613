package provision_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"edgeclaim"
)

func tags(pairs ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}

// TestInherited: tenant default, profile, own; the later wins.
func TestInherited(t *testing.T) {
	defaults := &edgeclaim.Profile{Tags: tags("a", "default", "b", "default", "c", "default"), Groups: []string{"all", "d"}}
	profile := edgeclaim.Profile{ID: "profile-1", Tags: tags("b", "profile", "c", "profile"), Groups: []string{"p", "all"}}
	other := edgeclaim.Profile{ID: "other", Tags: tags("b", "other"), Groups: []string{"o"}}
	row := edgeclaim.ManifestRow{Tags: tags("c", "row", "e", "row")}
	for _, c := range []struct {
		name     string
		profiles *edgeclaim.Profiles
		template string // its profile
		row      *edgeclaim.ManifestRow
		profile  string
		groups   []string
		tags     map[string]string
	}{
		{"nothing", nil, "profile-1", nil, "profile-1", []string{"g1", "g2"}, nil},
		{
			"default alone", &edgeclaim.Profiles{Default: defaults}, "profile-1", nil,
			"profile-1", []string{"all", "d", "g1", "g2"}, defaults.Tags,
		},
		{
			"profile alone", &edgeclaim.Profiles{Profiles: []edgeclaim.Profile{profile, other}}, "profile-1", nil,
			"profile-1", []string{"p", "all", "g1", "g2"}, profile.Tags,
		},
		{
			"both", &edgeclaim.Profiles{Default: defaults, Profiles: []edgeclaim.Profile{profile}}, "profile-1", nil,
			"profile-1", []string{"all", "d", "p", "g1", "g2"}, tags("a", "default", "b", "profile", "c", "profile"),
		},
		{
			"no profile", &edgeclaim.Profiles{Default: defaults, Profiles: []edgeclaim.Profile{profile}}, "", nil,
			"", []string{"all", "d", "g1", "g2"}, defaults.Tags,
		},
		{
			"unknown profile", &edgeclaim.Profiles{Default: defaults}, "unknown", nil,
			"unknown", []string{"all", "d", "g1", "g2"}, defaults.Tags,
		},
		{
			"row's tags", &edgeclaim.Profiles{Default: defaults, Profiles: []edgeclaim.Profile{profile}}, "profile-1", &row,
			"profile-1", []string{"all", "d", "p", "g1", "g2"}, tags("a", "default", "b", "profile", "c", "row", "e", "row"),
		},
		{
			"row's profile and groups", &edgeclaim.Profiles{Default: defaults, Profiles: []edgeclaim.Profile{profile, other}}, "profile-1",
			&edgeclaim.ManifestRow{Profile: "other", Groups: []string{"own", "d"}},
			"other", []string{"all", "d", "o", "own"}, tags("a", "default", "b", "other", "c", "default"),
		},
		{
			"row without profiles", nil, "profile-1", &edgeclaim.ManifestRow{Groups: []string{"own"}, Tags: tags("x", "")},
			"profile-1", []string{"own"}, tags("x", ""),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			if c.profiles != nil {
				newPlatform(r).publish(profilesOf(*c.profiles))
			}
			template := r.template(func(t *edgeclaim.Template) { t.Profile = c.template })
			if c.row != nil {
				c.row.Hardware = hardwareOf(t, "H")
				if _, _, err := r.ImportManifest(r.operator(), template.ID, []edgeclaim.ManifestRow{*c.row}); err != nil {
					t.Fatal(err)
				}
			}
			s := r.wantMinted(r.claim(r.issue(template).Secret, "H"))
			d := r.device(s.id(t))
			if d.Profile != c.profile || !slices.Equal(d.Groups, c.groups) || !maps.Equal(d.Tags, c.tags) {
				t.Errorf("profile %q, groups %q, tags %q; want %q, %q, %q", d.Profile, d.Groups, d.Tags, c.profile, c.groups, c.tags)
			}
			want := map[string]any{"groups": c.groups}
			if len(c.tags) > 0 {
				want["tags"] = c.tags
			}
			wantFields(t, r.lastRecord(edgeclaim.LaneProv, edgeclaim.TypeDeviceProvisioned), want)
			if a := r.wantLogin(s.id(t), s.APIKey); a.Profile != c.profile {
				t.Errorf("let in with profile %q", a.Profile)
			}
			who, err := r.Identify(t.Context(), edgeclaim.Login{Device: s.id(t), Key: edgeclaim.NewSecret(s.APIKey)})
			if err != nil || who.Profile != c.profile {
				t.Errorf("identified as %+v, %v", who, err)
			}
		})
	}
}

// TestInheritedBounds: what is inherited never keeps a device from its identity,
// and gives way to what is its own.
func TestInheritedBounds(t *testing.T) {
	r := newRig(t)
	many := func(prefix string, n, length int) (groups []string, m map[string]string) {
		m = map[string]string{}
		for i := range n {
			name := fmt.Sprintf("%s%02d", prefix, i)
			name += strings.Repeat("€", length-len(name))
			groups, m[name] = append(groups, name), strings.Repeat("<", length)
		}
		return groups, m
	}
	groups, m := many("d", edgeclaim.MaxGroups, edgeclaim.MaxName)
	own, ownTags := many("own", 40, 10)
	newPlatform(r).publish(profilesOf(edgeclaim.Profiles{
		Default:  &edgeclaim.Profile{Groups: groups, Tags: m},
		Profiles: []edgeclaim.Profile{{ID: "profile-1", Groups: []string{"p"}, Tags: tags("p", "p")}},
	}))
	template := r.template(nil)
	row := edgeclaim.ManifestRow{Hardware: hardwareOf(t, "H"), Groups: own, Tags: ownTags}
	if _, _, err := r.ImportManifest(r.operator(), template.ID, []edgeclaim.ManifestRow{row}); err != nil {
		t.Fatal(err)
	}
	d := r.device(r.wantMinted(r.claim(r.issue(template).Secret, "H")).id(t))
	if len(d.Groups) > edgeclaim.MaxGroups || len(d.Tags) > edgeclaim.MaxTags {
		t.Errorf("%d groups, %d tags", len(d.Groups), len(d.Tags))
	}
	for _, group := range append(own, "p") {
		if !slices.Contains(d.Groups, group) {
			t.Errorf("group %q is missing", group)
		}
	}
	for name, value := range ownTags {
		if d.Tags[name] != value {
			t.Errorf("tag %q is missing", name)
		}
	}
	if d.Tags["p"] != "p" {
		t.Error("the profile's tag is missing")
	}
	if !slices.Contains(d.Groups, groups[0]) {
		t.Error("nothing of the default fitted")
	}
}

// TestManifestTags: what an operator lists is bounded.
func TestManifestTags(t *testing.T) {
	r := newRig(t)
	template := r.template(nil)
	many, long := map[string]string{}, map[string]string{}
	for i := range edgeclaim.MaxTags + 1 {
		many[fmt.Sprint(i)] = ""
	}
	for i := range edgeclaim.MaxTags {
		long[fmt.Sprintf("%0128d", i)] = strings.Repeat("€", edgeclaim.MaxName)
	}
	for name, bad := range map[string]map[string]string{
		"too many": many, "too long together": long, "a long value": tags("a", strings.Repeat("x", edgeclaim.MaxName+1)),
		"no name": tags("", "x"), "two lines": tags("a", "b\nc"),
	} {
		row := edgeclaim.ManifestRow{Hardware: hardwareOf(t, "H"), Tags: bad}
		_, _, err := r.ImportManifest(r.operator(), template.ID, []edgeclaim.ManifestRow{row})
		if !strings.HasPrefix(fmt.Sprint(err), "tags: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCredentialsPolicy: how long certificates live, and how long the old
// credential goes on beside one that the device asked for, is the profile's word.
func TestCredentialsPolicy(t *testing.T) {
	const day = int64(24 * 60 * 60)
	for _, c := range []struct {
		name              string
		profiles          edgeclaim.Profiles
		validity, overlap time.Duration
	}{
		{"none", edgeclaim.Profiles{}, 90 * 24 * time.Hour, 24 * time.Hour},
		{
			"default's", edgeclaim.Profiles{Default: &edgeclaim.Profile{Credentials: &edgeclaim.CredentialsPolicy{X509Validity: day, Overlap: 60}}},
			24 * time.Hour, time.Minute,
		},
		{
			"profile's before it", edgeclaim.Profiles{
				Default: &edgeclaim.Profile{Credentials: &edgeclaim.CredentialsPolicy{X509Validity: day, Overlap: 60}},
				Profiles: []edgeclaim.Profile{
					{ID: "profile-1", Credentials: &edgeclaim.CredentialsPolicy{X509Validity: 3 * day}},
					{ID: "other", Credentials: &edgeclaim.CredentialsPolicy{X509Validity: 5 * day, Overlap: 5}},
				},
			}, 3 * 24 * time.Hour, time.Minute,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			newPlatform(r).publish(profilesOf(c.profiles))
			s := r.wantMinted(r.claim(r.keyOf(edgeclaim.CredentialX509), "H"))
			if got := lifeOf(t, s.Certificate, r.clock.Now()); got != c.validity {
				t.Errorf("a certificate lives %s, want %s", got, c.validity)
			}
			device := r.device(s.id(t))
			by := edgeclaim.Admission{Device: device.ID, Tenant: device.Tenant, Credential: device.Credential.Hash}
			next := r.renew(by, nil)
			if got := lifeOf(t, next.Certificate, r.clock.Now()); got != c.validity {
				t.Errorf("its next one lives %s, want %s", got, c.validity)
			}
			until, err := time.Parse(time.RFC3339, next.PreviousUntil)
			if got := until.Sub(r.clock.Now()); err != nil || got.Round(time.Second) != c.overlap {
				t.Errorf("the old one goes on for %s, %v; want %s", got, err, c.overlap)
			}
		})
	}
}

// lifeOf is how long a certificate lives from now on.
func lifeOf(t *testing.T, text string, now time.Time) time.Duration {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("no certificate: %q", text)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate.NotAfter.Sub(now)
}
