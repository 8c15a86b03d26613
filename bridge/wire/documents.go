package wire

import (
	"encoding/base64"
	"slices"

	"edgeclaim"
)

// Of documents on their way.
const (
	// PartBytes is how much of a document's signed text one DocumentPart
	// carries, but for the last: spelled in base64url, put in an envelope and
	// spelled so again, it is within MaxMessage.
	PartBytes = 48 << 10
	// MaxDocumentText is the longest signed text of a document, in bytes: one of
	// edgeclaim.MaxDocument in base64url, and its envelope.
	MaxDocumentText = edgeclaim.MaxDocument*4/3 + 1<<10
	// MaxStated is how many documents a Hello states, MaxOffers how many are in
	// an Offers, MaxReported in a DocumentsReport: of the longest names, within
	// MaxMessage.
	MaxStated   = 256
	MaxOffers   = 256
	MaxReported = 200
	// MaxShares is how many keys a SharesWant or a Shares names.
	MaxShares = 400
)

// DocumentVersion is a document that a box holds.
type DocumentVersion struct {
	edgeclaim.DocumentID `json:",inline"`
	Version              uint64 `json:"version"`
	Hash                 string `json:"sha256"` // hex, of the signed text's payload
}

// Offers says which documents are for this box, and the newest version of each;
// of a signer, the lowest above the box's. It comes after a Welcome, and whenever
// something of it is another. A list takes as many messages as it needs.
type Offers struct {
	Head `json:",inline"`
	// List names the list that this is a page of: 1 to MaxLevel characters of
	// A-Z a-z 0-9 . _ -, another for each. Pages count from 1.
	List string `json:"list"`
	Page uint64 `json:"page"`
	Last bool   `json:"last"`
	// Documents are MaxOffers at most. One of a type that the box does not know
	// is passed over: it is of a later version.
	Documents []edgeclaim.DocumentOffer `json:"documents"`
}

// DocumentPart answers a Want of WantDocument.
type DocumentPart struct {
	Head     `json:",inline"`
	Document edgeclaim.DocumentID `json:"document"`
	Version  uint64               `json:"version"`
	Hash     string               `json:"sha256"`
	// Part counts from 1 to Parts.
	Part  uint64 `json:"part"`
	Parts uint64 `json:"parts"`
	// Data is that part of the signed text, base64url without padding.
	Data string `json:"data"`
}

// Parts is how many parts a signed text of so many bytes comes in.
func Parts(size int) uint64 {
	return uint64(max(0, size)+PartBytes-1) / PartBytes //nolint:gosec // not negative
}

// PartOf cuts a part, counted from 1, out of a document's signed text. ErrInvalid:
// there is no such part.
func PartOf(head Head, offer *edgeclaim.DocumentOffer, part uint64, text []byte) (*DocumentPart, error) {
	parts := Parts(len(text))
	if part == 0 || part > parts {
		return nil, edgeclaim.Invalid("part", "want 1 to %d", parts)
	}
	from := int(part-1) * PartBytes //nolint:gosec // within text
	data := text[from:min(from+PartBytes, len(text))]
	head.Type = TypeDocument
	return &DocumentPart{
		Head: head, Document: offer.DocumentID, Version: offer.Version, Hash: offer.Hash,
		Part: part, Parts: parts, Data: base64.RawURLEncoding.EncodeToString(data),
	}, nil
}

// Text returns the part of the signed text. Of one that DecodeDown has read the
// error is nil.
func (p *DocumentPart) Text() ([]byte, error) {
	data, err := base64.RawURLEncoding.Strict().DecodeString(p.Data)
	if err != nil || len(data) == 0 || len(data) > PartBytes {
		return nil, edgeclaim.Invalid("data", "want 1 to %d bytes, base64url without padding", PartBytes)
	}
	return data, nil
}

// DocumentsReport tells which documents the box has, and how they are. It comes
// when a session begins, when something of it is another, and now and then.
// Nobody answers it.
type DocumentsReport struct {
	Type  string `json:"type"` // TypeDocuments
	Box   string `json:"box_id"`
	Epoch string `json:"epoch"`
	Nonce string `json:"nonce"`
	// List, Page and Last are as in Offers: what is in no page of a whole list,
	// the box does not have.
	List      string           `json:"list"`
	Page      uint64           `json:"page"`
	Last      bool             `json:"last"`
	Documents []DocumentReport `json:"documents"` // MaxReported at most
}

// DocumentReport is how a box stands to one document.
type DocumentReport struct {
	edgeclaim.DocumentID `json:",inline"`
	// Version is 0, and Hash empty, where none was taken yet: there is only a
	// refusal.
	Version   uint64  `json:"version"`
	Hash      string  `json:"sha256,omitzero"`
	Confirmed bool    `json:"confirmed"`
	Stale     bool    `json:"stale"`
	Age       float64 `json:"age_seconds"`
	// Refused is why the last offer was not taken, empty for none;
	// RefusedVersion is that offer's.
	Refused        string `json:"refused,omitzero"`
	RefusedVersion uint64 `json:"refused_version,omitzero"`
}

// SharesWant asks for more of keys that several boxes have. It is said again
// until they came, so what is granted has to follow from Granted, and not from how
// often it was asked: a box that states less than it was granted has not heard.
type SharesWant struct {
	Type  string      `json:"type"` // TypeShares
	Box   string      `json:"box_id"`
	Epoch string      `json:"epoch"`
	Nonce string      `json:"nonce"`
	Wants []ShareWant `json:"wants"` // 1 to MaxShares
}

