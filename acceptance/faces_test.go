package acceptance

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim/internal/mqttwire"
)

// refusal is one kind of P3's refusals.
type refusal struct{ name, body string }

// refusals prepares a box to refuse in every way that an operator can bring
// about; each kind's claim may be repeated for ever.
func refusals(b *box) []refusal {
	b.t.Helper()
	disabled := b.template()
	keyOfDisabled := b.issue(disabled, 1)[0].ProvisionKey
	b.json(nil, "template", "disable", disabled)
	plain := b.template()
	keys := b.issue(plain, 3)
	b.json(nil, "key", "revoke", keys[0].KeyID)
	b.json(nil, "key", "disable", keys[1].KeyID)
	oneTime, limited := b.key("--one-time"), b.key("--max-claims", "1")
	for i, key := range []string{oneTime, limited} {
		if said := b.post(claimBody(key, "n", fmt.Sprint("first-", i))); said.status != http.StatusOK {
			b.t.Fatalf("prepare: %s", said.body)
		}
	}
	revoked, swapped := b.claimOne(keys[2].ProvisionKey, "REVOKED"), b.claimOne(keys[2].ProvisionKey, "OLD-BOARD")
	b.json(nil, "device", "revoke", revoked.id)
	b.json(nil, "device", "swap", swapped.id, "--hardware-id", "NEW-BOARD")
	b.json(nil, "deny", "--hardware-id", "DENIED")
	return []refusal{
		{"denied hardware", claimBody(keys[2].ProvisionKey, "n", "DENIED")},
		{"revoked device", claimBody(keys[2].ProvisionKey, "n", "REVOKED")},
		{"swapped hardware", claimBody(keys[2].ProvisionKey, "n", "OLD-BOARD")},
		{"not on the list", claimBody(b.key("--allow-list"), "n", "R")},
		{"unknown key", claimBody("pk_factory_never_issued", "n", "R")},
		{"disabled template", claimBody(keyOfDisabled, "n", "R")},
		{"revoked key", claimBody(keys[0].ProvisionKey, "n", "R")},
		{"disabled key", claimBody(keys[1].ProvisionKey, "n", "R")},
		{"expired template", claimBody(b.key("--expires", "2001-01-01T00:00:00Z"), "n", "R")},
		{"used one-time key", claimBody(oneTime, "n", "R")},
		{"exhausted key", claimBody(limited, "n", "R")},
		{"pattern mismatch", claimBody(b.key("--hardware-id-pattern", "ACME-[0-9]+"), "n", "xACME-1")},
	}
}

const denied = `{"code":7,"message":"permission denied","details":[]}`

// TestRefusalsAreTheSameBytes: every kind over both faces, body and headers but
// Date and request id.
func TestRefusalsAreTheSameBytes(t *testing.T) {
	b := startBox(t)
	kinds := refusals(b)
	before := len(b.devices())
	var first string
	for _, kind := range kinds {
		over := b.post(kind.body)
		over.header.Del("Date")
		over.header.Del("X-Request-Id")
		whole := fmt.Sprintf("%d %v %s", over.status, over.header, over.body)
		first = cmp.Or(first, whole)
		if over.status != http.StatusForbidden || over.body != denied || whole != first {
			t.Errorf("%s over HTTP: %s\nwant %s", kind.name, whole, first)
		}
		for _, v := range []mqttwire.Version{mqttwire.V311, mqttwire.V5} {
			said, puback, err := mqttClaim(b.mqttAddr, v, kind.body)
			if err != nil || said.body != denied {
				t.Errorf("%s over MQTT %d: %v, %s", kind.name, v, err, said.body)
			}
			if v == mqttwire.V5 && puback.Code() != 0x87 {
				t.Errorf("%s over MQTT 5: reason code %#x, want 0x87", kind.name, puback.Code())
			}
		}
	}
	if after := len(b.devices()); after != before {
		t.Errorf("refusals left %d devices", after-before)
	}
}

// malformed are twenty kinds of bad input with the field that the error names.
var malformed = []struct{ name, body, field string }{
	{"empty", ``, "body"},
	{"not JSON", `claim me`, "body"},
	{"cut short", `{"provision_key":"k"`, "body"},
	{"an array", `["k","n","h"]`, "body"},
	{"trailing bytes", `{"provision_key":"k","device_name":"n","hardware_id":"h"} {}`, "body"},
	{"unknown field", `{"provision_key":"k","device_name":"n","hardware_id":"h","tenant_id":"x"}`, "tenant_id"},
	{"other case", `{"PROVISION_KEY":"k","device_name":"n","hardware_id":"h"}`, "PROVISION_KEY"},
	{"duplicate", `{"provision_key":"k","provision_key":"k","device_name":"n","hardware_id":"h"}`, "provision_key"},
	{"no key", `{"device_name":"n","hardware_id":"h"}`, "provision_key"},
	{"no name", `{"provision_key":"k","hardware_id":"h"}`, "device_name"},
	{"no hardware", `{"provision_key":"k","device_name":"n"}`, "hardware_id"},
	{"key a number", `{"provision_key":7,"device_name":"n","hardware_id":"h"}`, "provision_key"},
	{"name null", `{"provision_key":"k","device_name":null,"hardware_id":"h"}`, "device_name"},
	{"empty key", `{"provision_key":"","device_name":"n","hardware_id":"h"}`, "provision_key"},
	{"long key", `{"provision_key":"` + strings.Repeat("k", 257) + `","device_name":"n","hardware_id":"h"}`, "provision_key"},
	{"control character", `{"provision_key":"k","device_name":"a\u0007","hardware_id":"h"}`, "device_name"},
	{"long name", `{"provision_key":"k","device_name":"` + strings.Repeat("n", 129) + `","hardware_id":"h"}`, "device_name"},
	{"blank in hardware", `{"provision_key":"k","device_name":"n","hardware_id":"a b"}`, "hardware_id"},
	{"long hardware", `{"provision_key":"k","device_name":"n","hardware_id":"` + strings.Repeat("h", 129) + `"}`, "hardware_id"},
	{"invalid UTF-8", "{\"provision_key\":\"k\",\"device_name\":\"\xff\",\"hardware_id\":\"h\"}", "device_name"},
	{"lone surrogate", `{"provision_key":"k","device_name":"\ud800","hardware_id":"h"}`, "device_name"},
	{"short nonce", `{"provision_key":"k","device_name":"n","hardware_id":"h","claim_nonce":"AA"}`, "claim_nonce"},
	{"too large", `{"provision_key":"k","device_name":"n","hardware_id":"h"` + strings.Repeat(" ", 8<<10) + `}`, "body"},
}

