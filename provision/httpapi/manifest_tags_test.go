package httpapi_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"edgeclaim"
	"edgeclaim/provision/httpapi"
)

// TestManifestTags: tags are one column, each row's are held to their form by
// itself, and what is listed is read again as it was.
func TestManifestTags(t *testing.T) {
	f := newFace(t)
	template, key := f.template("")
	status, report, message := f.manifest(template, "", "hardware_id,tags\nA1,hall=4;note=a=b;empty=\nA2,x\nA3,=v\nA4,a=1;a=2\nA5,a=1;\nA6,a="+
		strings.Repeat("v", 129)+"\nA7,\n")
	if want := "rows 7 added 2 changed 0 removed 0 refused 5"; status != 200 || counts(report) != want {
		t.Errorf("%d %s %s, want %s", status, counts(report), message, want)
	}
	const form = "tags: want name=value, with ; between several"
	want := []string{"3 " + form, "4 " + form, "5 tags: a name is given more than once", "6 " + form, "7 tags: want 1 to 128 characters"}
	var refused []string
	for _, r := range report.Refused {
		refused = append(refused, fmt.Sprintf("%d %s: %s", r.Line, r.Field, r.Message))
	}
	if !slices.Equal(refused, want) {
		t.Errorf("refused %q, want %q", refused, want)
	}
	tags := map[string]string{"hall": "4", "note": "a=b", "empty": ""}
	if rows := f.listed(template); len(rows) != 2 || !maps.Equal(rows[0].Tags, tags) || rows[1].Tags != nil {
		t.Errorf("listed %v, want %v and none", rows, tags)
	}
	_, text := f.ask(f.admin, f.request("GET", "http://box/api/v1/templates/"+template+"/manifest", "", "Accept", "text/csv"))
	if want := "hardware_id,profile_id,name,groups,tags\nA1,,,,empty=;hall=4;note=a=b\nA7,,,,\n"; text != want {
		t.Errorf("as CSV %q, want %q", text, want)
	}
	_, report, _ = f.manifest(template, "?replace=true", text)
	if want := "rows 2 added 0 changed 0 removed 0 refused 0"; counts(report) != want {
		t.Errorf("what was listed: %s, want %s", counts(report), want)
	}
	_, report, _ = f.manifest(template, "?dry_run=true", "hardware_id,tags\nA1,hall=5\n")
	if want := "rows 1 added 0 changed 1 removed 0 refused 0"; counts(report) != want {
		t.Errorf("another tag: %s, want %s", counts(report), want)
	}
	var device edgeclaim.Device
	f.call("GET", "/api/v1/devices/"+f.claimed(key, "A1").DeviceID, "", &device)
	if !maps.Equal(device.Tags, tags) {
		t.Errorf("the device has %v, want %v", device.Tags, tags)
	}
}

// TestUnspeakableRows: what CSV has no words for is not written as something
// else, and nothing is written of its page.
func TestUnspeakableRows(t *testing.T) {
	t.Parallel()
	hardware, err := edgeclaim.ParseHardwareID("A")
	if err != nil {
		t.Fatal(err)
	}
	const header = "hardware_id,profile_id,name,groups,tags\n"
	for _, c := range []struct {
		row  edgeclaim.ManifestRow
		want string
	}{
		{edgeclaim.ManifestRow{Groups: []string{"a", "b"}, Tags: map[string]string{"z": "1=2", "a": ""}}, "A,,,a;b,a=;z=1=2\n"},
		{edgeclaim.ManifestRow{Groups: []string{"a;b"}}, ""},
		{edgeclaim.ManifestRow{Tags: map[string]string{"a;b": "v"}}, ""},
		{edgeclaim.ManifestRow{Tags: map[string]string{"a": "v;w"}}, ""},
		{edgeclaim.ManifestRow{Tags: map[string]string{"a=b": "v"}}, ""},
	} {
		c.row.Hardware = hardware
		var text strings.Builder
		err := httpapi.WriteManifest(&text, []edgeclaim.ManifestRow{c.row})
		if said := strings.TrimPrefix(text.String(), header); said != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%v: %q %v, want %q", c.row, said, err, c.want)
		}
	}
}
