package httpapi_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
	"edgeclaim/provision"
)

// work is what devices say and are told, in memory.
type work struct {
	rule  *provision.Service
	audit *audit.Log

	mu sync.Mutex
	// fail, when it is there, may make an operation fail.
	fail func(operation string) error
	// commit, when it is there, is what a report is durable with.
	commit  *edgeclaim.Commit
	reports []edgeclaim.Report
	heard   []string            // what users would hear
	queue   []edgeclaim.Command // by number
	told    edgeclaim.DeviceConfig
	state   edgeclaim.DeviceState
	waiters map[chan struct{}]edgeclaim.DeviceID
}

// failing makes operations fail from now on.
func (w *work) failing(fail func(operation string) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail = fail
}

// always fails one operation.
func always(what string, err error) func(string) error {
	return func(operation string) error {
		if operation == what {
			return err
		}
		return nil
	}
}

func (w *work) failure(operation string) error {
	w.mu.Lock()
	fail := w.fail
	w.mu.Unlock()
	if fail == nil {
		return nil
	}
	return fail(operation)
}

// ask is a device's own request.
func (w *work) ask(f *face, device credential, method, path, body string, headers ...string) (*http.Response, string) {
	f.t.Helper()
	headers = append([]string{"X-API-Key", device.APIKey, "Content-Type", "application/json"}, headers...)
	if method == http.MethodGet {
		body = ""
	}
	return f.ask(http.DefaultClient, f.request(method, f.claims+"/api/v1/"+path, body, headers...))
}

func (w *work) Telemetry(_ context.Context, r edgeclaim.Report) (edgeclaim.Receipt, error) {
	return w.take("telemetry", r)
}

func (w *work) Event(_ context.Context, r edgeclaim.Report) (edgeclaim.Receipt, error) {
	return w.take("event", r)
}

func (w *work) hear(kind string) func(edgeclaim.DeviceID, []byte) {
	return func(device edgeclaim.DeviceID, body []byte) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.heard = append(w.heard, kind+" "+device.String()+" "+string(body))
	}
}

// take accepts objects, and of an array those without a member "bad".
func (w *work) take(operation string, r edgeclaim.Report) (edgeclaim.Receipt, error) {
	if err := w.failure(operation); err != nil {
		return edgeclaim.Receipt{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	receipt := edgeclaim.Receipt{Commit: w.commit}
	points := []json.RawMessage{r.Body}
	if bytes.HasPrefix(r.Body, []byte("[")) {
		if err := json.Unmarshal(r.Body, &points); err != nil {
			return receipt, edgeclaim.Invalid("body", "not well-formed JSON")
		}
	}
	for _, point := range points {
		if json.Valid(point) && !bytes.Contains(point, []byte(`"bad"`)) {
			receipt.Accepted++
			if len(points) != 1 || len(point) != len(r.Body) {
				receipt.Points = append(receipt.Points, point)
			}
		} else {
			receipt.Rejected++
		}
	}
	if !bytes.HasPrefix(r.Body, []byte("[")) && receipt.Accepted == 0 {
		return receipt, edgeclaim.Invalid("numeric_values.bad", "want a number")
	}
	w.reports = append(w.reports, r)
	return receipt, nil
}

// give queues a command for a device, and wakes who waits for it.
func (w *work) give(device, id string) edgeclaim.Command {
	of, _ := edgeclaim.ParseDeviceID(device)
	known, _ := edgeclaim.ParseCommandID(id)
	command, _, err := w.add(edgeclaim.Order{Device: of, ID: known, Payload: []byte(`{"do":"` + id + `"}`), Origin: edgeclaim.OriginUpstream})
	if err != nil {
		panic(err)
	}
	return command
}

func (w *work) add(o edgeclaim.Order) (command edgeclaim.Command, fresh bool, err error) {
	of, err := edgeclaim.ParseTenantID(tenant)
	if err != nil {
		return edgeclaim.Command{}, false, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := w.find(o.Device, o.ID); i >= 0 {
		return w.queue[i], false, nil
	}
	now := time.Now().UTC()
	command = edgeclaim.Command{
		ID: o.ID, Device: o.Device, Tenant: of, Payload: o.Payload, Origin: o.Origin, By: o.By, Status: edgeclaim.CommandQueued,
		QueuedAt: now, ChangedAt: now, ExpiresAt: cmp.Or(o.ExpiresAt, now.Add(time.Hour)), Number: uint64(len(w.queue)) + 1,
	}
	if command.ID.IsZero() {
		command.ID, _ = edgeclaim.ParseCommandID(fmt.Sprintf("made-%d", command.Number))
	}
	w.queue = append(w.queue, command)
	w.wake(o.Device)
	return command, true, nil
}

func (w *work) find(device edgeclaim.DeviceID, id edgeclaim.CommandID) int {
	return slices.IndexFunc(w.queue, func(c edgeclaim.Command) bool { return c.Device == device && c.ID == id })
}

func (w *work) Due(_ context.Context, device edgeclaim.DeviceID, most int) ([]edgeclaim.Command, error) {
	if err := w.failure("due"); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.due(device, most), nil
}

func (w *work) due(device edgeclaim.DeviceID, most int) []edgeclaim.Command {
	var due []edgeclaim.Command
	for _, c := range w.queue {
		if c.Device == device && c.Status == edgeclaim.CommandQueued && len(due) < most {
			due = append(due, c)
		}
	}
	return due
}

func (w *work) Sent(_ context.Context, device edgeclaim.DeviceID, ids ...edgeclaim.CommandID) error {
	if err := w.failure("sent"); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		c := &w.queue[w.find(device, id)]
		c.Status, c.Attempts = edgeclaim.CommandSent, c.Attempts+1
	}
	return nil
}

func (w *work) Encode(c edgeclaim.Command) ([]byte, error) {
	if err := w.failure("encode " + c.ID.String()); err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `{"command_id":%q,"expires_at":%q,"expires_in":%d,"payload":%s}`,
		c.ID, c.ExpiresAt.Format(time.RFC3339), int(time.Until(c.ExpiresAt).Seconds()), c.Payload), nil
}

func (w *work) Wait(ctx context.Context, device edgeclaim.DeviceID, still func() error) error {
	if err := w.failure("wait"); err != nil {
		return err
	}
	for {
		waiter, due := w.enter(device)
		if err := still(); err != nil || due {
			w.leave(waiter)
			return err
		}
		select {
		case <-waiter:
		case <-ctx.Done():
			w.leave(waiter)
			return ctx.Err()
		}
	}
}

// enter has a device wait, unless something is due.
func (w *work) enter(device edgeclaim.DeviceID) (waiter chan struct{}, due bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.due(device, 1)) > 0 {
		return nil, true
	}
	if w.waiters == nil {
		w.waiters = map[chan struct{}]edgeclaim.DeviceID{}
	}
	waiter = make(chan struct{})
	w.waiters[waiter] = device
	return waiter, false
}

