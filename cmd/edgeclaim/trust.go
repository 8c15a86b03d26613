package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hpke"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/mint"
	"edgeclaim/provision"
	"edgeclaim/provision/httpapi"
)

// enrolmentDamaged is what status says of edgeclaim.AlarmEnrolment.
const enrolmentDamaged = "the enrolment cannot be read, so nothing is taken from upstream: edgeclaim enroll FILE, or --remove"

// keeper keeps the enrolment file. *store.DB is one.
type keeper interface {
	// Enrolment returns the file; nil when there is none.
	Enrolment(ctx context.Context) ([]byte, error)
	// SetEnrolment puts one in its place, none for nil; nil means durable.
	SetEnrolment(ctx context.Context, document []byte) error
}

// trust is whom the box takes a word from upstream from. It implements
// httpapi.Enroller.
type trust struct {
	keeper keeper
	logger *slog.Logger
	// changed tells the bridge, rekeyed the keeper of documents; they are set
	// before any change, and constant then.
	changed func(key ed25519.PublicKey, upstream string)
	rekeyed func()

	mu sync.Mutex // held over a change, so that file, memory and bridge agree
	// key is nil when nobody is pinned, and one that nobody holds while the
	// enrolment is damaged: what comes down is then all forged.
	key      ed25519.PublicKey
	upstream string
	damaged  time.Time // when that was found; zero when it is in order
	// recipient is whom PSKs are sealed for; nil where upstream has no key for it.
	recipient hpke.PublicKey
	// documents is whose documents the box takes; nil for nobody's.
	documents ed25519.PublicKey
}

func newTrust(keeper keeper, logger *slog.Logger) *trust {
	return &trust{keeper: keeper, logger: logger, changed: func(ed25519.PublicKey, string) {}, rekeyed: func() {}}
}

// load reads the enrolment. A damaged one keeps no box from starting, and opens
// no door: until it is mended nothing is taken from upstream.
func (t *trust) load(ctx context.Context, now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	document, err := t.keeper.Enrolment(ctx)
	if err == nil && document == nil {
		return nil
	}
	var e wire.Enrolment
	if err == nil {
		e, t.key, err = wire.DecodeEnrolment(document)
	}
	if err == nil {
		t.upstream, t.recipient, t.documents = e.Upstream, sealingKey(&e), documentKey(&e)
		return nil
	}
	t.logger.Error("the enrolment cannot be read, nothing is taken from upstream", "err", err, "remedy", "edgeclaim enroll FILE")
	t.damaged = now
	t.key, _, err = ed25519.GenerateKey(nil) // its other half is thrown away
	return err
}

// pinned returns the key that what comes down must be signed by, nil for none,
// and whose it is.
func (t *trust) pinned() (key ed25519.PublicKey, upstream string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.key, t.upstream
}

// Enrolment implements httpapi.Enroller.
func (t *trust) Enrolment(context.Context) (httpapi.Enrolment, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shown(), nil
}

func (t *trust) shown() httpapi.Enrolment {
	switch {
	case !t.damaged.IsZero():
		return httpapi.Enrolment{Enrolled: true, Damaged: true}
	case t.key == nil:
		return httpapi.Enrolment{}
	}
	return httpapi.Enrolment{Enrolled: true, Upstream: t.upstream, Key: wire.KeyName(t.key)}
}

