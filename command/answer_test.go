package command_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"edgeclaim"
	"edgeclaim/command"
)

func TestAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		body   string
		field  string // at fault; "" for none
		status string
		result string
	}{
		"successful":     {body: `{"command_id":"a","status":"successful"}`, status: "successful"},
		"any order":      {body: ` {"status":"failed", "command_id" : "\u0061" } `, status: "failed"},
		"delivered":      {body: `{"command_id":"a","status":"delivered"}`, status: "delivered"},
		"a result":       {body: `{"command_id":"a","status":"successful","result":{ "rpm": [1, 2] }}`, status: "successful", result: `{"rpm":[1,2]}`},
		"a null result":  {body: `{"command_id":"a","status":"failed","result":null}`, status: "failed", result: `null`},
		"no object":      {body: `["a"]`, field: "body"},
		"nothing":        {body: ``, field: "body"},
		"cut short":      {body: `{"command_id":"a","status":"successful"`, field: "body"},
		"more behind":    {body: `{"command_id":"a","status":"successful"} 1`, field: "body"},
		"no UTF-8":       {body: "{\"command_id\":\"a\",\"status\":\"successful\",\"result\":\"\xff\"}", field: "body"},
		"a name twice":   {body: `{"command_id":"a","status":"failed","status":"successful"}`, field: "body"},
		"no id":          {body: `{"status":"successful"}`, field: "command_id"},
		"id is a number": {body: `{"command_id":1,"status":"successful"}`, field: "command_id"},
		"id of no kind":  {body: `{"command_id":"a b","status":"successful"}`, field: "command_id"},
		"no status":      {body: `{"command_id":"a"}`, field: "status"},
		"ok":             {body: `{"command_id":"a","status":"ok"}`, field: "status"},
		"success":        {body: `{"command_id":"a","status":"success"}`, field: "status"},
		"expired":        {body: `{"command_id":"a","status":"expired"}`, field: "status"},
		"a true status":  {body: `{"command_id":"a","status":true}`, field: "status"},
		"other case":     {body: `{"command_id":"a","Status":"successful"}`, field: "body"},
		"more members":   {body: `{"command_id":"a","status":"successful","at":1}`, field: "body"},
		"a large result": {
			body:  `{"command_id":"a","status":"successful","result":"` + strings.Repeat("x", edgeclaim.MaxCommandResult) + `"}`,
			field: "result",
		},
		"too large": {body: `{"command_id":"a","status":"successful"}` + strings.Repeat(" ", edgeclaim.MaxReport), field: "body"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				r.give("a", 0)
				r.send()
				err := r.Answer(t.Context(), device(t, 1), []byte(tc.body))
				if bad, ok := errors.AsType[*edgeclaim.InvalidError](err); ok != (tc.field != "") || ok && bad.Field != tc.field {
					t.Fatalf("answer: %v, want %q at fault", err, tc.field)
				}
				c, err := r.Show(t.Context(), device(t, 1), id(t, "a"))
				r.noErr(err)
				if tc.field != "" {
					tc.status = "sent"
				}
				equal(t, "status", string(c.Status), tc.status)
				equal(t, "result", string(c.Result), tc.result)
			})
		})
	}
}

// TestAnswerRepeated: the same again, and whatever comes after, changes nothing
// (P8); another device's answer is nobody's.
func TestAnswerRepeated(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.give("a", 0)
		r.send()
		for _, status := range []string{"delivered", "delivered", "successful", "successful", "delivered"} {
			r.noErr(r.answer("a", status))
		}
		wantErr(t, r.answer("a", "failed"), edgeclaim.ErrNotFound) // nobody has heard that yet
		wantTold(r, "a", "queued", "sent", "delivered", "successful")
		body := []byte(`{"command_id":"a","status":"failed"}`)
		wantErr(t, r.Answer(t.Context(), device(t, 2), body), edgeclaim.ErrNotFound)
		wantErr(t, r.answer("never", "failed"), edgeclaim.ErrNotFound)
		// What an unknown command's answer looks like is not ours to judge.
		wantErr(t, r.Answer(t.Context(), device(t, 1), []byte(`{"command_id":"never","state":7}`)), edgeclaim.ErrNotFound)
		r.give("b", 0)
		r.unavailable(true)
		wantErr(t, r.answer("b", "successful"), edgeclaim.ErrUnavailable)
		r.unavailable(false)
		r.noErr(r.answer("b", "successful")) // a device may know of it by other ways
		equal(t, "status", r.status("b"), "successful")
	})
}

