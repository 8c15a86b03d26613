package document

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"

	"edgeclaim"
	"edgeclaim/internal/signeddoc"
)

// maxChain is how often the signer may change until the box has to be enrolled
// anew. All of them are kept, and none is longer than a kilobyte.
const maxChain = 1000

// signerID names the one document of its type.
var signerID = edgeclaim.DocumentID{Type: edgeclaim.DocumentSigner}

// A trust is whose signature counts: the enrolled key's, until a document that it
// has signed names the next.
type trust struct {
	root  ed25519.PublicKey // the enrolled one; nil: nobody's counts
	key   ed25519.PublicKey // the one that signs now
	chain []link            // from root to key
}

// A link is a signer document that was taken.
type link struct {
	version uint64
	hash    string
	text    []byte
}

// extend returns the trust after one more signer, whose signature is looked at.
func (t *trust) extend(s *signeddoc.Signed) (trust, error) {
	if len(t.chain) >= maxChain {
		return trust{}, &edgeclaim.DocumentError{
			Reason: edgeclaim.DocumentConflicting, Detail: fmt.Sprintf("more than %d signers since the enrolment", maxChain),
		}
	}
	key, err := signeddoc.ParsePublic(s.Document.Signer.Key)
	if err != nil {
		return trust{}, &edgeclaim.DocumentError{Reason: edgeclaim.DocumentMalformed, Detail: err.Error()}
	}
	next := link{version: s.Document.Version, hash: s.Hash, text: s.Text}
	return trust{root: t.root, key: key, chain: append(slices.Clone(t.chain), next)}, nil
}

// has reports whether a signer is one of those that led here.
func (t *trust) has(version uint64, hash string) bool {
	return slices.ContainsFunc(t.chain, func(l link) bool { return l.version == version && l.hash == hash })
}

// text is the whole chain, a line each: with the enrolled key alone it proves whose
// signature counts.
func (t *trust) text() []byte {
	lines := make([][]byte, len(t.chain))
	for i := range t.chain {
		lines[i] = t.chain[i].text
	}
	return bytes.Join(lines, []byte{'\n'})
}

// hang walks a chain from the enrolled key.
func hang(root ed25519.PublicKey, text []byte) (trust, error) {
	t := trust{root: root, key: root}
	last := uint64(0)
	for line := range bytes.SplitSeq(text, []byte{'\n'}) {
		s, err := signeddoc.Open(line, t.key)
		if err != nil {
			return trust{}, err
		}
		if s.Document.DocumentID != signerID || s.Document.Version <= last {
			return trust{}, &edgeclaim.DocumentError{Reason: edgeclaim.DocumentMalformed, Detail: "not a chain of signers"}
		}
		last = s.Document.Version
		if t, err = t.extend(s); err != nil {
			return trust{}, err
		}
	}
	return t, nil
}

// rehang finds out whose signature counts, where the enrolment is another than
// last time. The caller holds taking.
//
// A chain that hangs on another key than the enrolled one is void, and begins
// anew: its signer is struck from the store, so that a first version counts again.
// With no enrolment it is left as it is: one that cannot be read for a while comes
// back.
func (s *Service) rehang(ctx context.Context) error {
	root := s.parts.Key()
	if len(root) != ed25519.PublicKeySize {
		s.trust = trust{}
		return nil
	}
	if s.trust.root != nil && s.trust.root.Equal(root) {
		return nil
	}
	other := s.rooted != nil && !s.rooted.Equal(root)
	next, err := s.walk(ctx, root)
	if err != nil {
		return err
	}
	s.trust, s.rooted, s.told = next, root, map[told]struct{}{}
	s.logger.Info("documents are taken", "enrolled_key_id", signeddoc.KeyName(root), "signer_key_id", signeddoc.KeyName(next.key))
	if !other {
		return nil
	}
	if err := s.doubt(ctx); err != nil { // the new upstream has confirmed nothing yet
		s.logger.Warn("the ages of documents could not be saved", "err", err)
	}
	return nil
}

// walk returns the trust that hangs on root.
func (s *Service) walk(ctx context.Context, root ed25519.PublicKey) (trust, error) {
	bare := trust{root: root, key: root}
	s.mu.RLock()
	e := s.held[signerID]
	s.mu.RUnlock()
	if e == nil || e.row.Version == 0 {
		return bare, nil
	}
	text, err := s.parts.Store.DocumentText(ctx, signerID)
	if err != nil && !errors.Is(err, edgeclaim.ErrNotFound) {
		return trust{}, err
	}
	chain, err := hang(root, text)
	if err == nil && chain.has(e.row.Version, e.row.Hash) {
		return chain, nil
	}
	s.logger.Warn("the signer does not hang on the enrolled key and is void", "version", e.row.Version)
	if err := s.parts.Store.ForgetSigner(ctx); err != nil {
		return trust{}, err
	}
	s.mu.Lock()
	delete(s.held, signerID)
	s.mu.Unlock()
	s.notify()
	return bare, nil
}
