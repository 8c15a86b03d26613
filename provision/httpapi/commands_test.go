package httpapi_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/provision/httpapi"
)

const none = `{"commands":[]}`

// due is what a device is answered.
type due struct {
	Commands []struct {
		ID        string `json:"command_id"`
		ExpiresIn int    `json:"expires_in"`
		Payload   struct{ Do string }
	}
}

// ids are those of the commands in an answer.
func ids(t *testing.T, body string) []string {
	t.Helper()
	var all []string
	for _, c := range parse[due](t, body).Commands {
		if c.Payload.Do != c.ID || c.ExpiresIn < 1 {
			t.Errorf("command %+v", c)
		}
		all = append(all, c.ID)
	}
	return all
}

// TestCommandsDue: what is due is answered at once, in its order, so many at a
// time, and is on its way then.
func TestCommandsDue(t *testing.T) {
	f := newFace(t)
	device, other := f.device("H1"), f.device("H2")
	f.work.give(other.DeviceID, "not-yours")
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprintf("c%02d", i))
		f.work.give(device.DeviceID, want[i])
	}
	for _, page := range [][]string{want[:16], want[16:], nil} {
		response, body := f.work.ask(f, device, "GET", "commands?wait=0", "")
		if response.StatusCode != 200 || !slices.Equal(ids(t, body), page) || response.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%d %s, want %q", response.StatusCode, body, page)
		}
	}
	statuses := f.work.statuses()
	if statuses[0] != edgeclaim.CommandQueued || slices.ContainsFunc(statuses[1:], func(s edgeclaim.CommandStatus) bool { return s != edgeclaim.CommandSent }) {
		t.Errorf("statuses %v", statuses)
	}
}

// TestPollTime: how long a request waits, beyond the server's own deadlines, and
// what no time is.
func TestPollTime(t *testing.T) {
	f := newFace(t)
	device := f.device("H")
	base := f.serving(hurried()) // whose deadlines are 200 and 300 ms
	ask := func(query string) (*http.Response, string, time.Duration) {
		start := time.Now()
		response, body := f.ask(http.DefaultClient, f.request("GET", base+"/api/v1/commands"+query, "", "X-API-Key", device.APIKey))
		return response, body, time.Since(start)
	}
	for range 2 { // and the connection is as good as before
		if response, body, took := ask("?wait=1"); response.StatusCode != 200 || body != none || took < time.Second || response.Close {
			t.Errorf("%d %s after %v", response.StatusCode, body, took)
		}
	}
	if response, body, took := ask("?wait=0"); response.StatusCode != 200 || body != none || took > 20*time.Second {
		t.Errorf("no time: %d %s after %v", response.StatusCode, body, took)
	}
	for _, wait := range []string{"-1", "61", "1.5", "", "%201", "%2B1", "1s", "99999999999999999999", "25&wait=x"} {
		want := 400
		if wait == "25&wait=x" {
			f.work.give(device.DeviceID, "one") // or it would wait
			want = 200
		}
		response, body, _ := ask("?wait=" + wait)
		if response.StatusCode != want || want == 400 && body != `{"code":3,"message":"wait: want 0 to 60 seconds","details":[]}` {
			t.Errorf("wait=%s: %d %s", wait, response.StatusCode, body)
		}
	}
}

// poll asks for commands by hand, and returns when the request waits.
func (f *face) poll(t *testing.T, base string, device credential, wait int) net.Conn {
	t.Helper()
	before := f.work.waiting()
	conn := send(t, base, device, "GET /api/v1/commands?wait="+strconv.Itoa(wait), 0, "")
	f.until("the request waits", func() bool { return f.work.waiting() > before })
	return conn
}

// TestPollIsWoken: who waits is answered when there is something.
func TestPollIsWoken(t *testing.T) {
	f := newFace(t)
	device, other := f.device("H1"), f.device("H2")
	conn, conn2 := f.poll(t, f.claims, device, 30), f.poll(t, f.claims, other, 30)
	f.work.give(device.DeviceID, "one")
	if response, body := hear(t, conn); response.StatusCode != 200 || !slices.Equal(ids(t, body), []string{"one"}) {
		t.Errorf("%d %s", response.StatusCode, body)
	}
	if f.work.waiting() != 1 {
		t.Errorf("%d wait, want the other device", f.work.waiting())
	}
	f.work.give(other.DeviceID, "two")
	if response, body := hear(t, conn2); response.StatusCode != 200 || !slices.Equal(ids(t, body), []string{"two"}) {
		t.Errorf("%d %s", response.StatusCode, body)
	}
}