// TestBadInput runs one table through both faces: the right code, the field's
// name, the same body, never a 5xx, nothing left in the store.
func TestBadInput(t *testing.T) {
	b := startBox(t)
	key := b.key("--max-claims", "1")
	for _, c := range malformed {
		body := strings.Replace(c.body, `"k"`, `"`+key+`"`, 1)
		over := b.post(body)
		want := http.StatusBadRequest
		if c.name == "too large" {
			want = http.StatusRequestEntityTooLarge
		}
		if over.status != want || over.code(t) != 3 || !strings.HasPrefix(over.text(t, "message"), c.field+": ") {
			t.Errorf("%s over HTTP: %d %s, want %d and %s", c.name, over.status, over.body, want, c.field)
		}
		said, puback, err := mqttClaim(b.mqttAddr, mqttwire.V5, body)
		if c.body == "" && err == nil { // the same document, though MQTT has a word for no payload
			err = nil
		}
		if err != nil || said.body != over.body || puback.Code() < 0x80 {
			t.Errorf("%s over MQTT: %v, reason %#x, %s; over HTTP %s", c.name, err, puback.Code(), said.body, over.body)
		}
	}
	for _, contentType := range []string{"", "text/plain", "application/json; charset=latin1", "application/x-www-form-urlencoded", "application/json; x=y"} {
		said, err := httpClaim(http.DefaultClient, b.httpAddr, contentType, claimBody(key, "n", "h"))
		if err != nil || said.status != http.StatusUnsupportedMediaType || said.code(t) != 3 {
			t.Errorf("content type %q: %v, %d %s", contentType, err, said.status, said.body)
		}
	}
	if got := b.devices(); len(got) != 0 {
		t.Errorf("bad input left %v", got)
	}
	if s := b.status(); s.Outbox["prov"].Appended != 0 {
		t.Errorf("bad input left %d records", s.Outbox["prov"].Appended)
	}
	if said := b.post(claimBody(key, "n", "h")); said.status != http.StatusOK {
		t.Errorf("bad input used the key up: %s", said.body)
	}
}

// TestRefusalTimes interleaves the kinds at random and compares the medians of
// their answering times: they must not tell one kind from another, and none may
// be under the fixed delay (P3).
func TestRefusalTimes(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	const rounds, workers = 300, 8
	// A box that never has enough of refusing: "too many" is another answer.
	path := filepath.Join(t.TempDir(), "edgeclaim.yaml")
	config := "throttle: {burst: 1000000}\nhttp: {max_refused: 1000000}\nmqtt: {max_refused: 1000000}\n"
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	b := startBox(t, "--config", path)
	kinds := refusals(b)
	for face, ask := range map[string]func() (func(body string) error, func()){
		"http": func() (func(string) error, func()) {
			client := httpClient(1)
			return func(body string) error {
				said, err := httpClaim(client, b.httpAddr, "application/json", body)
				if err == nil && said.body != denied {
					err = fmt.Errorf("answered %d %s", said.status, said.body)
				}
				return err
			}, client.CloseIdleConnections
		},
		"mqtt": func() (func(string) error, func()) {
			client := claimant(t, b.mqttAddr)
			return func(body string) error { return roundTrip(client, body) }, func() { client.Close() }
		},
	} {
		t.Run(face, func(t *testing.T) {
			times := make([][]time.Duration, len(kinds))
			var mu sync.Mutex
			order := make(chan int, rounds*len(kinds))
			for _, i := range rand.Perm(rounds * len(kinds)) {
				order <- i % len(kinds)
			}
			close(order)
			parallel(t, workers, func() error {
				one, done := ask()
				defer done()
				for kind := range order {
					start := time.Now()
					if err := one(kinds[kind].body); err != nil {
						return err
					}
					took := time.Since(start)
					mu.Lock()
					times[kind] = append(times[kind], took)
					mu.Unlock()
				}
				return nil
			})
			var medians []time.Duration
			for i, kind := range kinds {
				slices.Sort(times[i])
				medians = append(medians, times[i][len(times[i])/2])
				t.Logf("%-18s median %v over %d", kind.name, medians[i], len(times[i]))
				if times[i][0] < 25*time.Millisecond {
					t.Errorf("%s: answered after %v, before the fixed delay", kind.name, times[i][0])
				}
			}
			if spread := slices.Max(medians) - slices.Min(medians); spread > time.Millisecond {
				t.Errorf("the medians differ by %v, want at most 1ms", spread)
			}
		})
	}
}
