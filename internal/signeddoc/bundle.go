package signeddoc

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json"

	"edgeclaim"
)

// MaxBundle is the largest bundle, in bytes.
const MaxBundle = 64 << 20

// Bundle is what a file brings to a box that hears nothing: a line for each
// signed document, and at most one of shares. Nobody has looked at a signature.
type Bundle struct {
	// Documents are the lines that are not shares, in the order of the file. One
	// that is cut short or not a document at all is among them, so that it is
	// refused by itself; of one longer than MaxText there is one byte more than
	// that.
	Documents [][]byte
	Lines     []int  // where in the file each of them is, from 1
	Shares    []byte // nil for none
}

// ReadBundle reads a bundle. Blank lines are passed over. ErrInvalid: larger than
// MaxBundle, more than edgeclaim.MaxDocuments lines, two lines of shares, or no
// line at all. Other errors are r's.
func ReadBundle(r io.Reader) (*Bundle, error) {
	limited := &io.LimitedReader{R: r, N: MaxBundle + 1}
	reader := bufio.NewReaderSize(limited, 64<<10)
	bundle := &Bundle{}
	for number := 1; ; number++ {
		line, err := readLine(reader)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("reading the bundle: %w", err)
		}
		if limited.N <= 0 {
			return nil, edgeclaim.Invalid("bundle", "larger than %d bytes", MaxBundle)
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			if err := bundle.add(number, line); err != nil {
				return nil, err
			}
		}
		if err == nil {
			continue
		}
		if len(bundle.Documents) == 0 && bundle.Shares == nil {
			return nil, edgeclaim.Invalid("bundle", "nothing is in it")
		}
		return bundle, nil
	}
}

func (b *Bundle) add(number int, line []byte) error {
	var kind struct {
		Type string `json:"type"`
	}
	if len(line) > MaxText || json.Unmarshal(line, &kind) != nil || kind.Type != SharesType {
		if len(b.Documents) == edgeclaim.MaxDocuments {
			return edgeclaim.Invalid("bundle", "more than %d documents", edgeclaim.MaxDocuments)
		}
		b.Documents, b.Lines = append(b.Documents, line), append(b.Lines, number)
		return nil
	}
	if b.Shares != nil {
		return edgeclaim.Invalid("bundle", "two lines of shares")
	}
	b.Shares = line
	return nil
}

// readLine reads to the end of a line, and keeps MaxText+1 bytes of it at most.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part[:min(len(part), MaxText+1-len(line))]...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}
