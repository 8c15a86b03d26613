package document

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"

	"edgeclaim"
	"edgeclaim/internal/signeddoc"
)

// Imported says what became of a bundle.
type Imported struct {
	// Documents are in the order in which they were applied.
	Documents []ImportedDocument `json:"documents"`
	Applied   int                `json:"applied"`
	Same      int                `json:"same"`
	Refused   int                `json:"refused"`
	// Shares is what became of the line of shares; empty: there was none. Why it
	// was refused is in SharesReason.
	Shares       Outcome `json:"shares,omitempty"`
	SharesReason string  `json:"shares_reason,omitempty"`
}

// ImportedDocument is a line of a bundle.
type ImportedDocument struct {
	Line int `json:"line"` // from 1
	// DocumentID and Version are zero where nobody could read them; where the
	// signature is bad, they are what the line says.
	edgeclaim.DocumentID
	Version uint64  `json:"version"`
	Outcome Outcome `json:"outcome"`
	// Reason is why it was refused: an edgeclaim.DocumentRefusal and, behind a
	// colon, what is more to say.
	Reason string `json:"reason,omitempty"`
}

// Import takes a bundle. Each line is taken or refused for itself, in the order of
// edgeclaim.DocumentTypes, signers one after the other. Who brings it vouches for
// its age: what the box has already is fresh again, but not confirmed, for nobody
// knows how old a file is. ErrInvalid: the bundle cannot be read, and nothing of
// it was taken. After other errors, what was applied until then is durable, and is
// said.
func (s *Service) Import(ctx context.Context, r io.Reader) (Imported, error) {
	bundle, err := signeddoc.ReadBundle(r)
	if err != nil {
		return Imported{}, err
	}
	from := source{who: s.parts.Who(ctx)}
	s.taking.Lock()
	defer s.taking.Unlock()
	done := Imported{Documents: []ImportedDocument{}}
	for _, i := range order(bundle.Documents) {
		signed, outcome, err := s.take(ctx, bundle.Documents[i], from)
		var why *edgeclaim.DocumentError
		if err != nil && !errors.As(err, &why) {
			return done, err
		}
		line := ImportedDocument{Line: bundle.Lines[i], Outcome: outcome}
		if signed != nil {
			line.DocumentID, line.Version = signed.Document.DocumentID, signed.Document.Version
		}
		if why != nil {
			line.Reason = reasonText(why)
		}
		done.add(line)
	}
	if bundle.Shares == nil {
		return done, nil
	}
	return done, s.importShares(ctx, bundle.Shares, &done)
}

func (i *Imported) add(line ImportedDocument) {
	i.Documents = append(i.Documents, line)
	switch line.Outcome {
	case OutcomeApplied:
		i.Applied++
	case OutcomeSame:
		i.Same++
	case OutcomeRefused:
		i.Refused++
	}
}

func reasonText(why *edgeclaim.DocumentError) string {
	if why.Detail == "" {
		return string(why.Reason)
	}
	return string(why.Reason) + ": " + why.Detail
}

// order is how the documents of a bundle follow each other: by type, of each the
// lower version first; what nobody can read comes last.
func order(texts [][]byte) []int {
	type place struct{ rank, at int }
	places, versions := make([]place, len(texts)), make([]uint64, len(texts))
	for i, text := range texts {
		places[i] = place{rank: len(edgeclaim.DocumentTypes()), at: i}
		if signed, err := signeddoc.Peek(text); err == nil {
			places[i].rank, versions[i] = rank(signed.Document.Type), signed.Document.Version
		}
	}
	slices.SortStableFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(versions[a.at], versions[b.at]))
	})
	indices := make([]int, len(places))
	for i := range places {
		indices[i] = places[i].at
	}
	return indices
}

// importShares takes the hub's word on shares of keys: it only raises them, so that
// an old one does no harm.
func (s *Service) importShares(ctx context.Context, text []byte, done *Imported) error {
	shares, err := s.openShares(text)
	if err == nil {
		err = s.parts.Rule.Share(ctx, shares.Shares)
	}
	var why *edgeclaim.DocumentError
	switch {
	case errors.As(err, &why):
		done.Shares, done.SharesReason = OutcomeRefused, reasonText(why)
		return nil
	case err != nil:
		return err
	}
	done.Shares = OutcomeApplied
	return nil
}

func (s *Service) openShares(text []byte) (*signeddoc.Shares, error) {
	key := s.parts.HubKey()
	if key == nil {
		return nil, &edgeclaim.DocumentError{Reason: edgeclaim.DocumentUnenrolled}
	}
	shares, err := signeddoc.OpenShares(text, key)
	if err != nil {
		return nil, err
	}
	if shares.Box != s.cfg.Box {
		return nil, &edgeclaim.DocumentError{Reason: edgeclaim.DocumentOtherBox, Detail: "for box " + shares.Box}
	}
	return shares, nil
}