// TestPollOutlivesNoRevocation: who is revoked while he waits is told nothing.
func TestPollOutlivesNoRevocation(t *testing.T) {
	f := newFace(t)
	device := f.device("H")
	conn := f.poll(t, f.claims, device, 30)
	f.call("POST", "/api/v1/devices/"+device.DeviceID+"/revoke", "", nil)
	f.work.give(device.DeviceID, "one")
	if response, body := hear(t, conn); response.StatusCode != 401 || f.work.statuses()[0] != edgeclaim.CommandQueued {
		t.Errorf("%d %s, statuses %v", response.StatusCode, body, f.work.statuses())
	}
}

// TestPollEndsWithItsCredential: who waits by a credential that becomes void is
// told so, though there is nothing to be told; who waits by another one waits on.
func TestPollEndsWithItsCredential(t *testing.T) {
	f := newFace(t)
	for n, change := range []struct{ path, body string }{{"revoke", ""}, {"release", ""}, {"rotate", `{"overlap":"0s"}`}} {
		device := f.device(fmt.Sprint("H", n))
		conn := f.poll(t, f.claims, device, 10)
		if status := f.call("POST", "/api/v1/devices/"+device.DeviceID+"/"+change.path, change.body, nil); status != 200 {
			t.Fatalf("%s: %d", change.path, status)
		}
		if response, body := hear(t, conn); response.StatusCode != 401 {
			t.Errorf("%s: %d %s", change.path, response.StatusCode, body)
		}
	}
	device := f.device("H")
	conn := f.poll(t, f.claims, device, 30)
	id, err := edgeclaim.ParseDeviceID(device.DeviceID)
	if err != nil {
		t.Fatal(err)
	}
	f.work.voided(id)
	f.work.give(device.DeviceID, "one")
	if response, body := hear(t, conn); response.StatusCode != 200 || !slices.Equal(ids(t, body), []string{"one"}) {
		t.Errorf("%d %s", response.StatusCode, body)
	}
}

// TestPollGone: who has gone is sent nothing: the command stays for his next
// request.
func TestPollGone(t *testing.T) {
	f := newFace(t)
	device := f.device("H")
	f.poll(t, f.claims, device, 30).Close()
	f.until("nobody waits", func() bool { return f.work.waiting() == 0 })
	f.work.give(device.DeviceID, "one")
	if statuses := f.work.statuses(); statuses[0] != edgeclaim.CommandQueued {
		t.Errorf("statuses %v", statuses)
	}
	if response, body := f.work.ask(f, device, "GET", "commands?wait=30", ""); response.StatusCode != 200 || !slices.Equal(ids(t, body), []string{"one"}) {
		t.Errorf("%d %s", response.StatusCode, body)
	}
}

// TestPollHalfAConnection: who closes his half is answered with what there is, and
// does not wait.
func TestPollHalfAConnection(t *testing.T) {
	f := newFace(t)
	device := f.device("H")
	for _, queued := range []bool{false, true} {
		want := none
		if queued {
			f.work.give(device.DeviceID, "one")
			want = `{"commands":[{"command_id":"one"`
		}
		conn := send(t, f.claims, device, "GET /api/v1/commands?wait=60", 0, "")
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if response, body := hear(t, conn); response.StatusCode != 200 || !strings.HasPrefix(body, want) {
			t.Errorf("queued %v: %d %s", queued, response.StatusCode, body)
		}
	}
}

// TestPollReplaced: the newest request of a device is the one that waits.
func TestPollReplaced(t *testing.T) {
	f := newFace(t)
	device := f.device("H")
	first := f.poll(t, f.claims, device, 60)
	second := send(t, f.claims, device, "GET /api/v1/commands?wait=60", 0, "")
	if response, body := hear(t, first); response.StatusCode != 429 || response.Header.Get("Retry-After") != "1" {
		t.Errorf("the first: %d %s", response.StatusCode, body)
	}
	f.until("the second waits", func() bool { return f.work.waiting() == 1 })
	f.work.give(device.DeviceID, "one")
	if response, body := hear(t, second); response.StatusCode != 200 || !slices.Equal(ids(t, body), []string{"one"}) {
		t.Errorf("the second: %d %s", response.StatusCode, body)
	}
}

