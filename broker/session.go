package broker

import (
	"strings"
	"sync"
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
	roleUser                   // has logged in with a name of the configuration's
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
	// crowding: counted among the connections of its source.
	crowding bool

	// active is when a claimant last did something that counts, heard when
	// bytes last came, both in nanoseconds after the connection was born.
	active, heard atomic.Int64

	// turn is held over a claim, and over the asking again of one that waits
	// for approval.
	turn sync.Mutex
	// refused is how many claims were; guarded by turn.
	refused int
	// parked: a claim of this connection waits for approval. It is at work
	// then, and as long as its keep-alive says it lives.
	parked atomic.Bool

	device edgeclaim.DeviceID
	// admission is what it was let in with, since when; see born.
	admission edgeclaim.Admission
	since     time.Duration
	topics    deviceTopics
	// seated: counted among the devices.
	seated bool
	// renewing: a request for another credential is being decided on.
	renewing atomic.Bool
	// consumer is what a named user's connection is told, and by whom; nil with
	// every other role.
	consumer *consumer
	// ordering: a user's command is being decided on.
	ordering atomic.Bool
	// curfew ends the connection when its credential ends.
	curfew curfew
	// unlock releases the device's lock while it is held; see idLocks.
	unlock func()
	// expiry is for how many seconds the session outlives the connection; 0:
	// not at all.
	expiry atomic.Int64
	// tell: the CONNACK has to say the expiry (MQTT 5.0, section 3.2.2.3.2).
	tell bool
	// fresh: nothing was taken over, whatever mochi says in the CONNACK.
	fresh bool
	// resumed: another connection goes on with the session, so the will that
	// was to wait is void.
	resumed bool
	// discard: the session ends with the connection, by order of Disconnect.
	discard atomic.Bool

	ledger            // what it said, and is not acknowledged yet
	outgoing outgoing // what it is told
	// told says which configuration was written to it last (Broker.contentOf);
	// 0: none since it subscribed.
	told atomic.Uint64
	// greeted: the CONNACK is out, and others may write.
	greeted atomic.Bool
	// subscribed: to its commands or configuration, with the SUBSCRIBE that is
	// being answered.
	subscribed bool
}

// deviceTopics are the only ones a device has anything to do with. All begin
// with prefix.
type deviceTopics struct{ prefix string }

// What follows the prefix. A device subscribes to commands, config and the
// credentials' responses, and publishes to the others.
const (
	telemetryTopic      = "telemetry"
	eventsTopic         = "events"
	commandsTopic       = "commands"
	configTopic         = "config"
	credentialsTopic    = "credentials/request"
	credentialsCBOR     = "credentials/request/cbor"
	credentialsAnswer   = "credentials/response"
	credentialsAnswerCB = "credentials/response/cbor"
)

func topicsOf(id edgeclaim.DeviceID) deviceTopics {
	return deviceTopics{prefix: "devices/" + id.String() + "/"}
}

// mayWill is what a device may have published after its end. A request is not:
// nobody would be there to hear the answer.
func (t *deviceTopics) mayWill(name string) bool {
	own, ok := strings.CutPrefix(name, t.prefix)
	return ok && (own == telemetryTopic || own == eventsTopic)
}

// requests reports whether what is published to name is a request for another
// credential.
func (t *deviceTopics) requests(name string) bool {
	own, ok := strings.CutPrefix(name, t.prefix)
	return ok && (own == credentialsTopic || own == credentialsCBOR)
}

// telemetry reports whether what is published to name, where it may, is
// telemetry; else it is an event.
func (t *deviceTopics) telemetry(name string) bool { return name[len(t.prefix):] == telemetryTopic }

func (t *deviceTopics) mayPublish(name string) bool { return t.mayWill(name) || t.requests(name) }

// mayAnswerTo is where the answer to such a request may go.
func (t *deviceTopics) mayAnswerTo(name string) bool {
	own, ok := strings.CutPrefix(name, t.prefix)
	return ok && (own == credentialsAnswer || own == credentialsAnswerCB)
}

func (t *deviceTopics) maySubscribe(filter string) bool {
	own, ok := strings.CutPrefix(filter, t.prefix)
	return ok && (own == commandsTopic || own == configTopic || t.mayAnswerTo(filter))
}

// curfew ends a connection at a time that may be moved forward.
type curfew struct {
	mu    sync.Mutex
	timer *time.Timer // nil: no end is set; guarded by mu
	at    time.Time   // guarded by mu
	over  bool        // the connection has ended; guarded by mu
}

// set has end called in that time, unless it is to be called sooner. The timer
// is the connection's, which stops it at its own end.
func (f *curfew) set(in time.Duration, end func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := time.Now().Add(in)
	if f.over || f.timer != nil && !at.Before(f.at) {
		return
	}
	if f.timer != nil {
		f.timer.Stop()
	}
	f.at, f.timer = at, time.AfterFunc(in, end)
}

func (f *curfew) lift() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	if f.timer != nil {
		f.timer.Stop()
	}
}
