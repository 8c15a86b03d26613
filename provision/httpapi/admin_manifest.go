package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"hash/maphash"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"edgeclaim"
	"edgeclaim/provision"

	"github.com/gin-gonic/gin"
)

const (
	// maxManifestBody bounds a manifest, in bytes of CSV.
	maxManifestBody = 64 << 20
	// maxRowErrors is how many refused rows an answer names; it counts all.
	maxRowErrors = 100

	contentTypeCSV = "text/csv"
)

// manifestReport says what became of the rows of a manifest.
type manifestReport struct {
	Rows         int        `json:"rows"` // without the header
	Added        int        `json:"added"`
	Changed      int        `json:"changed"`
	Removed      int        `json:"removed"`
	Refused      []rowError `json:"refused"`
	RefusedCount int        `json:"refused_count"`
	DryRun       bool       `json:"dry_run,omitempty"`
	// Message says why nothing was taken off the list although it was asked
	// for.
	Message string `json:"message,omitempty"`
}

const notReplaced = "nothing was taken off the list, for rows were refused"

type manifestHandler struct {
	rule *provision.Service
	errs errorWriter
	// patience is how long an upload may keep us waiting for its next bytes.
	patience time.Duration
	turn     chan struct{} // held by who uploads: it takes memory, and two would undo each other's work
}

// put takes a manifest in parts, each of them durable: a row that is refused, or
// an upload that breaks off, undoes no other. What a replacing manifest has not
// goes last, and only where each row was understood: one that was refused may
// be of a hardware that is on the list.
func (h manifestHandler) put(c *gin.Context) {
	m := manifestImport{rule: h.rule, report: manifestReport{Refused: []rowError{}}, seen: map[edgeclaim.HardwareID]seenRow{}, seed: maphash.MakeSeed()}
	if !h.begin(c, &m) || !takeTurn(c, h.errs, h.turn) {
		return
	}
	defer func() { <-h.turn }()
	patient := &patientReader{ReadCloser: c.Request.Body, control: http.NewResponseController(c.Writer), patience: h.patience}
	body := http.MaxBytesReader(c.Writer, patient, maxManifestBody)
	err := m.run(c.Request.Context(), body)
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		err = edgeclaim.Invalid("body", "larger than %d bytes", maxManifestBody)
	}
	m.note(changeOf(c))
	if err != nil {
		h.errs.told(c, m.fault(err))
		return
	}
	writeJSON(c, h.errs, http.StatusOK, m.report)
}

// begin reads what the request asks for besides its body.
func (h manifestHandler) begin(c *gin.Context, m *manifestImport) bool {
	var err error
	if media, _, bad := mime.ParseMediaType(c.GetHeader("Content-Type")); bad != nil || media != contentTypeCSV {
		h.errs.status(c, http.StatusUnsupportedMediaType, "content_type: want "+contentTypeCSV)
		return false
	}
	if m.report.DryRun, err = readFlag(c, "dry_run"); err == nil {
		m.replace, err = readFlag(c, "replace")
	}
	if err == nil {
		m.template, err = h.own(c)
	}
	if err != nil {
		h.errs.told(c, err)
	}
	return err == nil
}

func (h manifestHandler) template(c *gin.Context) (edgeclaim.Template, error) {
	id, err := edgeclaim.ParseTemplateID(pathValue(c, "id"))
	if err != nil {
		return edgeclaim.Template{}, err
	}
	return h.rule.Template(c.Request.Context(), id)
}

// own is a template whose list may be changed here. That it is not is said before
// a long body is read, and of a dry run too.
func (h manifestHandler) own(c *gin.Context) (edgeclaim.Template, error) {
	template, err := h.template(c)
	if err == nil && template.Owner == edgeclaim.OwnerUpstream {
		err = owned(wordsManifest, provision.ErrUpstreamOwned)
	}
	return template, err
}

// list answers in JSON as every list does, or as the CSV that put takes.
func (h manifestHandler) list(c *gin.Context) {
	template, err := h.template(c)
	if err != nil {
		h.errs.told(c, err)
		return
	}
	var after edgeclaim.HardwareID
	if !readAfter(c, h.errs, &after, edgeclaim.ParseHardwareID) {
		return
	}
	page := func(ctx context.Context, after edgeclaim.HardwareID, max int) ([]edgeclaim.ManifestRow, error) {
		return h.rule.Manifest(ctx, template.ID, after, max)
	}
	if strings.HasPrefix(c.GetHeader("Accept"), contentTypeCSV) {
		h.listCSV(c, page)
		return
	}
	lister[edgeclaim.ManifestRow, edgeclaim.HardwareID]{
		page: page, id: func(r *edgeclaim.ManifestRow) edgeclaim.HardwareID { return r.Hardware },
	}.answer(c, h.errs, after)
}

