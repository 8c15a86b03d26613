package httpapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"

	"edgeclaim"

	"github.com/gin-gonic/gin"
)

// Reports takes what devices say. Its methods are safe for concurrent use and do
// not wait for the disk: what the Receipt accepts is durable when its Commit has
// ended well, and not before (P1). ErrInvalid names the member at fault,
// ErrThrottled and ErrUnavailable mean that nothing was taken.
type Reports interface {
	// Telemetry takes a point, or an array of them, of the platform's form.
	Telemetry(ctx context.Context, r edgeclaim.Report) (edgeclaim.Receipt, error)
	// Event takes an event, and the answer to a command, which is one.
	Event(ctx context.Context, r edgeclaim.Report) (edgeclaim.Receipt, error)
}

const (
	// smallReport is what every request may hold in memory, in bytes.
	smallReport = 16 << 10
	// maxLargeReports is how many larger ones are read at once, so that they
	// take 16 MiB at the most: a box has little memory, and 4,096 connections
	// of 256 KiB would be a gigabyte.
	maxLargeReports = 64
	// maxLargeOfDevice is how many of them may be one device's, so that one that
	// sends them slowly keeps out no other's.
	maxLargeOfDevice = 4
)

// errReportTooLarge is the InvalidError of a report above edgeclaim.MaxReport.
var errReportTooLarge = edgeclaim.Invalid("body", "larger than %d bytes", edgeclaim.MaxReport)

// reportHandler serves what devices say.
type reportHandler struct {
	loginSide
	reports Reports
	heard   Heard
	large   *larges
}

// Heard is told of each point and event that a device said over HTTP, when it is
// durable. It must not block, and keeps the body.
type Heard struct {
	Telemetry, Event func(device edgeclaim.DeviceID, body []byte)
}

// taking is what is done with a report, and who hears of it.
type taking struct {
	take func(context.Context, edgeclaim.Report) (edgeclaim.Receipt, error)
	hear func(device edgeclaim.DeviceID, body []byte) // nil: nobody
}

func (h reportHandler) telemetry(c *gin.Context) {
	h.take(c, taking{h.reports.Telemetry, h.heard.Telemetry})
}

func (h reportHandler) event(c *gin.Context) { h.take(c, taking{h.reports.Event, h.heard.Event}) }

// take answers when what was accepted is durable.
func (h reportHandler) take(c *gin.Context, do taking) {
	who, ok := h.admitted(c)
	if !ok {
		return
	}
	if format, err := formatOf(c.GetHeader("Content-Type")); err != nil || format != edgeclaim.FormatJSON {
		h.refuse(c, edgeclaim.FormatJSON, http.StatusUnsupportedMediaType, edgeclaim.Invalid("content_type", "want %s", edgeclaim.FormatJSON))
		return
	}
	body, leave, err := h.body(c, who.Device)
	defer leave()
	if err != nil {
		status := 0
		if errors.Is(err, errReportTooLarge) {
			status = http.StatusRequestEntityTooLarge
		}
		h.refuse(c, edgeclaim.FormatJSON, status, err)
		return
	}
	ctx, cancel := h.within(c)
	defer cancel()
	receipt, err := do.take(ctx, edgeclaim.Report{By: who, Body: body, Via: edgeclaim.ViaHTTP, Source: source(c.Request)})
	if err == nil {
		err = receipt.Commit.Wait(ctx)
	}
	if err != nil {
		h.refuse(c, edgeclaim.FormatJSON, 0, err)
		return
	}
	if do.hear != nil {
		for _, message := range receipt.Messages(body) {
			do.hear(who.Device, message)
		}
	}
	c.Data(http.StatusOK, string(edgeclaim.FormatJSON), receiptJSON(receipt))
}

// body reads a report. What is more than a small one needs a place, which leave
// gives back, or is ErrThrottled; leave is never nil.
func (h reportHandler) body(c *gin.Context, device edgeclaim.DeviceID) (body []byte, leave func(), err error) {
	leave = func() {}
	declared := c.Request.ContentLength
	if declared > edgeclaim.MaxReport {
		c.Header("Connection", "close")
		return nil, leave, errReportTooLarge
	}
	reader := http.MaxBytesReader(c.Writer, c.Request.Body, edgeclaim.MaxReport)
	var all bytes.Buffer
	if declared > 0 {
		all.Grow(int(min(declared, smallReport)) + bytes.MinRead)
	}
	_, err = io.CopyN(&all, reader, smallReport)
	if err == nil { // and there may be more
		if !h.large.enter(device) {
			c.Header("Connection", "close") // or net/http reads the rest before it answers
			return nil, leave, edgeclaim.ErrThrottled
		}
		leave = func() { h.large.leave(device) }
		all.Grow(int(max(0, declared-smallReport)) + bytes.MinRead)
		_, err = all.ReadFrom(reader)
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, leave, errReportTooLarge
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, leave, edgeclaim.Invalid("body", "not read to its end")
	}
	return all.Bytes(), leave, nil
}

// larges are the places of large reports in memory.
type larges struct {
	mu  sync.Mutex
	all int
	of  map[edgeclaim.DeviceID]int
}

func newLarges() *larges { return &larges{of: map[edgeclaim.DeviceID]int{}} }

// enter takes a place; false where there is none. Who entered leaves.
func (l *larges) enter(device edgeclaim.DeviceID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= maxLargeReports || l.of[device] >= maxLargeOfDevice {
		return false
	}
	l.all++
	l.of[device]++
	return true
}

func (l *larges) leave(device edgeclaim.DeviceID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.of[device]--; l.of[device] == 0 {
		delete(l.of, device)
	}
}

func receiptJSON(r edgeclaim.Receipt) []byte {
	body := append(make([]byte, 0, 64), `{"accepted":`...)
	body = strconv.AppendInt(body, int64(r.Accepted), 10)
	body = append(body, `,"rejected":`...)
	body = strconv.AppendInt(body, int64(r.Rejected), 10)
	return append(body, '}')
}
