package acceptance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim/internal/mqttwire"
)

// besieged is the configuration of a box under attack. Its waits are short, so
// that the test sees them end, and its doors are open on every address, so that
// somebody comes who is not the box itself.
const besieged = `http:
  plaintext_outside_loopback: true
  read_header_timeout: 2s
  read_timeout: 4s
  max_per_source: 64
mqtt:
  plaintext_outside_loopback: true
  connect_timeout: 2s
  max_per_source: 64
`

// entrance is one way into the box: MQTT or HTTP, plain or TLS.
type entrance struct {
	name   string
	addr   string
	secure *tls.Config // nil: plain
}

// reach opens a connection to the entrance, from the loopback address given,
// "" for any.
func (d *entrance) reach(from string) (net.Conn, error) {
	var dialer net.Dialer
	if from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", d.addr)
	if err != nil || d.secure == nil {
		return conn, err
	}
	over := tls.Client(conn, d.secure)
	if err := over.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return over, nil
}

// siege is a box, its four entrances, what the attacker has stolen, and what he
// is after.
type siege struct {
	*box
	mqtt, http []*entrance
	key        string  // the factory key, out of a stolen device's flash
	stolen     claimed // that device: what it may, the attacker may
	victim     claimed // a device at work; its secret is nowhere but in it
	captured   string  // a claim with a nonce that went over the wire in the clear, answered and used since
	at         *sitting
	spies      []*sitting

	mu     sync.Mutex
	theirs map[string]bool // hardware that the attacker claimed with the stolen key
}

// from is where the attacker's connections come from.
const from = "127.0.0.66"

func newSiege(t *testing.T) *siege {
	t.Helper()
	path := filepath.Join(t.TempDir(), "edgeclaim.yaml")
	if err := os.WriteFile(path, []byte(besieged), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBox(t, "--config", path)
	for _, addr := range []*string{&b.httpAddr, &b.mqttAddr, &b.httpsAddr, &b.mqttsAddr} {
		*addr = "0.0.0.0:0"
	}
	b.start()
	s := &siege{box: b, key: b.key(), theirs: map[string]bool{"STOLEN": true, "VICTIM": true}}
	secure := trusting(t, b.root(), nil)
	secure.ServerName = "127.0.0.1"
	local := func(addr string) string {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		return net.JoinHostPort("127.0.0.1", port)
	}
	s.mqtt = []*entrance{{"mqtt", local(b.mqttAddr), nil}, {"mqtts", local(b.mqttsAddr), secure}}
	s.http = []*entrance{{"http", local(b.httpAddr), nil}, {"https", local(b.httpsAddr), secure}}
	s.stolen = b.claimOne(s.key, "STOLEN")
	s.captured = fmt.Sprintf(`{"provision_key":%q,"device_name":"n","hardware_id":"VICTIM","claim_nonce":%q}`, s.key, randomNonce())
	said := b.post(s.captured)
	s.victim = claimed{said.text(t, "device_id"), said.text(t, "api_key"), "VICTIM"}
	home := as(s.victim)
	home.KeepAlive = 0 // the box's own, which is minutes
	client, ack := s.connect(t, s.mqtt[0], mqttwire.V311, home)
	if err := client.SetDeadline(time.Time{}); err != nil || ack.Code() != 0 {
		t.Fatalf("the victim logs in: %v, %#x", err, ack.Code())
	}
	s.at = listen(t, client)
	for i, topic := range []string{"commands", "config", "credentials/response", "credentials/response/cbor"} {
		if err := s.at.client.Send(mqttwire.AppendSubscribe(nil, mqttwire.V311, uint16(i+1), 1, "devices/"+s.victim.id+"/"+topic)); err != nil {
			t.Fatal(err)
		}
		s.at.next(mqttwire.Suback)
	}
	return s
}

// connect is a client that came in through an entrance, from the attacker's
// address.
func (s *siege) connect(t testing.TB, d *entrance, v mqttwire.Version, who mqttwire.Login) (*mqttwire.Client, mqttwire.Packet) {
	t.Helper()
	conn, err := d.reach(from)
	if err != nil {
		t.Fatalf("%s: %v", d.name, err)
	}
	t.Cleanup(func() { conn.Close() })
	client := mqttwire.New(conn, v)
	if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	ack, err := client.Login(who)
	if err != nil {
		t.Fatalf("%s: %v", d.name, err)
	}
	return client, ack
}

// as is the log-in of a device that the attacker has.
func as(d claimed) mqttwire.Login {
	return mqttwire.Login{ClientID: d.id, Username: d.id, Password: d.apiKey, Clean: true, KeepAlive: 60}
}

// another is one more device of the attacker's, for one attack alone: who holds
// a factory key may claim.
func (s *siege) another(t testing.TB, hardware string) claimed {
	t.Helper()
	s.mu.Lock()
	s.theirs[hardware] = true
	s.mu.Unlock()
	return s.of(t).claimOne(s.key, hardware)
}

// asClaimant is a log-in of nobody.
func asClaimant() mqttwire.Login {
	return mqttwire.Login{ClientID: "device", Clean: true, KeepAlive: 60}
}

// wantCut fails unless the box ends the connection; what it says before is of no
// interest.
func wantCut(t testing.TB, conn net.Conn, when string) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	_, err := io.Copy(io.Discard, conn)
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		t.Errorf("%s: the connection is open after %v", when, patience)
	}
}

