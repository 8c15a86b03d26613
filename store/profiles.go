package store

import (
	"bytes"
	"context"
	"maps"
	"slices"

	"github.com/fxamacker/cbor/v2"
	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// profileRow is a profile without its tenant and id, which are its key.
type profileRow struct {
	Tags         []string        `cbor:"1,keyasint,omitempty"` // as in deviceRow
	Groups       []string        `cbor:"2,keyasint,omitempty"`
	Config       []byte          `cbor:"3,keyasint,omitempty"`
	Schema       *schemaRow      `cbor:"4,keyasint,omitempty"`
	OfflineAfter int64           `cbor:"5,keyasint,omitempty"` // seconds
	Credentials  *credentialsRow `cbor:"6,keyasint,omitempty"`
}

type credentialsRow struct {
	X509Validity int64 `cbor:"1,keyasint,omitempty"`
	Overlap      int64 `cbor:"2,keyasint,omitempty"`
}

type schemaRow struct {
	Metrics    []metricRow `cbor:"1,keyasint,omitempty"` // by name
	Required   []string    `cbor:"2,keyasint,omitempty"`
	Additional *bool       `cbor:"3,keyasint,omitempty"`
}

type metricRow struct {
	Name      string   `cbor:"1,keyasint,omitempty"`
	Type      string   `cbor:"2,keyasint,omitempty"`
	Minimum   *float64 `cbor:"3,keyasint,omitempty"`
	Maximum   *float64 `cbor:"4,keyasint,omitempty"`
	Enum      []string `cbor:"5,keyasint,omitempty"`
	MaxLength *int     `cbor:"6,keyasint,omitempty"`
}

func profileKey(tenant edgeclaim.TenantID, id string) []byte {
	return append(tenant.Bytes()[:tenantSize:tenantSize], id...)
}

func encodeProfile(p *edgeclaim.Profile) ([]byte, error) {
	row := profileRow{
		Tags: toTags(p.Tags), Groups: p.Groups, Config: p.Config, Schema: toSchemaRow(p.Schema), OfflineAfter: p.OfflineAfter,
	}
	if c := p.Credentials; c != nil {
		row.Credentials = &credentialsRow{X509Validity: c.X509Validity, Overlap: c.Overlap}
	}
	return cbor.Marshal(&row)
}

func toSchemaRow(s *edgeclaim.TelemetrySchema) *schemaRow {
	if s == nil {
		return nil
	}
	row := &schemaRow{Required: s.Required, Additional: s.Additional}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		m := s.Properties[name]
		row.Metrics = append(row.Metrics, metricRow{
			Name: name, Type: string(m.Type), Minimum: m.Minimum, Maximum: m.Maximum, Enum: m.Enum, MaxLength: m.MaxLength,
		})
	}
	return row
}

func (r *schemaRow) schema() *edgeclaim.TelemetrySchema {
	if r == nil {
		return nil
	}
	s := &edgeclaim.TelemetrySchema{Required: r.Required, Additional: r.Additional}
	for _, m := range r.Metrics {
		if s.Properties == nil {
			s.Properties = make(map[string]edgeclaim.MetricSchema, len(r.Metrics))
		}
		s.Properties[m.Name] = edgeclaim.MetricSchema{
			Type: edgeclaim.MetricType(m.Type), Minimum: m.Minimum, Maximum: m.Maximum, Enum: m.Enum, MaxLength: m.MaxLength,
		}
	}
	return s
}

func decodeProfile(key, value []byte) (edgeclaim.TenantID, edgeclaim.Profile, error) {
	var row profileRow
	var p edgeclaim.Profile
	if err := cbor.Unmarshal(value, &row); err != nil || len(key) < tenantSize {
		return edgeclaim.TenantID{}, p, damaged("profile", err)
	}
	tenant, err := edgeclaim.TenantIDFromBytes(key[:tenantSize])
	if err == nil {
		p.Tags, err = fromTags(row.Tags)
	}
	if err != nil {
		return edgeclaim.TenantID{}, edgeclaim.Profile{}, damaged("profile", err)
	}
	p.ID, p.Groups, p.Config, p.Schema = string(key[tenantSize:]), row.Groups, row.Config, row.Schema.schema()
	p.OfflineAfter = row.OfflineAfter
	if c := row.Credentials; c != nil {
		p.Credentials = &edgeclaim.CredentialsPolicy{X509Validity: c.X509Validity, Overlap: c.Overlap}
	}
	return tenant, p, nil
}

// heritage is all profiles, decoded. It is never changed, only replaced, so that
// readers need no lock.
type heritage map[edgeclaim.TenantID]*bequest