func (h manifestHandler) listCSV(c *gin.Context, page func(context.Context, edgeclaim.HardwareID, int) ([]edgeclaim.ManifestRow, error)) {
	rows, err := page(c.Request.Context(), edgeclaim.HardwareID{}, streamPage)
	if err != nil {
		h.errs.told(c, err)
		return
	}
	c.Header("Content-Type", contentTypeCSV+"; charset=utf-8; header=present")
	w, err := newManifestWriter(c.Writer)
	for err == nil {
		if err = w.write(rows); err != nil || len(rows) < streamPage {
			break
		}
		rows, err = page(c.Request.Context(), rows[len(rows)-1].Hardware, streamPage)
	}
	if unspeakable, ok := errors.AsType[unspeakableError](err); ok && !c.Writer.Written() {
		c.Writer.Header().Del("Content-Type")
		h.errs.told(c, &OperatorError{Err: edgeclaim.ErrConflict, Words: unspeakable.Error()})
		return
	}
	if err != nil {
		panic(http.ErrAbortHandler) // half a list is none
	}
}

// remove empties the list. It may be asked again where it was broken off.
func (h manifestHandler) remove(c *gin.Context) {
	template, err := h.own(c)
	if err != nil {
		h.errs.told(c, err)
		return
	}
	m := manifestImport{rule: h.rule, template: template, replace: true}
	err = m.removeOthers(c.Request.Context())
	m.note(changeOf(c))
	if err != nil {
		h.errs.told(c, err)
		return
	}
	writeJSON(c, h.errs, http.StatusOK, struct {
		Removed int `json:"removed"`
	}{m.report.Removed})
}

// manifestImport is one manifest on its way into a template's list.
type manifestImport struct {
	rule     *provision.Service
	template edgeclaim.Template
	replace  bool
	report   manifestReport
	// seen are the hardware ids that the manifest has. They are what it takes
	// to tell a double from a change, and what to remove.
	seen map[edgeclaim.HardwareID]seenRow
	seed maphash.Seed
	rows []edgeclaim.ManifestRow // read, and not stored yet
}

type seenRow struct {
	line int
	hash uint64 // of the row's content
}

