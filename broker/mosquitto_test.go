package broker_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/mqttwire"
)

// tool is one of Mosquitto's clients; without it the test is skipped, or fails
// where it is required.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv(mosquitto.RequireVariable) == "1" {
		t.Fatal(err)
	}
	t.Skip(err)
	return ""
}

// files writes what the tools take: the root, a certificate and its key.
func (s *secure) files(t *testing.T, certificate tls.Certificate) []string {
	t.Helper()
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	var args []string
	for _, f := range []struct {
		flag, name string
		content    []byte
	}{
		{"--cafile", "root.pem", s.authority.Root()},
		{"--cert", "cert.pem", pemOf(certificate.Certificate[0])},
		{"--key", "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})},
	} {
		path := filepath.Join(dir, f.name)
		if err := os.WriteFile(path, f.content, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, f.flag, path)
	}
	return args
}

func (s *secure) at(t *testing.T) []string {
	t.Helper()
	host, port, err := net.SplitHostPort(s.TLSAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	return []string{"-h", host, "-p", port}
}

// A device with a certificate, as mosquitto_sub and mosquitto_pub are one: it
// hears what is for it until it is revoked, and then comes back as nobody.
func TestMosquittoWithCertificate(t *testing.T) {
	sub, pub := tool(t, "mosquitto_sub"), tool(t, "mosquitto_pub")
	s := startSecure(t, &rule{}, nil)
	id := deviceID(t, 1)
	prefix := "devices/" + id.String() + "/"
	for _, version := range []string{"mqttv311", "mqttv5"} {
		for _, protocol := range []string{"tlsv1.2", "tlsv1.3"} {
			certificate := s.issue(t, id)
			args := append(append(s.at(t), s.files(t, certificate)...), "-V", version, "--tls-version", protocol, "-q", "1")
			out, err := exec.Command(pub, append(args, "-t", prefix+"telemetry", "-m", "21.5")...).CombinedOutput()
			if err != nil {
				t.Fatalf("%s over %s: pub: %v: %s", version, protocol, err, out)
			}
			cmd := exec.Command(sub, append(args, "-t", prefix+"commands", "-W", "20")...)
			words, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			heard := make(chan string, 1)
			ended := make(chan error, 1)
			go func() { // ends with the process
				lines := bufio.NewScanner(words)
				for lines.Scan() {
					select {
					case heard <- lines.Text():
					default:
					}
				}
				ended <- cmd.Wait()
			}()
			eventually(t, "the command is heard", func() bool {
				s.rule.tell(s.Broker, id, []byte("blink"))
				select {
				case word := <-heard:
					return word == "blink"
				default:
					return false
				}
			})
			began := time.Now()
			s.revoke(id)
			eventually(t, "logged out", func() bool { return s.Connections().Devices == 0 })
			if took := time.Since(began); took > time.Second {
				t.Errorf("%s over %s: the session ended after %v", version, protocol, took)
			}
			select {
			case <-ended: // it came back, and may subscribe to nothing
			case <-time.After(patience):
				t.Errorf("%s over %s: mosquitto_sub goes on", version, protocol)
				_ = cmd.Process.Kill()
				<-ended
			}
		}
	}
}

// A device as Mosquitto's clients are one: every line is acknowledged and heard,
// what is due comes to who subscribes, and a killed one's will is its last word.
func TestMosquittoReports(t *testing.T) {
	sub, pub := tool(t, "mosquitto_sub"), tool(t, "mosquitto_pub")
	id := deviceID(t, 1)
	for _, version := range []string{"mqttv311", "mqttv5"} {
		b, n := deskOf(t, func(edgeclaim.Report) (edgeclaim.Receipt, error) {
			commit := edgeclaim.NewCommit()
			time.AfterFunc(time.Millisecond, func() { commit.End(nil) })
			return edgeclaim.Receipt{Accepted: 1, Commit: commit}, nil
		}, nil)
		host, port, err := net.SplitHostPort(b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		login := []string{"-h", host, "-p", port, "-V", version, "-q", "1", "-u", id.String(), "-P", passwordOf(id)}
		var lines strings.Builder
		const many = 200
		for i := range many {
			fmt.Fprintf(&lines, `{"n":%d}`+"\n", i)
		}
		cmd := exec.Command(pub, append(login, "-t", telemetryOf(id), "-l")...)
		cmd.Stdin = strings.NewReader(lines.String())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: pub: %v: %s", version, err, out)
		}
		var said strings.Builder
		for _, got := range n.notes() {
			said.WriteString(got.body + "\n")
		}
		if said.String() != lines.String() {
			t.Errorf("%s: heard %d of %d lines, or in another order", version, len(n.notes()), many)
		}
		eventually(t, "it has left", func() bool { return n.left() == 1 })
		listener := exec.Command(sub, append(login, "-t", commandsOf(id), "--will-topic", eventsOf(id), "--will-payload", "dead")...)
		if err := listener.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it listens", func() bool { return b.Subscribed(id) })
		_ = listener.Process.Kill()
		_ = listener.Wait()
		all := n.awaitNotes(t, many+1)
		if last := all[many]; !last.event || last.body != "dead" {
			t.Errorf("%s: the last word is %+v", version, last)
		}
		eventually(t, "it has left", func() bool { return n.left() == 2 })
	}
}

// A claim over TLS without a certificate, as a factory's script makes one.
func TestMosquittoClaimOverTLS(t *testing.T) {
	rr := tool(t, "mosquitto_rr")
	s := startSecure(t, &rule{answer: func(ask edgeclaim.Ask) edgeclaim.Answer {
		return edgeclaim.Answer{Body: fmt.Appendf(nil, "%s: %s", ask.Format, ask.Body)}
	}}, nil)
	root := s.files(t, selfSigned(t, "x", 0))[:2]
	for _, version := range []string{"mqttv311", "mqttv5"} {
		args := append(append(s.at(t), root...), "-V", version, "-q", "1", "-N", "-W", "10",
			"-t", "provision/request", "-e", "provision/response", "-m", "{}")
		out, err := exec.Command(rr, args...).CombinedOutput()
		if want := "application/json: {}"; err != nil || string(out) != want {
			t.Errorf("%s: %q, %v, want %q", version, out, err, want)
		}
	}
}

// The device's own renewal, over TLS by its certificate.
func TestMosquittoRenews(t *testing.T) {
	rr := tool(t, "mosquitto_rr")
	s := startSecure(t, &rule{renew: says}, nil)
	id := deviceID(t, 1)
	prefix := "devices/" + id.String() + "/credentials/"
	files := s.files(t, s.issue(t, id))
	for _, version := range []string{"mqttv311", "mqttv5"} {
		args := append(append(s.at(t), files...), "-V", version, "-q", "1", "-N", "-W", "10",
			"-t", prefix+"request", "-e", prefix+"response", "-m", `{"a":0}`)
		out, err := exec.Command(rr, args...).CombinedOutput()
		if want := id.String() + ` application/json {"a":0}`; err != nil || string(out) != want {
			t.Errorf("%s: %q, %v, want %q", version, out, err, want)
		}
	}
}

// openssl sees the versions and suites that are served, and no ticket.
func TestOpenSSL(t *testing.T) {
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip(err)
	}
	s := startSecure(t, &rule{}, nil)
	for _, tt := range []struct {
		args []string
		good bool
	}{
		{[]string{"-tls1_3"}, true},
		{[]string{"-tls1_2"}, true},
		{[]string{"-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"}, true},
		{[]string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:AES128-GCM-SHA256:ECDHE-ECDSA-AES128-SHA256"}, false},
		{[]string{"-tls1_1", "-cipher", "ALL:@SECLEVEL=0"}, false},
	} {
		args := append([]string{"s_client", "-connect", s.TLSAddr().String()}, tt.args...)
		out, _ := exec.Command(path, args...).CombinedOutput() // stdin is at its end: it leaves
		said := string(out)
		if good := strings.Contains(said, "Cipher is ") && !strings.Contains(said, "Cipher is (NONE)"); good != tt.good {
			t.Errorf("%v: %v, want %v: %s", tt.args, good, tt.good, said)
		}
		if strings.Contains(said, "TLS session ticket:") {
			t.Errorf("%v: a ticket", tt.args)
		}
	}
}

// TLS answers a key update by itself, at any time: also long after the deadline
// of the last write, and the connection goes on.
func TestKeyUpdate(t *testing.T) {
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip(err)
	}
	s := startSecure(t, &rule{}, func(c *broker.Config) { c.WriteTimeout = 10 * time.Millisecond })
	cmd := exec.Command(path, "s_client", "-connect", s.TLSAddr().String(), "-tls1_3")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out heard
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	login := mqttwire.Login{Clean: true, KeepAlive: 30}
	for n, step := range []struct{ say, hear string }{
		{string(mqttwire.AppendConnect(nil, mqttwire.V311, &login)), "\x20\x02\x00\x00"},
		{"K\n", "KEYUPDATE"},
		{"\xc0\x00", "\xd0\x00"},
		{"K\n", "KEYUPDATE"},
		{"\xc0\x00", "\xd0\x00"},
	} {
		if strings.Contains(step.say, "K") {
			began := time.Now()
			eventually(t, "the deadline is past", func() bool { return time.Since(began) > 50*time.Millisecond })
		}
		out.forget()
		if _, err := in.Write([]byte(step.say)); err != nil {
			t.Fatal(err)
		}
		eventually(t, fmt.Sprintf("step %d", n), func() bool { return out.has(step.hear) })
	}
}

// heard is what a process said.
type heard struct {
	mu   sync.Mutex
	said bytes.Buffer // guarded by mu
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.said.Write(p)
}

func (h *heard) has(text string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return bytes.Contains(h.said.Bytes(), []byte(text))
}

func (h *heard) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said.Reset()
}
