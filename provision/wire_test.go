package provision_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"edgeclaim"
	"edgeclaim/provision"

	"github.com/fxamacker/cbor/v2"
)

const goodJSON = `{"provision_key":"pk_factory_x","device_name":"Cold Store Sensor 014","hardware_id":"AA:BB:CC:00:11:22"}`

func TestDecodeGood(t *testing.T) {
	for name, body := range map[string]string{
		"the platform's example": goodJSON,
		"every field": `{"provision_key":"k","device_name":"n","hardware_id":"h","claim_nonce":"AAAAAAAAAAAAAAAAAAAAAA",` +
			`"csr":"-----BEGIN CERTIFICATE REQUEST-----","request_id":"r-1"}`,
		"white space":          " \t\r\n" + goodJSON + "\r\n ",
		"escapes":              `{"provision_key":"k","device_name":"\u00e9\ud83d\ude00","hardware_id":"h"}`,
		"longest":              `{"provision_key":"` + strings.Repeat("é", 256) + `","device_name":"` + strings.Repeat("é", 128) + `","hardware_id":"` + strings.Repeat("h", 128) + `"}`,
		"control in a key":     `{"provision_key":"a\u0000b","device_name":"n","hardware_id":"h"}`,
		"another order":        `{"hardware_id":"h","device_name":"n","provision_key":"k"}`,
		"html in a name":       `{"provision_key":"k","device_name":"<b>&","hardware_id":"h"}`,
		"long but not too big": `{"provision_key":"k","device_name":"n","hardware_id":"h"` + strings.Repeat(" ", 8000) + `}`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, _, _, err := provision.DecodeClaim([]byte(body), edgeclaim.FormatJSON); err != nil {
				t.Fatal(err)
			}
			// The same claim in CBOR says the same; its csr is DER there.
			var fields map[string]any
			if err := json.Unmarshal([]byte(body), &fields); err != nil {
				t.Fatal(err)
			}
			if csr, ok := fields["csr"]; ok {
				fields["csr"] = []byte(csr.(string))
			}
			encoded, err := cbor.Marshal(fields)
			if err != nil {
				t.Fatal(err)
			}
			key, name, hardware, _, err := provision.DecodeClaim(encoded, edgeclaim.FormatCBOR)
			if err != nil {
				t.Fatal(err)
			}
			if key.Reveal() != fields["provision_key"] || name != fields["device_name"] || hardware.String() != fields["hardware_id"] {
				t.Errorf("CBOR read %q, %q", name, hardware)
			}
		})
	}
}

