package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"edgeclaim/internal/audit"
	"edgeclaim/provision"

	"github.com/gin-gonic/gin"
)

// auditWait is how long an answer waits for its entry to be durable. A disk that
// hangs holds up what is written to it, and that is enough.
const auditWait = 5 * time.Second

// Auditor is the log of what was done. *audit.Log is one. Its methods are safe
// for concurrent use.
type Auditor interface {
	// Add takes an entry and never waits.
	Add(e audit.Entry)
	// Must returns nil when the entry is durable.
	Must(ctx context.Context, e audit.Entry) error
	// Head is the end of what is durable.
	Head() audit.Head
}

// bookkeeper writes down who changed what, before he hears that he did.
type bookkeeper struct {
	audit  Auditor
	logger *slog.Logger
}

// change is a request that changes something, as it will be written down.
type change struct {
	entry audit.Entry
	// partly: something was done although the answer is an error.
	partly bool
}

const changeKey = "change"

// changeOf returns what will be written down of a request, for its handler to
// fill in; of one that only looks, nothing that anybody reads.
func changeOf(c *gin.Context) *change {
	if value, ok := c.Get(changeKey); ok {
		if noted, ok := value.(*change); ok {
			return noted
		}
	}
	return &change{}
}

// record writes one entry for each change, and none for what was refused. The
// entry is durable before the first byte of the answer; when it cannot be, what
// was done stays done.
func (b bookkeeper) record(r route) gin.HandlerFunc {
	return func(c *gin.Context) {
		if r.kind == looks {
			return
		}
		if r.kind != byRule {
			writer := &notingWriter{ResponseWriter: c.Writer, note: func(status int) { b.write(c, status) }}
			c.Writer = writer
			c.Set(changeKey, &change{entry: audit.Entry{Kind: r.kind}})
			defer writer.abandoned()
		}
		c.Next()
		ctx := c.Request.Context()
		b.logger.Info("admin request", "method", r.method, "path", c.Request.URL.Path,
			"status", c.Writer.Status(), "who", provision.Who(ctx), "peer", ctx.Value(peerKey{}))
	}
}

func (b bookkeeper) write(c *gin.Context, status int) {
	done := changeOf(c)
	if status >= http.StatusBadRequest && status < http.StatusInternalServerError && !done.partly {
		return
	}
	e := done.entry
	if status >= http.StatusBadRequest {
		e.Reason = "failed" // and perhaps half done
	}
	ctx := c.Request.Context()
	e.Who = provision.Who(ctx)
	if from := source(c.Request); from.IsValid() {
		e.Source = from.String()
	}
	if b.audit == nil {
		b.logger.Error("admin request not audited: there is no audit log", "kind", e.Kind, "who", e.Who)
		return
	}
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditWait)
	defer cancel()
	if err := b.audit.Must(wait, e); err != nil {
		b.logger.Error("admin request not audited", "kind", e.Kind, "who", e.Who, "err", err)
	}
}

// notingWriter calls note before the first byte of an answer.
type notingWriter struct {
	gin.ResponseWriter
	note  func(status int)
	noted bool
}

// abandoned notes what was begun and never answered: its handler panicked.
func (w *notingWriter) abandoned() {
	if !w.noted {
		w.noted = true
		w.note(http.StatusInternalServerError)
	}
}

func (w *notingWriter) first() {
	if !w.noted {
		w.noted = true
		w.note(w.Status())
	}
}

func (w *notingWriter) Write(b []byte) (int, error) {
	w.first()
	return w.ResponseWriter.Write(b)
}

func (w *notingWriter) WriteString(s string) (int, error) {
	w.first()
	return w.ResponseWriter.WriteString(s)
}

func (w *notingWriter) WriteHeaderNow() {
	w.first()
	w.ResponseWriter.WriteHeaderNow()
}

func (w *notingWriter) Flush() {
	w.first()
	w.ResponseWriter.Flush()
}

// Unwrap lets http.ResponseController find what it can do.
func (w *notingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