// TestMaxPolls: more devices than may wait are put off, and get what is due all
// the same.
func TestMaxPolls(t *testing.T) {
	f := newFace(t)
	devices := []credential{f.device("H1"), f.device("H2"), f.device("H3")}
	cfg := httpapi.Defaults()
	cfg.MaxPolls = 2
	base := f.serving(cfg)
	first := f.poll(t, base, devices[0], 60)
	second := f.poll(t, base, devices[1], 60)
	if response, body := hear(t, send(t, base, devices[2], "GET /api/v1/commands", 0, "")); response.StatusCode != 429 ||
		body != `{"code":8,"message":"too many requests","details":[]}` {
		t.Errorf("one too many: %d %s", response.StatusCode, body)
	}
	send(t, base, devices[1], "GET /api/v1/commands?wait=60", 0, "") // takes its own place
	if response, body := hear(t, second); response.StatusCode != 429 {
		t.Errorf("replaced: %d %s", response.StatusCode, body)
	}
	f.until("both wait", func() bool { return f.work.waiting() == 2 })
	f.work.give(devices[2].DeviceID, "three")
	if response, body := hear(t, send(t, base, devices[2], "GET /api/v1/commands", 0, "")); !slices.Equal(ids(t, body), []string{"three"}) {
		t.Errorf("one too many, with something due: %d %s", response.StatusCode, body)
	}
	if response, body := hear(t, send(t, base, devices[2], "GET /api/v1/commands?wait=0", 0, "")); response.StatusCode != 200 || body != none {
		t.Errorf("one too many that does not wait: %d %s", response.StatusCode, body)
	}
	f.work.give(devices[0].DeviceID, "one")
	if _, body := hear(t, first); !slices.Equal(ids(t, body), []string{"one"}) {
		t.Errorf("the first: %s", body)
	}
	f.until("its place is free", func() bool { return f.work.waiting() == 1 })
	f.poll(t, base, devices[2], 60)
}

// TestPollsEndWithTheServer: a stop waits for nobody who waits.
func TestPollsEndWithTheServer(t *testing.T) {
	f := newFace(t)
	device := f.device("H")
	line := f.line()
	line.Commands = f.work
	server, err := httpapi.NewClaims(httpapi.Defaults(), listen(t, "tcp", "127.0.0.1:0"), line, quiet())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	conn := f.poll(t, "http://"+server.Addr().String(), device, 60)
	start := time.Now()
	stop()
	if response, body := hear(t, conn); response.StatusCode != 200 || body != none {
		t.Errorf("%d %s", response.StatusCode, body)
	}
	if err := <-done; err != nil || time.Since(start) >= httpapi.Defaults().DrainTimeout {
		t.Errorf("stopped after %v: %v", time.Since(start), err)
	}
}

// TestPollFaults: a command is written only when it is durable that it is being
// sent, and not after its end.
func TestPollFaults(t *testing.T) {
	f := newFace(t)
	device := f.device("H")
	f.work.failing(always("wait", edgeclaim.ErrUnavailable))
	if response, body := f.work.ask(f, device, "GET", "commands", ""); response.StatusCode != 503 {
		t.Errorf("wait: %d %s", response.StatusCode, body)
	}
	f.work.give(device.DeviceID, "one")
	f.work.give(device.DeviceID, "two")
	for operation, fault := range map[string]error{
		"due": edgeclaim.ErrUnavailable, "sent": edgeclaim.ErrUnavailable, "encode two": errors.New("boom"),
	} {
		if operation == "encode two" {
			continue // it is on its way then
		}
		f.work.failing(always(operation, fault))
		if response, body := f.work.ask(f, device, "GET", "commands", ""); response.StatusCode != 503 || strings.Contains(body, "one") {
			t.Errorf("%s: %d %s", operation, response.StatusCode, body)
		}
	}
	if statuses := f.work.statuses(); statuses[0] != edgeclaim.CommandQueued {
		t.Errorf("statuses %v", statuses)
	}
	tries := 0
	f.work.failing(func(operation string) error {
		if operation == "sent" {
			if tries++; tries < 3 {
				return edgeclaim.ErrConflict // it has ended meanwhile
			}
		}
		if operation == "encode one" {
			return edgeclaim.ErrConflict // it ends between
		}
		return nil
	})
	if response, body := f.work.ask(f, device, "GET", "commands", ""); response.StatusCode != 200 || !slices.Equal(ids(t, body), []string{"two"}) || tries != 3 {
		t.Errorf("after %d tries: %d %s", tries, response.StatusCode, body)
	}
	f.work.give(device.DeviceID, "three")
	f.work.failing(always("encode three", errors.New("boom")))
	if response, body := f.work.ask(f, device, "GET", "commands", ""); response.StatusCode != 500 {
		t.Errorf("encode: %d %s", response.StatusCode, body)
	}
}

