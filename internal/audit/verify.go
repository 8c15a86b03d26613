package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const (
	// MaxProblems is how many problems a report lists; the others are counted.
	MaxProblems = 1000
	// attempts is how often reading begins anew, because the box that runs
	// dropped a file that was about to be read.
	attempts = 10
)

// ErrDamaged: lines were left out because they were changed.
var ErrDamaged = errors.New("audit: the log is damaged")

// Anchor says what became of the head that was told earlier.
type Anchor string

// What a head told earlier proves: that the chain up to it is what it was when
// the head was told; that it is not; or nothing, because its entry is older
// than the oldest file that was kept.
const (
	AnchorHeld    Anchor = "held"
	AnchorBroken  Anchor = "broken"
	AnchorDropped Anchor = "dropped"
)

// Report is what Verify found.
type Report struct {
	Entries     uint64 `json:"entries"`  // lines, damaged ones too
	Segments    int    `json:"segments"` // files
	First       uint64 `json:"first"`    // sequence of the first line kept
	Last        uint64 `json:"last"`
	Head        Head   `json:"head"`
	BeginsAfter string `json:"begins_after"` // the hash that the first line builds on; zeros: it is the first ever
	Lost        uint64 `json:"lost"`         // entries that were never written, by the log's own word
	// Unfinished is the size of a last line that is being written just now, or
	// was when the box crashed; the next start cuts it off.
	Unfinished int64     `json:"unfinished_bytes"`
	Anchor     Anchor    `json:"anchor,omitempty"` // empty without one
	Problems   []Problem `json:"problems"`
	More       int       `json:"more_problems"` // beyond MaxProblems
}

// OK reports whether nothing is wrong.
func (r Report) OK() bool { return len(r.Problems) == 0 }

// Problem is one thing that is wrong.
type Problem struct {
	File     string `json:"file"`
	Line     int    `json:"line"`     // from 1; 0 for the file
	Sequence uint64 `json:"sequence"` // that is due there; 0 for the file
	What     string `json:"what"`
}

// errGone: a file went while the log was read.
var errGone = errors.New("a file was dropped while it was read")

// Verify reads the log in the data folder dir, without changing it; the box may
// run, or dir be a copy. With an anchor, a head told earlier, the chain must
// hold that very line: without one, whoever owns the folder can have written
// all of it anew, or have cut off its end. An error says that there is no log or
// that it cannot be read at all; everything else is a problem in the report.
func Verify(dir string, anchor *Head) (Report, error) {
	for attempt := 1; ; attempt++ {
		v := verifier{dir: filepath.Join(dir, folderName), anchor: anchor}
		err := v.read()
		if errors.Is(err, errGone) && attempt < attempts {
			continue
		}
		if err != nil {
			return Report{}, fmt.Errorf("audit: %w", err)
		}
		return v.report, nil
	}
}

type verifier struct {
	dir    string
	anchor *Head
	report Report
	chain  chain
	file   string
	// begins is the place before the first line; said whether an entry says
	// that the log was dropped up to it.
	begins chain
	said   bool
	found  bool // a line with the anchor's sequence
}

func (v *verifier) problem(line int, what string) {
	if len(v.report.Problems) >= MaxProblems {
		v.report.More++
		return
	}
	p := Problem{File: v.file, Line: line, What: what}
	if line > 0 {
		p.Sequence = v.chain.seq + 1
	}
	v.report.Problems = append(v.report.Problems, p)
}

func (v *verifier) read() error {
	segments, err := segmentsIn(v.dir)
	if err != nil {
		return err
	}
	v.report.Problems = []Problem{}
	v.report.Segments = len(segments)
	for i, s := range segments {
		if err := v.segment(s, i == len(segments)-1); err != nil {
			return err
		}
	}
	v.file = ""
	v.report.Last = v.chain.seq
	if v.report.Entries == 0 {
		v.report.Last = 0
	}
	if v.report.First > 1 && !v.said {
		v.problem(0, "what was before the first line is missing, and no entry says that it was dropped")
	}
	v.judgeAnchor()
	return nil
}

func (v *verifier) segment(s segment, last bool) error {
	v.file = s.name()
	file, err := os.Open(filepath.Join(v.dir, v.file))
	if errors.Is(err, fs.ErrNotExist) {
		return errGone
	}
	if err != nil {
		v.problem(0, "cannot be read: "+reason(err))
		return nil
	}
	defer file.Close()
	if v.report.Entries == 0 {
		v.chain = chain{seq: s.first - 1, known: s.first == 1}
	} else if s.first != v.chain.seq+1 {
		v.problem(0, "is named after sequence "+strconv.FormatUint(s.first, 10)+" where "+
			strconv.FormatUint(v.chain.seq+1, 10)+" is due")
	}
	if s.size == 0 && !last {
		v.problem(0, "is empty")
	}
	err = eachLine(file, func(line rawLine) error {
		if last && !line.whole && (!v.chain.known || unfinished(line.text, v.chain.seq+1, v.chain.hash)) {
			v.report.Unfinished = line.size
			return nil
		}
		v.line(line)
		return nil
	})
	if err != nil {
		v.problem(0, "cannot be read: "+reason(err))
	}
	return nil
}