func (w *work) leave(waiter chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.waiters, waiter)
}

// voided has those who wait for a device look again.
func (w *work) voided(device edgeclaim.DeviceID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wake(device)
}

func (w *work) wake(device edgeclaim.DeviceID) {
	for waiter, of := range w.waiters {
		if of == device {
			close(waiter)
			delete(w.waiters, waiter)
		}
	}
}

// waiting is how many requests wait.
func (w *work) waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.waiters)
}

// statuses are those of the commands, in order.
func (w *work) statuses() []edgeclaim.CommandStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []edgeclaim.CommandStatus
	for _, c := range w.queue {
		all = append(all, c.Status)
	}
	return all
}

func (w *work) Config(context.Context, edgeclaim.DeviceID) (edgeclaim.DeviceConfig, error) {
	err := w.failure("config")
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.told, err
}

func (w *work) SetConfig(ctx context.Context, device edgeclaim.DeviceID, config []byte, by string) (edgeclaim.DeviceConfig, error) {
	if err := w.failure("set config"); err != nil {
		return edgeclaim.DeviceConfig{}, err
	}
	if !strings.HasPrefix(string(config), "{") {
		return edgeclaim.DeviceConfig{}, edgeclaim.Invalid("config", "want an object")
	}
	w.mu.Lock()
	w.told = edgeclaim.DeviceConfig{Version: w.told.Version + 1, Config: config}
	told := w.told
	w.mu.Unlock()
	return told, w.write(ctx, audit.KindConfigChanged, by, device)
}

func (w *work) Give(ctx context.Context, o edgeclaim.Order) (edgeclaim.Command, error) {
	err := w.failure("give")
	if err == nil {
		_, err = w.rule.Device(ctx, o.Device)
	}
	if err != nil {
		return edgeclaim.Command{}, err
	}
	command, fresh, err := w.add(o)
	if fresh {
		err = w.write(ctx, audit.KindCommandQueued, o.By, o.Device)
	}
	return command, err
}

func (w *work) TakeBack(ctx context.Context, device edgeclaim.DeviceID, id edgeclaim.CommandID, by string) (edgeclaim.Command, error) {
	command, err := w.Show(ctx, device, id)
	switch {
	case err != nil:
		return command, err
	case command.Status.Final() && command.Status != edgeclaim.CommandCancelled:
		return command, edgeclaim.ErrConflict
	}
	w.mu.Lock()
	w.queue[w.find(device, id)].Status = edgeclaim.CommandCancelled
	w.mu.Unlock()
	command.Status = edgeclaim.CommandCancelled
	return command, w.write(ctx, audit.KindCommandCancelled, by, device)
}

func (w *work) Show(_ context.Context, device edgeclaim.DeviceID, id edgeclaim.CommandID) (edgeclaim.Command, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := w.find(device, id)
	if i < 0 {
		return edgeclaim.Command{}, edgeclaim.ErrNotFound
	}
	return w.queue[i], nil
}

func (w *work) List(_ context.Context, device edgeclaim.DeviceID, before uint64, most int) ([]edgeclaim.Command, error) {
	if err := w.failure("list"); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var page []edgeclaim.Command
	for _, c := range slices.Backward(w.queue) {
		if (before == 0 || c.Number < before) && (device.IsZero() || c.Device == device) && len(page) < most {
			page = append(page, c)
		}
	}
	return page, nil
}

func (w *work) State(id edgeclaim.DeviceID) (edgeclaim.DeviceState, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state, w.state.Device == id
}

func (w *work) write(ctx context.Context, kind, by string, device edgeclaim.DeviceID) error {
	return w.audit.Must(ctx, audit.Entry{Kind: kind, Who: by, Device: device.String()})
}
