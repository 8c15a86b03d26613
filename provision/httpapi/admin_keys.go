package httpapi

import (
	"edgeclaim"
	"edgeclaim/provision"

	"github.com/gin-gonic/gin"
)

type keyHandler struct {
	rule *provision.Service
	errs errorWriter
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

func (h keyHandler) revoke(c *gin.Context)  { h.set(c, edgeclaim.KeyRevoked) }
func (h keyHandler) disable(c *gin.Context) { h.set(c, edgeclaim.KeyDisabled) }
func (h keyHandler) enable(c *gin.Context)  { h.set(c, edgeclaim.KeyActive) }

func (h keyHandler) set(c *gin.Context, status edgeclaim.KeyStatus) {
	withID(c, h.errs, edgeclaim.ParseKeyID, func(id edgeclaim.KeyID) (any, error) {
		key, err := h.rule.SetKeyStatus(c.Request.Context(), id, status)
		noteKeys(c, key.Template, id)
		return key, err
	})
}
