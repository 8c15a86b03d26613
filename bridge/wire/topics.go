package wire

import (
	"strings"

	"edgeclaim"
)

// MaxLevel is the longest name of a site or box, in characters.
const MaxLevel = 64

// root is what all topics begin with: the product, and the version of the
// topics' shape.
const root = "edgeclaim/v1/"

// HostTopic carries the retained Host: whether the application upstream is
// there.
const HostTopic = root + "_host/st"

// The kinds of message, which are the last levels of their topics.
const (
	// up: Hello, Want, States, DocumentsReport, SharesWant; down: Welcome,
	// Refused, Again, RegistryPage, Shares, Verdicts
	KindControl  = "ctl"
	KindSnapshot = "snap" // up: SnapshotPage
	KindAck      = "ack"  // down: Ack
	KindCommand  = "cmd"  // down: Commands
	KindDocument = "doc"  // down: Offers, DocumentPart
)

// UpFilter and StateFilter are what an application subscribes to for all sites.
const (
	UpFilter    = root + "+/+/up/+"
	StateFilter = root + "+/+/st"
)

// Names are a box's topics and its CloudEvents source.
type Names struct {
	Site, Box string
}

// NewNames checks that both are one topic level: 1 to MaxLevel characters of
// A-Z, a-z, 0-9, '.', '_' and '-'. Else ErrInvalid, by "site" or "box_id".
func NewNames(site, box string) (Names, error) {
	for _, level := range []struct{ key, text string }{{"site", site}, {"box_id", box}} {
		if !isLevel(level.text) {
			return Names{}, edgeclaim.Invalid(level.key, "want 1 to %d characters of A-Z a-z 0-9 . _ -", MaxLevel)
		}
	}
	return Names{Site: site, Box: box}, nil
}

// Source is the box's CloudEvents source. The site is not in it: a box may be
// given another while records wait, and what is sent again has to be the same
// bytes (P8).
func (n Names) Source() string { return "urn:edgeclaim:" + n.Box }

// State is where the box's retained state is.
func (n Names) State() string { return n.base() + "/st" }

// Up is where a kind of message goes up: a lane, KindControl, KindSnapshot.
func (n Names) Up(kind string) string { return n.base() + "/up/" + kind }

// Down is where a kind of message comes down: KindAck, KindCommand, KindControl,
// KindDocument; "#" for all.
func (n Names) Down(kind string) string { return n.base() + "/down/" + kind }

func (n Names) base() string { return root + n.Site + "/" + n.Box }

// ParseUp takes a topic under UpFilter or StateFilter apart; kind is "st" for
// a state. ok is false for every other topic.
func ParseUp(topic string) (n Names, kind string, ok bool) {
	rest, ok := strings.CutPrefix(topic, root)
	if !ok {
		return Names{}, "", false
	}
	levels := strings.Split(rest, "/")
	switch {
	case len(levels) == 3 && levels[2] == "st":
		kind = "st"
	case len(levels) == 4 && levels[2] == "up":
		kind = levels[3]
	default:
		return Names{}, "", false
	}
	n = Names{Site: levels[0], Box: levels[1]}
	return n, kind, isLevel(n.Site) && isLevel(n.Box) && isLevel(kind)
}

// isLevel reports whether text is one topic level without wildcards.
func isLevel(text string) bool {
	if text == "" || len(text) > MaxLevel {
		return false
	}
	for _, c := range []byte(text) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}
