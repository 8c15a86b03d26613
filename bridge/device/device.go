// Package device is a device of a box, for demonstrations, line checks and
// tests: it claims over either face, and logs in with what it got.
package device

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"edgeclaim"
)

// Timeout bounds a Claim or a Login whose context has no deadline.
const Timeout = 10 * time.Second

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
	Nonce      string // claim_nonce, base64url; empty for none
	RequestID  string // empty for none
}

// MarshalJSON returns the body of the claim, with the key in it.
func (r Request) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Key        string `json:"provision_key"`
		Name       string `json:"device_name"`
		HardwareID string `json:"hardware_id"`
		Nonce      string `json:"claim_nonce,omitempty"`
		RequestID  string `json:"request_id,omitempty"`
	}{r.Key.Reveal(), r.Name, r.HardwareID, r.Nonce, r.RequestID})
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

	// Device and APIKey are those of an accepted claim. The key is empty for
	// hardware that has claimed before.
	Device    edgeclaim.DeviceID
	APIKey    edgeclaim.Secret
	RequestID string
}

// Claim asks the box at mqtt://host[:1883] or http://host[:port] and returns
// its answer, whichever it is. The error is ErrInvalid for the URL, else
// ErrUnreachable, ErrNoAnswer or ErrNotABox, each with the reason. It never
// tries twice.
func Claim(ctx context.Context, address string, ask Request) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	u, err := parse(address)
	if err != nil {
		return Answer{}, err
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return Answer{}, err
	}
	switch u.Scheme {
	case "mqtt":
		return claimMQTT(ctx, hostPort(u, "1883"), body)
	case "http":
		return claimHTTP(ctx, hostPort(u, "80"), body)
	}
	return Answer{}, edgeclaim.Invalid("url", "want mqtt://host[:port] or http://host[:port]")
}

// parse takes a URL of a host and a port, and no more. Errors never repeat it.
func parse(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.User != nil ||
		(u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
		return nil, edgeclaim.Invalid("url", "want mqtt://host[:port] or http://host[:port]")
	}
	return u, nil
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
		DeviceID   *edgeclaim.DeviceID `json:"device_id"`
		APIKey     string              `json:"api_key"`
		RequestID  string              `json:"request_id"`
		Code       *edgeclaim.Code     `json:"code"`
		Message    string              `json:"message"`
		RetryAfter int                 `json:"retry_after"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		// Not wrapped: it may quote the body.
		return Answer{}, fmt.Errorf("%w: its answer is not a claim's", ErrNotABox)
	}
	a := Answer{Body: edgeclaim.NewSecret(string(body)), RequestID: doc.RequestID}
	switch {
	case doc.DeviceID != nil:
		a.Device, a.APIKey = *doc.DeviceID, edgeclaim.NewSecret(doc.APIKey)
	case doc.Code != nil && *doc.Code != edgeclaim.CodeOK:
		a.Code, a.Message = *doc.Code, doc.Message
		a.RetryAfter = time.Duration(max(0, doc.RetryAfter)) * time.Second
	default:
		return Answer{}, fmt.Errorf("%w: its answer has neither device_id nor code", ErrNotABox)
	}
	return a, nil
}
