package provision

import (
	"bytes"
	"encoding/pem"
	"slices"
	"time"

	"edgeclaim"

	"github.com/fxamacker/cbor/v2"
	"github.com/go-json-experiment/json"
)

// PEM types (RFC 7468).
const (
	pemCertificate = "CERTIFICATE"
	pemPrivateKey  = "PRIVATE KEY"
)

// accepted is the body of a good answer: exactly two fields for an API key, and
// request_id last, only when it was sent.
type accepted struct {
	DeviceID    string `json:"device_id"`
	APIKey      string `json:"api_key"`
	PSKIdentity string `json:"psk_identity,omitzero"`
	PSK         string `json:"psk,omitzero"`
	// PEM strings in JSON, DER in CBOR.
	Certificate any `json:"certificate,omitzero"`
	CAChain     any `json:"ca_chain,omitzero"`
	PrivateKey  any `json:"private_key,omitzero"`
	// PreviousUntil is RFC 3339, of a rotation.
	PreviousUntil string  `json:"previous_until,omitzero"`
	RequestID     *string `json:"request_id,omitzero"`
}

// said is a credential in the clear, as its device is told it (P5). The zero
// value says that there is nothing to tell.
type said struct {
	kind   edgeclaim.CredentialType
	secret edgeclaim.Secret // API key or PSK
	// Of x509, in DER.
	certificate []byte
	chain       [][]byte
	privateKey  edgeclaim.Secret // PKCS #8 in DER; zero where a CSR came
}

// body is the answer that tells a device its credential.
func (c *said) body(id edgeclaim.DeviceID, format edgeclaim.Format, requestID *string, until time.Time) accepted {
	b := accepted{DeviceID: id.String(), RequestID: requestID}
	if !until.IsZero() {
		b.PreviousUntil = until.UTC().Format(time.RFC3339Nano)
	}
	switch c.kind {
	case edgeclaim.CredentialAPIKey:
		b.APIKey = c.secret.Reveal()
	case edgeclaim.CredentialPSK:
		b.PSKIdentity, b.PSK = id.String(), c.secret.Reveal()
	case edgeclaim.CredentialX509:
		b.Certificate, b.CAChain = c.certificate, slices.Concat(c.chain...)
		if !c.privateKey.IsZero() {
			b.PrivateKey = []byte(c.privateKey.Reveal())
		}
		if format != edgeclaim.FormatCBOR {
			b.Certificate, b.CAChain = c.certificatePEM(), c.chainPEM()
			if !c.privateKey.IsZero() {
				b.PrivateKey = c.privateKeyPEM().Reveal()
			}
		}
	}
	return b
}

func (c *said) certificatePEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: c.certificate}))
}

// chainPEM is the intermediates, then the root.
func (c *said) chainPEM() string {
	var text []byte
	for _, der := range c.chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der})...)
	}
	return string(text)
}

func (c *said) privateKeyPEM() edgeclaim.Secret {
	if c.privateKey.IsZero() {
		return edgeclaim.Secret{}
	}
	return edgeclaim.NewSecret(string(pem.EncodeToMemory(&pem.Block{Type: pemPrivateKey, Bytes: []byte(c.privateKey.Reveal())})))
}

// envelope is the platform's error document (google.rpc.Status).
type envelope struct {
	Code    edgeclaim.Code `json:"code"`
	Message string         `json:"message"`
	Details []struct{}     `json:"details"`
	// RetryAfter is in whole seconds; over HTTP the header says it.
	RetryAfter int `json:"retry_after,omitzero"`
}

// encode writes a body in the asker's format; an unknown format is answered in
// JSON.
func encode(format edgeclaim.Format, body any) ([]byte, error) {
	if format == edgeclaim.FormatCBOR {
		return cbor.Marshal(body)
	}
	var buf bytes.Buffer
	if err := json.MarshalWrite(&buf, body); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// fitting encodes a good answer, unless its asker has no room for it: that is
// found out before anything is stored. 0 is room for any.
func fitting(format edgeclaim.Format, body accepted, room int) ([]byte, error) {
	encoded, err := encode(format, body)
	if err == nil && room > 0 && len(encoded) > room {
		return nil, edgeclaim.Invalid("maximum_packet_size", "the answer has %d bytes, and there is room for %d", len(encoded), room)
	}
	return encoded, err
}
