// Package device is a device of a box, for demonstrations, line checks and
// tests: it claims over either face, and logs in with what it got.
package device

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"edgeclaim"
)

// Timeout bounds a Claim or a Login whose context has no deadline; what
// Request.Patience allows comes on top.
const Timeout = 10 * time.Second

// askAgain is how long a claim that waits for an operator is left alone, where
// the box does not say.
const askAgain = 30 * time.Second

// maxAnswer is the largest answer that is read, in bytes: many times a box's.
const maxAnswer = 64 << 10

// What can go wrong besides an answer that says no.
var (
	// ErrUnreachable: no connection to the box; nothing was asked.
	ErrUnreachable = errors.New("the box cannot be reached")
	// ErrNoAnswer: the claim was sent, or may have been, and no answer came.
	// The box may have accepted it.
	ErrNoAnswer = errors.New("no answer")
	// ErrNotABox: what answered is not a box.
	ErrNotABox = errors.New("what answered is not a box")
)

// Request is a claim. The box judges it; nothing is checked here.
type Request struct {
	Key        edgeclaim.Secret // provision_key
	Name       string           // device_name
	HardwareID string
	Nonce      edgeclaim.Secret // claim_nonce, base64url; empty for none
	CSR        string           // a PKCS #10 request in PEM; empty for none
	RequestID  string           // empty for none

	// TLS is whom to trust, and who to be, over https and mqtts; nil for the
	// system's roots and nobody. Its server name is that of the URL.
	TLS *tls.Config
	// Patience is how long to wait where an operator has to let the claim
	// through; 0 for not at all.
	Patience time.Duration
}

// MarshalJSON returns the body of the claim, with the key in it.
func (r Request) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Key        string `json:"provision_key"`
		Name       string `json:"device_name"`
		HardwareID string `json:"hardware_id"`
		Nonce      string `json:"claim_nonce,omitempty"`
		CSR        string `json:"csr,omitempty"`
		RequestID  string `json:"request_id,omitempty"`
	}{r.Key.Reveal(), r.Name, r.HardwareID, r.Nonce.Reveal(), r.CSR, r.RequestID})
}

// Answer is what the box said.
type Answer struct {
	// Body is the answer as it came. It holds the API key, if there is one.
	Body edgeclaim.Secret
	// Code is CodeOK for an accepted claim, else Message says why not.
	Code    edgeclaim.Code
	Message string
	// RetryAfter is when trying again may help; 0 for not said.
	RetryAfter time.Duration
	// HTTPStatus is 0 over MQTT.
	HTTPStatus int

	// Device is that of an accepted claim, with its credential: an API key, a
	// PSK, or a certificate. Hardware that has claimed before gets none.
	Device      edgeclaim.DeviceID
	APIKey      edgeclaim.Secret
	PSKIdentity string
	PSK         edgeclaim.Secret
	// Certificate and Chain, intermediates then root, are PEM; so is
	// PrivateKey, which is empty where a CSR was sent.
	Certificate string
	Chain       string
	PrivateKey  edgeclaim.Secret
	RequestID   string
}

// words are what the error of a URL says.
const words = "want http://host[:port], https://, mqtt:// or mqtts://"

// Claim asks the box at an http, https, mqtt or mqtts URL and returns its
// answer, whichever it is. The error is ErrInvalid for the URL, else
// ErrUnreachable, ErrNoAnswer or ErrNotABox, each with the reason. It never
// tries twice, but where the answer is that an operator has to let the claim
// through, and Patience is left: over MQTT it stays and listens, over HTTP it
// asks again when the box said.
func Claim(ctx context.Context, address string, ask Request) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout+ask.Patience)
	defer cancel()
	to, err := parse(address, ask.TLS)
	if err != nil {
		return Answer{}, err
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return Answer{}, err
	}
	until := time.Now().Add(ask.Patience)
	for {
		answer, err := to.claim(ctx, body, until)
		left := time.Until(until)
		if err != nil || answer.Code != edgeclaim.CodeFailedPrecondition || left <= 0 {
			return answer, err
		}
		pause := answer.RetryAfter
		if pause == 0 {
			pause = askAgain
		}
		again := time.NewTimer(min(pause, left))
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return answer, nil // it is the last word that there was
		}
	}
}

// target is where a box is.
type target struct {
	scheme  string
	address string // host:port
	tls     *tls.Config
}

// claim asks once. Over MQTT it waits until then for the answer behind one that
// says to wait.
func (t *target) claim(ctx context.Context, body []byte, until time.Time) (Answer, error) {
	switch t.scheme {
	case "mqtt", "mqtts":
		return t.claimMQTT(ctx, body, until)
	default:
		return t.claimHTTP(ctx, body)
	}
}

// parse takes a URL of a host and a port, and no more. Errors never repeat it.
func parse(text string, with *tls.Config) (*target, error) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.User != nil ||
		(u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
		return nil, edgeclaim.Invalid("url", words)
	}
	port, ok := map[string]string{"http": "80", "https": "443", "mqtt": "1883", "mqtts": "8883"}[u.Scheme]
	if !ok {
		return nil, edgeclaim.Invalid("url", words)
	}
	t := &target{scheme: u.Scheme, address: hostPort(u, port)}
	if u.Scheme == "https" || u.Scheme == "mqtts" {
		t.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		if with != nil {
			t.tls = with.Clone()
		}
		t.tls.ServerName = u.Hostname()
	}
	return t, nil
}

func hostPort(u *url.URL, port string) string {
	if u.Port() != "" {
		port = u.Port()
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// read takes an answer apart: an accepted claim, or the error envelope.
func read(body []byte) (Answer, error) {
	var doc struct {
		DeviceID    *edgeclaim.DeviceID `json:"device_id"`
		APIKey      string              `json:"api_key"`
		PSKIdentity string              `json:"psk_identity"`
		PSK         string              `json:"psk"`
		Certificate string              `json:"certificate"`
		Chain       string              `json:"ca_chain"`
		PrivateKey  string              `json:"private_key"`
		RequestID   string              `json:"request_id"`
		Code        *edgeclaim.Code     `json:"code"`
		Message     string              `json:"message"`
		RetryAfter  int                 `json:"retry_after"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		// Not wrapped: it may quote the body.
		return Answer{}, fmt.Errorf("%w: its answer is not a claim's", ErrNotABox)
	}
	a := Answer{Body: edgeclaim.NewSecret(string(body)), RequestID: doc.RequestID}
	switch {
	case doc.DeviceID != nil:
		a.Device, a.APIKey = *doc.DeviceID, edgeclaim.NewSecret(doc.APIKey)
		a.PSKIdentity, a.PSK = doc.PSKIdentity, edgeclaim.NewSecret(doc.PSK)
		a.Certificate, a.Chain, a.PrivateKey = doc.Certificate, doc.Chain, edgeclaim.NewSecret(doc.PrivateKey)
	case doc.Code != nil && *doc.Code != edgeclaim.CodeOK:
		a.Code, a.Message = *doc.Code, doc.Message
		a.RetryAfter = time.Duration(max(0, doc.RetryAfter)) * time.Second
	default:
		return Answer{}, fmt.Errorf("%w: its answer has neither device_id nor code", ErrNotABox)
	}
	return a, nil
}
