package provision

import (
	"context"
	"errors"
	"fmt"
	"time"

	"edgeclaim"
)

// ErrUpstreamOwned: the template is upstream's, and so are its keys and its
// list: they are read-only here. It is an ErrConflict.
var ErrUpstreamOwned = fmt.Errorf("owned by upstream: read-only here: %w", edgeclaim.ErrConflict)

// When a device is told to come back.
const (
	retryLater    = 5 * time.Second  // the box cannot commit now
	retryApproval = 30 * time.Second // an operator has to look first
)

// fault is what the outside is told of an error.
type fault struct {
	code    edgeclaim.Code
	message string
	retry   time.Duration
}

var unavailable = fault{code: edgeclaim.CodeUnavailable, message: "unavailable", retry: retryLater}

// faults is the one table from sentinel to code. Messages are constants: an
// error's own text stays on the box, but for InvalidError, whose text is made
// for the asker.
var faults = []struct {
	sentinel error
	fault    fault
}{
	{edgeclaim.ErrInvalid, fault{code: edgeclaim.CodeInvalidArgument, message: "invalid"}},
	{edgeclaim.ErrDenied, fault{code: edgeclaim.CodePermissionDenied, message: "permission denied"}},
	{edgeclaim.ErrUnauthenticated, fault{code: edgeclaim.CodeUnauthenticated, message: "unauthenticated"}},
	{edgeclaim.ErrNotFound, fault{code: edgeclaim.CodeNotFound, message: "not found"}},
	{edgeclaim.ErrExists, fault{code: edgeclaim.CodeAlreadyExists, message: "already exists"}},
	{ErrUpstreamOwned, fault{code: edgeclaim.CodeAborted, message: "owned by upstream: read-only here"}},
	{edgeclaim.ErrConflict, fault{code: edgeclaim.CodeAborted, message: "conflict"}},
	{edgeclaim.ErrThrottled, fault{code: edgeclaim.CodeResourceExhausted, message: "too many requests", retry: time.Second}},
	{edgeclaim.ErrWaiting, fault{code: edgeclaim.CodeFailedPrecondition, message: "waiting for approval", retry: retryApproval}},
	{edgeclaim.ErrUnavailable, unavailable},
	{context.DeadlineExceeded, unavailable},
	{context.Canceled, unavailable},
}

// throttledError is an ErrThrottled that knows when to come back.
type throttledError struct {
	wait time.Duration
	// refused: it would have been a refusal, and is as late as one (P3).
	refused bool
}

func (*throttledError) Error() string          { return edgeclaim.ErrThrottled.Error() }
func (*throttledError) Is(target error) bool   { return target == edgeclaim.ErrThrottled }
func (e *throttledError) retry() time.Duration { return e.wait.Truncate(time.Second) + time.Second }

// waitingError is an ErrWaiting that knows whose approval is waited for.
type waitingError struct{ whose edgeclaim.ClaimRef }

func (*waitingError) Error() string        { return edgeclaim.ErrWaiting.Error() }
func (*waitingError) Is(target error) bool { return target == edgeclaim.ErrWaiting }

// faultOf looks an error up; what is in no row is an internal error.
func faultOf(err error) fault {
	for _, row := range faults {
		if !errors.Is(err, row.sentinel) {
			continue
		}
		f := row.fault
		if invalid, ok := errors.AsType[*edgeclaim.InvalidError](err); ok {
			f.message = invalid.Error()
		}
		if throttled, ok := errors.AsType[*throttledError](err); ok {
			f.retry = throttled.retry()
		}
		return f
	}
	return fault{code: edgeclaim.CodeInternal, message: "internal error"}
}

// Fault returns the error document for a fault that a face finds itself, before
// the rule is asked. A fault of the box itself is logged: the asker is not told
// what it is.
func (s *Service) Fault(format edgeclaim.Format, err error) edgeclaim.Answer {
	f := faultOf(err)
	if f.code == edgeclaim.CodeInternal {
		s.logger.Error("request failed", "err", err)
	}
	return s.refuse(f, format, false)
}

// refuse encodes a fault. Over MQTT, where there is no header for it, the body
// says when to come back.
func (s *Service) refuse(f fault, format edgeclaim.Format, sayRetry bool) edgeclaim.Answer {
	doc := envelope{Code: f.code, Message: f.message, Details: []struct{}{}}
	if sayRetry {
		doc.RetryAfter = int(f.retry / time.Second)
	}
	body, err := encode(format, doc)
	if err != nil { // a struct of ints and strings: not expected, and not hidden either
		s.logger.Error("error document not encoded", "err", err)
	}
	return edgeclaim.Answer{Code: f.code, Body: body, RetryAfter: f.retry}
}
