package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"edgeclaim"

	"github.com/gin-gonic/gin"
)

const (
	// maxAckBody bounds an ack file, in bytes: ten times the largest message of
	// the protocol, for whitespace and what a later version may add.
	maxAckBody = 1 << 20
	// maxQuarantineID is the longest name of a quarantined record, in characters.
	maxQuarantineID = 64

	contentTypeNDJSON = "application/x-ndjson"
)

// Quarantine is where the records lie that upstream will never take as they
// are. All methods are safe for concurrent use.
type Quarantine interface {
	// Quarantine returns at most limit of them with an id above after, in order
	// of their ids; "" for the first page.
	Quarantine(ctx context.Context, after string, limit int) ([]edgeclaim.Quarantined, error)
	// QuarantinedRecord returns one, and the record itself. ErrNotFound.
	QuarantinedRecord(ctx context.Context, id string) (edgeclaim.Record, edgeclaim.Quarantined, error)
	// Requeue puts records at the end of their lanes, under new sequences; nil
	// means durable. Broken off, each device's records are either back in order
	// or still there.
	Requeue(ctx context.Context, what Requeue) (Requeued, error)
	// Discard gives one record up for good and returns it; nil means that this
	// and the gap record that says so are durable. ErrNotFound.
	Discard(ctx context.Context, id string) (edgeclaim.Quarantined, error)
}

// Requeue says what goes back to its lane: exactly one of ID, Device and All.
type Requeue struct {
	// ID is a record. The others of its device go with it: a device's records
	// keep their order.
	ID string `json:"-"`
	// Device is a device, with all its records.
	Device edgeclaim.DeviceID `json:"device_id"`
	// All is everything, a part at a time: those with an id above After.
	All   bool   `json:"all"`
	After string `json:"after"`
}

// Requeued says what went back.
type Requeued struct {
	Records int `json:"requeued"`
	// Next, of Requeue.All, is what to say in After to go on; empty at the end.
	Next string `json:"next,omitempty"`
}

// QuarantinedRecord is a record in quarantine with its data.
type QuarantinedRecord struct {
	edgeclaim.Quarantined
	// Data is what upstream was told, or would be; Raw instead where that is
	// not JSON.
	Data json.RawMessage `json:"data,omitempty"`
	Raw  []byte          `json:"data_base64,omitempty"`
}

// Outbox is what an operator does with the outbox as a whole. All methods are
// safe for concurrent use, and none needs a network.
type Outbox interface {
	// Renew begins a new epoch, under which all that waits is told; nil means
	// durable.
	Renew(ctx context.Context) (Renewed, error)
	// Export writes the outbox for a stick, one message a line. An ack counts
	// only for an export that ended without an error.
	Export(ctx context.Context, w io.Writer) error
	// AcceptAck reads the ack of an export; nil means that what it names is
	// durably forgotten. It is idempotent. An OperatorError says why an ack is
	// not taken; nothing was forgotten then.
	AcceptAck(ctx context.Context, r io.Reader) (Accepted, error)
}

// Renewed names the outbox's lives.
type Renewed struct {
	Epoch    string `json:"epoch"`
	Previous string `json:"previous_epoch"`
}

// Accepted is what an ack did.
type Accepted struct {
	// Upto is, for each lane it names, the sequence up to which all is forgotten.
	Upto map[edgeclaim.Lane]uint64 `json:"upto"`
	// Parked are the records that upstream will never take: they are in
	// quarantine now.
	Parked int `json:"parked"`
}

// outboxHandler serves what an operator does with the outbox.
type outboxHandler struct {
	outbox     Outbox
	quarantine Quarantine
	errs       errorWriter
	logger     *slog.Logger
}

func (h outboxHandler) list(c *gin.Context) {
	after := ""
	if text := c.Query("after"); text != "" {
		var err error
		if after, err = parseQuarantineID(text); err != nil {
			h.errs.told(c, err)
			return
		}
	}
	lister[edgeclaim.Quarantined, string]{
		page: h.quarantine.Quarantine, id: func(q *edgeclaim.Quarantined) string { return q.ID },
	}.answer(c, h.errs, after)
}

