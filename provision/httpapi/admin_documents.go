package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"edgeclaim"
	"edgeclaim/internal/signeddoc"

	"github.com/gin-gonic/gin"
)

// Documents is what upstream rules. Its methods are safe for concurrent use.
type Documents interface {
	// Held is how the box stands to each document, in the order in which they
	// are applied. It reads memory only.
	Held() []edgeclaim.DocumentState
	// Text is a document as it was signed: one line of JSON, without its end.
	// ErrNotFound: the box has none of that id.
	Text(ctx context.Context, id edgeclaim.DocumentID) ([]byte, error)
	// Import takes a bundle: signed documents, one a line, and keeps none of r
	// behind its return. Each document is taken or refused for itself, and what
	// was applied is durable, also where the error is not nil. ErrInvalid: the
	// bundle cannot be read, and none of it was taken.
	Import(ctx context.Context, r io.Reader) (Imported, error)
}

// Imported says what became of a bundle.
type Imported struct {
	// Documents are in the order in which they were applied.
	Documents []ImportedDocument `json:"documents"`
	Applied   int                `json:"applied"`
	Same      int                `json:"same"`
	Refused   int                `json:"refused"`
	// Shares is what became of the line of shares; empty: there was none. Why
	// it was refused is in SharesReason.
	Shares       Outcome `json:"shares,omitempty"`
	SharesReason string  `json:"shares_reason,omitempty"`
}

// ImportedDocument is a line of a bundle.
type ImportedDocument struct {
	Line int `json:"line"` // from 1
	// DocumentID and Version are zero where nobody could read them.
	edgeclaim.DocumentID
	Version uint64  `json:"version"`
	Outcome Outcome `json:"outcome"`
	// Reason is why it was refused: an edgeclaim.DocumentRefusal, and in words
	// what is more to say.
	Reason string `json:"reason,omitempty"`
}

// Outcome is what became of a line.
type Outcome string

// The outcomes.
const (
	OutcomeApplied Outcome = "applied"
	OutcomeSame    Outcome = "same" // the box has that version already
	OutcomeRefused Outcome = "refused"
)

// documentHandler serves what upstream rules.
type documentHandler struct {
	documents Documents
	errs      errorWriter
	// patience is how long an upload may keep us waiting for its next bytes.
	patience time.Duration
	turn     chan struct{} // held by who imports: a bundle takes memory
}

func (h documentHandler) list(c *gin.Context) {
	held := h.documents.Held()
	if held == nil {
		held = []edgeclaim.DocumentState{} // [] and not null
	}
	writeJSON(c, h.errs, http.StatusOK, held)
}

// show answers the very text that was signed, so that anybody may check it.
func (h documentHandler) show(c *gin.Context) {
	id, err := edgeclaim.ParseDocumentID(pathValue(c, "id"))
	if err != nil {
		h.errs.told(c, err)
		return
	}
	text, err := h.documents.Text(c.Request.Context(), id)
	if err != nil {
		h.errs.told(c, err)
		return
	}
	c.Data(http.StatusOK, contentTypeJSON, append(text[:len(text):len(text)], '\n'))
}

// take answers 200 also where every document was refused: the answer says so of
// each.
func (h documentHandler) take(c *gin.Context) {
	if !takeTurn(c, h.errs, h.turn) {
		return
	}
	defer func() { <-h.turn }()
	patient := &patientReader{ReadCloser: c.Request.Body, control: http.NewResponseController(c.Writer), patience: h.patience}
	done, err := h.documents.Import(c.Request.Context(), http.MaxBytesReader(c.Writer, patient, signeddoc.MaxBundle))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		err = edgeclaim.Invalid("body", "larger than %d bytes", signeddoc.MaxBundle)
	}
	noteImport(changeOf(c), &done)
	if err != nil {
		h.errs.told(c, err)
		return
	}
	if done.Documents == nil {
		done.Documents = []ImportedDocument{} // [] and not null
	}
	writeJSON(c, h.errs, http.StatusOK, done)
}

// noteImport says in the audit what a bundle did. Each document that was applied
// or refused is written down by itself, by who keeps them.
func noteImport(to *change, done *Imported) {
	to.partly = done.Applied > 0 || done.Shares == OutcomeApplied
	to.entry.Detail = map[string]string{
		"applied": strconv.Itoa(done.Applied), "same": strconv.Itoa(done.Same), "refused": strconv.Itoa(done.Refused),
	}
	if done.Shares != "" {
		to.entry.Detail["shares"] = string(done.Shares)
	}
}
