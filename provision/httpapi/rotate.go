package httpapi

import (
	"context"
	"errors"
	"net/http"
	"time"

	"edgeclaim"
	"edgeclaim/internal/token"

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

// keyHeader is where a device may show its key instead of Authorization.
const keyHeader = "X-API-Key"

// rotateHandler serves a device's wish for another credential.
type rotateHandler struct {
	deviceSide
	devices Devices
}

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

// letIn decides who asks. A good certificate comes first; one that is not good
// counts for nothing. A key beside it has to be the same device's.
func (h rotateHandler) letIn(ctx context.Context, r *http.Request) (edgeclaim.Admission, error) {
	key, err := presentedKey(r.Header)
	if err != nil {
		return edgeclaim.Admission{}, err
	}
	byKey := edgeclaim.Login{Key: key, Via: edgeclaim.ViaHTTP, Source: source(r)}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		byCertificate := edgeclaim.Login{Chain: r.TLS.PeerCertificates, Via: edgeclaim.ViaHTTP, Source: byKey.Source}
		who, err := h.devices.Identify(ctx, byCertificate)
		if err == nil && !key.IsZero() {
			byKey.Device = who.Device
			if _, err = h.devices.Identify(ctx, byKey); err != nil {
				return edgeclaim.Admission{}, err
			}
		}
		if err == nil {
			return h.devices.Admit(ctx, byCertificate)
		}
		if !errors.Is(err, edgeclaim.ErrUnauthenticated) {
			return edgeclaim.Admission{}, err
		}
	}
	if key.IsZero() {
		return edgeclaim.Admission{}, edgeclaim.ErrUnauthenticated
	}
	return h.devices.Admit(ctx, byKey)
}

// presentedKey returns the key in a request's header, the zero Secret for none.
// Two that differ, and a header that cannot be read, are ErrUnauthenticated.
func presentedKey(header http.Header) (edgeclaim.Secret, error) {
	var key edgeclaim.Secret
	bearers, keys := header.Values("Authorization"), header.Values(keyHeader)
	if len(bearers) > 1 || len(keys) > 1 {
		return key, edgeclaim.ErrUnauthenticated
	}
	if len(keys) == 1 {
		if keys[0] == "" || len(keys[0]) > token.MaxHeader {
			return key, edgeclaim.ErrUnauthenticated
		}
		key = edgeclaim.NewSecret(keys[0])
	}
	if len(bearers) == 0 {
		return key, nil
	}
	bearer, err := token.Parse(bearers[0])
	if err == nil && len(keys) == 1 && !bearer.Equal(key) {
		err = edgeclaim.ErrUnauthenticated
	}
	return bearer, err
}

// untilRefusal waits until a refusal may be said: the time it took tells nothing
// then of how far a login came (P3). It heeds no context: an asker that
// half-closes its connection ends the request's.
func untilRefusal(received time.Time) {
	<-time.After(edgeclaim.RefusalDelay - time.Since(received))
}
