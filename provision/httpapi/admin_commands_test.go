package httpapi_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/provision/httpapi"
)

// ordered is a command as the API says it.
type ordered struct {
	ID        string    `json:"command_id"`
	Device    string    `json:"device_id"`
	ExpiresAt time.Time `json:"expires_at"`
	Status    string
	Origin    string
	By        string
}

// TestGiveCommand: what an order may say, and what it means.
func TestGiveCommand(t *testing.T) {
	f := newFace(t)
	device := f.device("H")
	path := "/api/v1/devices/" + device.DeviceID + "/commands"
	for body, problem := range map[string]string{
		`{}`:                                    "payload: required",
		``:                                      "payload: required",
		`{"payload":1} `:                        "",
		`{"payload":`:                           "body: not well-formed JSON",
		`[]`:                                    "body: wrong type",
		`{"payload":1,"payload":2}`:             "payload: given more than once",
		`{"payload":{"a":1,"a":2}}`:             "payload: given more than once",
		`{"payload":1,"surprise":2}`:            "surprise: unknown field",
		`{"payload":1,"command_id":""}`:         "command_id: want 1 to 64 characters",
		`{"payload":1,"command_id":"a b"}`:      "command_id: want A-Z a-z 0-9 . _ -",
		`{"payload":1,"command_id":7}`:          "command_id: wrong type",
		`{"payload":1,"expires_at":"tomorrow"}`: "expires_at: wrong type",
		`{"payload":1,"expires_in_seconds":0}`:  "expires_in_seconds: want 1 to 3153600000",
		`{"payload":1,"expires_in_seconds":3153600001}`:                                   "expires_in_seconds: want 1 to 3153600000",
		`{"payload":1,"expires_in_seconds":1.5}`:                                          "expires_in_seconds: wrong type",
		`{"payload":1,"expires_in_seconds":1,"expires_at":"2999-01-01T00:00:00Z"}`:        "expires_in_seconds: not beside expires_at",
		`{"payload":"` + strings.Repeat("x", 70<<10) + `"}`:                               "body: larger than 65536 bytes or not read to its end",
		`{"payload":null,"command_id":"null","expires_at":"2999-01-01T00:00:00.5+01:00"}`: "",
	} {
		response, answer := f.ask(f.admin, f.request("POST", "http://box"+path, body))
		want := 200
		if problem != "" {
			want, problem = 400, `{"code":3,"message":"`+problem+`","details":[]}`
		}
		if response.StatusCode != want || problem != "" && answer != problem {
			t.Errorf("%.100s: %d %s, want %d %s", body, response.StatusCode, answer, want, problem)
		}
	}
	var given ordered
	start := time.Now()
	f.call("POST", path, `{"payload":{"a": "<&>"},"command_id":"mine","expires_in_seconds":90}`, &given)
	if given.ID != "mine" || given.Device != device.DeviceID || given.Origin != "operator" || given.By != fmt.Sprintf("uid:%d", os.Geteuid()) ||
		given.ExpiresAt.Before(start.Add(90*time.Second)) || given.ExpiresAt.After(time.Now().Add(90*time.Second)) {
		t.Errorf("%+v", given)
	}
	if i := f.work.find(idOf(t, device), commandID(t, "mine")); string(f.work.queue[i].Payload) != `{"a": "<&>"}` {
		t.Errorf("the payload arrived as %s", f.work.queue[i].Payload)
	}
	if i := f.work.find(idOf(t, device), commandID(t, "null")); string(f.work.queue[i].Payload) != "null" ||
		!f.work.queue[i].ExpiresAt.Equal(time.Date(2998, 12, 31, 23, 0, 0, 500_000_000, time.UTC)) {
		t.Errorf("%+v", f.work.queue[i])
	}
	for fault, want := range map[error]int{
		edgeclaim.ErrThrottled: 429, edgeclaim.ErrConflict: 409, edgeclaim.ErrExists: 409, edgeclaim.ErrUnavailable: 503, errors.New("boom"): 500,
		edgeclaim.Invalid("payload", "larger than %d bytes", edgeclaim.MaxCommandPayload): 400,
	} {
		f.work.failing(always("give", fault))
		if status := f.call("POST", path, `{"payload":1}`, nil); status != want {
			t.Errorf("%v: %d, want %d", fault, status, want)
		}
	}
}