// reason is an error without the path, which the problem names.
func reason(err error) string {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return pathErr.Err.Error()
	}
	return err.Error()
}

func (v *verifier) line(line rawLine) {
	before := v.chain
	if v.report.Entries == 0 {
		v.begin(line)
	}
	err := before.follow(line) // before is now behind it
	if err == nil && !line.whole {
		err = errNoNewline
	}
	var s stored
	if _, _, unframed := unframe(line.text); unframed == nil {
		var undecoded error
		if s, undecoded = decode(line.text); err == nil {
			err = undecoded
		}
	}
	if err != nil {
		v.problem(line.number, err.Error())
	}
	v.chain = before
	v.report.Entries++
	v.report.Head = Head{Segment: v.file, Sequence: v.chain.seq, Hash: v.chain.hash.String(), Time: s.Time}
	switch s.Kind {
	case KindLost:
		v.report.Lost += s.Count
	case KindDropped:
		v.dropped(s)
	}
	if v.anchor != nil && v.chain.seq == v.anchor.Sequence {
		v.compare(v.chain.hash.String())
	}
}

// begin notes what the first line of all stands on.
func (v *verifier) begin(line rawLine) {
	v.begins = chain{seq: v.chain.seq}
	if _, prev, err := unframe(line.text); err == nil {
		v.begins.hash, v.begins.known = prev, true
		v.report.BeginsAfter = prev.String()
	}
	v.report.First = v.begins.seq + 1
}

// dropped notes an entry that says what went. Its hash is left out when the box
// could not read the line that holds it.
func (v *verifier) dropped(s stored) {
	told, through := s.Detail["hash"], strconv.FormatUint(v.begins.seq, 10)
	if s.Detail["through"] == through && (told == v.begins.hash.String() || told == "" || !v.begins.known) {
		v.said = true
	}
}

func (v *verifier) compare(held string) {
	v.found = true
	if held == v.anchor.Hash && v.report.Anchor != AnchorBroken {
		v.report.Anchor = AnchorHeld
		return
	}
	v.report.Anchor = AnchorBroken
	v.problem(0, "the head that was told earlier is not on the chain: sequence "+
		strconv.FormatUint(v.anchor.Sequence, 10)+" is another line")
}

func (v *verifier) judgeAnchor() {
	switch {
	case v.anchor == nil || v.found:
	case v.anchor.Sequence == 0: // told before there was an entry
		v.report.Anchor = AnchorHeld
	case v.report.Entries > 0 && v.anchor.Sequence == v.begins.seq && v.begins.known:
		v.compare(v.begins.hash.String())
	case v.report.Entries > 0 && v.anchor.Sequence < v.report.First:
		v.report.Anchor = AnchorDropped
	default:
		v.report.Anchor = AnchorBroken
		v.problem(0, "the head that was told earlier is not on the chain: there is no sequence "+
			strconv.FormatUint(v.anchor.Sequence, 10))
	}
}

// Export writes the lines whose time is from `from` on and before `to`, as they
// are, oldest first; a zero time is no bound. The order is the chain's, whatever
// the clock did. Lines that were changed are left out, and ErrDamaged says how
// many; the others are written all the same. The box may run.
func Export(dir string, w io.Writer, from, to time.Time) error {
	dir = filepath.Join(dir, folderName)
	segments, err := segmentsIn(dir)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	damaged := 0
	for _, s := range segments {
		n, err := exportSegment(filepath.Join(dir, s.name()), w, from, to)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // dropped meanwhile
			return fmt.Errorf("audit: export: %w", err)
		}
		damaged += n
	}
	if damaged > 0 {
		return fmt.Errorf("%w: %d lines left out", ErrDamaged, damaged)
	}
	return nil
}

// exportSegment returns how many whole lines it left out because they were changed.
func exportSegment(path string, w io.Writer, from, to time.Time) (damaged int, err error) {
	file, err := os.Open(path) //nolint:gosec // in the operator's own data folder
	if err != nil {
		return 0, err
	}
	defer file.Close()
	err = eachLine(file, func(line rawLine) error {
		if !line.whole {
			return nil
		}
		_, _, err := unframe(line.text)
		if err != nil {
			damaged++
			return nil
		}
		s, err := decode(line.text)
		if err != nil {
			damaged++
			return nil
		}
		if s.Time.Before(from) || !to.IsZero() && !s.Time.Before(to) {
			return nil
		}
		_, err = fmt.Fprintf(w, "%s\n", line.text)
		return err
	})
	return damaged, err
}
