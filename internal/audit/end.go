package audit

import (
	"bufio"
	"errors"
	"os"
	"strconv"
)

// A chain is a place in the log: behind the line of seq.
type chain struct {
	seq   uint64
	hash  hash // of that line
	known bool // hash is; not so before the first line of the oldest file
}

var (
	errLink      = errors.New("does not build on the line before it")
	errNoNewline = errors.New("has no newline")
)

// follow takes the next line, and says what is wrong with it. A line that was
// changed counts as one line: the next one stands on it as it is now, or says
// so itself.
func (c *chain) follow(line rawLine) error {
	seq, prev, err := unframe(line.text)
	switch {
	case err != nil:
		seq = c.seq + 1
	case seq != c.seq+1:
		err = errors.New("has sequence " + strconv.FormatUint(seq, 10) + " where " +
			strconv.FormatUint(c.seq+1, 10) + " is due")
		if seq > maxSeq/2 { // somebody's, to leave no sequences for what follows
			seq = c.seq + 1
		}
	case c.known && prev != c.hash:
		err = errLink
	}
	*c = chain{seq: seq, hash: line.hash, known: true}
	return err
}

// An ending is how a segment ends.
type ending struct {
	chain
	lines    int
	size     int64  // of its lines
	cut      int64  // bytes of an unfinished line behind them
	last     []byte // the last line
	damaged  error  // the first thing that no crash explains
	atNumber int    // its line
}

// readEnd reads a segment whose first line stands on start.
func (f folder) readEnd(s segment, start chain) ending {
	e := ending{chain: start}
	file, err := os.Open(f.path(s.name()))
	if err != nil {
		e.damaged = err
		return e
	}
	defer file.Close()
	err = eachLine(file, func(line rawLine) error {
		if !line.whole && (!e.known || unfinished(line.text, e.seq+1, e.hash)) {
			e.cut = line.size
			return nil
		}
		err := e.follow(line)
		if err == nil && !line.whole {
			err = errNoNewline // and no crash leaves it so: to go on behind it would run two lines together
		}
		if err != nil && e.damaged == nil {
			e.damaged, e.atNumber = err, line.number
		}
		e.lines++
		e.size += line.size + 1
		e.last = append(e.last[:0], line.text...)
		return nil
	})
	if err != nil && e.damaged == nil {
		e.damaged, e.atNumber = err, e.lines+1
	}
	return e
}

// findEnd finds where the log goes on, and keeps entries about what it found.
func (l *Log) findEnd() error {
	var err error
	if l.segments, err = segmentsIn(l.folder.dir); err != nil {
		return err
	}
	if len(l.segments) == 0 {
		l.batch = append(l.batch, item{Entry: l.own(KindBegun, 0, nil)})
		return nil
	}
	i := len(l.segments) - 1
	current := l.segments[i]
	end := l.folder.readEnd(current, chain{seq: current.first - 1})
	said := current
	if end.lines == 0 && end.damaged == nil {
		// It was begun, and no line of it is whole: the one before it says what
		// its first line stands on.
		var before ending
		before.known = true
		if i > 0 {
			said = l.segments[i-1]
			before = l.folder.readEnd(said, chain{seq: said.first - 1})
		}
		end = l.folder.readEnd(current, chain{seq: current.first - 1, hash: before.hash, known: true})
		if end.lines == 0 {
			end.last = before.last
		}
		if before.seq != current.first-1 && end.damaged == nil {
			end.damaged = errors.New("begins behind a gap")
		}
	}
	return l.goOn(current, said, end)
}

// goOn makes the end of current the end of the log; said is the segment with
// the last line.
func (l *Log) goOn(current, said segment, end ending) error {
	l.tip = tip{seq: end.seq, hash: end.hash, size: end.size}
	if s, err := decode(end.last); err == nil {
		l.tip.time = s.Time
	}
	if end.seq > 0 {
		l.head = Head{Segment: said.name(), Sequence: end.seq, Hash: end.hash.String(), Time: l.tip.time}
	}
	if end.damaged != nil {
		l.tip.seq = max(l.tip.seq, current.first) // the new file's name has to come after this one's
		l.log.Error("audit log is damaged; it goes on in a new file",
			"file", current.name(), "line", end.atNumber, "error", end.damaged)
		l.batch = append(l.batch, item{Entry: l.own(KindDamaged, 0, map[string]string{
			"file": current.name(), "line": strconv.Itoa(end.atNumber), "what": end.damaged.Error(),
		})})
		return nil
	}
	file, err := l.folder.open(current.name())
	if err != nil {
		return err
	}
	l.file, l.dirty = file, end.cut > 0
	if end.seq == 0 {
		l.batch = append(l.batch, item{Entry: l.own(KindBegun, 0, nil)})
	}
	if end.cut > 0 {
		l.log.Warn("audit log had an unfinished line; it is cut off", "file", current.name(), "bytes", end.cut)
		l.batch = append(l.batch, item{Entry: l.own(KindRepaired, 0, map[string]string{
			"file": current.name(), "bytes": strconv.FormatInt(end.cut, 10),
		})})
	}
	return nil
}

// buildsOn returns the hash that a segment's first line stands on.
func (f folder) buildsOn(s segment) (hash, error) {
	file, err := os.Open(f.path(s.name()))
	if err != nil {
		return hash{}, err
	}
	defer file.Close()
	line, err := readLine(bufio.NewReaderSize(file, MaxLine+2))
	if err != nil {
		return hash{}, err
	}
	seq, prev, err := unframe(line.text)
	if err == nil && seq != s.first {
		err = errNoFrame
	}
	return prev, err
}
