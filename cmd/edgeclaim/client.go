package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"edgeclaim/internal/adminsocket"
)

const (
	// adminTimeout bounds a command's call but for lists, which stream as long
	// as they take.
	adminTimeout = 60 * time.Second
	// adminHeaders bounds the wait for the first byte of a list.
	adminHeaders = 30 * time.Second
	// slowTimeout takes the place of both for what may have to change a whole
	// outbox before it answers.
	slowTimeout = 30 * time.Minute
	// maxDocument is the largest answer that is held in memory: ten thousand
	// issued keys are about 2 MiB.
	maxDocument = 16 << 20
)

// client calls the admin API of the box that runs on a data folder.
type client struct {
	dir    string
	within time.Duration // of a call
	http   http.Client
}

func newClient(dir string) *client { return timedClient(dir, adminTimeout, adminHeaders) }

// newSlowClient waits for as long as a whole outbox may take.
func newSlowClient(dir string) *client { return timedClient(dir, slowTimeout, slowTimeout) }

func timedClient(dir string, within, headers time.Duration) *client {
	c := &client{dir: dir, within: within}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return adminsocket.Dial(ctx, dir)
		},
		ResponseHeaderTimeout: headers,
		DisableKeepAlives:     true, // one command, one call
	}
	return c
}

// request is one call of the admin API; body is sent as JSON unless it is nil,
// a rawBody or an upload as it is.
type request struct {
	method, path string
	body         any
}

// rawBody is a JSON document that the operator brings.
type rawBody []byte

// upload is anything else that the operator brings, which may be long.
type upload struct {
	contentType string
	io.Reader
}

// The media types that are not JSON's.
const (
	mediaJSON = "application/json"
	mediaPEM  = "application/x-pem-file"
	mediaCSV  = "text/csv"
)

// encoded returns what is to be sent, and its type; nil for nothing.
func (r *request) encoded() (io.Reader, string, error) {
	switch body := r.body.(type) {
	case nil:
		return nil, "", nil
	case rawBody:
		return bytes.NewReader(body), mediaJSON, nil
	case upload:
		return body.Reader, body.contentType, nil
	default:
		text, err := json.Marshal(body)
		return bytes.NewReader(text), mediaJSON, err
	}
}

// call returns the answer's document as it came.
func (c *client) call(ctx context.Context, ask request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.within)
	defer cancel()
	body, err := c.open(ctx, ask)
	if err != nil {
		return nil, err
	}
	defer body.Close() //nolint:errcheck // only read
	return readDocument(body)
}

// read is call for an answer that is wanted as v.
func (c *client) read(ctx context.Context, ask request, v any) error {
	document, err := c.call(ctx, ask)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(document, v); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return nil
}

// open is call for an answer that may be long. The caller closes it.
func (c *client) open(ctx context.Context, ask request) (io.ReadCloser, error) {
	send, contentType, err := ask.encoded()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, ask.method, "http://box"+ask.path, send)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := c.http.Do(req)
	if errors.Is(err, adminsocket.ErrNotRunning) {
		return nil, &notRunningError{c.dir}
	}
	if err != nil {
		return nil, fmt.Errorf("talking to the box on %s: %w", c.dir, err)
	}
	if res.StatusCode >= http.StatusBadRequest {
		defer res.Body.Close() //nolint:errcheck // only read
		return nil, readError(res, strings.TrimPrefix(ask.path, "/api/v1/"))
	}
	return res.Body, nil
}

// readError reads an error document; about is what was asked for.
func readError(res *http.Response, about string) error {
	document, err := readDocument(res.Body)
	if err != nil {
		return err
	}
	var box boxError
	if err := json.Unmarshal(document, &box); err != nil || box.Code == 0 {
		return fmt.Errorf("the box answered %s", res.Status)
	}
	box.about = about
	return &box
}

func readDocument(r io.Reader) ([]byte, error) {
	document, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if len(document) > maxDocument {
		return nil, fmt.Errorf("the answer is larger than %d bytes", maxDocument)
	}
	return document, nil
}
