package httpapi

import (
	"context"
	"net/http"

	"edgeclaim"

	"github.com/gin-gonic/gin"
)

// Devices lets devices in and gives them new credentials. *provision.Service is
// one. Its methods are safe for concurrent use.
type Devices interface {
	// Identify says who a login is, and changes nothing. ErrUnauthenticated, or
	// a fault of the box.
	Identify(ctx context.Context, l edgeclaim.Login) (edgeclaim.Admission, error)
	// Admit is Identify that counts as a use of the credential: nil means that
	// what its first use changes is durable (P1, P5).
	Admit(ctx context.Context, l edgeclaim.Login) (edgeclaim.Admission, error)
	// Renew answers a device that was let in and asks for another credential,
	// when that is durable.
	Renew(ctx context.Context, ask edgeclaim.RotateAsk) edgeclaim.Answer
}

// rotateHandler serves a device's wish for another credential.
type rotateHandler struct{ loginSide }

// rotate lets the device in anew with every request: a connection that is kept
// open outlives no revocation.
func (h rotateHandler) rotate(c *gin.Context) {
	format := edgeclaim.FormatJSON
	if said := c.GetHeader("Content-Type"); said != "" || c.Request.ContentLength != 0 { // no body asks for nothing special
		var err error
		if format, err = formatOf(said); err != nil {
			h.refuse(c, edgeclaim.FormatJSON, http.StatusUnsupportedMediaType, err)
			return
		}
	}
	ask, ok := h.read(c, format)
	if !ok {
		return
	}
	ctx, cancel := h.within(c)
	defer cancel()
	who, err := h.letIn(ctx, c.Request)
	if err != nil {
		untilRefusal(ask.ReceivedAt)
		h.refuse(c, format, 0, err)
		return
	}
	h.answer(c, format, 0, h.devices.Renew(ctx, edgeclaim.RotateAsk{Ask: ask, By: who}))
}