// production is a line that goes on claiming, one worker through each entrance,
// each claim on a connection of its own.
type production struct {
	stop context.CancelFunc
	work sync.WaitGroup

	mu      sync.Mutex
	answers map[string]string // device id by hardware
	took    []time.Duration
	failed  []string
}

// produce starts the line.
func (s *siege) produce(t *testing.T) *production {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	p := &production{stop: stop, answers: map[string]string{}}
	for _, d := range s.mqtt {
		p.work.Go(func() { p.run(ctx, d, s.key, claimOverMQTT) })
	}
	for _, d := range s.http {
		p.work.Go(func() { p.run(ctx, d, s.key, claimOverHTTP) })
	}
	t.Cleanup(p.end)
	return p
}

func (p *production) end() {
	p.stop()
	p.work.Wait()
}

func (p *production) run(ctx context.Context, d *entrance, key string, claim func(d *entrance, body string) (string, error)) {
	each(ctx, 20*time.Millisecond, func(i int) {
		hardware := fmt.Sprint(d.name, "-", i)
		start := time.Now()
		said, err := claim(d, claimBody(key, "n", hardware))
		took := time.Since(start)
		p.mu.Lock()
		defer p.mu.Unlock()
		var id, secret string
		if err != nil || !readAnswer(said, &id, &secret) || secret == "" {
			p.failed = append(p.failed, fmt.Sprintf("%s after %v: %v %s", hardware, took, err, said))
			return
		}
		p.answers[hardware] = id
		p.took = append(p.took, took)
	})
}

func claimOverMQTT(d *entrance, body string) (string, error) {
	conn, err := d.reach("")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	client := mqttwire.New(conn, mqttwire.V311)
	if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if ack, err := client.Login(asClaimant()); err != nil || ack.Code() != 0 {
		return "", fmt.Errorf("connack %#x: %w", ack.Code(), err)
	}
	if _, err := client.Subscribe("provision/response"); err != nil {
		return "", err
	}
	said, _, err := askOver(client, body)
	return said.body, err
}

func claimOverHTTP(d *entrance, body string) (string, error) {
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: d.secure}
	client := &http.Client{Timeout: patience, Transport: transport}
	scheme := "http://"
	if d.secure != nil {
		scheme = "https://"
	}
	response, err := client.Post(scheme+d.addr+"/api/v1/provision", "application/json", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	return string(said), err
}

// TestAttacker runs everything that an attacker on the plant's network can think
// of, at once, against the plain and the TLS listeners, while the line claims.
// He gets nothing, and the line goes on.
func TestAttacker(t *testing.T) {
	t.Parallel()
	s := newSiege(t)
	line := s.produce(t)
	until(t, "the line has claimed through each entrance", func() bool { return line.count() >= 40 })
	quiet := s.upkeep(t)
	s.spy(t)
	// Not as parallel tests, of which as many run as there are processors.
	var attacks sync.WaitGroup
	for name, attack := range map[string]func(t *testing.T, s *siege){
		"smuggles topics": smuggleTopics, "wills and retain": willsAndRetain, "replays": replay, "spoofs ids": spoofIDs,
		"takes over": takeOver, "slow loris": slowLoris, "floods connections": floodConnections, "floods packets": floodPackets,
		"bombs over HTTP": bombsOverHTTP, "bombs over MQTT": bombsOverMQTT, "smuggles requests": smuggleRequests,
		"guesses keys": guessKeys, "crowds": crowds,
	} {
		attacks.Go(func() { t.Run(name, func(t *testing.T) { attack(t, s) }) })
	}
	attacks.Wait()
	line.end()
	line.settle(t, s)
	s.at.wantOpen("after all of it")
	s.wantUnheard(t)
	s.wantLogin(s.victim.id, s.victim.apiKey, true, "after all of it")
	for _, spy := range s.spies {
		spy.client.Close()
	}
	until(t, "the box has given back what the attacks took", func() bool {
		now := s.upkeep(t)
		return now.goroutines <= quiet.goroutines+20 && now.files <= quiet.files+20
	})
	if now := s.upkeep(t); now.resident > quiet.resident+256<<20 {
		t.Errorf("resident memory is %d MiB, it was %d", now.resident>>20, quiet.resident>>20)
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if strings.Contains(s.log.String(), "panic") {
		t.Error("something panicked")
	}
	wantNoSecret(t, "the log", []byte(s.log.String()), []string{s.key, s.victim.apiKey, s.stolen.apiKey})
}

func (p *production) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.answers)
}