// badClaims are malformed claims with the field that the error must name.
var badClaims = []struct{ name, body, field string }{
	{"empty", ``, "body"},
	{"blank", `  `, "body"},
	{"not JSON", `hello`, "body"},
	{"cut short", goodJSON[:40], "body"},
	{"an array", `[]`, "body"},
	{"null", `null`, "body"},
	{"a string", `"x"`, "body"},
	{"trailing word", goodJSON + `x`, "body"},
	{"two objects", goodJSON + goodJSON, "body"},
	{"byte order mark", "\ufeff" + goodJSON, "body"},
	{"unknown field", `{"provision_key":"k","device_name":"n","hardware_id":"h","serial":"1"}`, "serial"},
	{"other case", `{"Provision_Key":"k","device_name":"n","hardware_id":"h"}`, "Provision_Key"},
	{"duplicate", `{"provision_key":"k","device_name":"n","hardware_id":"h","hardware_id":"h"}`, "hardware_id"},
	{"duplicate by escape", `{"provision_key":"k","device_name":"n","hardware_id":"h","hardware\u005fid":"i"}`, "hardware_id"},
	{"no key", `{"device_name":"n","hardware_id":"h"}`, "provision_key"},
	{"no name", `{"provision_key":"k","hardware_id":"h"}`, "device_name"},
	{"no hardware", `{"provision_key":"k","device_name":"n"}`, "hardware_id"},
	{"key a number", `{"provision_key":1,"device_name":"n","hardware_id":"h"}`, "provision_key"},
	{"name null", `{"provision_key":"k","device_name":null,"hardware_id":"h"}`, "device_name"},
	{"hardware an object", `{"provision_key":"k","device_name":"n","hardware_id":{"a":1}}`, "hardware_id"},
	{"hardware an array", `{"provision_key":"k","device_name":"n","hardware_id":["h"]}`, "hardware_id"},
	{"request id true", `{"provision_key":"k","device_name":"n","hardware_id":"h","request_id":true}`, "request_id"},
	{"empty key", `{"provision_key":"","device_name":"n","hardware_id":"h"}`, "provision_key"},
	{"key of 257", `{"provision_key":"` + strings.Repeat("k", 257) + `","device_name":"n","hardware_id":"h"}`, "provision_key"},
	{"empty name", `{"provision_key":"k","device_name":"","hardware_id":"h"}`, "device_name"},
	{"name of 129", `{"provision_key":"k","device_name":"` + strings.Repeat("n", 129) + `","hardware_id":"h"}`, "device_name"},
	{"control in name", `{"provision_key":"k","device_name":"a\u0000b","hardware_id":"h"}`, "device_name"},
	{"empty hardware", `{"provision_key":"k","device_name":"n","hardware_id":""}`, "hardware_id"},
	{"hardware of 129", `{"provision_key":"k","device_name":"n","hardware_id":"` + strings.Repeat("h", 129) + `"}`, "hardware_id"},
	{"blank in hardware", `{"provision_key":"k","device_name":"n","hardware_id":"a b"}`, "hardware_id"},
	{"hardware not ASCII", `{"provision_key":"k","device_name":"n","hardware_id":"é"}`, "hardware_id"},
	{"invalid UTF-8", "{\"provision_key\":\"k\",\"device_name\":\"\xff\",\"hardware_id\":\"h\"}", "device_name"},
	{"lone surrogate", `{"provision_key":"k","device_name":"\ud800","hardware_id":"h"}`, "device_name"},
	{"short nonce", `{"provision_key":"k","device_name":"n","hardware_id":"h","claim_nonce":"AAAA"}`, "claim_nonce"},
	{"padded nonce", `{"provision_key":"k","device_name":"n","hardware_id":"h","claim_nonce":"AAAAAAAAAAAAAAAAAAAAAA=="}`, "claim_nonce"},
	{"nonce with a line end", `{"provision_key":"k","device_name":"n","hardware_id":"h","claim_nonce":"AAAAAAAAAAAAAAAA\nAAAAAA"}`, "claim_nonce"},
	{"empty csr", `{"provision_key":"k","device_name":"n","hardware_id":"h","csr":""}`, "csr"},
	{"empty request id", `{"provision_key":"k","device_name":"n","hardware_id":"h","request_id":""}`, "request_id"},
	{"too large", `{"provision_key":"k","device_name":"n","hardware_id":"h"` + strings.Repeat(" ", 8<<10) + `}`, "body"},
	{"nested too deep", strings.Repeat("[", 8000), "body"},
}

func TestDecodeBadJSON(t *testing.T) {
	for _, c := range badClaims {
		t.Run(c.name, func(t *testing.T) { wantInvalid(t, []byte(c.body), edgeclaim.FormatJSON, c.field) })
	}
}

// TestDecodeBadCBOR: items are spelled in bytes, for what no encoder writes.
func TestDecodeBadCBOR(t *testing.T) {
	good := map[string]any{"provision_key": "k", "device_name": "n", "hardware_id": "h"}
	with := func(key string, value any) []byte {
		fields := map[string]any{key: value}
		for k, v := range good {
			if k != key {
				fields[k] = v
			}
		}
		return mustCBOR(t, fields)
	}
	for _, c := range []struct {
		name  string
		body  []byte
		field string
	}{
		{"empty", nil, "body"},
		{"a number", []byte{0x01}, "body"},
		{"null", []byte{0xf6}, "body"},
		{"an array", []byte{0x80}, "body"},
		{"cut short", mustCBOR(t, good)[:10], "body"},
		{"trailing bytes", append(mustCBOR(t, good), 0), "body"},
		{"integer keys", []byte{0xa1, 0x01, 0x02}, "body"},
		{"duplicate key", []byte("\xa2\x6bhardware_id\x61h\x6bhardware_id\x61h"), "hardware_id"},
		{"indefinite map", []byte{0xbf, 0xff}, "body"},
		{"indefinite text", []byte("\xa1\x6bhardware_id\x7f\x61h\xff"), "body"},
		{"a tag", append([]byte{0xd9, 0xd9, 0xf7}, mustCBOR(t, good)...), "body"},
		{"invalid UTF-8", []byte("\xa1\x6bhardware_id\x61\xff"), "hardware_id"},
		{"unknown field", with("serial", "1"), "serial"},
		{"other case", with("Hardware_ID", "h"), "Hardware_ID"},
		{"key a number", with("provision_key", 1), "provision_key"},
		{"key bytes", with("provision_key", []byte("k")), "provision_key"},
		{"name null", with("device_name", nil), "device_name"},
		{"hardware a map", with("hardware_id", map[string]string{"a": "b"}), "hardware_id"},
		{"csr as text", with("csr", "-----BEGIN"), "csr"},
		{"hardware of 129", with("hardware_id", strings.Repeat("h", 129)), "hardware_id"},
		{"no name", mustCBOR(t, map[string]any{"provision_key": "k", "hardware_id": "h"}), "device_name"},
	} {
		t.Run(c.name, func(t *testing.T) { wantInvalid(t, c.body, edgeclaim.FormatCBOR, c.field) })
	}
}

