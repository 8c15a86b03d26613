package broker_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/broker"
	"edgeclaim/internal/mqttwire"
)

// ward is a broker that strangers send bytes to, with a device that goes on
// beside them.
type ward struct {
	b    *broker.Broker
	rule *rule
	log  journal
	mu   sync.Mutex // guards odd
	odd  []string   // what was wrong with what the rule was asked
	near *mqttwire.Client
	due  int // messages that were sent to near
	base int // goroutines before the stranger came
}

// The devices of these tests: one is nearBy, the other the stranger's.
const (
	nearBy   = 1
	stranger = 2
)

func newWard(f *testing.F) *ward {
	w := &ward{rule: &rule{login: knowsAll, inbox: inbox{configs: map[edgeclaim.DeviceID]edgeclaim.DeviceConfig{}}}}
	w.rule.answer = w.answer
	w.rule.change = func(p *broker.Parts) { p.Reports = w }
	for _, n := range []int{nearBy, stranger} {
		w.rule.configs[deviceID(f, n)] = edgeclaim.DeviceConfig{Version: 1, Config: []byte("{}")}
	}
	b, stop := run(f, w.rule, func(c *broker.Config) {
		c.ConnectTimeout = 250 * time.Millisecond // for those who say nothing
		c.ReportTimeout = 100 * time.Millisecond  // and for what cannot be taken
	}, slog.New(slog.NewJSONHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	f.Cleanup(func() {
		if err := stop(); err != nil {
			f.Errorf("Run: %v", err)
		}
	})
	w.b = b
	b.SayPanics(math.MaxInt)
	w.near = device(f, b, mqttwire.V5, deviceID(f, nearBy))
	subscribe(f, w.near, 0x01, "devices/"+deviceID(f, nearBy).String()+"/commands")
	return w
}

// answer takes claims, and notes down those that must not get that far.
func (w *ward) answer(ask edgeclaim.Ask) edgeclaim.Answer {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(ask.Body) > edgeclaim.MaxClaimBody || ask.Via != edgeclaim.ViaMQTT || !ask.Source.IsLoopback() ||
		ask.Format != edgeclaim.FormatJSON && ask.Format != edgeclaim.FormatCBOR {
		w.odd = append(w.odd, fmt.Sprintf("the rule was asked about %d bytes of %q by %s from %v",
			len(ask.Body), ask.Format, ask.Via, ask.Source))
	}
	return edgeclaim.Answer{Body: []byte("decided")}
}

// Telemetry takes what a device measures, or does not, as the first byte says.
func (w *ward) Telemetry(_ context.Context, r edgeclaim.Report) (edgeclaim.Receipt, error) {
	w.judge(r)
	what := byte(0)
	if len(r.Body) > 0 {
		what = r.Body[0]
	}
	commit := edgeclaim.NewCommit()
	switch what {
	case 'i':
		return edgeclaim.Receipt{Rejected: 1}, edgeclaim.Invalid("body", "want JSON")
	case 't':
		return edgeclaim.Receipt{}, edgeclaim.ErrThrottled
	case 'u':
		return edgeclaim.Receipt{}, edgeclaim.ErrUnavailable
	case 'f':
		commit.End(edgeclaim.ErrUnavailable)
	case 's':
		time.AfterFunc(time.Millisecond, func() { commit.End(nil) })
	case 'p':
		panic("on fire")
	default:
		return edgeclaim.Receipt{Accepted: 1}, nil
	}
	return edgeclaim.Receipt{Accepted: 1, Commit: commit}, nil
}

// Event is Telemetry.
func (w *ward) Event(ctx context.Context, r edgeclaim.Report) (edgeclaim.Receipt, error) {
	return w.Telemetry(ctx, r)
}

// Gone says nothing here.
func (*ward) Gone(edgeclaim.DeviceID) {}

// judge notes down reports that must not get that far.
func (w *ward) judge(r edgeclaim.Report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	own := "00000000-0000-5000-8000-000000000002" // who is nearby says nothing
	if r.By.Device.String() != own || r.Via != edgeclaim.ViaMQTT || !r.Source.IsLoopback() || len(r.Body) > 64<<10 {
		w.odd = append(w.odd, fmt.Sprintf("a report of %d bytes by %v over %s from %v", len(r.Body), r.By.Device, r.Via, r.Source))
	}
}

func (w *ward) oddities() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	odd := w.odd
	w.odd = nil
	return odd
}

// enter notes how things stand before a stranger comes.
func (w *ward) enter() { w.base = runtime.NumGoroutine() }

// holds is that the stranger left nothing behind and did nobody any harm.
func (w *ward) holds(t *testing.T) {
	t.Helper()
	w.alone(t)
	if err := w.near.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for ; w.due > 0; w.due-- {
		p := next(t, w.near, mqttwire.Publish)
		if string(p.Payload) != "for you alone" {
			t.Errorf("the device nearby heard %q", p.Payload)
		}
		if err := w.near.Send(mqttwire.AppendPuback(nil, mqttwire.V5, p.ID, 0)); err != nil {
			t.Fatal(err)
		}
	}
	quiet(t, w.near) // heard nothing else, and is heard
	for _, problem := range append(w.oddities(), w.log.problems()...) {
		t.Error(problem)
	}
	asked := w.rule.answers.Load()
	c := claimant(t, w.b, mqttwire.V311, "provision/response")
	publish(t, c, mqttwire.Message{Topic: "provision/request", QoS: 1})
	if p := next(t, c, mqttwire.Publish); string(p.Payload) != "decided" {
		t.Errorf("answer %q", p.Payload)
	}
	next(t, c, mqttwire.Puback)
	c.Close()
	if n := w.rule.answers.Load() - asked; n != 1 {
		t.Errorf("the rule was asked %d times for one claim", n)
	}
	w.alone(t)
}

// alone waits until nobody is there but the device nearby, and nothing is left of
// whoever else was.
func (w *ward) alone(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(100 * time.Microsecond) // thousands of strangers come one after the other
	defer tick.Stop()
	for ; ; <-tick.C {
		c, open, kept, running := w.b.Connections(), w.b.Open(), w.b.Clients(), runtime.NumGoroutine()
		if open == 1 && kept == 1 && c.Devices == 1 && c.Claimants == 0 && running <= w.base {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind: %d connections (%d claimants, %d devices), %d sessions, %d goroutines, %d before",
				open, c.Claimants, c.Devices, kept, running, w.base)
		}
	}
}