// TestAnswerAfterCancel: what a device did before it could hear that a command
// was taken back, it did; what it cannot have done is an event.
func TestAnswerAfterCancel(t *testing.T) {
	for name, tc := range map[string]struct {
		unsent bool
		cancel func(t *testing.T, r *rig)
		reason string
	}{
		"by an operator": {cancel: takeBack, reason: "operator"},
		"by upstream": {cancel: func(t *testing.T, r *rig) {
			r.noErr(r.Cancel(t.Context(), device(t, 1), id(t, "a"), "hub"))
		}, reason: "upstream"},
		"by a revocation": {cancel: func(t *testing.T, r *rig) { r.Voided(t.Context(), r.revoke(1)) }, reason: "device_revoked"},
		"never sent":      {unsent: true, cancel: takeBack, reason: "operator"},
	} {
		for _, said := range []string{"successful", "failed"} {
			t.Run(name+", "+said, func(t *testing.T) {
				inBubble(t, nil, func(t *testing.T, r *rig) {
					r.give("a", 0)
					want := []string{"queued"}
					if !tc.unsent {
						r.send()
						want = append(want, "sent")
					}
					tc.cancel(t, r)
					want = append(want, "cancelled "+tc.reason)
					r.noErr(r.Delivered(t.Context(), device(t, 1), id(t, "a"))) // a PUBACK says nothing new
					wantErr(t, r.answer("a", "delivered"), edgeclaim.ErrNotFound)
					wantTold(r, "a", want...)
					if tc.unsent {
						wantErr(t, r.answer("a", said), edgeclaim.ErrNotFound)
						wantTold(r, "a", want...)
						return
					}
					r.noErr(r.answer("a", said))
					r.noErr(r.answer("a", said)) // P8
					wantErr(t, r.answer("a", map[string]string{"successful": "failed", "failed": "successful"}[said]), edgeclaim.ErrNotFound)
					r.restart()
					equal(t, "status", r.status("a"), said)
					wantTold(r, "a", append(want, said)...)
					_, err := r.TakeBack(t.Context(), device(t, 1), id(t, "a"), "uid:0")
					wantErr(t, err, edgeclaim.ErrConflict)
				})
			})
		}
	}
}

func takeBack(t *testing.T, r *rig) {
	t.Helper()
	_, err := r.TakeBack(t.Context(), device(t, 1), id(t, "a"), "uid:0")
	r.noErr(err)
}

// FuzzAnswer: whatever a device sends, it is read as encoding/json reads it, or
// refused by a member's name, and what is refused was not a sound answer.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"command_id":"a","status":"successful","result":{"a":[1,"x",null]}}`, `{"status":"failed","command_id":"A-1._"}`,
		`{"command_id":"a","status":"delivered"}x`, `{"command_id":"\ud800","status":"failed"}`, `{"command_id":"a","command_id":"b"}`,
		`{"command_id":"a","status":"failed","result":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, `null`, `{}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, status, result, problem, err := command.ParseAnswer(body)
		if err != nil {
			if _, ok := errors.AsType[*edgeclaim.InvalidError](err); !ok {
				t.Fatalf("%v names no member", err)
			}
		}
		var want map[string]json.RawMessage
		plain := json.Unmarshal(body, &want)
		if err == nil && plain != nil {
			t.Fatalf("read as %s, and encoding/json says %v", got, plain)
		}
		if err != nil || problem != nil {
			sound(t, body, want, plain)
			return
		}
		var asText struct{ ID, Status string }
		if json.Unmarshal(want["command_id"], &asText.ID) != nil || json.Unmarshal(want["status"], &asText.Status) != nil ||
			asText.ID != got.String() || asText.Status != string(status) || (want["result"] == nil) != (result == nil) {
			t.Fatalf("%q is read as %s %s %s", body, got, status, result)
		}
		var a, b any
		if result != nil && (json.Unmarshal(result, &a) != nil || json.Unmarshal(want["result"], &b) != nil || fmt.Sprint(a) != fmt.Sprint(b)) {
			t.Fatalf("result %q is read as %q", want["result"], result)
		}
	})
}

// sound fails for a plain answer that was refused.
func sound(t *testing.T, body []byte, members map[string]json.RawMessage, err error) {
	t.Helper()
	var id, status string
	if err != nil || len(members) != 2 || strings.Count(string(body), `"`) != 8 || !utf8.Valid(body) || strings.ContainsRune(string(body), '\\') ||
		json.Unmarshal(members["command_id"], &id) != nil || json.Unmarshal(members["status"], &status) != nil {
		return
	}
	if _, err := edgeclaim.ParseCommandID(id); err == nil && (status == "delivered" || status == "successful" || status == "failed") {
		t.Fatalf("%q is refused", body)
	}
}
