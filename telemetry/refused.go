package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"edgeclaim"
)

const (
	// refusedFile has what is told as refused, a line of JSON each, for what was
	// told once must be told so after a restart too (P8).
	refusedFile = "refused.jsonl"
	// maxRefusals is how many stretches of one device are remembered: one for
	// each run of the program that it was refused in, while they are pending.
	maxRefusals = 8
)

// refusal says which of a device's records are told as gaps.
type refusal struct {
	Device edgeclaim.DeviceID `json:"device_id"`
	// From and Upto are places of the log; Upto is 0 in the run that it was
	// refused in: all that comes.
	From uint64 `json:"from"`
	Upto uint64 `json:"upto,omitempty"`
}

func (r *refusal) covers(place uint64) bool {
	return place >= r.From && (r.Upto == 0 || place <= r.Upto)
}

// refuses reports whether upstream does not take the record at a place. With mu
// held.
func (l *Lane) refuses(place uint64, device edgeclaim.DeviceID) bool {
	return slices.ContainsFunc(l.refused[device], func(r refusal) bool { return r.covers(place) })
}

// Refuse notes that upstream will never take the record at a mark, nor, in this
// run of the program, any later one of its device: Next tells gap records in
// their place. nil means that this is durable. ErrNotFound: no such record is
// pending. ErrConflict: of another epoch. ErrUnavailable: later.
func (l *Lane) Refuse(_ context.Context, at edgeclaim.Mark, why string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.knows(at); err != nil {
		return err
	}
	place := l.own.Base + at.Upto
	device, err := l.deviceAt(place)
	if err != nil || l.refuses(place, device) {
		return err
	}
	r := refusal{Device: device, From: place}
	if err := l.keepRefused(r); err != nil {
		return unavailable("refuse", err)
	}
	l.noteRefused(r)
	l.logger.Warn("upstream does not take a device's telemetry; it is told as gaps from there on",
		"device_id", device, "sequence", at.Upto, "reason", why)
	return nil
}

// deviceAt returns whose the pending record at a place is. With mu held.
func (l *Lane) deviceAt(place uint64) (edgeclaim.DeviceID, error) {
	none := fmt.Errorf("telemetry: record %d: %w", place-l.own.Base, edgeclaim.ErrNotFound)
	b := l.log.Bounds()
	if place <= max(b.Acked, b.Lost) || place > b.Last {
		return edgeclaim.DeviceID{}, none
	}
	entries, err := l.log.Read(place-1, 1, 1)
	if err != nil {
		return edgeclaim.DeviceID{}, unavailable("read", err)
	}
	if len(entries) == 0 || entries[0].Place != place || entries[0].Lost > 0 {
		return edgeclaim.DeviceID{}, none
	}
	e, err := parseEntry(entries[0].Payload)
	if err != nil {
		return edgeclaim.DeviceID{}, none
	}
	return e.device, nil
}

// forgetRefused forgets the stretches up to place, in memory: the file says
// them until something else is refused, which harms nobody. With mu held.
func (l *Lane) forgetRefused(place uint64) {
	for id, all := range l.refused {
		if !slices.ContainsFunc(all, func(r refusal) bool { return r.Upto != 0 && r.Upto <= place }) {
			continue
		}
		left := slices.DeleteFunc(slices.Clone(all), func(r refusal) bool { return r.Upto != 0 && r.Upto <= place })
		if l.refused[id] = left; len(left) == 0 {
			delete(l.refused, id)
		}
	}
}

// noteRefused notes it in memory. A device that has no room any more is told as
// it was, and refused again. With mu held.
func (l *Lane) noteRefused(r refusal) {
	all := slices.DeleteFunc(l.refused[r.Device], func(r refusal) bool { return r.Upto == 0 })
	if len(all) == maxRefusals {
		all = all[1:]
	}
	l.refused[r.Device] = append(all, r)
	for id := range l.refused {
		if len(l.refused) <= maxRefused {
			return
		}
		if id != r.Device {
			delete(l.refused, id)
		}
	}
}

// keepRefused writes a line behind the others; nil means that it is durable.
// With mu held.
func (l *Lane) keepRefused(r refusal) error {
	if l.refusedLines >= 2*maxRefused {
		if err := l.saveRefused(); err != nil {
			return err
		}
	}
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(l.refusedAt, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	l.refusedLines++
	// It begins with a line's end: the one before may have been cut short.
	_, err = file.Write(append(append([]byte{'\n'}, line...), '\n'))
	return errors.Join(err, file.Sync(), file.Close(), syncFolder(filepath.Dir(l.refusedAt)))
}

// loadRefused reads what was refused in earlier runs: it is told so for what
// was pending when the program ended, and no longer.
func (l *Lane) loadRefused() {
	l.refused = map[edgeclaim.DeviceID][]refusal{}
	raw, err := os.ReadFile(l.refusedAt)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		l.logger.Error("nobody knows which telemetry upstream refused; it is told again", "err", err)
		return
	}
	b := l.log.Bounds()
	for line := range bytes.Lines(raw) {
		var r refusal
		if json.Unmarshal(line, &r) != nil {
			continue // cut short, or the end of one that was
		}
		if r.Upto == 0 {
			r.Upto = b.Last
		}
		if r.Upto > b.Acked && r.From <= r.Upto {
			l.noteRefused(r)
		}
	}
	if err := l.saveRefused(); err != nil {
		l.logger.Warn("what upstream refused could not be saved", "err", err)
	}
}

// saveRefused replaces the file, whole or not at all; nil means that it is
// durable. With mu held.
func (l *Lane) saveRefused() error {
	var raw []byte
	lines := 0
	for _, all := range l.refused {
		for _, r := range all {
			line, err := json.Marshal(r)
			if err != nil {
				return err
			}
			raw = append(append(raw, line...), '\n')
			lines++
		}
	}
	temporary := l.refusedAt + ".new"
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(raw)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(temporary, l.refusedAt); err != nil {
		return err
	}
	l.refusedLines = lines
	return syncFolder(filepath.Dir(l.refusedAt))
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}
