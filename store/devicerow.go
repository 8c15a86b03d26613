package store

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/fxamacker/cbor/v2"

	"edgeclaim"
)

// deviceRow is a device, its credentials included: they are written together
// (P1), and a bucket of credentials would be one more random page a claim. What
// came with schema 3 takes no room where it is not used.
type deviceRow struct {
	Tenant     string   `cbor:"1,keyasint"`
	Hardware   string   `cbor:"2,keyasint"`
	Name       string   `cbor:"3,keyasint"`
	Template   string   `cbor:"4,keyasint"`
	Key        string   `cbor:"5,keyasint"`
	Profile    string   `cbor:"6,keyasint,omitempty"`
	Groups     []string `cbor:"7,keyasint,omitempty"`
	Generation int      `cbor:"8,keyasint"`
	Status     string   `cbor:"9,keyasint"`
	Credential string   `cbor:"10,keyasint,omitempty"`
	Hash       []byte   `cbor:"11,keyasint,omitempty"`
	IssuedAt   instant  `cbor:"12,keyasint"`
	ClaimedAt  instant  `cbor:"13,keyasint"`
	ClaimedVia string   `cbor:"14,keyasint"`

	NotAfter      *instant       `cbor:"15,keyasint,omitempty"`
	ConfirmedAt   *instant       `cbor:"16,keyasint,omitempty"`
	Previous      *credentialRow `cbor:"17,keyasint,omitempty"`
	PreviousUntil *instant       `cbor:"18,keyasint,omitempty"`
	RotatedBy     string         `cbor:"19,keyasint,omitempty"`
	Mint          *mintRow       `cbor:"20,keyasint,omitempty"`
	Told          bool           `cbor:"21,keyasint,omitempty"`
	Tags          []string       `cbor:"22,keyasint,omitempty"` // name, value, name, …, by name
}

// credentialRow is the credential before the present one.
type credentialRow struct {
	Type        string   `cbor:"1,keyasint,omitempty"`
	Hash        []byte   `cbor:"2,keyasint,omitempty"`
	IssuedAt    *instant `cbor:"3,keyasint,omitempty"`
	NotAfter    *instant `cbor:"4,keyasint,omitempty"`
	ConfirmedAt *instant `cbor:"5,keyasint,omitempty"`
}

type mintRow struct {
	Salt        []byte   `cbor:"1,keyasint"`
	Proof       []byte   `cbor:"2,keyasint"`
	Certificate []byte   `cbor:"3,keyasint,omitempty"`
	Chain       [][]byte `cbor:"4,keyasint,omitempty"`
	SealedKey   []byte   `cbor:"5,keyasint,omitempty"`
}

// idSize is the length of a device id, which starts each device row so that
// rebuilding the index's tail decodes nothing.
const idSize = 16

func encodeDevice(d *edgeclaim.Device) ([]byte, error) {
	row := deviceRow{
		Tenant: d.Tenant.String(), Hardware: d.Hardware.String(), Name: d.Name,
		Template: d.Template.String(), Key: d.Key.String(), Profile: d.Profile, Groups: d.Groups,
		Generation: d.Generation, Status: string(d.Status), Credential: string(d.Credential.Type),
		Hash: hashBytes(d.Credential.Hash), IssuedAt: toInstant(d.Credential.IssuedAt),
		ClaimedAt: toInstant(d.ClaimedAt), ClaimedVia: string(d.ClaimedVia),
		NotAfter: toOptional(d.Credential.NotAfter), ConfirmedAt: toOptional(d.Credential.ConfirmedAt),
		Previous: toCredentialRow(d.Previous), PreviousUntil: toOptional(d.PreviousUntil),
		RotatedBy: string(d.RotatedBy), Told: d.Told, Tags: toTags(d.Tags),
	}
	if m := d.Mint; m != nil {
		row.Mint = &mintRow{
			Salt: m.Salt[:], Proof: m.Proof.Bytes(), Certificate: m.Certificate, Chain: m.Chain, SealedKey: m.SealedKey,
		}
	}
	body, err := cbor.Marshal(&row)
	if err != nil {
		return nil, fmt.Errorf("encode device: %w", err)
	}
	return append(d.ID.Bytes()[:idSize:idSize], body...), nil
}

// toTags lists tags by their names, so that the same tags are the same bytes.
func toTags(tags map[string]string) []string {
	if len(tags) == 0 {
		return nil
	}
	flat := make([]string, 0, 2*len(tags))
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		flat = append(flat, name, tags[name])
	}
	return flat
}

