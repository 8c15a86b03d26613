package provision

import (
	"context"
	"time"

	"edgeclaim"
)

// MaxIssue is how many keys one call may issue.
const MaxIssue = 10_000

// IssuedKey is a key in the clear, said once (P5).
type IssuedKey struct {
	Key    edgeclaim.Key
	Secret edgeclaim.Secret
}

// IssueKeys makes count keys of a template, 1 to MaxIssue, all or none. Their
// secrets are in the answer and nowhere else. Errors: ErrInvalid, ErrNotFound,
// ErrUnavailable.
func (s *Service) IssueKeys(ctx context.Context, id edgeclaim.TemplateID, count int) ([]IssuedKey, error) {
	if count < 1 || count > MaxIssue {
		return nil, edgeclaim.Invalid("count", "want 1 to %d", MaxIssue)
	}
	now := s.clock.Now()
	issued := make([]IssuedKey, count)
	keys := make([]edgeclaim.Key, count)
	for i := range issued {
		secret := newSecret(provisionKeyPrefix)
		key, err := newKey(id, secret.Hash(), now)
		if err != nil {
			return nil, err
		}
		issued[i], keys[i] = IssuedKey{Key: key, Secret: secret}, key
	}
	if err := s.store.AddKeys(ctx, keys); err != nil {
		return nil, err
	}
	s.logger.Info("keys issued", "template_id", id, "count", count)
	return issued, nil
}

// ImportKey takes a key that the platform issued, by its hash. Errors:
// ErrExists when the box has it already, ErrNotFound for the template.
func (s *Service) ImportKey(ctx context.Context, id edgeclaim.TemplateID, hash edgeclaim.KeyHash) (edgeclaim.Key, error) {
	key, err := newKey(id, hash, s.clock.Now())
	if err != nil {
		return edgeclaim.Key{}, err
	}
	if err := s.store.AddKeys(ctx, []edgeclaim.Key{key}); err != nil {
		return edgeclaim.Key{}, err
	}
	s.logger.Info("key imported", "template_id", id, "key_id", key.ID)
	return key, nil
}

// ImportRawKey takes a key in the clear, any string of 1 to edgeclaim.MaxKey
// characters, and keeps its hash.
func (s *Service) ImportRawKey(ctx context.Context, id edgeclaim.TemplateID, key edgeclaim.Secret) (edgeclaim.Key, error) {
	if err := checkKey("provision_key", key.Reveal()); err != nil {
		return edgeclaim.Key{}, err
	}
	return s.ImportKey(ctx, id, key.Hash())
}

func newKey(template edgeclaim.TemplateID, hash edgeclaim.KeyHash, now time.Time) (edgeclaim.Key, error) {
	text, err := newID()
	if err != nil {
		return edgeclaim.Key{}, err
	}
	id, err := edgeclaim.ParseKeyID(text)
	if err != nil {
		return edgeclaim.Key{}, err
	}
	return edgeclaim.Key{ID: id, Template: template, Hash: hash, Status: edgeclaim.KeyActive, CreatedAt: now}, nil
}

// Key returns one key, ErrNotFound when there is none.
func (s *Service) Key(ctx context.Context, id edgeclaim.KeyID) (edgeclaim.Key, error) {
	return s.store.Key(ctx, id)
}

// Keys returns up to max keys that follow after, by id.
func (s *Service) Keys(ctx context.Context, after edgeclaim.KeyID, max int) ([]edgeclaim.Key, error) {
	return s.store.Keys(ctx, after, max)
}

// SetKeyStatus disables, enables or revokes a key. Revoked is terminal and a
// used key stays used: another change of either is ErrConflict, the same one
// again changes nothing. A used key may be revoked. What waits for an operator
// by a revoked key waits no longer: an error after that leaves some of it, and
// the same call again ends it.
func (s *Service) SetKeyStatus(ctx context.Context, id edgeclaim.KeyID, status edgeclaim.KeyStatus) (edgeclaim.Key, error) {
	key, err := s.store.ChangeKey(ctx, id, func(k *edgeclaim.Key) error {
		terminal := k.Status == edgeclaim.KeyRevoked || k.Status == edgeclaim.KeyUsed && status != edgeclaim.KeyRevoked
		if terminal && k.Status != status {
			return edgeclaim.ErrConflict
		}
		k.Status = status
		return nil
	})
	if err != nil {
		return key, err
	}
	s.logger.Info("key status set", "key_id", id, "status", status)
	if status == edgeclaim.KeyRevoked {
		err = s.forgetPending(ctx, id)
	}
	return key, err
}
