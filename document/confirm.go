package document

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"

	"edgeclaim"
	"edgeclaim/internal/signeddoc"
)

// hashLength is how many hexadecimal digits a document's hash has.
const hashLength = 64

// Confirm takes upstream's list of what is newest: whole, and each document once.
// Those that the box has as they are in the list are confirmed, and as fresh as
// can be; returned are those to take, in the order in which they are applied. A
// version below the box's is refused, and never wanted. ErrInvalid: nothing of the
// list was believed; a *edgeclaim.DocumentError of not_enrolled: the box takes no
// documents. Other errors: not now.
//
// A signer is the first of them. Once it is taken the list is to be heard anew: what
// was not signed by its key is nobody's word any more, and there may be another
// signer behind it.
func (s *Service) Confirm(ctx context.Context, offers []edgeclaim.DocumentOffer) (wanted []edgeclaim.DocumentOffer, err error) {
	list, err := readOffers(offers)
	if err != nil {
		return nil, err
	}
	s.taking.Lock()
	defer s.taking.Unlock()
	if err := s.rehang(ctx); err != nil {
		return nil, err
	}
	from := source{who: "upstream", upstream: true}
	if s.trust.root == nil {
		why := &edgeclaim.DocumentError{Reason: edgeclaim.DocumentUnenrolled}
		s.refuse(ctx, &refusal{why: why}, from)
		return nil, why
	}
	s.offered = list
	same, wanted, refused := s.compare(offers)
	if err := s.renew(ctx, true, same...); err != nil {
		return nil, err
	}
	for i := range refused {
		s.refuse(ctx, &refused[i], from)
	}
	if err := s.forget(ctx); err != nil {
		return nil, err
	}
	slices.SortFunc(wanted, func(a, b edgeclaim.DocumentOffer) int { return compareIDs(a.DocumentID, b.DocumentID) })
	return wanted, nil
}

// compare sorts offers by what is to become of them. The caller holds taking.
func (s *Service) compare(offers []edgeclaim.DocumentOffer) (same []edgeclaim.DocumentID, wanted []edgeclaim.DocumentOffer, refused []refusal) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, offer := range offers {
		held := uint64(0)
		e := s.held[offer.DocumentID]
		if e != nil {
			held = e.row.Version
		}
		switch {
		case offer.Size > signeddoc.MaxText:
			refused = append(refused, refusal{id: offer.DocumentID, version: offer.Version, why: &edgeclaim.DocumentError{
				Reason: edgeclaim.DocumentMalformed, Detail: "larger than a signed text may be",
			}})
		case offer.Version < held:
			refused = append(refused, refusal{id: offer.DocumentID, version: offer.Version, why: &edgeclaim.DocumentError{
				Reason: edgeclaim.DocumentOldVersion, Detail: "version " + strconv.FormatUint(held, 10) + " is here",
			}})
		case offer.Version == held && offer.Hash == e.row.Hash:
			same = append(same, offer.DocumentID)
		default: // with another content at the same version it is read, and refused
			wanted = append(wanted, offer)
		}
	}
	return same, wanted, refused
}

// forget takes back the notes of documents that the box does not have, and that
// nobody offers any more.
func (s *Service) forget(ctx context.Context) error {
	var gone []edgeclaim.HeldDocument
	s.mu.RLock()
	for id, e := range s.held {
		if _, offered := s.offered[id]; e.row.Version == 0 && !offered {
			gone = append(gone, edgeclaim.HeldDocument{ID: id})
		}
	}
	s.mu.RUnlock()
	if len(gone) == 0 {
		return nil
	}
	if err := s.parts.Store.SetHeld(ctx, gone...); err != nil {
		return err
	}
	s.mu.Lock()
	for i := range gone {
		delete(s.held, gone[i].ID)
	}
	s.mu.Unlock()
	s.notify()
	return nil
}

// readOffers checks a list from upstream.
func readOffers(offers []edgeclaim.DocumentOffer) (map[edgeclaim.DocumentID]edgeclaim.DocumentOffer, error) {
	if len(offers) > edgeclaim.MaxDocuments {
		return nil, edgeclaim.Invalid("documents", "more than %d", edgeclaim.MaxDocuments)
	}
	list := make(map[edgeclaim.DocumentID]edgeclaim.DocumentOffer, len(offers))
	for i := range offers {
		offer := &offers[i]
		if err := offer.Check(); err != nil {
			return nil, fmt.Errorf("documents: %w", err)
		}
		hash, err := hex.DecodeString(offer.Hash)
		switch {
		case offer.Version == 0 || offer.Version > signeddoc.MaxVersion:
			return nil, edgeclaim.Invalid("version", "want 1 to %d", uint64(signeddoc.MaxVersion))
		case err != nil || len(offer.Hash) != hashLength || hex.EncodeToString(hash) != offer.Hash:
			return nil, edgeclaim.Invalid("sha256", "want %d lower-case hexadecimal digits", hashLength)
		case offer.Size < 0:
			return nil, edgeclaim.Invalid("size", "want 0 or above")
		}
		if _, twice := list[offer.DocumentID]; twice {
			return nil, edgeclaim.Invalid("documents", "one is there twice")
		}
		list[offer.DocumentID] = *offer
	}
	return list, nil
}