// fromTags undoes toTags.
func fromTags(flat []string) (map[string]string, error) {
	if len(flat) == 0 {
		return nil, nil
	}
	if len(flat)%2 != 0 {
		return nil, errors.New("a tag without a value")
	}
	tags := make(map[string]string, len(flat)/2)
	for i := 0; i < len(flat); i += 2 {
		tags[flat[i]] = flat[i+1]
	}
	return tags, nil
}

// hashBytes leaves the zero hash out of a row.
func hashBytes(h edgeclaim.KeyHash) []byte {
	if h.IsZero() {
		return nil
	}
	return h.Bytes()
}

func hashOf(raw []byte) (edgeclaim.KeyHash, error) {
	if raw == nil {
		return edgeclaim.KeyHash{}, nil
	}
	return edgeclaim.KeyHashFromBytes(raw)
}

func toCredentialRow(c edgeclaim.Credential) *credentialRow {
	if c == (edgeclaim.Credential{}) {
		return nil
	}
	return &credentialRow{
		Type: string(c.Type), Hash: hashBytes(c.Hash), IssuedAt: toOptional(c.IssuedAt),
		NotAfter: toOptional(c.NotAfter), ConfirmedAt: toOptional(c.ConfirmedAt),
	}
}

func (r *credentialRow) credential() (edgeclaim.Credential, error) {
	if r == nil {
		return edgeclaim.Credential{}, nil
	}
	hash, err := hashOf(r.Hash)
	return edgeclaim.Credential{
		Type: edgeclaim.CredentialType(r.Type), Hash: hash, IssuedAt: fromOptional(r.IssuedAt),
		NotAfter: fromOptional(r.NotAfter), ConfirmedAt: fromOptional(r.ConfirmedAt),
	}, err
}

func (r *mintRow) mint() (*edgeclaim.Mint, error) {
	if r == nil {
		return nil, nil
	}
	m := &edgeclaim.Mint{Certificate: r.Certificate, Chain: r.Chain, SealedKey: r.SealedKey}
	if copy(m.Salt[:], r.Salt) != len(r.Salt) || len(r.Salt) != len(m.Salt) {
		return nil, errors.New("salt of another length")
	}
	var err error
	m.Proof, err = edgeclaim.KeyHashFromBytes(r.Proof)
	return m, err
}

func decodeDevice(value []byte) (edgeclaim.Device, error) {
	var d edgeclaim.Device
	var row deviceRow
	if len(value) < idSize {
		return d, damaged("device", nil)
	}
	if err := cbor.Unmarshal(value[idSize:], &row); err != nil {
		return d, damaged("device", err)
	}
	var errs [9]error
	d.ID, errs[0] = edgeclaim.DeviceIDFromBytes(value[:idSize])
	d.Tenant, errs[1] = edgeclaim.ParseTenantID(row.Tenant)
	d.Hardware, errs[2] = edgeclaim.ParseHardwareID(row.Hardware)
	d.Template, errs[3] = edgeclaim.ParseTemplateID(row.Template)
	d.Key, errs[4] = edgeclaim.ParseKeyID(row.Key)
	d.Credential.Hash, errs[5] = hashOf(row.Hash)
	d.Previous, errs[6] = row.Previous.credential()
	d.Mint, errs[7] = row.Mint.mint()
	d.Tags, errs[8] = fromTags(row.Tags)
	if err := errors.Join(errs[:]...); err != nil {
		return edgeclaim.Device{}, damaged("device", err)
	}
	d.Name, d.Profile, d.Groups, d.Generation = row.Name, row.Profile, row.Groups, row.Generation
	d.Status, d.ClaimedAt, d.ClaimedVia = edgeclaim.DeviceStatus(row.Status), row.ClaimedAt.time(), edgeclaim.Via(row.ClaimedVia)
	d.Credential.Type, d.Credential.IssuedAt = edgeclaim.CredentialType(row.Credential), row.IssuedAt.time()
	d.Credential.NotAfter, d.Credential.ConfirmedAt = fromOptional(row.NotAfter), fromOptional(row.ConfirmedAt)
	d.PreviousUntil, d.RotatedBy, d.Told = fromOptional(row.PreviousUntil), edgeclaim.Rotator(row.RotatedBy), row.Told
	return d, nil
}

// readRow decodes a device's row. Of one that has its credential from before
// the first use was noted nobody is to be told that it never used it.
func (db *DB) readRow(value []byte) (edgeclaim.Device, error) {
	d, err := decodeDevice(value)
	if err == nil && d.Credential.ConfirmedAt.IsZero() && d.Credential.IssuedAt.Before(db.trustSince) {
		d.Told = true
	}
	return d, err
}
