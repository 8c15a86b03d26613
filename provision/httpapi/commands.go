package httpapi

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"edgeclaim"

	"github.com/gin-gonic/gin"
)

// Commands is what devices are told to do. *command.Service is one. Its methods
// are safe for concurrent use.
type Commands interface {
	// Due returns up to max commands that a device is to be sent now, in the
	// order that they were queued in.
	Due(ctx context.Context, device edgeclaim.DeviceID, max int) ([]edgeclaim.Command, error)
	// Sent says that they are about to be written; nil means that this is
	// durable, and that they are not due again for a while. ErrConflict: one of
	// them has come to its end meanwhile, and none is to be written.
	Sent(ctx context.Context, device edgeclaim.DeviceID, ids ...edgeclaim.CommandID) error
	// Encode makes the JSON object that a device is sent of a command, the same
	// over both faces. ErrConflict: it has expired.
	Encode(c edgeclaim.Command) ([]byte, error)
	// Wait returns nil when something is due, at once where it is already, and
	// ctx's error when ctx ends before. Several may wait for one device. An error
	// of still ends the wait: that is asked when it begins, at once when
	// credentials of the device's become void, and before something is due.
	Wait(ctx context.Context, device edgeclaim.DeviceID, still func() error) error
}

// Configs is how devices are to work. *command.Service is one. It is safe for
// concurrent use.
type Configs interface {
	// Config is of version 0, and an empty object, where nobody has set one.
	Config(ctx context.Context, device edgeclaim.DeviceID) (edgeclaim.DeviceConfig, error)
}

const (
	// maxToldAtOnce is how many commands one answer may have.
	maxToldAtOnce = 16
	// defaultPoll and maxPoll are how long a device's request may wait for a
	// command, in seconds.
	defaultPoll = 25
	maxPoll     = 60
	// maxLooks is how often what is due is looked up for one answer: it may come
	// to its end, or be taken by the device's MQTT connection, between two steps.
	maxLooks = 4
)

// commandHandler serves what devices are told.
type commandHandler struct {
	loginSide
	commands Commands
	polls    *polls
	patience time.Duration // of an answer's write
}

// poll answers with what is due, as soon as something is. Whoever closes his half
// of the connection, or is gone, is answered with what was due when he asked:
// net/http cannot tell the two apart, and one who is gone must not be sent what
// another connection of the device's could have.
func (h commandHandler) poll(c *gin.Context) {
	c.Header("Cache-Control", "no-store") // asking has its effects
	who, ok := h.admitted(c)
	if !ok {
		return
	}
	wait, err := pollTime(c.GetQuery("wait"))
	if err != nil {
		h.refuse(c, edgeclaim.FormatJSON, 0, err)
		return
	}
	due, err := h.due(c, who.Device)
	if err == nil && len(due) == 0 && wait > 0 {
		due, err = h.wait(c, who.Device, wait)
	}
	if err != nil {
		h.refuse(c, edgeclaim.FormatJSON, 0, err)
		return
	}
	body, err := h.message(due)
	if err != nil {
		h.refuse(c, edgeclaim.FormatJSON, 0, err)
		return
	}
	c.Data(http.StatusOK, string(edgeclaim.FormatJSON), body)
}

// wait waits until something is due, for so long at most.
func (h commandHandler) wait(c *gin.Context, device edgeclaim.DeviceID, long time.Duration) ([]edgeclaim.Command, error) {
	if h.left.scarce() {
		return nil, edgeclaim.ErrThrottled
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), long)
	defer cancel()
	ctx, leave, err := h.polls.enter(ctx, device)
	if err != nil {
		return nil, err
	}
	defer leave()
	// The server's own deadline began with the request. Where this one cannot be
	// set the connection is gone, and the write says so. The next request has its
	// own again.
	_ = http.NewResponseController(c.Writer).SetWriteDeadline(time.Now().Add(long + h.timeout + h.patience))
	for range maxLooks {
		err := h.commands.Wait(ctx, device, func() error { return h.still(c) })
		switch {
		case errors.Is(context.Cause(ctx), errReplaced):
			return nil, edgeclaim.ErrThrottled
		case ctx.Err() != nil:
			return nil, nil
		case err != nil:
			return nil, err
		}
		due, err := h.due(c, device)
		if err != nil || len(due) > 0 {
			return due, err
		}
	}
	return nil, nil // others are quicker: the device asks again
}

// still returns nil while the device would be let in: its credential may have
// become void while it waited.
func (h commandHandler) still(c *gin.Context) error {
	ctx, cancel := h.within(c)
	defer cancel()
	_, err := h.letIn(ctx, c.Request)
	return err
}

// due takes what is due, and says that it is being sent.
func (h commandHandler) due(c *gin.Context, device edgeclaim.DeviceID) ([]edgeclaim.Command, error) {
	ctx, cancel := h.within(c)
	defer cancel()
	for range maxLooks {
		due, err := h.commands.Due(ctx, device, maxToldAtOnce)
		if err != nil || len(due) == 0 {
			return nil, err
		}
		ids := make([]edgeclaim.CommandID, len(due))
		for i := range due {
			ids[i] = due[i].ID
		}
		if err = h.commands.Sent(ctx, device, ids...); !errors.Is(err, edgeclaim.ErrConflict) {
			return due, err
		}
	}
	return nil, nil
}

// message is the answer with those commands. One that has expired by now is
// left out.
func (h commandHandler) message(commands []edgeclaim.Command) ([]byte, error) {
	body := []byte(`{"commands":[`)
	separator := ""
	for i := range commands {
		text, err := h.commands.Encode(commands[i])
		if errors.Is(err, edgeclaim.ErrConflict) {
			continue
		}
		if err != nil {
			return nil, err
		}
		body = append(append(body, separator...), text...)
		separator = ","
	}
	return append(body, "]}"...), nil
}

// pollTime reads how long a request may wait.
func pollTime(text string, given bool) (time.Duration, error) {
	if !given {
		return defaultPoll * time.Second, nil
	}
	seconds, err := strconv.ParseUint(text, 10, 8)
	if err != nil || seconds > maxPoll {
		return 0, edgeclaim.Invalid("wait", "want 0 to %d seconds", maxPoll)
	}
	return time.Duration(seconds) * time.Second, nil
}
