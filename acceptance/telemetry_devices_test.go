package acceptance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edgeclaim/internal/mqttwire"
)

// stream is one connection that publishes at QoS 1, so many at once, as cheaply
// as can be: it shares the machine with what it drives.
type stream struct {
	conn        net.Conn
	r           *bufio.Reader
	topic       string
	out         []byte
	sent, acked uint64 // on this connection
}

// pubackSize is a PUBACK of MQTT 3.1.1.
const pubackSize = 4

// dialStream logs in, or connects without a name where id is empty.
func dialStream(addr, id, apiKey, topic string) (*stream, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, ack, err := mqttwire.Dial(ctx, addr, mqttwire.V311, mqttwire.Login{ClientID: id, Username: id, Password: apiKey, Clean: true, KeepAlive: 300})
	if err != nil {
		return nil, err
	}
	if ack.Code() != 0 {
		client.Close()
		return nil, fmt.Errorf("connack %#x", ack.Code())
	}
	return &stream{conn: client.Conn(), r: bufio.NewReaderSize(client.Conn(), 2048), topic: topic}, nil
}

// deviceStream is a device's, to where its telemetry goes.
func deviceStream(addr, id, apiKey string) (*stream, error) {
	return dialStream(addr, id, apiKey, "devices/"+id+"/telemetry")
}

// say publishes what next gives until it gives nothing more, window of them at
// once, and calls acked for each acknowledgement. They have to come in the order
// of what was sent (MQTT 3.1.1, section 4.6). Half a window goes in one write:
// one message at a time would cost a broker that acknowledges one by one dearly.
func (s *stream) say(window int, next func() (body []byte, ok bool), acked func()) error {
	for {
		if err := s.fill(window, next); err != nil {
			return err
		}
		if s.sent == s.acked {
			return nil
		}
		for waits := true; waits; waits = s.sent-s.acked > uint64(window/2) || s.sent > s.acked && s.r.Buffered() >= pubackSize {
			if err := s.puback(); err != nil {
				return err
			}
			acked()
		}
	}
}

// fill writes as many as the window has room for, in one go.
func (s *stream) fill(window int, next func() ([]byte, bool)) error {
	s.out = s.out[:0]
	for s.sent-s.acked < uint64(window) {
		body, ok := next()
		if !ok {
			break
		}
		s.out = mqttwire.AppendPublish(s.out, mqttwire.V311, &mqttwire.Message{Topic: s.topic, Payload: body, QoS: 1, ID: packetID(s.sent)})
		s.sent++
	}
	if err := s.conn.SetDeadline(time.Now().Add(patience)); err != nil || len(s.out) == 0 {
		return err
	}
	_, err := s.conn.Write(s.out)
	return err
}

func packetID(n uint64) uint16 { return uint16(n%65535) + 1 }

func (s *stream) puback() error {
	packet, err := s.r.Peek(pubackSize)
	if err != nil {
		return err
	}
	if id := packetID(s.acked); packet[0] != byte(mqttwire.Puback)<<4 || packet[1] != 2 || packet[2] != byte(id>>8) || packet[3] != byte(id) {
		return fmt.Errorf("%w: got %x, want a PUBACK of %d", errOutOfTurn, packet, id)
	}
	s.acked++
	_, err = s.r.Discard(pubackSize)
	return err
}

var errOutOfTurn = errors.New("an acknowledgement that is not the next one's")

func (s *stream) close() { s.conn.Close() }

// reporters are devices that say numbered points, each those from its first to
// its last, in their order, and again from the first that was not acknowledged
// whenever a connection ends. A point may so be told twice. It must not be told
// by anybody else, nor be lost.
type reporters struct {
	box  *box
	each int // points of one device
	stop context.CancelFunc
	work sync.WaitGroup
	all  []*reporter

	allowed atomic.Int64 // points that each may have said by now
	mu      sync.Mutex   // guards what follows
	more    chan struct{}
	odd     []string // answers that nobody may get
}

// reporter is one device.
type reporter struct {
	claimed
	of    *reporters
	first int
	// sure are its acknowledged points, all of them from the first on.
	sure   atomic.Int64
	body   []byte
	chance *rand.Rand
	pause  time.Duration // before it tries again
}

const (
	// reportWindow is how many points a device has on the way over MQTT,
	// reportArray how many it puts in one array over HTTP.
	reportWindow = 32
	reportArray  = 100
	// overHTTP: every so manieth device says it over HTTP.
	overHTTP = 16

	shortPause, longPause = 50 * time.Millisecond, 800 * time.Millisecond
)