// settle fails unless each claim of the line was answered once, with a device
// that is on record, and none waited for long.
func (p *production) settle(t *testing.T, s *siege) {
	t.Helper()
	if len(p.failed) > 0 {
		t.Errorf("%d claims of the line failed, beside %d that did not; the first: %s", len(p.failed), len(p.answers), p.failed[0])
	}
	byHardware := map[string]string{}
	for _, d := range s.devices() {
		byHardware[d.HardwareID] = d.DeviceID
	}
	for hardware, id := range p.answers {
		if byHardware[hardware] != id {
			t.Errorf("%s was answered %s, on record is %q", hardware, id, byHardware[hardware])
		}
		delete(byHardware, hardware)
	}
	maps.DeleteFunc(byHardware, func(hardware, _ string) bool { return s.theirs[hardware] })
	if len(byHardware) > 0 {
		t.Errorf("the attacker made %d devices: %v", len(byHardware), byHardware)
	}
	slices.Sort(p.took)
	t.Logf("%d claims while under attack: p50 %v, p99 %v", len(p.took), p.took[len(p.took)/2], p.took[len(p.took)*99/100])
}

// upkeep is what the box takes of its machine.
type upkeep struct {
	goroutines, files int
	resident          int64
}

func (s *siege) upkeep(t *testing.T) upkeep {
	t.Helper()
	values := map[string]int64{}
	for line := range strings.Lines(get(t, "http://"+s.metricsAddr+"/metrics")) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		if value, err := strconv.ParseFloat(text, 64); err == nil {
			values[name] = int64(value)
		}
	}
	u := upkeep{int(values["go_goroutines"]), int(values["process_open_fds"]), values["process_resident_memory_bytes"]}
	if u.goroutines == 0 || u.files == 0 || u.resident == 0 {
		t.Fatalf("the metrics lack something: %+v", u)
	}
	return u
}

// spy sends spies in through each entrance: claimants, and the device that the
// attacker has. They ask for everything, and listen until the end.
func (s *siege) spy(t *testing.T) {
	t.Helper()
	filters := append(slices.Clone(spyFilters),
		"devices/"+s.victim.id+"/#", "devices/"+s.victim.id+"/commands", "devices/"+s.victim.id+"/config",
		"devices/"+s.victim.id+"/telemetry", "devices/"+s.victim.id+"/credentials/response",
		"devices/"+s.victim.id+"/credentials/request", "devices/"+s.victim.id+"/credentials/response/cbor",
		"$share//devices/+/commands", "$share/g//", "devices//commands", "/devices/"+s.victim.id+"/commands", "devices/+/credentials/#", "\u0000", "a/#/b", "#/a", "+a",
	)
	own := map[string]bool{ // all that a claimant's own answer may come to
		"provision/response": true, "provision/response/+": true, "provision/response/cbor": true, "provision/response/+/cbor": true,
	}
	for _, d := range s.mqtt {
		for who, login := range map[string]mqttwire.Login{"claimant": asClaimant(), "device": as(s.stolen)} {
			for _, filter := range filters {
				client, ack := s.connect(t, d, mqttwire.V5, login)
				if ack.Code() != 0 {
					t.Fatalf("%s as %s: %#x", d.name, who, ack.Code())
				}
				got, err := client.Subscribe(filter)
				if err == nil && got.Codes[0] < 0x80 != (who == "claimant" && own[filter]) {
					t.Errorf("%s as %s: %q was answered %#x", d.name, who, filter, got.Codes[0])
				}
				if err == nil && who == "claimant" && client.SetDeadline(time.Time{}) == nil {
					s.spies = append(s.spies, listen(t, client))
				}
			}
		}
	}
}

// wantUnheard fails if a spy, or the victim, was sent anything.
func (s *siege) wantUnheard(t *testing.T) {
	t.Helper()
	for _, one := range append(slices.Clone(s.spies), s.at) {
		for len(one.packets) > 0 {
			if p := <-one.packets; p.Type == mqttwire.Publish {
				t.Errorf("a spy or the victim heard %q on %s", p.Payload, p.Topic)
			}
		}
	}
}
