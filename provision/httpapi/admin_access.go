package httpapi

import (
	"context"
	"net/http"

	"edgeclaim"
	"edgeclaim/provision"

	"github.com/gin-gonic/gin"
)

// accessHandler serves who may claim at all: claims that wait for an operator,
// and hardware that is denied.
type accessHandler struct {
	rule *provision.Service
	errs errorWriter
}

func (h accessHandler) pending(c *gin.Context) {
	var after edgeclaim.DeviceID
	if readAfter(c, h.errs, &after, edgeclaim.ParseDeviceID) {
		lister[edgeclaim.Pending, edgeclaim.DeviceID]{
			page: h.rule.PendingClaims, id: func(p *edgeclaim.Pending) edgeclaim.DeviceID { return p.ID },
		}.answer(c, h.errs, after)
	}
}

func (h accessHandler) approve(c *gin.Context) { h.decide(c, h.rule.Approve) }
func (h accessHandler) refuse(c *gin.Context)  { h.decide(c, h.rule.Refuse) }

func (h accessHandler) decide(c *gin.Context, do func(context.Context, edgeclaim.DeviceID) (edgeclaim.Pending, error)) {
	withID(c, h.errs, edgeclaim.ParseDeviceID, func(id edgeclaim.DeviceID) (any, error) {
		return do(c.Request.Context(), id)
	})
}

// denials answers in order of tenant and hardware id, those of every tenant
// first. A page goes on after a denial: after and after_tenant_id.
func (h accessHandler) denials(c *gin.Context) {
	var after edgeclaim.Denial
	if !readAfter(c, h.errs, &after.Hardware, edgeclaim.ParseHardwareID) {
		return
	}
	var err error
	if after.Tenant, err = readTenant(c, "after_tenant_id"); err != nil {
		h.errs.fault(c, err)
		return
	}
	if !after.Tenant.IsZero() && after.Hardware.IsZero() {
		h.errs.fault(c, edgeclaim.Invalid("after_tenant_id", "goes with after"))
		return
	}
	lister[edgeclaim.Denial, edgeclaim.Denial]{
		page: h.rule.Denials, id: func(d *edgeclaim.Denial) edgeclaim.Denial { return *d },
	}.answer(c, h.errs, after)
}

func (h accessHandler) deny(c *gin.Context) {
	var body struct {
		Hardware edgeclaim.HardwareID `json:"hardware_id"`
		Tenant   edgeclaim.TenantID   `json:"tenant_id"`
	}
	err := readJSON(c, &body)
	if err == nil && body.Hardware.IsZero() {
		err = edgeclaim.Invalid("hardware_id", "required")
	}
	if err != nil {
		h.errs.fault(c, err)
		return
	}
	denial, made, err := h.rule.Deny(c.Request.Context(), body.Tenant, body.Hardware)
	if err != nil {
		h.errs.told(c, err)
		return
	}
	status := http.StatusOK
	if made {
		status = http.StatusCreated
	}
	writeJSON(c, h.errs, status, denial)
}

// undeny takes the hardware id from the path, and the tenant from the query.
func (h accessHandler) undeny(c *gin.Context) {
	tenant, err := readTenant(c, "tenant_id")
	if err != nil {
		h.errs.fault(c, err)
		return
	}
	withID(c, h.errs, edgeclaim.ParseHardwareID, func(hardware edgeclaim.HardwareID) (any, error) {
		denial, err := h.rule.Undeny(c.Request.Context(), tenant, hardware)
		return denial, forbidden(wordsDenial, err)
	})
}

// readTenant reads a tenant in the query; zero without one.
func readTenant(c *gin.Context, name string) (edgeclaim.TenantID, error) {
	text := c.Query(name)
	if text == "" {
		return edgeclaim.TenantID{}, nil
	}
	id, err := edgeclaim.ParseTenantID(text)
	if err != nil {
		return id, edgeclaim.Invalid(name, "want a UUID of 36 characters")
	}
	return id, nil
}
