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

// keyHeader is where a device may show its key instead of Authorization.
const keyHeader = "X-API-Key"

// loginSide is what the handlers have in common that only a device with a good
// credential gets past.
type loginSide struct {
	deviceSide
	devices Devices
	left    *room
}

// admitted lets the device in, or answers that it is not: no sooner than a
// refusal, and before its body is looked at, which only who was let in may put
// into memory.
func (d loginSide) admitted(c *gin.Context) (edgeclaim.Admission, bool) {
	received := time.Now()
	if d.left.scarce() {
		c.Header("Connection", "close")
	}
	ctx, cancel := d.within(c)
	defer cancel()
	who, err := d.letIn(ctx, c.Request)
	if err != nil {
		untilRefusal(received)
		d.refuse(c, edgeclaim.FormatJSON, 0, err)
	}
	return who, err == nil
}

// letIn decides who asks. A good certificate comes first; one that is not good
// counts for nothing. A key beside it has to be the same device's.
func (d loginSide) letIn(ctx context.Context, r *http.Request) (edgeclaim.Admission, error) {
	key, err := presentedKey(r.Header)
	if err != nil {
		return edgeclaim.Admission{}, err
	}
	byKey := edgeclaim.Login{Key: key, Via: edgeclaim.ViaHTTP, Source: source(r)}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		byCertificate := edgeclaim.Login{Chain: r.TLS.PeerCertificates, Via: edgeclaim.ViaHTTP, Source: byKey.Source}
		who, err := d.devices.Identify(ctx, byCertificate)
		if err == nil && !key.IsZero() {
			byKey.Device = who.Device
			if _, err = d.devices.Identify(ctx, byKey); err != nil {
				return edgeclaim.Admission{}, err
			}
		}
		if err == nil {
			return d.devices.Admit(ctx, byCertificate)
		}
		if !errors.Is(err, edgeclaim.ErrUnauthenticated) {
			return edgeclaim.Admission{}, err
		}
	}
	if key.IsZero() {
		return edgeclaim.Admission{}, edgeclaim.ErrUnauthenticated
	}
	return d.devices.Admit(ctx, byKey)
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
