package httpapi

import (
	"net/http"
	"slices"
	"time"

	"edgeclaim"
	"edgeclaim/internal/ca"
	"edgeclaim/provision"

	"github.com/gin-gonic/gin"
)

// Presence knows which devices are at work. It is safe for concurrent use, and
// reads memory only.
type Presence interface {
	// State is the latest that is known of a device; false: it has said nothing
	// since the box began.
	State(id edgeclaim.DeviceID) (edgeclaim.DeviceState, bool)
}

type deviceHandler struct {
	rule     *provision.Service
	errs     errorWriter
	now      func() time.Time
	presence Presence
}

// shownDevice is a device with the state that an operator sees.
type shownDevice struct {
	edgeclaim.Device
	State    edgeclaim.State    `json:"state"`
	Presence edgeclaim.Presence `json:"presence,omitempty"`
	Since    time.Time          `json:"presence_since,omitzero"`
	Seen     time.Time          `json:"last_seen,omitzero"`
}

func (h deviceHandler) shown(d *edgeclaim.Device, now time.Time) shownDevice {
	shown := shownDevice{Device: *d, State: d.State(now)}
	if h.presence == nil {
		return shown
	}
	shown.Presence = edgeclaim.PresenceOffline
	if state, ok := h.presence.State(d.ID); ok {
		shown.Presence, shown.Since, shown.Seen = state.Presence, state.Since, state.Seen
	}
	return shown
}

// states are those that a list may be asked for.
var states = []edgeclaim.State{
	edgeclaim.StateClaimed, edgeclaim.StateConfirmed, edgeclaim.StateRotating, edgeclaim.StateReleased, edgeclaim.StateRevoked,
}

func (h deviceHandler) list(c *gin.Context) {
	want := edgeclaim.State(c.Query("state"))
	if want != "" && !slices.Contains(states, want) {
		h.errs.fault(c, edgeclaim.Invalid("state", "want claimed, confirmed, rotating, released or revoked"))
		return
	}
	var after edgeclaim.DeviceID
	if !readAfter(c, h.errs, &after, edgeclaim.ParseDeviceID) {
		return
	}
	now := h.now()
	lister[edgeclaim.Device, edgeclaim.DeviceID]{
		page: h.rule.Devices,
		id:   func(d *edgeclaim.Device) edgeclaim.DeviceID { return d.ID },
		keep: func(d *edgeclaim.Device) bool { return want == "" || d.State(now) == want },
		show: func(d *edgeclaim.Device) any { return h.shown(d, now) },
	}.answer(c, h.errs, after)
}

func (h deviceHandler) show(c *gin.Context) {
	h.one(c, func(id edgeclaim.DeviceID) (edgeclaim.Device, error) {
		return h.rule.Device(c.Request.Context(), id)
	})
}

// one answers what do makes of the device in the path.
func (h deviceHandler) one(c *gin.Context, do func(edgeclaim.DeviceID) (edgeclaim.Device, error)) {
	withID(c, h.errs, edgeclaim.ParseDeviceID, func(id edgeclaim.DeviceID) (any, error) {
		device, err := do(id)
		return h.shown(&device, h.now()), err
	})
}

func (h deviceHandler) release(c *gin.Context) {
	var body struct {
		Reinstate bool `json:"reinstate"`
	}
	if err := readJSON(c, &body); err != nil {
		h.errs.fault(c, err)
		return
	}
	h.one(c, func(id edgeclaim.DeviceID) (edgeclaim.Device, error) {
		device, err := h.rule.Release(c.Request.Context(), id, body.Reinstate)
		if body.Reinstate { // then nothing else stands against it
			err = forbidden(wordsRevoked, err)
		}
		return device, err
	})
}

func (h deviceHandler) revoke(c *gin.Context) {
	var body struct {
		Reason string `json:"reason"`
	}
	err := readJSON(c, &body)
	if err == nil && body.Reason != "" {
		err = edgeclaim.CheckName("reason", body.Reason)
	}
	if err != nil {
		h.errs.fault(c, err)
		return
	}
	h.one(c, func(id edgeclaim.DeviceID) (edgeclaim.Device, error) {
		return h.rule.Revoke(c.Request.Context(), id, body.Reason)
	})
}

func (h deviceHandler) swap(c *gin.Context) {
	var body struct {
		Hardware edgeclaim.HardwareID `json:"hardware_id"`
	}
	err := readJSON(c, &body)
	if err == nil && body.Hardware.IsZero() {
		err = edgeclaim.Invalid("hardware_id", "required")
	}
	if err != nil {
		h.errs.fault(c, err)
		return
	}
	h.one(c, func(id edgeclaim.DeviceID) (edgeclaim.Device, error) {
		return h.rule.Swap(c.Request.Context(), id, body.Hardware)
	})
}

// rotate answers with the new credential, which is said nowhere else (P5).
func (h deviceHandler) rotate(c *gin.Context) {
	rotation, err := readRotation(c)
	if err != nil {
		h.errs.fault(c, err)
		return
	}
	id, err := edgeclaim.ParseDeviceID(pathValue(c, "id"))
	if err != nil {
		h.errs.fault(c, err)
		return
	}
	issued, err := h.rule.Rotate(c.Request.Context(), id, rotation)
	if err != nil {
		h.errs.told(c, err)
		return
	}
	answer, err := issued.Answer()
	if err != nil {
		h.errs.fault(c, err)
		return
	}
	c.Data(http.StatusOK, contentTypeJSON, answer)
}

func readRotation(c *gin.Context) (provision.Rotation, error) {
	var body struct {
		Overlap *string `json:"overlap"`
		CSR     *string `json:"csr"`
	}
	rotation := provision.Rotation{Overlap: provision.DefaultOverlap}
	err := readJSON(c, &body)
	if err == nil && body.Overlap != nil {
		rotation.Overlap, err = readDuration("overlap", *body.Overlap, 0, provision.MaxOverlap)
	}
	if err == nil && body.CSR != nil {
		rotation.CSR, err = ca.ParseCSRPEM(*body.CSR)
	}
	return rotation, err
}

// readDuration reads a duration of Go's spelling, like 36h or 90m.
func readDuration(field, text string, least, most time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > most {
		return 0, edgeclaim.Invalid(field, "want a duration of %v to %v, like 24h", least, most)
	}
	return d, nil
}
