package device_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"go.uber.org/goleak"

	"edgeclaim"
	"edgeclaim/bridge/device"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	id       = "2f0a7b4e-0c1d-5e2f-8a3b-4c5d6e7f8091"
	key      = "pk_factory_secret"
	accepted = `{"device_id":"` + id + `","api_key":"sk_live_abc"}`
	denied   = `{"code":7,"message":"permission denied","details":[]}`
	slowDown = `{"code":8,"message":"too many requests","details":[],"retry_after":60}`
)

var ask = device.Request{Key: edgeclaim.NewSecret(key), Name: "Pump", HardwareID: "H1", RequestID: "r-1"}

// box is a fake MQTT face: it answers a claim with what respond returns, and
// nothing when that is nil.
func box(t *testing.T, connack byte, suback byte, respond func(body []byte) []byte) string {
	return serve(t, func(c net.Conn, r *bufio.Reader) {
		for {
			packet, err := packets.ReadPacket(r)
			if err != nil {
				return
			}
			switch p := packet.(type) {
			case *packets.ConnectPacket:
				answer, _ := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
				answer.ReturnCode = connack
				_ = answer.Write(c)
			case *packets.SubscribePacket:
				_, _ = c.Write([]byte{0x90, 3, byte(p.MessageID >> 8), byte(p.MessageID), suback})
			case *packets.PublishPacket:
				text := respond(p.Payload)
				if text == nil {
					return
				}
				answer, _ := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
				answer.TopicName, answer.Payload = "provision/response", text
				_ = answer.Write(c)
			}
		}
	})
}

func serve(t *testing.T, handle func(net.Conn, *bufio.Reader)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	t.Cleanup(func() { listener.Close(); work.Wait() })
	work.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			work.Go(func() { defer c.Close(); handle(c, bufio.NewReader(c)) })
		}
	})
	return "mqtt://" + listener.Addr().String()
}

