package httpapi

import (
	"context"
	"errors"
	"sync"

	"edgeclaim"
)

var (
	// errReplaced ends a request that waits: its device has made another one.
	errReplaced = errors.New("another request of the device waits")
	// errStopping ends a request that waits: so does the server.
	errStopping = errors.New("the server stops")
)

// polls are the devices' requests that wait for a command. One waits for a device,
// the newest: the one before may be on a connection that is dead and does not know
// it, where a command would be written to nobody.
type polls struct {
	most int

	mu      sync.Mutex
	waiting map[edgeclaim.DeviceID]*poll
	stopped bool
}

type poll struct{ end context.CancelCauseFunc }

func newPolls(most int) *polls {
	return &polls{most: most, waiting: map[edgeclaim.DeviceID]*poll{}}
}

// enter takes a device's place, from its own earlier request where that has it:
// the context ends with errReplaced or errStopping as its cause when it is lost.
// ErrThrottled: there is none. Who entered calls leave.
func (p *polls) enter(ctx context.Context, device edgeclaim.DeviceID) (of context.Context, leave func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.waiting[device]
	if before == nil && len(p.waiting) >= p.most {
		return ctx, nil, edgeclaim.ErrThrottled
	}
	ctx, end := context.WithCancelCause(ctx)
	if before != nil {
		before.end(errReplaced)
	}
	if p.stopped {
		end(errStopping)
	}
	own := &poll{end: end}
	p.waiting[device] = own
	return ctx, func() { p.leave(device, own) }, nil
}

func (p *polls) leave(device edgeclaim.DeviceID, own *poll) {
	own.end(nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting[device] == own {
		delete(p.waiting, device)
	}
}

// stop ends all that wait, and those that come after.
func (p *polls) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	for _, waiting := range p.waiting {
		waiting.end(errStopping)
	}
}
