package httpapi

import (
	"errors"

	"edgeclaim"
	"edgeclaim/provision"
)

// What an operator is told of what upstream rules: what forbids the change, and
// where it is made instead.
const (
	wordsTemplate = "the template is upstream's: what it says is changed there, and not here"
	wordsKey      = "the key is upstream's: here it can be revoked, and nothing else"
	wordsKeys     = "the template is upstream's: its keys come from there"
	wordsManifest = "the template is upstream's: the hardware that it expects is listed there"
	wordsDenial   = "upstream's revocations name this hardware: only they take that back"
	wordsRevoked  = "upstream's revocations name this device or its board: only they take that back"
)

// owned gives err the words where the template is upstream's, and that forbids
// the change; other errors stay as they are.
func owned(words string, err error) error { return worded(provision.ErrUpstreamOwned, words, err) }

// forbidden gives err the words where it is a conflict, and that can have no
// other reason.
func forbidden(words string, err error) error { return worded(edgeclaim.ErrConflict, words, err) }

func worded(sentinel error, words string, err error) error {
	if !errors.Is(err, sentinel) {
		return err
	}
	return &OperatorError{Err: err, Words: words}
}