// journal is the broker's log, in JSON.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

// problems empties the journal, and is what must not stand there: a panic, but
// for those that mochi's decoder is known for, or a password.
func (j *journal) problems() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	defer j.buf.Reset()
	var found []string
	for line := range strings.Lines(j.buf.String()) {
		var entry struct{ Msg, Where, Stack string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			found = append(found, "no JSON: "+line)
		}
		if who := culprit(entry.Stack); entry.Msg == "panicked" && !strings.HasPrefix(who, "github.com/mochi-mqtt/server/v2/packets.") &&
			!strings.Contains(who, "(*ward).Telemetry") {
			found = append(found, "panicked "+entry.Where+"\n"+entry.Stack)
		}
		if strings.Contains(line, "sk_live_") {
			found = append(found, "a password in the log: "+line)
		}
	}
	return found
}

// culprit is the function that panicked.
func culprit(stack string) string {
	_, after, _ := strings.Cut(stack, "\npanic(")
	for line := range strings.Lines(after) {
		if name := strings.TrimSpace(line); strings.Contains(line, "(") && !strings.HasPrefix(line, "\t") &&
			!strings.HasPrefix(name, "runtime.") && !strings.HasPrefix(name, "{") {
			return name
		}
	}
	return ""
}

// packet is one that the broker sent, as far as its kind.
type packet struct {
	kind mqttwire.Type
	body []byte
}

// errNoPacket: what the broker sent is not MQTT.
var errNoPacket = errors.New("no packet of a server's")

// flags are the only ones that each kind of packet from a server may have
// (MQTT 5.0, section 2.1.3); a PUBLISH is looked at by itself.
var flags = map[mqttwire.Type]byte{
	mqttwire.Connack: 0, mqttwire.Puback: 0, mqttwire.Suback: 0, mqttwire.Unsuback: 0,
	mqttwire.Pingresp: 0, mqttwire.Disconnect: 0, 5: 0, 6: 2, 7: 0, // PUBREC, PUBREL, PUBCOMP
}

func readPacket(r *bufio.Reader) (packet, error) {
	head, err := r.ReadByte()
	if err != nil {
		return packet{}, err
	}
	p := packet{kind: mqttwire.Type(head >> 4)}
	want, known := flags[p.kind]
	if (!known || head&0x0f != want) && (p.kind != mqttwire.Publish || head&0x01 != 0 || head>>1&3 > 1) { // RETAIN, QoS
		return packet{}, errNoPacket
	}
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return packet{}, err
	}
	if size > 64<<10 {
		return packet{}, errNoPacket
	}
	p.body = make([]byte, size)
	_, err = io.ReadFull(r, p.body)
	return p, err
}

// topic is that of a PUBLISH.
func (p *packet) topic() string {
	if len(p.body) < 2 || len(p.body)-2 < int(binary.BigEndian.Uint16(p.body)) {
		return "(cut off)"
	}
	return string(p.body[2 : 2+binary.BigEndian.Uint16(p.body)])
}

