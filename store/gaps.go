package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"edgeclaim"
)

const (
	// dropShare of a full event lane goes at once, oldest first, so that a
	// lane that stays full leaves one gap record for many, not one for each;
	// but no more than dropChunk, for the sake of those who wait.
	dropShare = 16
	dropChunk = 1024
	// gapRoom is more than a gap record takes, in encoded bytes.
	gapRoom = 1024
	// maxGaps is how many gap records one loss leaves, but for a few of lanes
	// that have none among them yet.
	maxGaps = 4
	// parkedShare of the event lane's quota may be in quarantine.
	parkedShare = 4
)

// The reasons of a gap.
const (
	gapQuota      = "quota"              // a full event lane
	gapQuarantine = "quarantine_full"    // too much of the event lane in quarantine
	gapDiscarded  = "discarded"          // an operator's word
	gapSetAside   = "registry_set_aside" // without from, to and count: nobody knows
)

// gap is the data of a gap record: count records between the sequences from
// and to of that epoch are lost, those that earlier lost gap records told of
// included. The epoch is always said, because the record may yet be told in a
// later one.
type gap struct {
	Lane   edgeclaim.Lane `json:"lane"`
	From   uint64         `json:"from,omitempty"`
	To     uint64         `json:"to,omitempty"`
	Count  uint64         `json:"count,omitempty"`
	Reason string         `json:"reason"`
	Epoch  string         `json:"epoch,omitempty"`
}

// losses are what is lost until gap records say so: one for each lane and epoch.
type losses []gap

// record counts a record that is about to be lost. A gap record that nobody has
// heard passes on what it told, so that it is never lost silently.
func (l *losses) record(lost gap, value []byte) {
	lost.To, lost.Count = lost.From, 1
	l.add(lost)
	r, err := decodeRecord(lost.Lane, lost.From, value)
	if err != nil || r.Type != edgeclaim.TypeGap { // a damaged one is lost like any other
		return
	}
	var earlier gap
	if err := json.Unmarshal(r.Data, &earlier); err != nil {
		return
	}
	if earlier.Epoch == "" && earlier.From > 0 { // of a file of version 1
		earlier.Epoch = lost.Epoch
	}
	l.add(earlier)
}

func (l *losses) add(lost gap) {
	alike := func(have gap) bool { return have.Lane == lost.Lane && (have.Count == 0) == (lost.Count == 0) }
	i := slices.IndexFunc(*l, func(have gap) bool { return alike(have) && have.Epoch == lost.Epoch })
	switch {
	case i >= 0:
		have := &(*l)[i]
		have.From, have.To = min(have.From, lost.From), max(have.To, lost.To)
	case len(*l) >= maxGaps:
		i = slices.IndexFunc(*l, alike) // of another epoch, rather than gap records without end
	}
	if i < 0 {
		*l = append(*l, lost)
		return
	}
	(*l)[i].Count += lost.Count
}

// values are the gap records, encoded.
func (l losses) values(now edgeclaim.Stamp) ([][]byte, error) {
	values := make([][]byte, len(l))
	for i := range l {
		data, err := json.Marshal(&l[i])
		if err != nil {
			return nil, err
		}
		values[i], err = encodeRecord(&edgeclaim.Record{Type: edgeclaim.TypeGap, Stamp: now, Data: data})
		if err != nil {
			return nil, err
		}
	}
	return values, nil
}

// makeRoom drops the oldest records of a full lane, and returns the gap records
// that say so.
func (b *batch) makeRoom(lane edgeclaim.Lane, need uint64) ([][]byte, error) {
	s := b.state.lane(lane)
	var lost losses
	if b.parkedTooMuch(lane) { // only where the quota was made smaller
		if err := b.trimParked(lane, &lost); err != nil {
			return nil, err
		}
	}
	chunk := max(1, min(s.pending()/dropShare, dropChunk))
	for dropped := uint64(0); s.pending() > 0; dropped++ {
		gaps := uint64(len(lost))
		if dropped >= chunk && !b.full(lane, 1+gaps, need+gaps*gapRoom) {
			break
		}
		places, err := b.oldest(lane, 1, s.Appended)
		if err != nil {
			return nil, err
		}
		value, err := b.take(lane, places[0])
		if err != nil {
			return nil, err
		}
		sequence := places[0] - s.Base
		s.Dropped++
		s.Front = sequence + 1
		lost.record(gap{Lane: lane, From: sequence, Reason: gapQuota, Epoch: b.epoch}, value)
	}
	return lost.values(b.db.cfg.Stamp())
}

// tellLosses puts gap records in the event lane.
func (b *batch) tellLosses(lost losses) error {
	values, err := lost.values(b.db.cfg.Stamp())
	if err != nil {
		return err
	}
	for _, value := range values {
		if err := b.append(edgeclaim.LaneEvt, edgeclaim.DeviceID{}, value); err != nil {
			return err
		}
	}
	return nil
}

// tellSetAside tells upstream that what the damaged registry had not sent is
// lost, however many records that were (P7). A box that cannot say so starts
// all the same.
func (db *DB) tellSetAside() {
	for _, lane := range lanes() {
		data, err := json.Marshal(&gap{Lane: lane, Reason: gapSetAside})
		if err == nil {
			err = db.Append(context.Background(), edgeclaim.Record{
				Type: edgeclaim.TypeGap, Stamp: db.cfg.Stamp(), Data: data,
			})
		}
		if err != nil {
			db.cfg.Logger.Error("upstream will not hear of the lost records", "lane", lane, "err", err)
		}
	}
}

// unreadable stands in for a record that cannot be read: a gap record under the
// same sequence, the same on every send. The lane goes on, and upstream hears
// what it has lost; failing here would stop both lanes for ever.
func (db *DB) unreadable(lane edgeclaim.Lane, sequence uint64, why error) edgeclaim.Record {
	db.cfg.Logger.Error("outbox record cannot be read and is told as a gap", "lane", lane, "sequence", sequence, "err", why)
	return edgeclaim.Record{
		Lane: lane, Sequence: sequence, Type: edgeclaim.TypeGap, Stamp: edgeclaim.Stamp{Clock: edgeclaim.ClockUnsynced},
		Data: fmt.Appendf(nil, `{"lane":%q,"from":%d,"to":%d,"count":1,"reason":"damaged"}`, lane, sequence, sequence),
	}
}
