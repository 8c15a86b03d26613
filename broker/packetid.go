package broker

import (
	"sync/atomic"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// packetIDs keeps a device's packet ids and the broker's apart. MQTT numbers
// each direction by itself; mochi keeps both in one map, so that a SUBSCRIBE
// with the number of a message on its way to the device is refused, and a
// PUBLISH with it makes mochi forget that message.
//
// So mochi is shown, in place of the device's number, one that is not on its
// way to the device, and the acknowledgement gets the device's number back.
// The device's packets are handled one at a time, each acknowledged before the
// next is read: one number is all there is to remember. (Starting mochi's
// numbers at 32,769, the known cure, costs 2.7 ms a connection and holds only
// for devices whose own numbers stay below.)
type packetIDs struct {
	client uint16        // the device's number; of the reading goroutine
	shown  uint16        // what mochi was shown in its place
	last   atomic.Uint32 // mochi's last number towards the device
}

// half is half the range of packet ids: what is that far ahead of mochi's
// count is free, and stays so while one packet is handled.
const half = 1 << 15

// hide takes a packet that came from the device.
func (ids *packetIDs) hide(cl *mqtt.Client, pk *packets.Packet) {
	if pk.PacketID == 0 {
		return // mochi refuses it for that
	}
	ids.client = pk.PacketID
	ids.shown = uint16(ids.last.Load() + half)
	for tries := 0; tries < half; tries++ {
		if _, taken := cl.State.Inflight.Get(ids.shown); !taken && ids.shown != 0 {
			break
		}
		ids.shown++
	}
	pk.PacketID = ids.shown
}

// restore takes an acknowledgement that goes to the device, on the goroutine
// that read what it acknowledges.
func (ids *packetIDs) restore(pk *packets.Packet) {
	if pk.PacketID == ids.shown && ids.shown != 0 {
		pk.PacketID = ids.client
	}
}
