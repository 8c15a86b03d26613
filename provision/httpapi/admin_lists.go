package httpapi

import (
	"bytes"
	"context"
	"net/http"
	"strconv"

	"edgeclaim"
	"edgeclaim/provision"

	"github.com/gin-gonic/gin"
)

const (
	// streamPage is how many rows a streamed list reads at a time: no read
	// transaction outlives a page, and memory holds one page.
	streamPage = 1000
	// maxPage is the largest page that may be asked for.
	maxPage = 10_000
)

type keyHandler struct {
	rule *provision.Service
	errs errorWriter
}

func addKeys(api *gin.RouterGroup, h keyHandler) {
	api.GET("/keys", h.list)
	api.GET("/keys/:id", h.show)
	api.POST("/keys/:id/revoke", h.set(edgeclaim.KeyRevoked))
	api.POST("/keys/:id/disable", h.set(edgeclaim.KeyDisabled))
	api.POST("/keys/:id/enable", h.set(edgeclaim.KeyActive))
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
	stream(c, h.errs, h.rule.Keys, func(k *edgeclaim.Key) edgeclaim.KeyID { return k.ID }, func(k *edgeclaim.Key) bool {
		return of.IsZero() || k.Template == of
	})
}

func (h keyHandler) show(c *gin.Context) {
	withID(c, h.errs, edgeclaim.ParseKeyID, func(id edgeclaim.KeyID) (any, error) {
		return h.rule.Key(c.Request.Context(), id)
	})
}

func (h keyHandler) set(status edgeclaim.KeyStatus) gin.HandlerFunc {
	return func(c *gin.Context) {
		withID(c, h.errs, edgeclaim.ParseKeyID, func(id edgeclaim.KeyID) (any, error) {
			return h.rule.SetKeyStatus(c.Request.Context(), id, status)
		})
	}
}

type deviceHandler struct {
	rule *provision.Service
	errs errorWriter
}

func addDevices(api *gin.RouterGroup, h deviceHandler) {
	api.GET("/devices", h.list)
	api.GET("/devices/:id", h.show)
	api.POST("/devices/:id/release", h.release)
}

// list answers one page when asked for one, else everything.
func (h deviceHandler) list(c *gin.Context) {
	count, paged, err := pageLimit(c)
	if err != nil {
		h.errs.fault(c, err)
		return
	}
	if !paged {
		stream(c, h.errs, h.rule.Devices, func(d *edgeclaim.Device) edgeclaim.DeviceID { return d.ID },
			func(*edgeclaim.Device) bool { return true })
		return
	}
	var after edgeclaim.DeviceID
	if text := c.Query("after"); text != "" {
		if after, err = edgeclaim.ParseDeviceID(text); err != nil {
			h.errs.fault(c, edgeclaim.Invalid("after", "want a device id"))
			return
		}
	}
	page, err := h.rule.Devices(c.Request.Context(), after, count)
	if err != nil {
		h.errs.fault(c, err)
		return
	}
	if page == nil {
		page = []edgeclaim.Device{} // [] and not null
	}
	writeJSON(c, h.errs, http.StatusOK, page)
}

func (h deviceHandler) show(c *gin.Context) {
	withID(c, h.errs, edgeclaim.ParseDeviceID, func(id edgeclaim.DeviceID) (any, error) {
		return h.rule.Device(c.Request.Context(), id)
	})
}

func (h deviceHandler) release(c *gin.Context) {
	withID(c, h.errs, edgeclaim.ParseDeviceID, func(id edgeclaim.DeviceID) (any, error) {
		return h.rule.Release(c.Request.Context(), id)
	})
}

// pageLimit reads how many rows are asked for; paged is false when all are.
func pageLimit(c *gin.Context) (limit int, paged bool, err error) {
	text := c.Query("limit")
	if text == "" {
		return 0, false, nil
	}
	limit, err = strconv.Atoi(text)
	if err != nil || limit < 1 || limit > maxPage {
		return 0, true, edgeclaim.Invalid("limit", "want 1 to %d", maxPage)
	}
	return limit, true, nil
}

// stream writes every row that keep keeps as one JSON array, a page at a time,
// each encoded before it is written. An error after the first page can no longer
// be a status: the connection is broken off, so that nobody takes half a list for
// a whole one.
func stream[T, ID any](
	c *gin.Context, errs errorWriter,
	page func(ctx context.Context, after ID, max int) ([]T, error), id func(*T) ID, keep func(*T) bool,
) {
	var after ID
	var body bytes.Buffer
	ctx := c.Request.Context()
	separator := "["
	for first := true; ; first = false {
		rows, err := page(ctx, after, streamPage)
		for i := 0; err == nil && i < len(rows); i++ {
			after = id(&rows[i])
			if !keep(&rows[i]) {
				continue
			}
			body.WriteString(separator)
			separator = ",\n"
			err = encode(&body, &rows[i])
		}
		if err != nil && first {
			errs.fault(c, err)
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		last := len(rows) < streamPage
		if last && separator == "[" {
			body.WriteString("[")
		}
		if last {
			body.WriteString("]\n")
		}
		if first {
			c.Header("Content-Type", contentTypeJSON)
			c.Status(http.StatusOK)
		}
		if _, err := body.WriteTo(c.Writer); err != nil || last {
			return // the end, or the reader has gone
		}
	}
}
