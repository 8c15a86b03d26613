package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"
)

// TestReadSecret: one line is a key, its end is not; two lines, or bytes that
// JSON cannot carry, are nobody's key.
func TestReadSecret(t *testing.T) {
	longest := strings.Repeat("é", edgeclaim.MaxKey)
	for input, want := range map[string]string{
		"k": "k", "k\n": "k", "k\r\n": "k", " k ": " k ", longest: longest, longest + "\r\n": longest,
		"": "", "\n": "", "k\n\n": "", "a\nb\n": "", "a\rb": "", "\xff": "", strings.Repeat("k", 2000): "",
	} {
		got, err := readSecret(strings.NewReader(input))
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%.20q: %.20q, %v; want %.20q", input, got, err, want)
		}
	}
}

// TestArgumentsAreUTF8: anything else would become U+FFFD on its way.
func TestArgumentsAreUTF8(t *testing.T) {
	var out, errOut bytes.Buffer
	code := run(t.Context(), []string{"claim", "--url", "http://127.0.0.1:1", "--key", "\xff", "--name", "n", "--hardware-id", "h"},
		strings.NewReader(""), &out, &errOut)
	if code != cli.ExitUsage || errOut.String() != "edgeclaim: argument 5: invalid UTF-8\n" {
		t.Errorf("exit code %d, %q", code, errOut.String())
	}
}

// TestRetryAfterIsSaid, in words and in JSON.
func TestRetryAfterIsSaid(t *testing.T) {
	err := &boxError{Code: edgeclaim.CodeResourceExhausted, Message: "too many requests", RetryAfter: int((17 * time.Second) / time.Second)}
	for json, want := range map[bool]string{
		false: "edgeclaim: too many requests; try again in 17 seconds\n",
		true:  `{"code":8,"message":"too many requests","details":[],"retry_after":17}` + "\n",
	} {
		var errOut bytes.Buffer
		a := &app{stderr: &errOut, json: json}
		a.complain(err)
		if errOut.String() != want {
			t.Errorf("%q, want %q", errOut.String(), want)
		}
	}
}