// startReporters lets devices say so many points each, as soon as they are
// allowed to.
func startReporters(t testing.TB, b *box, devices []claimed, each int, seed uint64) *reporters {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	r := &reporters{box: b, each: each, stop: stop, more: make(chan struct{})}
	for i, d := range devices {
		one := &reporter{claimed: d, of: r, first: i * each, chance: rand.New(rand.NewPCG(seed, uint64(i)))}
		r.all = append(r.all, one)
		if i%overHTTP == 1 {
			r.work.Go(func() { one.reportHTTP(ctx) })
		} else {
			r.work.Go(func() { one.reportMQTT(ctx) })
		}
	}
	t.Cleanup(r.end)
	return r
}

// end stops them, wherever they are.
func (r *reporters) end() {
	r.stop()
	r.work.Wait()
}

// allow lets each say that many of its points, or more where they may already.
func (r *reporters) allow(points int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.allowed.Store(max(r.allowed.Load(), int64(min(points, r.each))))
	close(r.more)
	r.more = make(chan struct{})
}

// wait waits until more than said are allowed. It is false at the end.
func (r *reporters) wait(ctx context.Context, said int64) bool {
	for said < int64(r.each) && ctx.Err() == nil {
		r.mu.Lock()
		more := r.more
		r.mu.Unlock()
		if r.allowed.Load() > said {
			return true
		}
		select {
		case <-more:
		case <-ctx.Done():
		}
	}
	return false
}

// sure counts the points that were acknowledged, and those that are allowed.
func (r *reporters) sure() (acknowledged, allowed uint64) {
	for _, one := range r.all {
		acknowledged += uint64(one.sure.Load())
	}
	return acknowledged, uint64(r.allowed.Load()) * uint64(len(r.all))
}

func (r *reporters) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.odd) < 20 {
		r.odd = append(r.odd, fmt.Sprintf(format, args...))
	}
}

// rest waits before the next try, longer each time.
func (d *reporter) rest(ctx context.Context) {
	d.pause = min(max(2*d.pause, shortPause), longPause)
	within(d.pause/2+time.Duration(d.chance.Int64N(int64(d.pause))), ctx.Done())
}

func (d *reporter) reportMQTT(ctx context.Context) {
	for d.of.wait(ctx, d.sure.Load()) {
		s, err := deviceStream(d.of.box.mqttAddr, d.id, d.apiKey)
		if err != nil {
			d.rest(ctx)
			continue
		}
		unplug := context.AfterFunc(ctx, s.close)
		for err == nil && d.of.wait(ctx, d.sure.Load()) {
			err = d.stream(s)
		}
		unplug()
		s.close()
		if errors.Is(err, errOutOfTurn) {
			d.of.note("%s: %v", d.hardware, err)
		}
		if err != nil {
			d.rest(ctx)
		}
	}
}

// stream says what is allowed by now and was not acknowledged.
func (d *reporter) stream(s *stream) error {
	n := d.sure.Load()
	return s.say(reportWindow, func() ([]byte, bool) {
		if n >= d.of.allowed.Load() {
			return nil, false
		}
		d.body = strconv.AppendInt(append(d.body[:0], `{"n":`...), int64(d.first)+n, 10)
		d.body = append(d.body, '}')
		n++
		return d.body, true
	}, func() {
		d.sure.Add(1)
		d.pause = 0
	})
}

func (d *reporter) reportHTTP(ctx context.Context) {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	defer client.CloseIdleConnections()
	for d.of.wait(ctx, d.sure.Load()) {
		count := min(reportArray, d.of.allowed.Load()-d.sure.Load())
		if !d.post(ctx, client, count) {
			d.rest(ctx)
			continue
		}
		d.sure.Add(count)
		d.pause = 0
	}
}

// post says so many points in one array, and reports whether they were taken.
func (d *reporter) post(ctx context.Context, client *http.Client, count int64) bool {
	d.body = append(d.body[:0], '[')
	for n := range count {
		d.body = append(d.body, `{"numeric_values":{"n":`...)
		d.body = strconv.AppendInt(d.body, int64(d.first)+d.sure.Load()+n, 10)
		d.body = append(d.body, "}},"...)
	}
	d.body[len(d.body)-1] = ']'
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+d.of.box.httpAddr+"/api/v1/telemetry", bytes.NewReader(d.body))
	if err != nil {
		d.of.note("%v", err)
		return false
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+d.apiKey)
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode == http.StatusServiceUnavailable {
		return false
	}
	var receipt struct{ Accepted, Rejected int64 }
	if err := json.Unmarshal(said, &receipt); err != nil || response.StatusCode != http.StatusOK || receipt.Accepted != count || receipt.Rejected != 0 {
		d.of.note("%s: %d points were answered %d %s", d.hardware, count, response.StatusCode, said)
		return false
	}
	return true
}
