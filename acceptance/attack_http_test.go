package acceptance

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edgeclaim/internal/mqttwire"
)

// head is the beginning of a claim over HTTP; the rest of the header and the
// body follow.
const head = "POST /api/v1/provision HTTP/1.1\r\nHost: box\r\nContent-Type: application/json\r\n"

// rawHTTP writes bytes on a connection of its own and reads one answer.
func rawHTTP(t *testing.T, d *entrance, said ...[]byte) (status int, body string) {
	t.Helper()
	conn, err := d.reach(from)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for _, part := range said {
		if _, err := conn.Write(part); err != nil {
			break // answered before its end
		}
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return response.StatusCode, err.Error()
	}
	return response.StatusCode, string(text)
}

// slowLoris opens connections through each entrance, says a little, and waits.
// All end by the box's hand.
func slowLoris(t *testing.T, s *siege) {
	hello := []byte{0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc}
	begun := map[bool]map[string][]byte{
		true: {"silent": nil, "a byte": {0x10}, "half a CONNECT": {0x10, 0x20, 0, 4, 'M', 'Q', 'T', 'T', 4}},
		false: {
			"silent": nil, "a line": []byte("POST / HT"), "half a header": []byte("POST /api/v1/provision HTTP/1.1\r\nHost: b"),
			"no body": []byte(head + "Content-Length: 100\r\n\r\n"), "half a chunk": []byte(head + "Transfer-Encoding: chunked\r\n\r\n40\r\n{"),
		},
	}
	var conns sync.WaitGroup
	for isMQTT, entrances := range map[bool][]*entrance{true: s.mqtt, false: s.http} {
		for _, d := range entrances {
			for name, said := range begun[isMQTT] {
				for range 5 {
					conns.Go(func() { holdOut(t, d, d.name+", "+name, said) })
				}
			}
			if d.secure != nil {
				raw := &entrance{name: d.name, addr: d.addr}
				for _, said := range [][]byte{nil, hello[:1], hello} {
					conns.Go(func() { holdOut(t, raw, d.name+", a handshake that ends after "+fmt.Sprint(len(said)), said) })
				}
			}
		}
	}
	conns.Wait()
}

func holdOut(t *testing.T, d *entrance, what string, said []byte) {
	conn, err := d.reach(from)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	defer conn.Close()
	_, _ = conn.Write(said) // what follows tells
	wantCut(t, conn, what)
}

// floodConnections connects as often as it can, says nonsense, or shakes hands
// to the end, and goes away; some stay.
func floodConnections(t *testing.T, s *siege) {
	const each, stay, handshakes = 600, 100, 100
	var floods sync.WaitGroup
	for _, d := range append(append([]*entrance{}, s.mqtt...), s.http...) {
		raw := &entrance{name: d.name, addr: d.addr}
		var left atomic.Int64
		left.Store(each)
		for range 4 {
			floods.Go(func() {
				for left.Add(-1) >= 0 {
					conn, err := raw.reach(from)
					if err != nil {
						t.Errorf("%s: %v", d.name, err)
						return
					}
					_, _ = io.WriteString(conn, "\x16\x03\x01nonsense\r\n\r\n") // or not
					conn.Close()
				}
			})
		}
		if d.secure != nil {
			floods.Go(func() {
				for range handshakes {
					conn, err := d.reach(from)
					if err != nil {
						t.Errorf("%s: %v", d.name, err)
						return
					}
					conn.Close()
				}
			})
		}
		for range stay {
			conn, err := raw.reach(from)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
	}
	floods.Wait()
}

// crowds comes from an address that is not the box's own loopback, with more
// connections than one source may have. Those beyond are closed unheard. The
// entrances over MQTT count together.
func crowds(t *testing.T, s *siege) {
	const allowed, tried = 64, 96 // see besieged
	outside := outsideAddress(t)
	if outside == "" {
		t.Skip("this machine has loopback addresses alone")
	}
	greetings := map[bool][]byte{
		true: mqttwire.AppendConnect(nil, mqttwire.V311, new(asClaimant())), false: []byte("GET /healthz HTTP/1.1\r\nHost: box\r\n\r\n"),
	}
	for _, group := range [][]*entrance{s.mqtt, s.http[:1], s.http[1:]} {
		var heard atomic.Int64
		var conns sync.WaitGroup
		for i := range tried {
			d := group[i%len(group)]
			_, port, err := net.SplitHostPort(d.addr)
			if err != nil {
				t.Fatal(err)
			}
			conn, err := net.Dial("tcp", net.JoinHostPort(outside, port))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close() // not before all were tried
			if d.secure != nil {
				conn = tls.Client(conn, d.secure)
			}
			conns.Go(func() {
				_ = conn.SetDeadline(time.Now().Add(patience)) // it shows in the count
				_, _ = conn.Write(greetings[strings.HasPrefix(d.name, "mqtt")])
				if _, err := conn.Read(make([]byte, 1)); err == nil {
					heard.Add(1)
				}
			})
		}
		conns.Wait()
		if got := heard.Load(); got != allowed {
			t.Errorf("%s: %d of %d connections of one source were heard, want %d", group[0].name, got, tried, allowed)
		}
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error) //nolint:errorlint // straight from a connection
	return ok && timeout.Timeout()
}

// outsideAddress is an address of this machine that is not loopback; "" for
// none.
func outsideAddress(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		if at, ok := addr.(*net.IPNet); ok && at.IP.To4() != nil && at.IP.IsGlobalUnicast() {
			return at.IP.String()
		}
	}
	return ""
}

