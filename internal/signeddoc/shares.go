package signeddoc

import (
	"crypto/ed25519"
	"time"

	"github.com/go-json-experiment/json"

	"edgeclaim"
)

// Shares is a hub's word on keys that several boxes have, for one of them. It is
// signed by the hub's own key: what it says only rises, and an old one does no
// harm.
type Shares struct {
	Box    string                 `json:"box_id"`
	Time   time.Time              `json:"time"`
	Shares []edgeclaim.ShareGrant `json:"shares"`
}

// SignShares signs shares with the hub's key; an InvalidError for what OpenShares
// would not take.
func SignShares(key ed25519.PrivateKey, s *Shares) ([]byte, error) {
	if err := checkShares(s); err != nil {
		return nil, err
	}
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	text, _, err := seal(key, SharesType, sharesPrefix, payload)
	if err == nil && len(text) > MaxText {
		err = edgeclaim.Invalid("shares", "larger than %d bytes", MaxText)
	}
	return text, err
}

// OpenShares reads shares that the hub's key has signed. Errors are
// *edgeclaim.DocumentError, as Open's. Whose box it is the caller looks at.
func OpenShares(text []byte, key ed25519.PublicKey) (*Shares, error) {
	_, payload, err := unseal(text, SharesType, sharesPrefix, key)
	if err != nil {
		return nil, err
	}
	var s Shares
	if err := decode(payload, &s); err != nil {
		return nil, refused(err)
	}
	if err := checkShares(&s); err != nil {
		return nil, refused(err)
	}
	return &s, nil
}

func checkShares(s *Shares) error {
	if err := checkLevel("box_id", s.Box); err != nil {
		return err
	}
	if err := checkTime("time", s.Time); err != nil {
		return err
	}
	seen := make(map[edgeclaim.KeyID]bool, len(s.Shares))
	for i := range s.Shares {
		key := s.Shares[i].Key
		if key.IsZero() {
			return edgeclaim.Invalid(at("shares", i, "key_id"), "required")
		}
		if seen[key] {
			return edgeclaim.Invalid(at("shares", i, "key_id"), "there twice")
		}
		seen[key] = true
	}
	return nil
}