// run reads the whole of body and stores, or in a dry run only counts.
func (m *manifestImport) run(ctx context.Context, body io.Reader) error {
	reader, err := newManifestReader(body)
	if err != nil {
		return err
	}
	for {
		row, line, err := reader.next()
		if refused, ok := errors.AsType[*rowError](err); ok {
			m.refuse(*refused)
			continue
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := m.take(ctx, row, line); err != nil {
			return err
		}
	}
	if m.replace && m.report.Rows == 0 { // a file that was cut off, rather than a wish
		return edgeclaim.Invalid("body", "no rows to take the place of the manifest; DELETE empties it")
	}
	if err := m.store(ctx); err != nil {
		return err
	}
	if m.replace && m.report.RefusedCount > 0 {
		m.replace, m.report.Message = false, notReplaced
	}
	if m.report.DryRun {
		return m.compare(ctx)
	}
	if m.replace {
		return m.removeOthers(ctx)
	}
	return nil
}

func (m *manifestImport) refuse(e rowError) {
	m.report.Rows++
	m.report.RefusedCount++
	if len(m.report.Refused) < maxRowErrors {
		m.report.Refused = append(m.report.Refused, e)
	}
}

// take checks a row and, with enough of them, stores them.
func (m *manifestImport) take(ctx context.Context, row edgeclaim.ManifestRow, line int) error {
	err := provision.CheckManifestRow(&m.template, &row)
	if invalid, ok := errors.AsType[*edgeclaim.InvalidError](err); ok {
		m.refuse(rowError{Line: line, Field: invalid.Field, Message: invalid.Problem})
		return nil
	}
	if err != nil {
		return err
	}
	if before, ok := m.seen[row.Hardware]; ok {
		m.refuse(rowError{Line: line, Field: columnHardware, Message: "on line " + strconv.Itoa(before.line) + " already"})
		return nil
	}
	if len(m.seen) == edgeclaim.MaxManifest {
		return edgeclaim.Invalid("body", "more than %d rows", edgeclaim.MaxManifest)
	}
	m.report.Rows++
	m.seen[row.Hardware] = seenRow{line: line, hash: m.hash(&row)}
	if m.report.DryRun {
		return nil
	}
	m.rows = append(m.rows, row)
	if len(m.rows) < provision.MaxManifestRows {
		return nil
	}
	return m.store(ctx)
}

func (m *manifestImport) store(ctx context.Context) error {
	if len(m.rows) == 0 {
		return nil
	}
	added, changed, err := m.rule.ImportManifest(ctx, m.template.ID, m.rows)
	m.report.Added += added
	m.report.Changed += changed
	m.rows = m.rows[:0]
	return err
}

// compare counts what an import would do.
func (m *manifestImport) compare(ctx context.Context) error {
	m.report.Added = len(m.seen)
	return m.listed(ctx, func(rows []edgeclaim.ManifestRow) error {
		for i := range rows {
			switch row, ok := m.seen[rows[i].Hardware]; {
			case !ok && m.replace:
				m.report.Removed++
			case ok && row.hash != m.hash(&rows[i]):
				m.report.Added--
				m.report.Changed++
			case ok:
				m.report.Added--
			}
		}
		return nil
	})
}

// removeOthers takes what the manifest has not off the list.
func (m *manifestImport) removeOthers(ctx context.Context) error {
	return m.listed(ctx, func(rows []edgeclaim.ManifestRow) error {
		gone := make([]edgeclaim.HardwareID, 0, len(rows))
		for i := range rows {
			if _, ok := m.seen[rows[i].Hardware]; !ok {
				gone = append(gone, rows[i].Hardware)
			}
		}
		if len(gone) == 0 {
			return nil
		}
		removed, err := m.rule.RemoveManifest(ctx, m.template.ID, gone)
		m.report.Removed += removed
		return err
	})
}

// listed calls do with the rows of the list, a page at a time.
func (m *manifestImport) listed(ctx context.Context, do func([]edgeclaim.ManifestRow) error) error {
	var after edgeclaim.HardwareID
	for {
		rows, err := m.rule.Manifest(ctx, m.template.ID, after, provision.MaxManifestRows)
		if err != nil {
			return err
		}
		if err := do(rows); err != nil || len(rows) < provision.MaxManifestRows {
			return err
		}
		after = rows[len(rows)-1].Hardware
	}
}

// hash stands for a row's content, within one import.
func (m *manifestImport) hash(row *edgeclaim.ManifestRow) uint64 {
	text, err := json.Marshal(row)
	if err != nil {
		return 0 // a struct of strings; not expected, and then a change is counted as none
	}
	return maphash.Bytes(m.seed, bytes.TrimSpace(text))
}

// note says in the audit what was done, also where not all of it was.
func (m *manifestImport) note(to *change) {
	r := &m.report
	to.entry.Template = m.template.ID.String()
	to.partly = r.Added+r.Changed+r.Removed > 0 && !r.DryRun
	to.entry.Detail = map[string]string{
		"rows": strconv.Itoa(r.Rows), "added": strconv.Itoa(r.Added), "changed": strconv.Itoa(r.Changed),
		"removed": strconv.Itoa(r.Removed), "refused": strconv.Itoa(r.RefusedCount),
	}
	if r.DryRun {
		to.entry.Detail["dry_run"] = "true"
	}
}

// fault says how far an import came that broke off.
func (m *manifestImport) fault(err error) error {
	if m.report.Added+m.report.Changed+m.report.Removed == 0 || m.report.DryRun {
		return err
	}
	what := "it broke off"
	if invalid, ok := errors.AsType[*edgeclaim.InvalidError](err); ok {
		what = invalid.Error()
	}
	return &OperatorError{Err: err, Words: what + "; before that " + strconv.Itoa(m.report.Added) + " rows were added, " +
		strconv.Itoa(m.report.Changed) + " changed and " + strconv.Itoa(m.report.Removed) + " removed; the same again goes on"}
}

// patientReader lets a long body take its time, for as long as it comes: each
// read has a deadline of its own.
type patientReader struct {
	io.ReadCloser
	control  *http.ResponseController
	patience time.Duration
	ended    bool // net/http watches the connection from then on, without a deadline
}

func (r *patientReader) Read(p []byte) (int, error) {
	if r.ended {
		return 0, io.EOF
	}
	// Where it cannot be set the connection is gone, and the read says so.
	_ = r.control.SetReadDeadline(time.Now().Add(r.patience))
	n, err := r.ReadCloser.Read(p)
	if r.ended = errors.Is(err, io.EOF); err != nil && !r.ended {
		err = edgeclaim.Invalid("body", "not read to its end")
	}
	return n, err
}
