package provision_test

import (
	"encoding/json"
	"errors"
	"testing"

	"edgeclaim"
	"edgeclaim/internal/ca"
	"edgeclaim/provision"

	"github.com/fxamacker/cbor/v2"
)

// bare is the rule without anything to keep: enough to read requests.
func bare() *provision.Service {
	return provision.New(provision.Config{}, provision.Parts{Clock: standing{}}, discard())
}

// seeds adds requests of every key type, in a format, with those fields besides.
func seeds(f *testing.F, besides fields, encode func(fields map[string]any) []byte, csr func(der []byte, pem string) any) {
	f.Helper()
	f.Add([]byte(nil))
	f.Add(encode(map[string]any{}))
	with := func(csr any) []byte {
		all := map[string]any{"claim_nonce": nonceA, "csr": csr, "request_id": "r"}
		for name, value := range besides {
			all[name] = value
		}
		return encode(all)
	}
	for _, key := range keyTypes(f) {
		der, text := csrDER(f, key), csrPEM(f, key)
		f.Add(with(csr(der, text)))
		f.Add(with(csr(append(der, 0), text+text)))
		f.Add(with(csr(der[:len(der)/2], text[:len(text)/2])))
	}
	f.Add(with(csr([]byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff}, "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n")))
}

func asJSON(f *testing.F) func(map[string]any) []byte {
	return func(fields map[string]any) []byte {
		text, err := json.Marshal(fields)
		if err != nil {
			f.Fatal(err)
		}
		return text
	}
}

func asCBOR(f *testing.F) func(map[string]any) []byte {
	return func(fields map[string]any) []byte {
		text, err := cbor.Marshal(fields)
		if err != nil {
			f.Fatal(err)
		}
		return text
	}
}

func pemOf(_ []byte, text string) any { return text }

func derOf(der []byte, _ string) any { return der }

// wantReadOrInvalid: whatever came was read, and then its CSR is a good one, or
// the error names a field.
func wantReadOrInvalid(t *testing.T, csr []byte, err error) {
	t.Helper()
	if err != nil {
		if invalid, ok := errors.AsType[*edgeclaim.InvalidError](err); !ok || invalid.Field == "" || len(invalid.Error()) > 300 {
			t.Errorf("error %v", err)
		}
		return
	}
	if csr != nil && ca.CheckCSR(csr) != nil {
		t.Error("a bad CSR was taken")
	}
}

var claimFields = fields{"provision_key": "k", "device_name": "n", "hardware_id": "h"}

func FuzzClaimJSON(f *testing.F) {
	seeds(f, claimFields, asJSON(f), pemOf)
	s := bare()
	f.Fuzz(func(t *testing.T, body []byte) {
		csr, err := s.DecodeWhole(t.Context(), body, edgeclaim.FormatJSON)
		wantReadOrInvalid(t, csr, err)
	})
}

func FuzzClaimCBOR(f *testing.F) {
	seeds(f, claimFields, asCBOR(f), derOf)
	s := bare()
	f.Fuzz(func(t *testing.T, body []byte) {
		csr, err := s.DecodeWhole(t.Context(), body, edgeclaim.FormatCBOR)
		wantReadOrInvalid(t, csr, err)
	})
}

func FuzzRotateJSON(f *testing.F) {
	seeds(f, nil, asJSON(f), pemOf)
	s := bare()
	f.Fuzz(func(t *testing.T, body []byte) {
		csr, err := s.DecodeRenewal(t.Context(), body, edgeclaim.FormatJSON)
		wantReadOrInvalid(t, csr, err)
	})
}

func FuzzRotateCBOR(f *testing.F) {
	seeds(f, nil, asCBOR(f), derOf)
	s := bare()
	f.Fuzz(func(t *testing.T, body []byte) {
		csr, err := s.DecodeRenewal(t.Context(), body, edgeclaim.FormatCBOR)
		wantReadOrInvalid(t, csr, err)
	})
}
