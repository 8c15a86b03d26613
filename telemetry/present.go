package telemetry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"edgeclaim"
)

const (
	// onlineFile has those who were at work: the next run tells that they are
	// not, until they speak. Else whoever was told that they are would believe
	// it for ever.
	onlineFile  = "online"
	onlineMagic = "edgeclaim online 1\n"
	// onlineRow is a device id and a tenant id, in bytes.
	onlineRow = 32
	// onlineEvery is how often the file is written at most, and onlineBytes how
	// much of it in that time: flash is worn by what is written.
	onlineEvery = time.Second
	onlineBytes = 64 << 10
)

// roll keeps the file of those at work. It is of one goroutine.
type roll struct {
	*Service
	path    string
	written rollMark  // what the file is of
	next    time.Time // when it may be written again
	failing bool
}

func (s *Service) newRoll() *roll {
	return &roll{Service: s, path: filepath.Join(s.cfg.Dir, folder, onlineFile)}
}

// look writes the file where somebody has come or left. It is not synced: a
// program that is killed leaves it whole, and what a power cut takes is a few
// devices that upstream believes to be at work until they speak. Nobody is told
// of who came before that (Changed): a program that is killed in between would
// never take it back.
func (r *roll) look() {
	now := time.Now()
	if now.Before(r.next) {
		return
	}
	rows, mark := r.presence.roll(r.written)
	if mark == r.written {
		return
	}
	r.next = now.Add(r.listEvery * time.Duration(1+len(rows)/onlineBytes))
	err := writeRoll(r.path, rows)
	r.presence.listed(mark.turned) // also where it failed: better too much than nothing
	switch {
	case err == nil:
		r.written, r.failing = mark, false
	case !r.failing:
		r.failing = true
		r.logger.Warn("who is at work cannot be written down: after a start upstream may believe too much", "err", err)
	}
}

// listed notes that those who came up to a version are on the list.
func (p *presence) listed(turned uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rolled = turned
	p.signal()
}

// rollMark says which list a file holds: all up to a turn, and of those who were
// at work in the run before, the ones that nobody has heard of.
type rollMark struct{ turned, unheard uint64 }

// roll returns those at work, and those who were in the run before and of whom
// nobody has heard yet that they are not; nothing where that is what was written.
func (p *presence) roll(written rollMark) (rows []byte, mark rollMark) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.turns.back == nil {
		return nil, written
	}
	mark.turned = p.turns.back.turned
	if p.told < p.recalled {
		mark.unheard = p.recalled - p.told
	}
	if mark == written {
		return nil, written
	}
	row := func(d *device) { rows = append(append(rows, d.id.Bytes()...), d.tenant.Bytes()...) }
	for d := p.online.front; d != nil; d = d.links[byPlace].next {
		row(d)
	}
	for d := p.turns.front; d != nil && d.turned <= p.recalled; d = d.links[byTurn].next {
		if d.turned > p.told && len(rows) < p.most*onlineRow {
			row(d)
		}
	}
	return rows, mark
}

func writeRoll(path string, rows []byte) error {
	document := append([]byte(onlineMagic), rows...)
	document = binary.BigEndian.AppendUint32(document, crc32.ChecksumIEEE(document))
	fresh := path + ".new"
	err := os.WriteFile(fresh, document, 0o600)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		_ = os.Remove(fresh) // it is in nobody's way
	}
	return err
}

// recall makes those who were at work in the last run ones who have left.
func (s *Service) recall() {
	rows, err := readRoll(filepath.Join(s.cfg.Dir, folder, onlineFile), s.cfg.MaxPresent)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		s.logger.Warn("who was at work in the last run is not known: upstream may believe too much", "err", err)
		return
	}
	now := s.parts.Stamp()
	for ; len(rows) > 0; rows = rows[onlineRow:] {
		id, err := edgeclaim.DeviceIDFromBytes(rows[:onlineRow/2])
		if err != nil {
			return
		}
		tenant, err := edgeclaim.TenantIDFromBytes(rows[onlineRow/2 : onlineRow])
		if err != nil {
			return
		}
		s.presence.left(id, tenant, now)
	}
}

// left notes that a device was at work in the last run.
func (p *presence) left(id edgeclaim.DeviceID, tenant edgeclaim.TenantID, now edgeclaim.Stamp) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.of(id)
	d.tenant = tenant
	p.turn(d, false, now)
	p.recalled = d.turned
}

var errRoll = errors.New("not the list that it should be")

// readRoll returns the rows of the file, most at most.
func readRoll(path string, most int) ([]byte, error) {
	file, err := os.Open(path) //nolint:gosec // in the operator's own data folder
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read
	const frame = len(onlineMagic) + crc32.Size
	document, err := io.ReadAll(io.LimitReader(file, int64(frame+most*onlineRow)+1))
	if err != nil {
		return nil, err
	}
	end := len(document) - crc32.Size
	rows := len(document) - frame
	if rows < 0 || rows%onlineRow != 0 || rows > most*onlineRow || string(document[:len(onlineMagic)]) != onlineMagic ||
		crc32.ChecksumIEEE(document[:end]) != binary.BigEndian.Uint32(document[end:]) {
		return nil, fmt.Errorf("%s: %w", onlineFile, errRoll)
	}
	return document[len(onlineMagic):end], nil
}

// end writes the file a last time.
func (r *roll) end() {
	r.next = time.Time{}
	r.look()
}
