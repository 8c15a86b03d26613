package broker

import "edgeclaim"

// ConsumersStatus counts the named users, since the program began.
type ConsumersStatus struct {
	// Connected are there now.
	Connected int
	// Delivered counts the messages written to them, and Dropped those that
	// were not, since who was to have them was too slow, or left.
	Delivered, Dropped uint64
	// Refused counts the logins with a wrong password, or a name nobody has.
	Refused uint64
}

// Consumers counts the named users' connections and what they were told.
func (b *Broker) Consumers() ConsumersStatus {
	return ConsumersStatus{
		Connected: b.consumers.len(),
		Delivered: b.consumers.delivered.Load(), Dropped: b.consumers.dropped.Load(), Refused: b.accounts.refused.Load(),
	}
}

// HearTelemetry tells the users who listen what a device measured, which came in
// by another face and is durable; HearEvent what happened there. They never
// block, and keep nothing of the body.
func (b *Broker) HearTelemetry(id edgeclaim.DeviceID, body []byte) {
	b.hear(id, telemetryTopic, body)
}

// HearEvent is HearTelemetry for events.
func (b *Broker) HearEvent(id edgeclaim.DeviceID, body []byte) { b.hear(id, eventsTopic, body) }

func (b *Broker) hear(id edgeclaim.DeviceID, own string, body []byte) {
	if b.consumers.filters.Load() > 0 {
		topics := topicsOf(id)
		b.deliver(topics.prefix+own, body, 1)
	}
}

// deliverAll delivers each of a device's messages.
func (b *Broker) deliverAll(name string, messages [][]byte, qos byte) {
	for _, message := range messages {
		b.deliver(name, message, qos)
	}
}

// deliver tells a device's message to the users who listen: after it is
// durable, for what somebody waits for. It never blocks, and keeps a copy of the
// payload. Any number of goroutines may call it; messages of one keep their
// order, in each subscription.
func (b *Broker) deliver(name string, payload []byte, qos byte) {
	if b.consumers.filters.Load() > 0 {
		b.consumers.deliver(parcel{topic: name, payload: payload, qos: qos})
	}
}