func web(t *testing.T, status int, header, body string) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/api/v1/provision" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("asked %s %s as %s", r.Method, r.URL, r.Header.Get("Content-Type"))
		}
		text, _ := io.ReadAll(r.Body)
		checkBody(t, text)
		if header != "" {
			w.Header().Set("Retry-After", header)
			w.Header().Set("Location", "http://elsewhere.example/")
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func checkBody(t *testing.T, text []byte) {
	want := `{"provision_key":"pk_factory_secret","device_name":"Pump","hardware_id":"H1","request_id":"r-1"}`
	if string(text) != want {
		t.Errorf("body %s, want %s", text, want)
	}
}

func TestClaim(t *testing.T) {
	over := func(body string) map[string]string {
		return map[string]string{
			"mqtt": box(t, packets.Accepted, 1, func(text []byte) []byte { checkBody(t, text); return []byte(body) }),
			"http": web(t, 200, "", body),
		}
	}
	for face, url := range over(accepted) {
		a, err := device.Claim(t.Context(), url, ask)
		if err != nil || a.Code != edgeclaim.CodeOK || a.Device.String() != id || a.APIKey.Reveal() != "sk_live_abc" || a.Body.Reveal() != accepted {
			t.Errorf("%s: %+v, %v", face, a, err)
		}
		if printed := fmt.Sprintf("%+v %#v", a, ask); strings.Contains(printed, "sk_live_abc") || strings.Contains(printed, key) {
			t.Errorf("%s: printing tells a secret: %s", face, printed)
		}
	}
	for face, url := range over(denied) {
		a, err := device.Claim(t.Context(), url, ask)
		if err != nil || a.Code != edgeclaim.CodePermissionDenied || a.Message != "permission denied" || !a.APIKey.IsZero() {
			t.Errorf("%s: %+v, %v", face, a, err)
		}
	}
	for face, url := range over(slowDown) {
		a, err := device.Claim(t.Context(), url, ask)
		if err != nil || a.Code != edgeclaim.CodeResourceExhausted || a.RetryAfter != time.Minute {
			t.Errorf("%s: %+v, %v", face, a, err)
		}
	}
	a, err := device.Claim(t.Context(), web(t, 503, "7", `{"code":14,"message":"unavailable","details":[]}`), ask)
	if err != nil || a.Code != edgeclaim.CodeUnavailable || a.RetryAfter != 7*time.Second || a.HTTPStatus != 503 {
		t.Errorf("header: %+v, %v", a, err)
	}
}

func TestClaimFails(t *testing.T) {
	none := func([]byte) []byte { return nil }
	hang := serve(t, func(_ net.Conn, r *bufio.Reader) { _, _ = io.Copy(io.Discard, r) })
	for _, tc := range []struct {
		name, url string
		want      error
		text      string
	}{
		{"nothing listens, mqtt", "mqtt://127.0.0.1:1", device.ErrUnreachable, "connection refused"},
		{"nothing listens, http", "http://127.0.0.1:1", device.ErrUnreachable, "connection refused"},
		{"hangs before CONNACK", hang, device.ErrUnreachable, "deadline exceeded"},
		{"hangs, http", strings.Replace(hang, "mqtt", "http", 1), device.ErrNoAnswer, "deadline exceeded"},
		{"refused", box(t, 5, 1, none), device.ErrUnreachable, "code 5"},
		{"unknown code", box(t, 99, 1, none), device.ErrUnreachable, "unknown code 99"},
		{"may not subscribe", box(t, 0, 0x80, none), device.ErrUnreachable, "provision/response: refused"},
		{"closes instead of an answer", box(t, 0, 1, none), device.ErrNoAnswer, "closed the connection"},
		{"answers rubbish", box(t, 0, 1, func([]byte) []byte { return []byte("hello") }), device.ErrNotABox, ""},
		{"answers too much", box(t, 0, 1, func([]byte) []byte { return make([]byte, 1<<20) }), device.ErrNoAnswer, "more than"},
		{"another web server", web(t, 404, "", "<html>"), device.ErrNotABox, "404"},
		{"a redirect", web(t, 307, "1", "{}"), device.ErrNotABox, "307"},
		{"an endless page", web(t, 200, "", strings.Repeat("x", 1<<20)), device.ErrNotABox, "longer than"},
		{"another scheme", "ftp://127.0.0.1", edgeclaim.ErrInvalid, "url"},
		{"a path", "http://127.0.0.1/x", edgeclaim.ErrInvalid, "url"},
		{"a password", "http://u:hunter2@127.0.0.1", edgeclaim.ErrInvalid, "url"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			_, err := device.Claim(ctx, tc.url, ask)
			if !errors.Is(err, tc.want) || !strings.Contains(fmt.Sprint(err), tc.text) {
				t.Errorf("error %v, want %v with %q", err, tc.want, tc.text)
			}
			if strings.Contains(fmt.Sprint(err), "hunter2") || strings.Contains(fmt.Sprint(err), key) {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
}

func TestLogin(t *testing.T) {
	who, err := edgeclaim.ParseDeviceID(id)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan [3]string, 1)
	good := serve(t, func(c net.Conn, r *bufio.Reader) {
		packet, _ := packets.ReadPacket(r)
		if p, ok := packet.(*packets.ConnectPacket); ok {
			seen <- [3]string{p.ClientIdentifier, p.Username, string(p.Password)}
			_ = packets.NewControlPacket(packets.Connack).Write(c)
			_, _ = packets.ReadPacket(r)
		}
	})
	if err := device.Login(t.Context(), good, who, edgeclaim.NewSecret("sk")); err != nil {
		t.Errorf("good credential: %v", err)
	}
	if got := <-seen; got != [3]string{id, id, "sk"} {
		t.Errorf("logged in as %v", got)
	}
	for _, code := range []byte{4, 5} {
		refuses := box(t, code, 0, nil)
		if err := device.Login(t.Context(), refuses, who, edgeclaim.NewSecret("sk")); !errors.Is(err, edgeclaim.ErrUnauthenticated) {
			t.Errorf("code %d: %v, want ErrUnauthenticated", code, err)
		}
	}
	if err := device.Login(t.Context(), box(t, 3, 0, nil), who, edgeclaim.NewSecret("sk")); !errors.Is(err, device.ErrUnreachable) {
		t.Errorf("code 3: %v, want ErrUnreachable", err)
	}
	if err := device.Login(t.Context(), "http://127.0.0.1:1", who, edgeclaim.NewSecret("sk")); !errors.Is(err, edgeclaim.ErrInvalid) {
		t.Errorf("http: %v, want ErrInvalid", err)
	}
}

// Over TLS the box's name is the URL's, and who is not trusted is told nothing.
func TestClaimOverTLS(t *testing.T) {
	asked := make(chan string, 8)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		asked <- string(text)
		fmt.Fprint(w, `{"device_id":"`+id+`","api_key":"","certificate":"C","ca_chain":"A","private_key":"K"}`)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(server.Close)
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	trusting := ask
	trusting.TLS = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	trusting.Nonce, trusting.CSR = edgeclaim.NewSecret("n0nce"), "PEM"
	a, err := device.Claim(t.Context(), server.URL, trusting)
	if err != nil || a.Certificate != "C" || a.Chain != "A" || a.PrivateKey.Reveal() != "K" {
		t.Errorf("%+v, %v", a, err)
	}
	want := `{"provision_key":"pk_factory_secret","device_name":"Pump","hardware_id":"H1","claim_nonce":"n0nce","csr":"PEM","request_id":"r-1"}`
	if got := <-asked; got != want {
		t.Errorf("asked %s, want %s", got, want)
	}
	for scheme, text := range map[string]string{"https": "certificate", "mqtts": "certificate"} {
		_, err := device.Claim(t.Context(), strings.Replace(server.URL, "https", scheme, 1), ask)
		if !errors.Is(err, device.ErrUnreachable) || !strings.Contains(fmt.Sprint(err), text) {
			t.Errorf("%s, not trusted: %v", scheme, err)
		}
	}
	if len(asked) > 0 {
		t.Errorf("a box that is not trusted was asked %s", <-asked)
	}
}

const waiting = `{"code":9,"message":"waiting for approval","details":[],"retry_after":1}`

// A claim that waits for an operator stays over MQTT, asks again over HTTP, and
// is given up when its patience is over.
func TestClaimWaits(t *testing.T) {
	var asks atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asks.Add(1) == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusAccepted)
			fmt.Fprint(w, waiting)
			return
		}
		fmt.Fprint(w, accepted)
	}))
	t.Cleanup(server.Close)
	patient := ask
	patient.Patience = 20 * time.Second
	for face, url := range map[string]string{"http": server.URL, "mqtt": twoAnswers(t, accepted)} {
		if a, err := device.Claim(t.Context(), url, patient); err != nil || a.Device.String() != id {
			t.Errorf("%s: %+v, %v", face, a, err)
		}
	}
	for _, patience := range []time.Duration{0, 50 * time.Millisecond} {
		patient.Patience = patience
		url := box(t, packets.Accepted, 1, func([]byte) []byte { return []byte(waiting) })
		a, err := device.Claim(t.Context(), url, patient)
		if err != nil || a.Code != edgeclaim.CodeFailedPrecondition || a.RetryAfter != time.Second {
			t.Errorf("patience %v: %+v, %v", patience, a, err)
		}
	}
}

