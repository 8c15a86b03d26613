package provision

import (
	"context"
	"sync/atomic"
	"time"

	"edgeclaim"

	"golang.org/x/sync/errgroup"
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
// ErrUpstreamOwned, ErrUnavailable.
func (s *Service) IssueKeys(ctx context.Context, id edgeclaim.TemplateID, count int) ([]IssuedKey, error) {
	if count < 1 || count > MaxIssue {
		return nil, edgeclaim.Invalid("count", "want 1 to %d", MaxIssue)
	}
	if _, err := s.own(ctx, id); err != nil {
		return nil, err
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
// ErrExists when the box has it already, ErrNotFound for the template,
// ErrUpstreamOwned.
func (s *Service) ImportKey(ctx context.Context, id edgeclaim.TemplateID, hash edgeclaim.KeyHash) (edgeclaim.Key, error) {
	if _, err := s.own(ctx, id); err != nil {
		return edgeclaim.Key{}, err
	}
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
// again changes nothing. A used key may be revoked, and so may one of upstream's;
// to disable or enable that is ErrUpstreamOwned. What waits for an operator
// by a revoked key waits no longer: an error after that leaves some of it, and
// the same call again ends it.
func (s *Service) SetKeyStatus(ctx context.Context, id edgeclaim.KeyID, status edgeclaim.KeyStatus) (edgeclaim.Key, error) {
	if status != edgeclaim.KeyRevoked {
		key, err := s.store.Key(ctx, id)
		if err != nil {
			return key, err
		}
		if _, err := s.own(ctx, key.Template); err != nil { // who owns a template is for ever
			return key, err
		}
	}
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
		err = s.forgetPending(ctx, func(by edgeclaim.KeyID) (bool, error) { return by == id, nil })
	}
	return key, err
}

// KeyRevoked is what a key's revocation came to.
type KeyRevoked struct {
	Key edgeclaim.Key
	// Revoked counts the devices that were revoked with it, Before those that had
	// been already.
	Revoked, Before int
}

// Bounds of revoking: a page is read at once, and so many share the commits.
const (
	revokePage   = 1000
	revokeAtOnce = 64
)

// RevokeKey revokes a key and, where devices says so, each device that was made
// with it, as Revoke does, with reason. The key comes first, so that no more are
// made meanwhile. An error leaves some of them, and the same call again goes on
// (P8). Errors: as SetKeyStatus's and Revoke's.
func (s *Service) RevokeKey(ctx context.Context, id edgeclaim.KeyID, devices bool, reason string) (KeyRevoked, error) {
	var done KeyRevoked
	var err error
	if reason != "" {
		if err := edgeclaim.CheckName("reason", reason); err != nil {
			return done, err
		}
	}
	if done.Key, err = s.SetKeyStatus(ctx, id, edgeclaim.KeyRevoked); err != nil || !devices {
		return done, err
	}
	var after edgeclaim.DeviceID
	for {
		page, err := s.store.DevicesByKey(ctx, id, after, revokePage)
		if err != nil {
			return done, err
		}
		var live []edgeclaim.DeviceID
		for i := range page {
			if page[i].Status == edgeclaim.DeviceRevoked {
				done.Before++
				continue
			}
			live = append(live, page[i].ID)
		}
		revoked, err := s.revokeAll(ctx, id, live, reason)
		if done.Revoked += revoked; err != nil {
			return done, err
		}
		if len(page) < revokePage {
			s.logger.Info("key revoked with its devices", "key_id", id, "revoked", done.Revoked, "before", done.Before)
			return done, nil
		}
		after = page[len(page)-1].ID
	}
}

// revokeAll revokes devices, unless another key made them anew by now, and
// returns how many it did.
func (s *Service) revokeAll(ctx context.Context, key edgeclaim.KeyID, ids []edgeclaim.DeviceID, reason string) (int, error) {
	var revoked atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(revokeAtOnce)
	for _, id := range ids {
		group.Go(func() error {
			_, changed, err := s.revoke(ctx, id, reason, func(d *edgeclaim.Device) bool { return d.Key == key })
			if changed {
				revoked.Add(1)
			}
			return err
		})
	}
	err := group.Wait()
	return int(revoked.Load()), err
}

// DevicesByKey returns up to max devices that follow after and whose present
// credential, or the last one that they had, was made with the key. It looks
// through all devices.
func (s *Service) DevicesByKey(ctx context.Context, key edgeclaim.KeyID, after edgeclaim.DeviceID, max int) ([]edgeclaim.Device, error) {
	return s.store.DevicesByKey(ctx, key, after, max)
}
