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
	noteTemplate(c, t.ID)
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

func (h templateHandler) disable(c *gin.Context) { h.set(c, edgeclaim.TemplateDisabled) }
func (h templateHandler) enable(c *gin.Context)  { h.set(c, edgeclaim.TemplateActive) }

func (h templateHandler) set(c *gin.Context, status edgeclaim.TemplateStatus) {
	withID(c, h.errs, edgeclaim.ParseTemplateID, func(id edgeclaim.TemplateID) (any, error) {
		noteTemplate(c, id)
		template, err := h.rule.SetTemplateStatus(c.Request.Context(), id, status)
		return template, owned(wordsTemplate, err)
	})
}

// noteTemplate says in the audit which template a change was about.
func noteTemplate(c *gin.Context, id edgeclaim.TemplateID) { changeOf(c).entry.Template = id.String() }

// noteKeys says in the audit which keys a change was about: the one, or how
// many.
func noteKeys(c *gin.Context, template edgeclaim.TemplateID, keys ...edgeclaim.KeyID) {
	e := &changeOf(c).entry
	e.Template = template.String()
	if len(keys) == 1 {
		e.Key = keys[0].String()
		return
	}
	e.Count = uint64(len(keys))
	e.Detail = map[string]string{"first": keys[0].String(), "last": keys[len(keys)-1].String()}
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
			return nil, owned(wordsKeys, err)
		}
		keys, ids := make([]issuedKey, len(issued)), make([]edgeclaim.KeyID, len(issued))
		for i, k := range issued {
			ids[i] = k.Key.ID
			keys[i] = issuedKey{Key: k.Key, ProvisionKey: k.Secret.Reveal()}
			if !template.Bounded() {
				keys[i].Warning = warnUnbounded
			}
		}
		noteKeys(c, id, ids...)
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
		var key edgeclaim.Key
		var err error
		if body.SHA256 != nil {
			key, err = h.rule.ImportKey(c.Request.Context(), id, *body.SHA256)
		} else {
			key, err = h.rule.ImportRawKey(c.Request.Context(), id, edgeclaim.NewSecret(*body.ProvisionKey))
		}
		noteKeys(c, id, key.ID)
		return key, owned(wordsKeys, err)
	})
}