// twoAnswers is a fake MQTT face that answers a claim with waiting, and then
// with second.
func twoAnswers(t *testing.T, second string) string {
	return serve(t, func(c net.Conn, r *bufio.Reader) {
		for {
			packet, err := packets.ReadPacket(r)
			if err != nil {
				return
			}
			switch p := packet.(type) {
			case *packets.ConnectPacket:
				_ = packets.NewControlPacket(packets.Connack).Write(c)
			case *packets.SubscribePacket:
				_, _ = c.Write([]byte{0x90, 3, byte(p.MessageID >> 8), byte(p.MessageID), 1})
			case *packets.PublishPacket:
				for _, text := range []string{waiting, second} {
					answer, _ := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
					answer.TopicName, answer.Payload = "provision/response", []byte(text)
					_ = answer.Write(c)
				}
			}
		}
	})
}

// FuzzAnswer: no answer over MQTT makes a success without a device id.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{accepted, denied, slowDown, `{}`, `{"code":0}`, `{"device_id":""}`, `[`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := device.Read(body)
		if err != nil {
			return
		}
		if !json.Valid(body) || (a.Code == edgeclaim.CodeOK) == a.Device.IsZero() && !strings.Contains(string(body), "00000000-0000") {
			t.Errorf("%q: %+v", body, a)
		}
	})
}
