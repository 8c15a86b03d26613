package broker

import (
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"

	"edgeclaim"
)

// role is who is on a connection.
type role byte

const (
	roleConnecting role = iota // nobody yet
	roleClaimant               // may claim, and nothing else
	roleDevice                 // has logged in with its credential
)

// session is who is on a connection. mochi's reading goroutine of the
// connection owns it; other goroutines see it only through mochi's own lock on
// its clients, after it was filled in. The place is its pool's.
type session struct {
	role   role
	place  place
	client *mqtt.Client // nil until CONNECT
	// settled: mochi got as far as OnDisconnect, and cleans up by itself.
	settled bool
	// active is when a claimant last did something that counts.
	active time.Time

	device edgeclaim.DeviceID
	topics deviceTopics
	// seated: counted among the devices.
	seated bool
	// unlock releases the device's lock while it is held; see idLocks.
	unlock func()
	// expiry is for how many seconds the session outlives the connection; 0:
	// not at all.
	expiry atomic.Int64
	// tell: the CONNACK has to say the expiry (MQTT 5.0, section 3.2.2.3.2).
	tell bool
	// fresh: nothing was taken over, whatever mochi says in the CONNACK.
	fresh bool
	// discard: the session ends with the connection, by order of Disconnect.
	discard atomic.Bool

	ids packetIDs
}

// deviceTopics are the only ones a device has anything to do with.
type deviceTopics struct {
	telemetry, events string // it may publish to these
	commands, config  string // and subscribe to these
}

func topicsOf(id edgeclaim.DeviceID) deviceTopics {
	prefix := "devices/" + id.String() + "/"
	return deviceTopics{
		telemetry: prefix + "telemetry",
		events:    prefix + "events",
		commands:  prefix + "commands",
		config:    prefix + "config",
	}
}

func (t *deviceTopics) mayPublish(name string) bool {
	return name == t.telemetry || name == t.events
}

func (t *deviceTopics) maySubscribe(filter string) bool {
	return filter == t.commands || filter == t.config
}