// TestOwnConfig: with what a device is told of how to work, and when it hears that
// it knows.
func TestOwnConfig(t *testing.T) {
	f := newFace(t)
	device := f.device("H")
	tags := map[string]bool{}
	for _, c := range []struct {
		told edgeclaim.DeviceConfig
		want string
	}{
		{edgeclaim.DeviceConfig{}, `{"version":0,"config":{}}`},
		{edgeclaim.DeviceConfig{Version: 1, Config: []byte(`{"interval_seconds":30}`)}, `{"version":1,"config":{"interval_seconds":30}}`},
		{edgeclaim.DeviceConfig{Version: 2, Config: []byte(`{"interval_seconds":60}`)}, `{"version":2,"config":{"interval_seconds":60}}`},
		{edgeclaim.DeviceConfig{Version: 1, Config: []byte(`{"interval_seconds":60}`)}, `{"version":1,"config":{"interval_seconds":60}}`}, // of a registry that was lost
	} {
		f.work.mu.Lock()
		f.work.told = c.told
		f.work.mu.Unlock()
		response, body := f.work.ask(f, device, "GET", "config", "")
		tag := response.Header.Get("ETag")
		if response.StatusCode != 200 || body != c.want || tag == "" || tags[tag] {
			t.Errorf("%d %s, ETag %s, want %s", response.StatusCode, body, tag, c.want)
		}
		for known := range tags {
			if response, body := f.work.ask(f, device, "GET", "config", "", "If-None-Match", known); response.StatusCode != 200 || body != c.want {
				t.Errorf("knowing %s: %d %s", known, response.StatusCode, body)
			}
		}
		tags[tag] = true
		for _, known := range []string{tag, "W/" + tag, `"x", ` + tag, "*", `"x",W/` + tag + `, "y"`} {
			if response, body := f.work.ask(f, device, "GET", "config", "", "If-None-Match", known); response.StatusCode != 304 || body != "" || response.Header.Get("ETag") != tag {
				t.Errorf("knowing %s: %d %s", known, response.StatusCode, body)
			}
		}
	}
	f.work.failing(always("config", edgeclaim.ErrUnavailable))
	if response, body := f.work.ask(f, device, "GET", "config", ""); response.StatusCode != 503 {
		t.Errorf("%d %s", response.StatusCode, body)
	}
}

// FuzzIfNoneMatch: a tag is found where it is, whatever is behind it, and never
// where it is not.
func FuzzIfNoneMatch(f *testing.F) {
	for _, header := range []string{"", "*", `"a"`, `W/"a", "b"`, `"a`, `a", "b"`, `"a" "b"`, ",,", `W/W/"a"`, `"\"`, "\t*\t"} {
		f.Add(header)
	}
	const tag = `"3-0123456789abcdef"`
	f.Fuzz(func(t *testing.T, header string) {
		if httpapi.Knows([]string{header}, tag) && !strings.Contains(header, tag) && strings.Trim(header, " \t") != "*" {
			t.Errorf("%q knows %s", header, tag)
		}
		if !httpapi.Knows([]string{header, tag + "," + header}, tag) {
			t.Errorf("%s before %q is not found", tag, header)
		}
	})
}

// FuzzPollTime: a time is whole seconds within the bounds, or named as none.
func FuzzPollTime(f *testing.F) {
	for _, text := range []string{"", "0", "25", "60", "61", "-1", "1e1", "٣", "007"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := httpapi.PollTime(text)
		seconds, wrong := strconv.Atoi(text)
		good := wrong == nil && seconds >= 0 && seconds <= 60 && strings.Trim(text, "0123456789") == ""
		if (err == nil) != good || good && got != time.Duration(seconds)*time.Second || err != nil && !errors.Is(err, edgeclaim.ErrInvalid) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	})
}