func wantInvalid(t *testing.T, body []byte, format edgeclaim.Format, field string) {
	t.Helper()
	_, _, _, _, err := provision.DecodeClaim(body, format)
	invalid, ok := errors.AsType[*edgeclaim.InvalidError](err)
	if !ok {
		t.Fatalf("error = %v, want an InvalidError", err)
	}
	if invalid.Field != field {
		t.Errorf("error %q names %q, want %q", err, invalid.Field, field)
	}
}

// TestErrorsDoNotEchoValues: a key pasted into the wrong field comes back in no
// error (P5), and a huge field name does not make a huge answer.
func TestErrorsDoNotEchoValues(t *testing.T) {
	const secret = "pk_factory_secret"
	for _, body := range []string{
		`{"hardware_id":"` + secret + ` x","device_name":"n","provision_key":"k"}`,
		`{"device_name":"` + secret + `\u0000","hardware_id":"h","provision_key":"k"}`,
		`{"claim_nonce":"` + secret + `","device_name":"n","hardware_id":"h","provision_key":"k"}`,
		`{"provision_key":` + secret + `}`,
		`{"provision_key":"` + secret,
	} {
		_, _, _, _, err := provision.DecodeClaim([]byte(body), edgeclaim.FormatJSON)
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error %v", body, err)
		}
	}
	_, _, _, _, err := provision.DecodeClaim([]byte(`{"`+strings.Repeat("é", 2000)+`":1}`), edgeclaim.FormatJSON)
	if err == nil || len(err.Error()) > 200 {
		t.Errorf("a long field name made an error of %d bytes", len(err.Error()))
	}
}

// FuzzDecodeClaim: no input crashes the decoder; what is accepted is in range
// and is accepted again when encoded anew, in both formats.
func FuzzDecodeClaim(f *testing.F) {
	f.Add([]byte(goodJSON), false)
	for _, c := range badClaims {
		f.Add([]byte(c.body), false)
	}
	f.Add([]byte("\xa2\x6bhardware_id\x61h\x6bhardware_id\x61h"), true)
	good, err := cbor.Marshal(map[string]string{"provision_key": "k", "device_name": "n", "hardware_id": "h"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, true)
	f.Fuzz(func(t *testing.T, body []byte, asCBOR bool) {
		format := edgeclaim.FormatJSON
		if asCBOR {
			format = edgeclaim.FormatCBOR
		}
		key, name, hardware, requestID, err := provision.DecodeClaim(body, format)
		if err != nil {
			if !errors.Is(err, edgeclaim.ErrInvalid) {
				t.Errorf("error %v is not ErrInvalid", err)
			}
			return
		}
		fields := map[string]string{"provision_key": key.Reveal(), "device_name": name, "hardware_id": hardware.String()}
		if requestID != nil {
			fields["request_id"] = *requestID
		}
		again, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		for format, encoded := range map[edgeclaim.Format][]byte{edgeclaim.FormatJSON: again, edgeclaim.FormatCBOR: mustCBOR(t, fields)} {
			key2, name2, hardware2, _, err := provision.DecodeClaim(encoded, format)
			if len(encoded) > edgeclaim.MaxClaimBody {
				continue // escapes made it longer than a claim may be
			}
			if err != nil || !key2.Equal(key) || name2 != name || hardware2 != hardware {
				t.Errorf("%s: %q does not survive a round trip: %v", format, encoded, err)
			}
		}
	})
}

func mustCBOR(t testing.TB, v any) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := cbor.NewEncoder(&buf).Encode(v); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