// endsWithin is how soon a connection ends on which the stranger says no more, or
// did not log in: at once, or after ConnectTimeout, and two write timeouts at worst.
const endsWithin = patience / 2

// hear reads all that the broker says to a stranger until it ends the
// connection, in time. Every packet is one of MQTT's, and every message is on a
// topic that the stranger may hear. first is called with the first.
func hear(t *testing.T, conn net.Conn, mayHear func(topic string) bool, first func(packet)) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(endsWithin)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	for n := 0; ; n++ {
		p, err := readPacket(r)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.Fatal("still connected")
		case errors.Is(err, errNoPacket):
			t.Fatalf("packet %d: %v", n, err)
		case err != nil: // the end, in whatever way
			return
		case (p.kind == mqttwire.Connack) != (n == 0): // MQTT 5.0, section 3.2
			t.Fatalf("packet %d is of type %d", n, p.kind)
		case p.kind == mqttwire.Publish && !mayHear(p.topic()):
			t.Fatalf("heard a message on %q", p.topic())
		case n == 0:
			first(p)
		}
	}
}

// answers are the topics that a claimant may hear.
func answers(topic string) bool {
	level, below := strings.CutPrefix(topic, "provision/response")
	return below && (level == "" || strings.HasPrefix(level, "/") && strings.Count(level, "/") == 1)
}

func shutWrite(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.CloseWrite() // or it is closed already
	}
}

// Bytes from nobody yet. The stranger says no more afterwards, or, patient, keeps
// the connection open: then the broker ends it, unless it let him in.
func FuzzBeforeConnect(f *testing.F) {
	w := newWard(f)
	f.Fuzz(func(t *testing.T, patient byte, stream []byte) {
		w.enter()
		conn := connect(t, w.b)
		_, _ = conn.Write(stream)
		if patient%16 != 15 {
			shutWrite(conn)
		}
		mine := "devices/" + deviceID(t, stranger).String() + "/"
		hear(t, conn, func(topic string) bool { return answers(topic) || strings.HasPrefix(topic, mine) }, func(p packet) {
			if len(p.body) > 1 && p.body[1] == 0 {
				shutWrite(conn)
			}
		})
		w.end(t)
		w.holds(t)
	})
}

// tell sends a message to the device nearby, which nobody else may hear.
func (w *ward) tell(t *testing.T) {
	t.Helper()
	w.rule.tell(w.b, deviceID(t, nearBy), []byte("for you alone"))
	w.due++
}

// end has the stranger's session forgotten, should he have known the password
// and left one.
func (w *ward) end(t *testing.T) {
	t.Helper()
	w.b.Disconnect(deviceID(t, stranger))
	w.rule.forget(deviceID(t, stranger))
}

// Bytes from a claimant: nothing of them reaches anybody but the rule.
func FuzzClaimant(f *testing.F) {
	w := newWard(f)
	f.Fuzz(func(t *testing.T, version byte, stream []byte) {
		w.enter()
		v := mqttwire.Version(4 + version%2)
		conn := connect(t, w.b)
		_, _ = conn.Write(append(mqttwire.AppendConnect(nil, v, &mqttwire.Login{Clean: true}), stream...))
		shutWrite(conn)
		w.tell(t)
		hear(t, conn, answers, func(packet) {})
		w.holds(t)
	})
}

// Bytes from a device, before and after a message is sent to it. It may ask to
// be remembered; then it comes back for what it has missed.
func FuzzDevice(f *testing.F) {
	w := newWard(f)
	f.Fuzz(func(t *testing.T, how byte, before, after []byte) {
		w.enter()
		asked := w.rule.answers.Load()
		id := deviceID(t, stranger)
		prefix := "devices/" + id.String() + "/"
		commands, renewed := prefix+"commands", prefix+"credentials/response"
		v := mqttwire.Version(4 + how%2)
		login := deviceLogin(id)
		if how&2 != 0 {
			login.Clean, login.Properties.SessionExpiry = false, new(uint32(60))
		}
		for _, again := range []bool{false, true} {
			conn := connect(t, w.b)
			_, _ = conn.Write(append(mqttwire.AppendConnect(nil, v, &login), before...))
			w.rule.tell(w.b, id, []byte("blink"))
			_, _ = conn.Write(after)
			shutWrite(conn)
			hear(t, conn, func(topic string) bool {
				return topic == commands || topic == prefix+"config" || topic == renewed || topic == renewed+"/cbor"
			}, func(packet) {})
			if again || login.Clean {
				break
			}
			w.tell(t)
		}
		w.end(t)
		w.holds(t)
		if n := w.rule.answers.Load() - asked; n != 1 { // the claim that holds makes
			t.Errorf("a device claimed: the rule was asked %d times", n)
		}
	})
}