func (h outboxHandler) show(c *gin.Context) {
	id, err := parseQuarantineID(pathValue(c, "id"))
	if err != nil {
		h.errs.told(c, err)
		return
	}
	record, about, err := h.quarantine.QuarantinedRecord(c.Request.Context(), id)
	whole := QuarantinedRecord{Quarantined: about}
	if json.Valid(record.Data) {
		whole.Data = record.Data
	} else {
		whole.Raw = record.Data
	}
	h.answer(c, whole, err)
}

func (h outboxHandler) requeueMany(c *gin.Context) {
	var what Requeue
	err := readJSON(c, &what)
	switch {
	case err != nil:
	case what.All == !what.Device.IsZero():
		err = edgeclaim.Invalid("device_id", "want either device_id or all")
	case what.After != "" && !what.All:
		err = edgeclaim.Invalid("after", "goes with all")
	case what.After != "":
		_, err = parseQuarantineID(what.After)
	}
	if err != nil {
		h.errs.told(c, err)
		return
	}
	if !what.Device.IsZero() {
		changeOf(c).entry.Device = what.Device.String()
	}
	h.requeue(c, what)
}

func (h outboxHandler) requeueOne(c *gin.Context) {
	id, err := parseQuarantineID(pathValue(c, "id"))
	if err != nil {
		h.errs.told(c, err)
		return
	}
	changeOf(c).entry.Detail = map[string]string{"record": id}
	h.requeue(c, Requeue{ID: id})
}

func (h outboxHandler) requeue(c *gin.Context, what Requeue) {
	requeued, err := h.quarantine.Requeue(c.Request.Context(), what)
	changeOf(c).entry.Count = uint64(max(requeued.Records, 0))
	h.answer(c, requeued, err)
}

func (h outboxHandler) discard(c *gin.Context) {
	id, err := parseQuarantineID(pathValue(c, "id"))
	if err != nil {
		h.errs.told(c, err)
		return
	}
	changeOf(c).entry.Detail = map[string]string{"record": id}
	discarded, err := h.quarantine.Discard(c.Request.Context(), id)
	h.answer(c, discarded, err)
}

func (h outboxHandler) renew(c *gin.Context) {
	renewed, err := h.outbox.Renew(c.Request.Context())
	changeOf(c).entry.Detail = map[string]string{"epoch": renewed.Epoch, "previous": renewed.Previous}
	h.answer(c, renewed, err)
}

// export streams. An error after the first line can no longer be a status: the
// connection is broken off, so that nobody carries half an export away.
func (h outboxHandler) export(c *gin.Context) {
	c.Header("Content-Type", contentTypeNDJSON)
	err := h.outbox.Export(c.Request.Context(), c.Writer)
	switch {
	case err == nil:
	case c.Writer.Written():
		h.logger.Warn("an export was broken off", "err", err)
		panic(http.ErrAbortHandler)
	default:
		c.Writer.Header().Del("Content-Type")
		h.errs.told(c, err)
	}
}

func (h outboxHandler) ack(c *gin.Context) {
	accepted, err := h.outbox.AcceptAck(c.Request.Context(), http.MaxBytesReader(c.Writer, c.Request.Body, maxAckBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		err = edgeclaim.Invalid("body", "larger than %d bytes", maxAckBody)
	}
	changeOf(c).entry.Detail = uptoDetail(accepted)
	h.answer(c, accepted, err)
}

// uptoDetail says in the audit what an ack did.
func uptoDetail(a Accepted) map[string]string {
	detail := map[string]string{"parked": strconv.Itoa(a.Parked)}
	for lane, upto := range a.Upto {
		detail[string(lane)] = strconv.FormatUint(upto, 10)
	}
	return detail
}

func (h outboxHandler) answer(c *gin.Context, result any, err error) {
	if err != nil {
		h.errs.told(c, err)
		return
	}
	writeJSON(c, h.errs, http.StatusOK, result)
}

// parseQuarantineID holds an id to its form: a store need not look for others.
func parseQuarantineID(text string) (string, error) {
	if text == "" || len(text) > maxQuarantineID || strings.Trim(text, requestIDChars) != "" {
		return "", edgeclaim.Invalid("id", "want 1 to %d characters of A-Z a-z 0-9 . _ -", maxQuarantineID)
	}
	return text, nil
}