func idOf(t *testing.T, device credential) edgeclaim.DeviceID {
	t.Helper()
	id, err := edgeclaim.ParseDeviceID(device.DeviceID)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func commandID(t *testing.T, text string) edgeclaim.CommandID {
	t.Helper()
	id, err := edgeclaim.ParseCommandID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestListCommands: whole, by the page, of a device, of a status; the newest first.
func TestListCommands(t *testing.T) {
	f := newFace(t)
	devices := []credential{f.device("H0"), f.device("H1")}
	var all []string // the newest first
	for i := range 2500 {
		device := devices[i%2]
		id := fmt.Sprintf("c-%d", i/2) // each id is used by both
		f.work.give(device.DeviceID, id)
		all = append(all, device.DeviceID+" "+id)
	}
	slices.Reverse(all)
	list := func(query string) (names []string, last ordered) {
		var page []ordered
		if status := f.call("GET", "/api/v1/commands?"+query, "", &page); status != 200 {
			t.Fatalf("%s: %d", query, status)
		}
		for _, c := range page {
			names = append(names, c.Device+" "+c.ID)
			last = c
		}
		return names, last
	}
	pages := func(query string, after func(ordered) string) (names []string) {
		for more := ""; ; {
			page, last := list(query + more)
			if len(page) == 0 {
				return names
			}
			names = append(names, page...)
			more = after(last)
		}
	}
	if whole, _ := list(""); !slices.Equal(whole, all) {
		t.Errorf("%d commands, want %d in their order", len(whole), len(all))
	}
	paged := pages("limit=700", func(last ordered) string { return "&after=" + last.ID + "&after_device_id=" + last.Device })
	if !slices.Equal(paged, all) {
		t.Errorf("%d commands by the page, want %d in their order", len(paged), len(all))
	}
	own := slices.DeleteFunc(slices.Clone(all), func(name string) bool { return !strings.HasPrefix(name, devices[1].DeviceID) })
	paged = pages("limit=700&device_id="+devices[1].DeviceID, func(last ordered) string { return "&after=" + last.ID })
	if whole, _ := list("device_id=" + devices[1].DeviceID); !slices.Equal(whole, own) || !slices.Equal(paged, own) {
		t.Errorf("of a device %d whole, %d by the page, want %d", len(whole), len(paged), len(own))
	}
	f.work.mu.Lock()
	f.work.queue[7].Status = edgeclaim.CommandFailed
	f.work.mu.Unlock()
	if failed, _ := list("limit=5&status=failed"); !slices.Equal(failed, []string{devices[1].DeviceID + " c-3"}) {
		t.Errorf("failed: %q", failed)
	}
	for query, want := range map[string]int{
		"status=lost": 400, "device_id=x": 400, "device_id=00000000-0000-5000-8000-000000000000": 404,
		"after=c-1": 400, "after=a%20b&device_id=" + devices[0].DeviceID: 400, "after=none&device_id=" + devices[0].DeviceID: 404,
		"after_device_id=" + devices[0].DeviceID: 400, "after=c-1&after_device_id=x": 400, "limit=0": 400, "status=sent": 200,
	} {
		if status := f.call("GET", "/api/v1/commands?"+query, "", nil); status != want {
			t.Errorf("%s: %d, want %d", query, status, want)
		}
	}
	if status := f.call("POST", "/api/v1/devices/"+devices[1].DeviceID+"/commands/c-3/cancel", "", nil); status != 409 {
		t.Errorf("one that has failed is cancelled: %d", status)
	}
	f.work.failing(always("list", edgeclaim.ErrUnavailable))
	if status := f.call("GET", "/api/v1/commands", "", nil); status != 503 {
		t.Errorf("a list that fails: %d", status)
	}
}

// TestSetConfig: what is taken for a configuration, and by whom it was set.
func TestSetConfig(t *testing.T) {
	f := newFace(t)
	device := f.device("H")
	path := "/api/v1/devices/" + device.DeviceID + "/config"
	for _, c := range []struct {
		body   string
		status int
		want   string
	}{
		{`{"config":{"a": 1}}`, 200, `{"version":1,"config":{"a":1}}` + "\n"},
		{`{"config":{"a":1,"a":2}}`, 400, `{"code":3,"message":"config: given more than once","details":[]}`},
		{`{"config":7}`, 400, `{"code":3,"message":"config: want an object","details":[]}`},
		{`{}`, 400, `{"code":3,"message":"config: required","details":[]}`},
		{``, 400, `{"code":3,"message":"config: required","details":[]}`},
		{`{"config":{},"version":7}`, 400, `{"code":3,"message":"version: unknown field","details":[]}`},
	} {
		response, body := f.ask(f.admin, f.request("PUT", "http://box"+path, c.body))
		if response.StatusCode != c.status || body != c.want {
			t.Errorf("%s: %d %s, want %d %s", c.body, response.StatusCode, body, c.status, c.want)
		}
	}
	changes := f.changes()
	if last := changes[len(changes)-1]; last["kind"] != "config.changed" || last["who"] != fmt.Sprintf("uid:%d", os.Geteuid()) {
		t.Errorf("audited as %v", last)
	}
	for fault, want := range map[error]int{edgeclaim.ErrNotFound: 404, edgeclaim.ErrConflict: 409, edgeclaim.ErrUnavailable: 503} {
		f.work.failing(always("set config", fault))
		if status := f.call("PUT", path, `{"config":{}}`, nil); status != want {
			t.Errorf("%v: %d, want %d", fault, status, want)
		}
	}
}

// TestPresenceIsShown: of one device and in the list.
func TestPresenceIsShown(t *testing.T) {
	f := newFace(t)
	online, silent := f.device("H1"), f.device("H2")
	since := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	f.work.mu.Lock()
	f.work.state = edgeclaim.DeviceState{Device: idOf(t, online), Presence: edgeclaim.PresenceOnline, Since: since, Seen: since.Add(time.Minute)}
	f.work.mu.Unlock()
	type shown struct {
		ID       string `json:"device_id"`
		Presence string
		Since    *time.Time `json:"presence_since"`
		Seen     *time.Time `json:"last_seen"`
	}
	hold := func(d shown) {
		t.Helper()
		switch {
		case d.ID == silent.DeviceID && (d.Presence != "offline" || d.Since != nil || d.Seen != nil),
			d.ID == online.DeviceID && (d.Presence != "online" || d.Since == nil || !d.Since.Equal(since) || d.Seen == nil || !d.Seen.Equal(since.Add(time.Minute))):
			t.Errorf("%+v", d)
		}
	}
	var list []shown
	if f.call("GET", "/api/v1/devices", "", &list); len(list) != 2 {
		t.Fatalf("%v", list)
	}
	for _, d := range list {
		hold(d)
		var one shown
		f.call("GET", "/api/v1/devices/"+d.ID, "", &one)
		hold(one)
	}
}

// TestWithoutWorkers: where nobody keeps commands or configurations, the routes
// are not there.
func TestWithoutWorkers(t *testing.T) {
	f := newFace(t)
	device := f.device("H")
	base, bearer := f.adminWith(func(a *httpapi.Admin) { a.Orders, a.Settings, a.Presence = nil, nil, nil })
	for _, route := range []string{
		"GET commands", "POST devices/ID/commands", "GET devices/ID/commands/one", "POST devices/ID/commands/one/cancel",
		"GET devices/ID/config", "PUT devices/ID/config",
	} {
		method, path, _ := strings.Cut(route, " ")
		request := f.request(method, base+"/api/v1/"+strings.Replace(path, "ID", device.DeviceID, 1), "", "Authorization", bearer)
		if response, body := f.ask(http.DefaultClient, request); response.StatusCode != 404 || body != `{"code":5,"message":"not found","details":[]}` {
			t.Errorf("%s: %d %s", route, response.StatusCode, body)
		}
	}
	response, body := f.ask(http.DefaultClient, f.request("GET", base+"/api/v1/devices/"+device.DeviceID, "", "Authorization", bearer))
	if response.StatusCode != 200 || strings.Contains(body, "presence") {
		t.Errorf("%d %s", response.StatusCode, body)
	}
}
