package httpapi

import (
	"context"
	"net/http"
	"slices"
	"time"

	"edgeclaim"
	"edgeclaim/internal/token"
	"edgeclaim/provision"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json/jsontext"
)

// Orders is what operators tell devices to do. *command.Service is one. Its
// methods are safe for concurrent use, write the audit log themselves, and what
// they change is durable when they return nil.
type Orders interface {
	// Give keeps a command for its device. One of an id that the device has
	// already, with the same payload, changes nothing, and returns that.
	// ErrNotFound: no such device; ErrConflict: it is revoked; ErrExists: it has
	// another command of that id; ErrInvalid names the member; ErrThrottled: too
	// many wait.
	Give(ctx context.Context, o edgeclaim.Order) (edgeclaim.Command, error)
	// TakeBack cancels one, or returns it where that was done already.
	// ErrNotFound; ErrConflict: it has come to another end.
	TakeBack(ctx context.Context, device edgeclaim.DeviceID, id edgeclaim.CommandID, by string) (edgeclaim.Command, error)
	// Show returns one, with its Number; ErrNotFound.
	Show(ctx context.Context, device edgeclaim.DeviceID, id edgeclaim.CommandID) (edgeclaim.Command, error)
	// List returns up to max, the newest first, with a Number below before, 0
	// for all; of one device, the zero device for all.
	List(ctx context.Context, device edgeclaim.DeviceID, before uint64, max int) ([]edgeclaim.Command, error)
}

// Settings is how devices are to work, as operators set it. *command.Service is
// one. Its methods are safe for concurrent use.
type Settings interface {
	Configs
	// SetConfig replaces a device's configuration and writes the audit log; nil
	// means durable. ErrInvalid: it is no JSON object, or above
	// edgeclaim.MaxDeviceConfig; ErrNotFound: no such device; ErrConflict: it is
	// revoked.
	SetConfig(ctx context.Context, device edgeclaim.DeviceID, config []byte, by string) (edgeclaim.DeviceConfig, error)
}

// maxExpiresIn bounds how far off an order's end may be said, in seconds: a
// hundred years, which no box allows.
const maxExpiresIn = 100 * 365 * 24 * 60 * 60

// orderHandler serves commands to operators.
type orderHandler struct {
	rule   *provision.Service
	orders Orders
	errs   errorWriter
	now    func() time.Time
}

func (h orderHandler) routes() []route {
	if h.orders == nil {
		return nil
	}
	return []route{
		{http.MethodGet, "/commands", token.ScopeRead, looks, h.list},
		{http.MethodPost, "/devices/:id/commands", token.ScopeOperate, byRule, h.give},
		{http.MethodGet, "/devices/:id/commands/:command_id", token.ScopeRead, looks, h.show},
		{http.MethodPost, "/devices/:id/commands/:command_id/cancel", token.ScopeOperate, byRule, h.cancel},
	}
}

// give reads an order. Its end is a time, or so many seconds from now by the
// box's clock: who asks may have no clock, or a wrong one.
func (h orderHandler) give(c *gin.Context) {
	withID(c, h.errs, edgeclaim.ParseDeviceID, func(device edgeclaim.DeviceID) (any, error) {
		var body struct {
			ID        *edgeclaim.CommandID `json:"command_id"`
			Payload   jsontext.Value       `json:"payload"`
			ExpiresAt *time.Time           `json:"expires_at"`
			ExpiresIn *int64               `json:"expires_in_seconds"`
		}
		if err := readJSON(c, &body); err != nil {
			return nil, err
		}
		order := edgeclaim.Order{
			Device: device, Payload: []byte(body.Payload), Origin: edgeclaim.OriginOperator, By: provision.Who(c.Request.Context()),
		}
		if len(body.Payload) == 0 {
			return nil, edgeclaim.Invalid("payload", "required")
		}
		if body.ID != nil {
			order.ID = *body.ID
		}
		if body.ExpiresAt != nil {
			order.ExpiresAt = body.ExpiresAt.UTC()
		}
		if in := body.ExpiresIn; in != nil {
			if body.ExpiresAt != nil {
				return nil, edgeclaim.Invalid("expires_in_seconds", "not beside expires_at")
			}
			if *in < 1 || *in > maxExpiresIn {
				return nil, edgeclaim.Invalid("expires_in_seconds", "want 1 to %d", maxExpiresIn)
			}
			order.ExpiresAt = h.now().Add(time.Duration(*in) * time.Second)
		}
		return h.orders.Give(c.Request.Context(), order)
	})
}

func (h orderHandler) show(c *gin.Context) { h.one(c, h.orders.Show) }