// ShareWant is how a box stands to such a key.
type ShareWant struct {
	Key edgeclaim.KeyID `json:"key_id"`
	// Granted is its share so far, Claims how many devices it made.
	Granted uint32 `json:"granted"`
	Claims  uint32 `json:"claims"`
	// Want is how many above Granted it has use for, 1 or more.
	Want uint32 `json:"want"`
}

// Shares answers SharesWant, and may come by itself. Nothing in it lowers
// anything.
type Shares struct {
	Head   `json:",inline"`
	Shares []edgeclaim.ShareGrant `json:"shares"` // MaxShares at most
}

// Verdicts tells which credentials of this box's do not stay. It is said again
// until the record of it came.
type Verdicts struct {
	Head     `json:",inline"`
	Verdicts []edgeclaim.Verdict `json:"verdicts"` // MaxEntries at most
}

// checkVersion judges a document that is named with its version.
func checkVersion(id edgeclaim.DocumentID, version uint64, hash string) error {
	if err := id.Check(); err != nil {
		return err
	}
	if version == 0 {
		return edgeclaim.Invalid("version", "want 1 or more")
	}
	return checkHash(hash)
}

func checkHash(text string) error {
	hex := len(text) == 64
	for _, c := range []byte(text) {
		hex = hex && (c >= '0' && c <= '9' || c >= 'a' && c <= 'f')
	}
	if !hex {
		return edgeclaim.Invalid("sha256", "want 64 characters of 0-9 a-f")
	}
	return nil
}

// checkPage judges what is common to the pages of a list.
func checkPage(list string, page uint64, entries, most int) error {
	if page == 0 || !isLevel(list) {
		return edgeclaim.Invalid("page", "want a list, and pages from 1")
	}
	if entries > most {
		return edgeclaim.Invalid("documents", "more than %d", most)
	}
	return nil
}

func (o *Offers) check() error {
	for i := range o.Documents {
		one := &o.Documents[i]
		if !slices.Contains(edgeclaim.DocumentTypes(), one.Type) {
			continue
		}
		if err := checkVersion(one.DocumentID, one.Version, one.Hash); err != nil {
			return err
		}
		if one.Size <= 0 {
			return edgeclaim.Invalid("size", "want more than 0")
		}
	}
	return checkPage(o.List, o.Page, len(o.Documents), MaxOffers)
}

func (p *DocumentPart) check() error {
	if p.Part == 0 || p.Part > p.Parts || p.Parts > Parts(MaxDocumentText) {
		return edgeclaim.Invalid("part", "want 1 to parts, and parts up to %d", Parts(MaxDocumentText))
	}
	if _, err := p.Text(); err != nil {
		return err
	}
	return checkVersion(p.Document, p.Version, p.Hash)
}

func (r *DocumentsReport) check() error {
	for i := range r.Documents {
		if err := r.Documents[i].check(); err != nil {
			return err
		}
	}
	if err := checkPage(r.List, r.Page, len(r.Documents), MaxReported); err != nil {
		return err
	}
	return checkSession(r.Epoch, r.Nonce)
}

func (d *DocumentReport) check() error {
	switch {
	case !(d.Age >= 0):
		return edgeclaim.Invalid("age_seconds", "want 0 or more")
	case len(d.Refused) > MaxLevel:
		return edgeclaim.Invalid("refused", "want at most %d bytes", MaxLevel)
	case d.Version == 0 && d.Hash == "":
		return d.Check()
	}
	return checkVersion(d.DocumentID, d.Version, d.Hash)
}

func (w *SharesWant) check() error {
	if n := len(w.Wants); n == 0 || n > MaxShares {
		return edgeclaim.Invalid("wants", "want 1 to %d", MaxShares)
	}
	for i := range w.Wants {
		if one := &w.Wants[i]; one.Key.IsZero() || one.Want == 0 {
			return edgeclaim.Invalid("wants", "want a key_id and a want in each")
		}
	}
	return checkSession(w.Epoch, w.Nonce)
}

func (s *Shares) check() error {
	if len(s.Shares) > MaxShares {
		return edgeclaim.Invalid("shares", "more than %d", MaxShares)
	}
	for i := range s.Shares {
		if s.Shares[i].Key.IsZero() {
			return edgeclaim.Invalid("shares", "want a key_id in each")
		}
	}
	return nil
}

func (v *Verdicts) check() error {
	if len(v.Verdicts) > MaxEntries {
		return edgeclaim.Invalid("verdicts", "more than %d", MaxEntries)
	}
	for i := range v.Verdicts {
		one := &v.Verdicts[i]
		d := &one.Device
		if d.ID.IsZero() || d.Tenant.IsZero() || d.Hardware.IsZero() || d.Credential.Hash.IsZero() {
			return edgeclaim.Invalid("verdicts", "want a device with its tenant, hardware and credential in each")
		}
		if one.Void.IsZero() || one.Void == d.Credential.Hash || !isLevel(one.KeptBox) {
			return edgeclaim.Invalid("verdicts", "want another void_sha256 than the device's, and a kept_box_id, in each")
		}
	}
	return nil
}