// guessKeys guesses provisioning keys: it is slowed down, and who comes from the
// same address with a good one is not.
func guessKeys(t *testing.T, s *siege) {
	d := s.http[0]
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: (&net.Dialer{
		LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.99")},
	}).DialContext}}
	defer client.CloseIdleConnections()
	said := map[int]int{}
	var mu sync.Mutex
	var left atomic.Int64
	left.Store(300)
	parallel(t, 8, func() error {
		for i := left.Add(-1); i >= 0; i = left.Add(-1) {
			a, err := httpClaim(client, d.addr, "application/json", claimBody(fmt.Sprint("pk_factory_", i), "n", "GUESS"))
			if err != nil {
				return err
			}
			if a.status == http.StatusTooManyRequests && a.header.Get("Retry-After") == "" || a.status == http.StatusForbidden && a.body != denied {
				return fmt.Errorf("%d %v %s", a.status, a.header, a.body)
			}
			mu.Lock()
			said[a.status]++
			mu.Unlock()
		}
		return nil
	})
	if said[http.StatusForbidden]+said[http.StatusTooManyRequests] != 300 || said[http.StatusForbidden] < 100 || said[http.StatusTooManyRequests] < 50 {
		t.Errorf("300 guesses were answered %v", said)
	}
	until(t, "the operator hears of it", func() bool { return s.of(t).alarm("claims_throttled") > 0 })
	s.mu.Lock()
	s.theirs["NEIGHBOUR"] = true
	s.mu.Unlock()
	if a, err := httpClaim(client, d.addr, "application/json", claimBody(s.key, "n", "NEIGHBOUR")); err != nil || a.status != http.StatusOK {
		t.Errorf("a good claim from the same address: %v %d %s", err, a.status, a.body)
	}
}