func (h orderHandler) cancel(c *gin.Context) {
	by := provision.Who(c.Request.Context())
	h.one(c, func(ctx context.Context, device edgeclaim.DeviceID, id edgeclaim.CommandID) (edgeclaim.Command, error) {
		return h.orders.TakeBack(ctx, device, id, by)
	})
}

// one answers what do makes of the command in the path.
func (h orderHandler) one(c *gin.Context, do func(context.Context, edgeclaim.DeviceID, edgeclaim.CommandID) (edgeclaim.Command, error)) {
	withID(c, h.errs, edgeclaim.ParseDeviceID, func(device edgeclaim.DeviceID) (any, error) {
		id, err := edgeclaim.ParseCommandID(pathValue(c, "command_id"))
		if err != nil {
			return nil, err
		}
		return do(c.Request.Context(), device, id)
	})
}

// list answers the newest first. A page goes on after a command: after, with
// after_device_id where the list is of all devices, for ids are a device's own.
func (h orderHandler) list(c *gin.Context) {
	want := edgeclaim.CommandStatus(c.Query("status"))
	if want != "" && !slices.Contains(edgeclaim.CommandStatuses(), want) {
		h.errs.fault(c, edgeclaim.Invalid("status", "want queued, sent, delivered, successful, failed, expired or cancelled"))
		return
	}
	device, err := readDevice(c, "device_id")
	if err == nil && !device.IsZero() {
		_, err = h.rule.Device(c.Request.Context(), device)
	}
	var before uint64
	if err == nil {
		before, err = h.before(c, device)
	}
	if err != nil {
		h.errs.told(c, err)
		return
	}
	lister[edgeclaim.Command, uint64]{
		page: func(ctx context.Context, before uint64, most int) ([]edgeclaim.Command, error) {
			return h.orders.List(ctx, device, before, most)
		},
		id:   func(c *edgeclaim.Command) uint64 { return c.Number },
		keep: func(c *edgeclaim.Command) bool { return want == "" || c.Status == want },
	}.answer(c, h.errs, before)
}

// before is the number of the command that ended the page before; 0 for none.
func (h orderHandler) before(c *gin.Context, device edgeclaim.DeviceID) (uint64, error) {
	after := c.Query("after")
	of, err := readDevice(c, "after_device_id")
	switch {
	case err != nil:
		return 0, err
	case after == "" && !of.IsZero():
		return 0, edgeclaim.Invalid("after_device_id", "goes with after")
	case after == "":
		return 0, nil
	case of.IsZero() && device.IsZero():
		return 0, edgeclaim.Invalid("after", "goes with device_id or after_device_id")
	case of.IsZero():
		of = device
	}
	id, err := edgeclaim.ParseCommandID(after)
	if err != nil {
		return 0, edgeclaim.Invalid("after", "not the id of a row")
	}
	last, err := h.orders.Show(c.Request.Context(), of, id)
	return last.Number, err
}

// readDevice reads a device in the query; zero without one.
func readDevice(c *gin.Context, name string) (edgeclaim.DeviceID, error) {
	text := c.Query(name)
	if text == "" {
		return edgeclaim.DeviceID{}, nil
	}
	id, err := edgeclaim.ParseDeviceID(text)
	if err != nil {
		return id, edgeclaim.Invalid(name, "want a UUID of 36 characters")
	}
	return id, nil
}

// settingHandler serves devices' configurations to operators.
type settingHandler struct {
	settings Settings
	errs     errorWriter
}

func (h settingHandler) routes() []route {
	if h.settings == nil {
		return nil
	}
	return []route{
		{http.MethodGet, "/devices/:id/config", token.ScopeRead, looks, h.show},
		{http.MethodPut, "/devices/:id/config", token.ScopeOperate, byRule, h.set},
	}
}

func (h settingHandler) show(c *gin.Context) {
	withID(c, h.errs, edgeclaim.ParseDeviceID, func(id edgeclaim.DeviceID) (any, error) {
		told, err := h.settings.Config(c.Request.Context(), id)
		return whole(told), err
	})
}

func (h settingHandler) set(c *gin.Context) {
	withID(c, h.errs, edgeclaim.ParseDeviceID, func(id edgeclaim.DeviceID) (any, error) {
		var body struct {
			Config jsontext.Value `json:"config"`
		}
		err := readJSON(c, &body)
		if err == nil && len(body.Config) == 0 {
			err = edgeclaim.Invalid("config", "required")
		}
		if err != nil {
			return nil, err
		}
		ctx := c.Request.Context()
		told, err := h.settings.SetConfig(ctx, id, []byte(body.Config), provision.Who(ctx))
		return whole(told), err
	})
}
