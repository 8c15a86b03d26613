package acceptance

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"edgeclaim/internal/mqttwire"
)

// TestKeyOverused: a key that was meant for one device and is tried with many
// raises an alarm; the device that it was for goes on.
func TestKeyOverused(t *testing.T) {
	t.Parallel()
	b := startBox(t)
	key := b.key("--one-time")
	d := b.claimOne(key, "RIGHT")
	for i := range 25 {
		if said := b.post(claimBody(key, "n", fmt.Sprint("WRONG-", i))); said.body != denied {
			t.Fatalf("claim %d with a used key: %d %s", i, said.status, said.body)
		}
	}
	until(t, "the alarm is raised", func() bool { return b.alarm("key_overused") > 0 })
	if said := b.post(claimBody(key, "n", "RIGHT")); said.text(t, "device_id") != d.id {
		t.Errorf("the right hardware was answered %d %s", said.status, said.body)
	}
	b.wantLogin(d.id, d.apiKey, true, "its key is overused")
}

// TestDenied: a hardware is refused as everything is, its device goes on.
func TestDenied(t *testing.T) {
	t.Parallel()
	b := startBox(t)
	key := b.key()
	known := b.claimOne(key, "KNOWN")
	s := b.open(known.id, known.apiKey)
	for _, hardware := range []string{"KNOWN", "NEW"} {
		b.json(nil, "deny", "--hardware-id", hardware)
		for _, said := range []answer{b.post(claimBody(key, "n", hardware)), b.ask(mqttwire.V311, claimBody(key, "n", hardware))} {
			if said.body != denied {
				t.Errorf("the claim of %s, which is denied: %s", hardware, said.body)
			}
		}
	}
	s.wantOpen("denied")
	b.wantLogin(known.id, known.apiKey, true, "denied")
	b.json(nil, "deny", "--hardware-id", "NEW", "--remove")
	if got := b.claimOne(key, "NEW"); got.id == "" {
		t.Error("no device")
	}
}

// TestApproval: a claim waits for the operator over both faces, and is answered
// at once where its connection is still there.
func TestApproval(t *testing.T) {
	t.Parallel()
	b := startBox(t)
	key := b.key("--approval", "manual")
	const waiting = `{"code":9,"message":"waiting for approval","details":[]}`
	over := b.post(claimBody(key, "n", "BY-HTTP"))
	if over.status != http.StatusAccepted || over.body != waiting || over.header.Get("Retry-After") == "" {
		t.Errorf("over HTTP: %d %v %s", over.status, over.header, over.body)
	}
	connected := map[string]*sitting{}
	for _, hardware := range []string{"BY-MQTT", "REFUSED"} {
		s := listen(t, claimant(t, b.mqttAddr))
		if err := s.client.Publish(mqttwire.Message{Topic: "provision/request", Payload: []byte(claimBody(key, "n", hardware)), QoS: 1}); err != nil {
			t.Fatal(err)
		}
		if said := s.next(mqttwire.Publish); string(said.Payload) != waiting {
			t.Errorf("%s: %s", hardware, said.Payload)
		}
		connected[hardware] = s
	}
	if got := b.devices(); len(got) != 0 {
		t.Fatalf("%d devices before anything was approved", len(got))
	}
	pending := map[string]string{}
	var list []device
	b.json(&list, "approval", "list")
	for _, p := range list {
		pending[p.HardwareID] = p.DeviceID
	}
	if len(pending) != 3 {
		t.Fatalf("%d claims wait, want 3", len(pending))
	}
	b.json(nil, "approve", pending["BY-HTTP"])
	b.json(nil, "approve", pending["BY-MQTT"])
	b.json(nil, "approve", pending["REFUSED"], "--refuse")
	if d := b.claimOne(key, "BY-HTTP"); d.id != pending["BY-HTTP"] {
		t.Errorf("approved as %s, claimed as %s", pending["BY-HTTP"], d.id)
	}
	said := answer{body: string(connected["BY-MQTT"].next(mqttwire.Publish).Payload)}
	b.wantLogin(said.text(t, "device_id"), said.text(t, "api_key"), true, "approved while connected")
	if got := connected["REFUSED"].next(mqttwire.Publish); string(got.Payload) != denied {
		t.Errorf("refused while connected: %s", got.Payload)
	}
	if got := b.post(claimBody(key, "n", "REFUSED")); got.body != denied {
		t.Errorf("refused, and asked again: %s", got.body)
	}
	// An approval is for one claim, not for the hardware's life.
	if got := b.post(claimBody(key, "n", "OTHER")); got.status != http.StatusAccepted {
		t.Errorf("other hardware: %d %s", got.status, got.body)
	}
}

// TestManifest: a template with a list lets in what is on it, under the names
// that the list has.
func TestManifest(t *testing.T) {
	t.Parallel()
	b := startBox(t)
	template := b.template("--allow-list", "--profile", "plain", "--hardware-id-format", "mac")
	key := b.issue(template, 1)[0].ProvisionKey
	claim := func(hardware string) answer { return b.post(claimBody(key, "said", hardware)) }
	if said := claim("AA:BB:CC:00:11:22"); said.status != http.StatusForbidden || said.body != denied {
		t.Errorf("with an empty list: %d %s", said.status, said.body)
	}
	path := filepath.Join(t.TempDir(), "boards.csv")
	rows := "hardware_id,profile_id,name,groups\naabb.cc00.1122,cold,Cold Store 4,east;cold\nAA-BB-CC-00-11-23,,,\n"
	if err := os.WriteFile(path, []byte(rows), 0o600); err != nil {
		t.Fatal(err)
	}
	b.json(nil, "manifest", "import", path, "--template", template)
	listed := claim("aa-bb-cc-00-11-22")
	if listed.status != http.StatusOK {
		t.Fatalf("listed, in another spelling: %d %s", listed.status, listed.body)
	}
	out, _, _ := b.command("", "device", "show", listed.text(t, "device_id"), "--json")
	for _, want := range []string{`"AA:BB:CC:00:11:22"`, `"Cold Store 4"`, `"cold"`, `"east"`} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("the device has no %s: %s", want, out)
		}
	}
	if said := claim("AABBCC001123"); said.status != http.StatusOK {
		t.Errorf("listed without a name: %d %s", said.status, said.body)
	}
	for _, hardware := range []string{"AA:BB:CC:00:11:24", "not-a-mac"} {
		if said := claim(hardware); said.status != http.StatusForbidden || said.body != denied {
			t.Errorf("%s: %d %s", hardware, said.status, said.body)
		}
	}
}
