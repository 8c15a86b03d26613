package httpapi

import (
	"context"
	"net/http"

	"github.com/gin-gonic/gin"
)

// Enroller keeps whom the box trusts upstream. All methods are safe for
// concurrent use.
type Enroller interface {
	// Enrolment is the present one; Enrolled is false when there is none.
	Enrolment(ctx context.Context) (Enrolment, error)
	// Enrol pins the key of an enrolment file; nil means durable, and in force.
	// ErrConflict: another key is pinned, and replace is false. ErrInvalid: it
	// is no enrolment file.
	Enrol(ctx context.Context, document []byte, replace bool) (Enrolment, error)
	// Unenrol forgets the key; nil means durable, also when there was none.
	Unenrol(ctx context.Context) error
}

// Enrolment is whom the box trusts upstream.
type Enrolment struct {
	// Enrolled: only what the key has signed is taken from upstream.
	Enrolled bool   `json:"enrolled"`
	Upstream string `json:"upstream_id,omitempty"`
	// Key names the public key, as envelopes do.
	Key string `json:"key_id,omitempty"`
	// Damaged: there is an enrolment that cannot be read, and nothing is taken
	// from upstream until the box is enrolled anew.
	Damaged bool `json:"damaged,omitempty"`
}

// enrolmentHandler serves what an operator does with the enrolment.
type enrolmentHandler struct {
	enroller Enroller
	errs     errorWriter
}

func (h enrolmentHandler) show(c *gin.Context) {
	enrolment, err := h.enroller.Enrolment(c.Request.Context())
	if err != nil {
		h.errs.told(c, err)
		return
	}
	writeJSON(c, h.errs, http.StatusOK, enrolment)
}

func (h enrolmentHandler) enrol(c *gin.Context) {
	replace, err := readFlag(c, "replace")
	if err != nil {
		h.errs.told(c, err)
		return
	}
	document, err := readWhole(c, maxAdminBody)
	if err != nil {
		h.errs.told(c, err)
		return
	}
	enrolment, err := h.enroller.Enrol(c.Request.Context(), document, replace)
	if err != nil {
		h.errs.told(c, err)
		return
	}
	changeOf(c).entry.Detail = map[string]string{"upstream": enrolment.Upstream, "key": enrolment.Key}
	writeJSON(c, h.errs, http.StatusOK, enrolment)
}

func (h enrolmentHandler) unenrol(c *gin.Context) {
	if err := h.enroller.Unenrol(c.Request.Context()); err != nil {
		h.errs.told(c, err)
		return
	}
	h.show(c)
}