// Enrol implements httpapi.Enroller.
func (t *trust) Enrol(ctx context.Context, document []byte, replace bool) (httpapi.Enrolment, error) {
	e, key, err := wire.DecodeEnrolment(document)
	if err != nil {
		return httpapi.Enrolment{}, notEnrolment(err)
	}
	defer t.rekeyed() // with the lock given back
	t.mu.Lock()
	defer t.mu.Unlock()
	if other := t.key != nil && t.damaged.IsZero() && !bytes.Equal(t.key, key); other && !replace {
		return httpapi.Enrolment{}, &httpapi.OperatorError{
			Err:   edgeclaim.ErrConflict,
			Words: fmt.Sprintf("enrolled with key %s of %s already", wire.KeyName(t.key), t.upstream),
		}
	}
	recipient := sealingKey(&e)
	if t.documents != nil && documentKey(&e) == nil && !replace {
		return httpapi.Enrolment{}, &httpapi.OperatorError{
			Err: edgeclaim.ErrConflict, Words: "the file has no document_key: no documents would be taken any more",
		}
	}
	if t.recipient != nil && recipient == nil && !replace {
		return httpapi.Enrolment{}, &httpapi.OperatorError{
			Err: edgeclaim.ErrConflict, Words: "the file has no seal_key: PSKs would not be sealed for upstream any more",
		}
	}
	if err := t.keeper.SetEnrolment(ctx, document); err != nil {
		return httpapi.Enrolment{}, err
	}
	t.set(&e, key)
	t.logger.Info("box enrolled", "upstream_id", e.Upstream, "key_id", wire.KeyName(key))
	return t.shown(), nil
}

// notEnrolment says in the operator's words that a file is something else.
func notEnrolment(err error) error {
	if fault, ok := errors.AsType[*edgeclaim.InvalidError](err); ok && fault.Field != "message" {
		return err // it names the member at fault
	}
	return &httpapi.OperatorError{Err: edgeclaim.ErrInvalid, Words: "no enrolment file: edgehub enrolment prints one"}
}

// Unenrol implements httpapi.Enroller.
func (t *trust) Unenrol(ctx context.Context) error {
	defer t.rekeyed() // with the lock given back
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.keeper.SetEnrolment(ctx, nil); err != nil {
		return err
	}
	if t.key != nil {
		t.logger.Warn("box not enrolled any more, it takes what anybody says upstream")
	}
	t.set(&wire.Enrolment{}, nil)
	return nil
}

// set changes memory and bridge after what is kept.
func (t *trust) set(e *wire.Enrolment, key ed25519.PublicKey) {
	t.key, t.upstream, t.damaged = key, e.Upstream, time.Time{}
	t.recipient, t.documents = sealingKey(e), documentKey(e)
	t.changed(key, e.Upstream)
}

// documentKey is the key that the documents of an enrolment that was decoded are
// signed by; nil for none.
func documentKey(e *wire.Enrolment) ed25519.PublicKey {
	key, err := wire.DocumentKeyOf(e)
	if err != nil {
		return nil // decoding has refused such a one
	}
	return key
}

// documentsBy returns the key that documents have to be signed by, nil where none
// are taken.
func (t *trust) documentsBy() ed25519.PublicKey {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.documents
}

// hubKey returns the key of the application itself; nil where it is not pinned.
func (t *trust) hubKey() ed25519.PublicKey {
	key, _ := t.pinned()
	return key
}

// sealingKey is whom an enrolment that was decoded has PSKs sealed for; nil for
// nobody.
func sealingKey(e *wire.Enrolment) hpke.PublicKey {
	key, err := wire.SealKeyOf(e)
	if err != nil {
		return nil // decoding has refused such a one
	}
	return key
}

// seal encrypts a PSK for the application upstream; nil when it has no key for
// that.
func (t *trust) seal(box string, device edgeclaim.DeviceID, psk edgeclaim.Secret) (*provision.Sealed, error) {
	t.mu.Lock()
	recipient := t.recipient
	t.mu.Unlock()
	if recipient == nil {
		return nil, nil //nolint:nilnil // no key is an answer, not a failure
	}
	sealed, err := mint.SealPSK(recipient, box, device, psk)
	if err != nil {
		return nil, err
	}
	return &provision.Sealed{KeyID: mint.KeyID(recipient), Value: base64.RawURLEncoding.EncodeToString(sealed)}, nil
}

// show puts what is pinned into the way up's status.
func (t *trust) show(up *edgeclaim.UpstreamStatus) {
	t.mu.Lock()
	defer t.mu.Unlock()
	up.Enrolled = t.key != nil
	if !t.damaged.IsZero() {
		up.LastError = enrolmentDamaged
		up.Alarms = append(up.Alarms, edgeclaim.AlarmCount{Alarm: edgeclaim.AlarmEnrolment, Count: 1, Last: t.damaged})
	}
}
