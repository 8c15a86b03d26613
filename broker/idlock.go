package broker

import (
	"sync"

	mqtt "github.com/mochi-mqtt/server/v2"

	"edgeclaim"
)

// idLocks is one lock for each device: its connections are established and
// torn down one after the other. mochi's own way, look the id up and then put
// it in, leaves several alive of those that arrive at once, and lets the end of
// an old connection take the new one off the map.
type idLocks struct {
	mu   sync.Mutex
	held map[edgeclaim.DeviceID]*idLock
}

type idLock struct {
	sync.Mutex
	users    int          // holding or waiting; guarded by idLocks.mu
	entering *mqtt.Client // whose login holds it; guarded by idLocks.mu
}

// lock waits for the lock of id and returns what releases it, once.
// It may take as long as a slow socket makes a login take.
func (l *idLocks) lock(id edgeclaim.DeviceID) (unlock func()) {
	l.mu.Lock()
	k := l.held[id]
	if k == nil {
		k = &idLock{}
		l.held[id] = k
	}
	k.users++
	l.mu.Unlock()
	k.Lock()
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		k.entering = nil // before the next holder is
		if k.users--; k.users == 0 {
			delete(l.held, id)
		}
		k.Unlock()
	}
}

// enter registers the client whose login holds the lock of id, until it is
// released.
func (l *idLocks) enter(id edgeclaim.DeviceID, cl *mqtt.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[id].entering = cl
}

// entering returns the client that is registered, nil for none. It does not
// wait for the lock.
func (l *idLocks) entering(id edgeclaim.DeviceID) *mqtt.Client {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := l.held[id]; k != nil {
		return k.entering
	}
	return nil
}
