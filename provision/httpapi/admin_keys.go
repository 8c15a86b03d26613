package httpapi

import (
	"context"
	"net/http"

	"edgeclaim"
	"edgeclaim/provision"

	"github.com/gin-gonic/gin"
)

type keyHandler struct {
	rule *provision.Service
	errs errorWriter
	// devices shows those that were made with a key.
	devices deviceHandler
}

func (h keyHandler) list(c *gin.Context) {
	var of edgeclaim.TemplateID
	if text := c.Query("template_id"); text != "" {
		id, err := edgeclaim.ParseTemplateID(text)
		if err == nil {
			_, err = h.rule.Template(c.Request.Context(), id)
		}
		if err != nil {
			h.errs.fault(c, err)
			return
		}
		of = id
	}
	var after edgeclaim.KeyID
	if !readAfter(c, h.errs, &after, edgeclaim.ParseKeyID) {
		return
	}
	lister[edgeclaim.Key, edgeclaim.KeyID]{
		page: h.rule.Keys,
		id:   func(k *edgeclaim.Key) edgeclaim.KeyID { return k.ID },
		keep: func(k *edgeclaim.Key) bool { return of.IsZero() || k.Template == of },
	}.answer(c, h.errs, after)
}

func (h keyHandler) show(c *gin.Context) {
	withID(c, h.errs, edgeclaim.ParseKeyID, func(id edgeclaim.KeyID) (any, error) {
		return h.rule.Key(c.Request.Context(), id)
	})
}

// made lists the devices that were made with a key.
func (h keyHandler) made(c *gin.Context) {
	id, err := edgeclaim.ParseKeyID(pathValue(c, "id"))
	if err == nil {
		_, err = h.rule.Key(c.Request.Context(), id)
	}
	if err != nil {
		h.errs.told(c, err)
		return
	}
	var after edgeclaim.DeviceID
	if !readAfter(c, h.errs, &after, edgeclaim.ParseDeviceID) {
		return
	}
	now := h.devices.now()
	lister[edgeclaim.Device, edgeclaim.DeviceID]{
		page: func(ctx context.Context, after edgeclaim.DeviceID, most int) ([]edgeclaim.Device, error) {
			return h.rule.DevicesByKey(ctx, id, after, most)
		},
		id:   func(d *edgeclaim.Device) edgeclaim.DeviceID { return d.ID },
		show: func(d *edgeclaim.Device) any { return h.devices.shown(d, now) },
	}.answer(c, h.errs, after)
}

// shares lists what the box may use of keys that other boxes have too.
func (h keyHandler) shares(c *gin.Context) {
	shares, err := h.rule.Shares(c.Request.Context())
	if err != nil {
		h.errs.told(c, err)
		return
	}
	if shares == nil {
		shares = []edgeclaim.Share{} // [] and not null
	}
	writeJSON(c, h.errs, http.StatusOK, shares)
}

// revokedKey is a key that was revoked, how many devices with it, and how many of
// its devices had been before.
type revokedKey struct {
	edgeclaim.Key
	Devices int `json:"devices_revoked"`
	Before  int `json:"devices_revoked_before"`
}

// revoke leaves one entry in the audit log for the key, which counts the
// devices; the rule writes one for each of those.
func (h keyHandler) revoke(c *gin.Context) {
	var body struct {
		Devices bool   `json:"devices"`
		Reason  string `json:"reason"`
	}
	err := readJSON(c, &body)
	if err == nil && body.Reason != "" {
		err = edgeclaim.CheckName("reason", body.Reason)
	}
	if err != nil {
		h.errs.told(c, err)
		return
	}
	withID(c, h.errs, edgeclaim.ParseKeyID, func(id edgeclaim.KeyID) (any, error) {
		done, err := h.rule.RevokeKey(c.Request.Context(), id, body.Devices, body.Reason)
		noteKeys(c, done.Key.Template, id)
		change := changeOf(c)
		change.entry.Reason, change.entry.Count, change.partly = body.Reason, uint64(max(done.Revoked, 0)), done.Revoked > 0
		return revokedKey{done.Key, done.Revoked, done.Before}, err
	})
}

func (h keyHandler) disable(c *gin.Context) { h.set(c, edgeclaim.KeyDisabled) }
func (h keyHandler) enable(c *gin.Context)  { h.set(c, edgeclaim.KeyActive) }

func (h keyHandler) set(c *gin.Context, status edgeclaim.KeyStatus) {
	withID(c, h.errs, edgeclaim.ParseKeyID, func(id edgeclaim.KeyID) (any, error) {
		key, err := h.rule.SetKeyStatus(c.Request.Context(), id, status)
		noteKeys(c, key.Template, id)
		return key, owned(wordsKey, err)
	})
}
