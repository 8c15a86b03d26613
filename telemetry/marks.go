package telemetry

import (
	"encoding/json"
	"time"

	"edgeclaim"
)

// marks are the bytes of the lane's own that the log keeps beside the place up
// to which upstream has all, and changes together with it.
type marks struct {
	Epoch string `json:"epoch"`
	// Base is the place before sequence 1.
	Base uint64 `json:"base"`
	// What has left in this epoch, by how. Together they are the places between
	// Base and the one that is acknowledged.
	Acked   uint64 `json:"acked"`
	Dropped uint64 `json:"dropped"`
	Parked  uint64 `json:"parked"`
	CheckAt uint64 `json:"check_at,omitempty"`
	Check   string `json:"check,omitempty"`
	// Began is when the epoch did, AckedAt when upstream last acknowledged
	// something: the times that gap records are told with, for they must stay
	// the same on every send.
	Began   keptStamp `json:"began"`
	AckedAt keptStamp `json:"acked_at"`
}

// keptStamp is a Stamp in JSON.
type keptStamp struct {
	Time   time.Time            `json:"time"`
	Clock  edgeclaim.ClockState `json:"clock"`
	Boot   string               `json:"boot,omitempty"`
	Uptime time.Duration        `json:"uptime,omitempty"`
}

func keepStamp(s edgeclaim.Stamp) keptStamp {
	return keptStamp{s.Time.UTC().Round(0), s.Clock, s.Boot, s.Uptime}
}

func (k keptStamp) stamp() edgeclaim.Stamp { return edgeclaim.Stamp(k) }

// encode cannot fail: there is nothing in it that JSON does not know, but for a
// year above 9999, which a broken clock may say.
func (m *marks) encode() []byte {
	text, err := json.Marshal(m)
	if err != nil {
		bare := *m
		bare.Began, bare.AckedAt = keptStamp{}, keptStamp{}
		text, _ = json.Marshal(&bare)
	}
	return text
}

func (m *marks) decode(text []byte) error { return json.Unmarshal(text, m) }

func (m *marks) check() edgeclaim.Check {
	return edgeclaim.Check{Sequence: m.CheckAt, Hash: m.Check}
}
