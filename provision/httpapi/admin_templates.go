package httpapi

import (
	"net/http"

	"edgeclaim"
	"edgeclaim/provision"

	"github.com/gin-gonic/gin"
)

type templateHandler struct {
	rule *provision.Service
	errs errorWriter
}

func addTemplates(api *gin.RouterGroup, h templateHandler) {
	api.POST("/templates", h.create)
	api.GET("/templates", h.list)
	api.GET("/templates/:id", h.show)
	api.POST("/templates/:id/disable", h.set(edgeclaim.TemplateDisabled))
	api.POST("/templates/:id/enable", h.set(edgeclaim.TemplateActive))
	api.POST("/templates/:id/keys", h.issue)
	api.POST("/templates/:id/keys/import", h.importKey)
}

func (h templateHandler) create(c *gin.Context) {
	var t edgeclaim.Template
	if err := readJSON(c, &t); err != nil {
		h.errs.fault(c, err)
		return
	}
	t, err := h.rule.CreateTemplate(c.Request.Context(), t)
	if err != nil {
		h.errs.fault(c, err)
		return
	}
	writeJSON(c, h.errs, http.StatusCreated, t)
}

func (h templateHandler) list(c *gin.Context) {
	templates, err := h.rule.Templates(c.Request.Context())
	if err != nil {
		h.errs.fault(c, err)
		return
	}
	if templates == nil {
		templates = []edgeclaim.Template{} // [] and not null
	}
	writeJSON(c, h.errs, http.StatusOK, templates)
}

func (h templateHandler) show(c *gin.Context) {
	withID(c, h.errs, edgeclaim.ParseTemplateID, func(id edgeclaim.TemplateID) (any, error) {
		return h.rule.Template(c.Request.Context(), id)
	})
}

func (h templateHandler) set(status edgeclaim.TemplateStatus) gin.HandlerFunc {
	return func(c *gin.Context) {
		withID(c, h.errs, edgeclaim.ParseTemplateID, func(id edgeclaim.TemplateID) (any, error) {
			return h.rule.SetTemplateStatus(c.Request.Context(), id, status)
		})
	}
}

// issuedKey is a key as it is told once, to the one who had it made (P5).
type issuedKey struct {
	edgeclaim.Key
	ProvisionKey string `json:"provision_key"`
	// Warning says that nothing bounds how many devices the key can make.
	Warning string `json:"warning,omitempty"`
}

const warnUnbounded = "nothing bounds this key: whoever reads it can make any number of devices; consider one_time or max_claims"

func (h templateHandler) issue(c *gin.Context) {
	body := struct {
		Count int `json:"count"`
	}{Count: 1}
	if err := readJSON(c, &body); err != nil {
		h.errs.fault(c, err)
		return
	}
	withIDStatus(c, h.errs, http.StatusCreated, edgeclaim.ParseTemplateID, func(id edgeclaim.TemplateID) (any, error) {
		template, err := h.rule.Template(c.Request.Context(), id)
		if err != nil {
			return nil, err
		}
		issued, err := h.rule.IssueKeys(c.Request.Context(), id, body.Count)
		if err != nil {
			return nil, err
		}
		keys := make([]issuedKey, len(issued))
		for i, k := range issued {
			keys[i] = issuedKey{Key: k.Key, ProvisionKey: k.Secret.Reveal()}
			if !template.Bounded() {
				keys[i].Warning = warnUnbounded
			}
		}
		return keys, nil
	})
}

func (h templateHandler) importKey(c *gin.Context) {
	var body struct {
		SHA256       *edgeclaim.KeyHash `json:"sha256"`
		ProvisionKey *string            `json:"provision_key"`
	}
	if err := readJSON(c, &body); err != nil {
		h.errs.fault(c, err)
		return
	}
	if (body.SHA256 == nil) == (body.ProvisionKey == nil) {
		h.errs.fault(c, edgeclaim.Invalid("sha256", "want either sha256 or provision_key"))
		return
	}
	withIDStatus(c, h.errs, http.StatusCreated, edgeclaim.ParseTemplateID, func(id edgeclaim.TemplateID) (any, error) {
		if body.SHA256 != nil {
			return h.rule.ImportKey(c.Request.Context(), id, *body.SHA256)
		}
		return h.rule.ImportRawKey(c.Request.Context(), id, edgeclaim.NewSecret(*body.ProvisionKey))
	})
}
