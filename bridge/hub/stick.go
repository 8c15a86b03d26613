package hub

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/go-json-experiment/json"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
)

// Ingested says what a stick's file came to.
type Ingested struct {
	Site    string `json:"site"`
	Box     string `json:"box_id"`
	Epoch   string `json:"epoch"`
	Batches int    `json:"batches"`
	// Records were applied; those that had come before are not counted.
	Records int                       `json:"records"`
	Upto    map[edgeclaim.Lane]uint64 `json:"upto,omitempty"`
	Nack    []wire.Nack               `json:"nack,omitempty"`
	Refused *wire.Refused             `json:"refused,omitempty"`
	// Answer is the signed message for the box, one line: an ack or a refused.
	Answer []byte `json:"-"`
}

// ErrOlder: the registry has more of the box than the file. Most likely the box
// exported again since, or told by a link: then nothing is missing here. A hello
// on a line would mean that the box is an old copy of itself, and be refused so;
// of a file nobody knows when it was made.
var ErrOlder = errors.New("the hub has more of this box than the file: an export of earlier, of which nothing is missing here; " +
	"or, if it is the box's newest, the box was restored from an old copy: use outbox renew there, and export anew")

// Stick is where files of boxes without a link are taken.
type Stick struct {
	DB  *registry.DB
	Key ed25519.PrivateKey
	Now func() time.Time // nil is time.Now
}

// Ingest commits a file that a box has exported: a hello and batches, one
// message a line, the hello and each batch in a transaction of its own. When it
// returns nil, all that the answer names is committed. After an error, what was
// committed is, and the file may be ingested again. ErrInvalid names the line
// that cannot be read.
func (t *Stick) Ingest(ctx context.Context, r io.Reader) (Ingested, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, wire.MaxMessage+2), wire.MaxMessage+2) // with its line end
	names, hello, err := readHello(lines)
	if err != nil {
		return Ingested{}, err
	}
	out := Ingested{Site: names.Site, Box: names.Box, Epoch: hello.Epoch}
	greeting, err := t.greet(ctx, names, hello)
	if err != nil {
		return out, err
	}
	if greeting.Refused != nil {
		return t.refused(out, hello, greeting.Refused)
	}
	merged := newAnswer()
	last := map[edgeclaim.Lane]uint64{} // what the file speaks for
	for line := 2; lines.Scan(); line++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		batch, err := readBatch(names, hello, lines.Bytes())
		if err != nil {
			return out, invalidLine(line, err)
		}
		results, err := t.DB.Apply(ctx, []registry.Item{{Names: names, Batch: batch}})
		if err != nil {
			return out, err
		}
		out.Batches++
		out.Records += results[0].Applied
		last[batch.Lane] = max(last[batch.Lane], batch.Last)
		// The mark may be ahead of the file; an ack counts only for what the
		// file held.
		merged.take(batch, &results[0], min(results[0].Upto, last[batch.Lane]))
		if merged.refused != nil {
			return t.refused(out, hello, merged.refused)
		}
	}
	if err := lines.Err(); err != nil {
		return out, invalidLine(out.Batches+2, err)
	}
	return t.acknowledged(out, hello, merged)
}

// greet is the registry's word on a hello that travelled. The box is no more
// online by it than it was.
func (t *Stick) greet(ctx context.Context, n wire.Names, hello *wire.Hello) (registry.Greeting, error) {
	known, err := t.DB.Boxes(ctx, registry.BoxFilter{Box: n.Box, Limit: 1})
	if err != nil {
		return registry.Greeting{}, err
	}
	before := registry.BoxState{Names: n, Epoch: hello.Epoch}
	for i := range known {
		before.Online, before.App = known[i].Online, known[i].App
		for lane, state := range known[i].Lanes {
			told, ok := hello.Lanes[lane] // an older box has not all lanes
			if ok && known[i].Epoch == hello.Epoch && state.Upto > told.Appended {
				return registry.Greeting{}, ErrOlder
			}
		}
	}
	greeting, err := t.DB.Greet(ctx, n, hello)
	if err != nil {
		return greeting, err
	}
	return greeting, t.DB.SetStates(ctx, []registry.BoxState{before})
}

func (t *Stick) acknowledged(out Ingested, hello *wire.Hello, merged *answer) (Ingested, error) {
	for _, lane := range edgeclaim.Lanes() {
		if nack := merged.nacks[lane]; nack != nil {
			merged.ack.Nack = append(merged.ack.Nack, *nack)
		}
	}
	merged.ack.Head = t.head(wire.TypeAck, hello)
	out.Upto, out.Nack = merged.ack.Upto, merged.ack.Nack
	return t.seal(out, &merged.ack)
}

func (t *Stick) refused(out Ingested, hello *wire.Hello, r *wire.Refused) (Ingested, error) {
	said := *r
	said.Head = t.head(wire.TypeRefused, hello)
	out.Refused = &said
	return t.seal(out, &said)
}

func (t *Stick) seal(out Ingested, message wire.Down) (Ingested, error) {
	sealed, err := wire.Seal(t.Key, message)
	out.Answer = append(sealed, '\n')
	return out, err
}

func (t *Stick) head(kind string, hello *wire.Hello) wire.Head {
	now := time.Now
	if t.Now != nil {
		now = t.Now
	}
	return wire.Head{Type: kind, Box: hello.Box, Epoch: hello.Epoch, Nonce: hello.Nonce, Time: now().UTC()}
}

// readHello reads the first line, which says whose file it is.
func readHello(lines *bufio.Scanner) (wire.Names, *wire.Hello, error) {
	if !lines.Scan() {
		if err := lines.Err(); err != nil {
			return wire.Names{}, nil, invalidLine(1, err)
		}
		return wire.Names{}, nil, edgeclaim.Invalid("file", "empty")
	}
	var whose struct {
		Site string `json:"site"`
		Box  string `json:"box_id"`
	}
	if err := json.Unmarshal(lines.Bytes(), &whose); err != nil {
		return wire.Names{}, nil, edgeclaim.Invalid("line 1", "not the JSON of a hello")
	}
	names, err := wire.NewNames(whose.Site, whose.Box)
	if err != nil {
		return names, nil, invalidLine(1, err)
	}
	message, err := wire.DecodeUp(names, lines.Bytes())
	if err != nil {
		return names, nil, invalidLine(1, err)
	}
	hello, ok := message.(*wire.Hello)
	if !ok {
		return names, nil, edgeclaim.Invalid("line 1", "want a hello")
	}
	return names, hello, nil
}

// readBatch reads one of the lines behind the hello.
func readBatch(n wire.Names, hello *wire.Hello, line []byte) (*wire.Batch, error) {
	batch, err := wire.DecodeBatch(n, line)
	switch {
	case err != nil:
		return nil, err
	case batch.Epoch != hello.Epoch || batch.Nonce != hello.Nonce:
		return nil, edgeclaim.Invalid("nonce", "of another export than the hello")
	case !isLane(string(batch.Lane)):
		return nil, edgeclaim.Invalid("lane", "not known")
	}
	return &batch, nil
}

// invalidLine is an ErrInvalid that names the line.
func invalidLine(line int, err error) error {
	if errors.Is(err, bufio.ErrTooLong) {
		return edgeclaim.Invalid(fmt.Sprintf("line %d", line), "longer than the longest message, %d bytes", wire.MaxMessage)
	}
	return edgeclaim.Invalid(fmt.Sprintf("line %d", line), "%v", err)
}