// bombsOverHTTP are bodies that are large to whom unpacks, believes or reads
// them.
func bombsOverHTTP(t *testing.T, s *siege) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	for range 64 {
		_, _ = w.Write(make([]byte, 1<<20)) // into memory
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sized := func(header string, body []byte) []byte {
		return fmt.Appendf(nil, "%sConnection: close\r\nContent-Length: %d\r\n%s\r\n%s", head, len(body), header, body)
	}
	inCBOR := func(body ...byte) []byte {
		request := sized("", body)
		return bytes.Replace(request, []byte("application/json"), []byte("application/cbor"), 1)
	}
	for _, d := range s.http {
		for _, c := range []struct {
			name string
			said []byte
			want int
		}{
			{"gzip", sized("Content-Encoding: gzip\r\n", packed.Bytes()), 415},
			{"two encodings", sized("Content-Encoding: identity, gzip\r\n", []byte("{}")), 415},
			{"brotli", sized("Content-Encoding: br\r\n", []byte("{}")), 415},
			{"a gigabyte announced", []byte(head + "Content-Length: 1073741824\r\n\r\n{"), 413},
			{"more than int64", []byte(head + "Content-Length: 99999999999999999999\r\n\r\n{"), 400},
			{"a negative length", []byte(head + "Content-Length: -1\r\n\r\n{"), 400},
			{"a header of 64 KiB", []byte(head + "X: " + strings.Repeat("a", 64<<10) + "\r\n\r\n"), 431},
			{"ten thousand headers", []byte(head + strings.Repeat("a: b\r\n", 10_000) + "\r\n"), 431},
			{"a line of 64 KiB", []byte("POST /" + strings.Repeat("a", 64<<10) + " HTTP/1.1\r\nHost: b\r\n\r\n"), 431},
			{"arrays in arrays", sized("", bytes.Repeat([]byte("["), 8000)), 400},
			{"objects in objects", sized("", bytes.Repeat([]byte(`{"a":`), 1500)), 400},
			{"CBOR: 2^64 items", inCBOR(0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), 400},
			{"CBOR: 2^32 bytes", inCBOR(0xa1, 0x61, 'a', 0x5a, 0xff, 0xff, 0xff, 0xff), 400},
			{"CBOR: arrays in arrays", inCBOR(bytes.Repeat([]byte{0x81}, 8000)...), 400},
			{"CBOR: without end", inCBOR(bytes.Repeat([]byte{0x9f}, 8000)...), 400},
			{"CBOR: tags on tags", inCBOR(bytes.Repeat([]byte{0xc1}, 8000)...), 400},
		} {
			if status, body := rawHTTP(t, d, c.said); status != c.want {
				t.Errorf("%s, %s: %d %s, want %d", d.name, c.name, status, body, c.want)
			}
		}
		endless(t, d)
	}
}

// endless sends a chunked body until the box has had enough.
func endless(t *testing.T, d *entrance) {
	t.Helper()
	conn, err := d.reach(from)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience)) // the next step tells
	chunk := append([]byte("10000\r\n"), append(bytes.Repeat([]byte(" "), 0x10000), "\r\n"...)...)
	sent := 0
	_, err = io.WriteString(conn, head+"Transfer-Encoding: chunked\r\n\r\n")
	for err == nil && sent < 1<<30 {
		_, err = conn.Write(chunk)
		sent += len(chunk)
	}
	if err == nil || isTimeout(err) || sent > 64<<20 {
		t.Errorf("%s: the box took %d MiB of a claim: %v", d.name, sent>>20, err)
	}
}

// smuggleRequests asks for what is not there for devices, in every spelling, and
// hides requests in others.
func smuggleRequests(t *testing.T, s *siege) {
	get := func(target string) string {
		return "GET " + target + " HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n"
	}
	for _, d := range s.http {
		for _, said := range []string{
			get("/api/v1/devices"), get("/api/v1/templates"), get("/api/v1/audit"), get("/api/v1/tokens"), get("/metrics"), get("/debug/pprof/"),
			get("//api/v1/devices"), get("/api//v1/devices"), get("/api/v1/provision/../devices"), get("/api/v1/provision%2f..%2fdevices"), get("/api/v1/devices/"),
			get("/API/V1/devices"), get("/api/v1/devices;x"), get("/./api/v1/devices"), get("http://127.0.0.1:9090/api/v1/devices"), get("*"), get("/api/v1/provision"),
			"TRACE / HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n", "CONNECT 127.0.0.1:9090 HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n",
			"OPTIONS * HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
			"GET /healthz HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n", "GET /\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: box\r\nX : y\r\n\r\n", "GET / HTTP/1.1\r\nHost: box\r\n folded\r\n\r\n",
			head + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", head + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
			head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
			head + "Connection: close\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /api/v1/devices HTTP/1.1\r\nHost: box\r\n\r\n",
			"GET /api/v1/provision HTTP/1.1\r\nHost: box\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
		} {
			status, body := rawHTTP(t, d, []byte(said))
			if status < 400 && !strings.HasPrefix(said, "OPTIONS *") || strings.Contains(body, s.victim.id) || strings.Contains(body, "VICTIM") {
				t.Errorf("%s: %.70q was answered %d %s", d.name, said, status, body)
			}
		}
	}
}
