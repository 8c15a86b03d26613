package httpapi

import (
	"io"
	"net/http"
	"time"

	"edgeclaim"

	"github.com/gin-gonic/gin"
)

// Words of the table of routes.
const (
	Looks  = looks
	ByRule = byRule
	// MaxLargeReports is how many large reports are read at once.
	MaxLargeReports = maxLargeReports
	// MaxLargeOfDevice is how many of them may be one device's.
	MaxLargeOfDevice = maxLargeOfDevice
)

// Through puts something before the server's handler.
func (s *Server) Through(wrap func(http.Handler) http.Handler) { s.http.Handler = wrap(s.http.Handler) }

// Served returns what the server serves, as "GET /path/:id".
func (s *Server) Served() []string {
	var served []string
	if engine, ok := s.http.Handler.(*gin.Engine); ok {
		for _, r := range engine.Routes() {
			served = append(served, r.Method+" "+r.Path)
		}
	}
	return served
}

// Route is a row of the table.
type Route struct{ Method, Path, Scope, Kind string }

// Routes returns the table.
func (a Admin) Routes() []Route {
	var all []Route
	for _, r := range a.routes(Defaults(), errorWriter{}, nil) {
		all = append(all, Route{r.method, apiPath + r.path, string(r.scope), r.kind})
	}
	return all
}

// PollTime reads the time that a request may wait.
func PollTime(text string) (time.Duration, error) { return pollTime(text, true) }

// Knows reports whether If-None-Match has a tag.
func Knows(headers []string, tag string) bool { return knows(headers, tag) }

// ReadManifest reads all of a manifest: its rows, how many were refused, and why
// it ended early.
func ReadManifest(r io.Reader) (rows []edgeclaim.ManifestRow, refused int, err error) {
	m, err := newManifestReader(r)
	if err != nil {
		return nil, 0, err
	}
	for {
		row, _, err := m.next()
		if _, ok := err.(*rowError); ok { //nolint:errorlint // it is returned as it is
			refused++
			continue
		}
		if err == io.EOF { //nolint:errorlint // likewise
			return rows, refused, nil
		}
		if err != nil {
			return rows, refused, err
		}
		rows = append(rows, row)
	}
}

// WriteManifest writes what ReadManifest reads.
func WriteManifest(w io.Writer, rows []edgeclaim.ManifestRow) error {
	m, err := newManifestWriter(w)
	if err == nil {
		err = m.write(rows)
	}
	return err
}
