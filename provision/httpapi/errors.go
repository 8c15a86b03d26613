package httpapi

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"edgeclaim"

	"github.com/gin-gonic/gin"
)

// statuses is the one table from code to status (google.rpc.Code as the
// platform transcodes it).
var statuses = map[edgeclaim.Code]int{
	edgeclaim.CodeOK:                 http.StatusOK,
	edgeclaim.CodeInvalidArgument:    http.StatusBadRequest,
	edgeclaim.CodeNotFound:           http.StatusNotFound,
	edgeclaim.CodeAlreadyExists:      http.StatusConflict,
	edgeclaim.CodePermissionDenied:   http.StatusForbidden,
	edgeclaim.CodeResourceExhausted:  http.StatusTooManyRequests,
	edgeclaim.CodeFailedPrecondition: http.StatusAccepted, // waiting for approval
	edgeclaim.CodeAborted:            http.StatusConflict,
	edgeclaim.CodeInternal:           http.StatusInternalServerError,
	edgeclaim.CodeUnavailable:        http.StatusServiceUnavailable,
	edgeclaim.CodeUnauthenticated:    http.StatusUnauthorized,
}

// statusOf returns the status of a code; what is in no row is our fault.
func statusOf(code edgeclaim.Code) int {
	if status, ok := statuses[code]; ok {
		return status
	}
	return http.StatusInternalServerError
}

// Faults encodes the error document of an error. *provision.Service is one.
type Faults interface {
	Fault(format edgeclaim.Format, err error) edgeclaim.Answer
}

// errorWriter writes error documents.
type errorWriter struct{ faults Faults }

// fault answers err as the table has it, in JSON.
func (w errorWriter) fault(c *gin.Context, err error) {
	answer := w.faults.Fault(edgeclaim.FormatJSON, err)
	writeAnswer(c, edgeclaim.FormatJSON, statusOf(answer.Code), answer)
}

// OperatorError is an error whose words are for the operator, unlike those of
// the rule, which devices may hear: it says what to do. It never holds a secret
// or what a file said (P5).
type OperatorError struct {
	Err   error // decides the code
	Words string
}

func (e *OperatorError) Error() string { return e.Words }

// Unwrap returns what went wrong.
func (e *OperatorError) Unwrap() error { return e.Err }

// told answers err on the admin side, with the words of an OperatorError, and
// with the reason of a DocumentError.
func (w errorWriter) told(c *gin.Context, err error) {
	told, ok := errors.AsType[*OperatorError](err)
	if document, refused := errors.AsType[*edgeclaim.DocumentError](err); refused && !ok {
		told, ok = &OperatorError{Err: document, Words: document.Error()}, true
	}
	if !ok {
		w.fault(c, err)
		return
	}
	code := w.faults.Fault(edgeclaim.FormatJSON, told.Err).Code
	c.AbortWithStatusJSON(statusOf(code), plain{Code: code, Message: told.Words, Details: []struct{}{}})
}

// plain is the error document of what the HTTP layer alone knows.
type plain struct {
	Code    edgeclaim.Code `json:"code"`
	Message string         `json:"message"`
	Details []struct{}     `json:"details"`
}

// codes is the way back for statuses that no code of the rule stands for.
var codes = map[int]edgeclaim.Code{
	http.StatusUnauthorized:         edgeclaim.CodeUnauthenticated,
	http.StatusForbidden:            edgeclaim.CodePermissionDenied,
	http.StatusUnsupportedMediaType: edgeclaim.CodeInvalidArgument,
	http.StatusMisdirectedRequest:   edgeclaim.CodeInvalidArgument,
	http.StatusNotFound:             edgeclaim.CodeNotFound,
	http.StatusMethodNotAllowed:     12, // google.rpc.Code UNIMPLEMENTED
	http.StatusInternalServerError:  edgeclaim.CodeInternal,
	http.StatusServiceUnavailable:   edgeclaim.CodeUnavailable,
}

func (errorWriter) status(c *gin.Context, status int, message string) {
	c.AbortWithStatusJSON(status, plain{Code: codes[status], Message: message, Details: []struct{}{}})
}

// writeAnswer writes an answer of the rule.
func writeAnswer(c *gin.Context, format edgeclaim.Format, status int, answer edgeclaim.Answer) {
	if answer.RetryAfter > 0 {
		c.Header("Retry-After", strconv.Itoa(int(answer.RetryAfter/time.Second)))
	}
	if status == http.StatusUnauthorized {
		c.Header("WWW-Authenticate", "Bearer")
	}
	c.Abort()
	c.Data(status, string(format), answer.Body)
}

// recovered answers a panic with 500, code 13, and logs it once, without its
// value, which may quote a request (P5). net/http's own way to break a
// connection off passes.
func recovered(errs errorWriter, logger *slog.Logger) gin.HandlerFunc {
	return func(c *gin.Context) {
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(cause)
			}
			logger.Error("handler panicked", "path", c.FullPath(), "panic_type", fmt.Sprintf("%T", cause), "stack", string(debug.Stack()))
			errs.status(c, http.StatusInternalServerError, "internal error")
		}()
		c.Next()
	}
}