// bequest is a tenant's profiles.
type bequest struct {
	version uint64
	profile map[string]*edgeclaim.Profile // by id; the default's is empty
}

func loadProfiles(tx *bolt.Tx) (heritage, error) {
	all := heritage{}
	prefix := []byte(string(edgeclaim.DocumentProfiles) + "/")
	cursor := tx.Bucket(bucketDocuments).Cursor()
	for k, v := cursor.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = cursor.Next() {
		held, err := decodeHeld(k, v)
		if err != nil {
			return nil, err
		}
		if held.Version > 0 {
			all[held.ID.Tenant] = &bequest{version: held.Version, profile: map[string]*edgeclaim.Profile{}}
		}
	}
	err := tx.Bucket(bucketProfiles).ForEach(func(k, v []byte) error {
		tenant, p, err := decodeProfile(k, v)
		if err != nil {
			return err
		}
		if all[tenant] == nil {
			return damaged("profile without its document", nil)
		}
		all[tenant].profile[p.ID] = &p
		return nil
	})
	return all, err
}

// ApplyProfiles keeps a tenant's profiles in the place of those of before, in one
// transaction; nil means that it is durable, and Inherited says it from then on.
// Errors: as ApplySigner; DocumentMalformed where two profiles have one id.
func (db *DB) ApplyProfiles(ctx context.Context, held edgeclaim.HeldDocument, text []byte, p *edgeclaim.Profiles) error {
	tenant := held.ID.Tenant
	rows, next, err := profileRows(tenant, p)
	if err != nil {
		return err
	}
	next.version = held.Version
	return db.apply(ctx, edgeclaim.DocumentProfiles, held, text, func(b *batch) error {
		var gone [][]byte
		cursor := b.tx.Bucket(bucketProfiles).Cursor()
		for k, _ := cursor.Seek(tenant.Bytes()); bytes.HasPrefix(k, tenant.Bytes()); k, _ = cursor.Next() {
			if rows[string(k)] == nil {
				gone = append(gone, slices.Clone(k))
			}
		}
		if err := b.putProfiles(rows, gone); err != nil {
			return halfDone(err)
		}
		all := maps.Clone(*b.heritage)
		all[tenant] = next
		b.heritage = &all
		return nil
	})
}

// profileRows are a document's profiles, encoded and by their keys, and as they
// will be read again: memory shares nothing with the caller.
func profileRows(tenant edgeclaim.TenantID, p *edgeclaim.Profiles) (map[string][]byte, *bequest, error) {
	list := slices.Clone(p.Profiles)
	for i := range list {
		if list[i].ID == "" {
			return nil, nil, refuse(edgeclaim.DocumentMalformed, "a profile has no id")
		}
	}
	if p.Default != nil {
		tenantsOwn := *p.Default
		tenantsOwn.ID = ""
		list = append(list, tenantsOwn)
	}
	rows, next := make(map[string][]byte, len(list)), &bequest{profile: make(map[string]*edgeclaim.Profile, len(list))}
	for i := range list {
		key := profileKey(tenant, list[i].ID)
		value, err := encodeProfile(&list[i])
		if err != nil {
			return nil, nil, err
		}
		if rows[string(key)] != nil {
			return nil, nil, refuse(edgeclaim.DocumentMalformed, "two profiles have one id")
		}
		_, read, err := decodeProfile(key, value)
		if err != nil {
			return nil, nil, err
		}
		rows[string(key)], next.profile[read.ID] = value, &read
	}
	return rows, next, nil
}

func (b *batch) putProfiles(rows map[string][]byte, gone [][]byte) error {
	bucket := b.tx.Bucket(bucketProfiles)
	b.dirty = true
	for _, key := range gone {
		b.state.Profiles--
		if err := bucket.Delete(key); err != nil {
			return err
		}
	}
	for _, key := range sortedKeys(rows) {
		old := bucket.Get([]byte(key))
		if bytes.Equal(old, rows[key]) {
			continue
		}
		if old == nil {
			b.state.Profiles++
		}
		if err := bucket.Put([]byte(key), rows[key]); err != nil {
			return err
		}
	}
	return nil
}

// Inherited returns what a tenant's devices of that profile inherit, empty for
// none; nothing of either where upstream has said nothing. It reads memory alone,
// waits for nobody, and what it returns is shared and never changed.
func (db *DB) Inherited(tenant edgeclaim.TenantID, profile string) edgeclaim.Inherited {
	all := (*db.heritage.Load())[tenant]
	if all == nil {
		return edgeclaim.Inherited{}
	}
	inherited := edgeclaim.Inherited{Default: all.profile[""], Version: all.version}
	if profile != "" {
		inherited.Profile = all.profile[profile]
	}
	return inherited
}
