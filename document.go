package edgeclaim

import (
	"encoding/json"
	"strings"
	"time"
)

// Limits of documents.
const (
	// MaxDocument is the largest document that is signed, in bytes of its JSON.
	// What is larger goes in several, under names of their own.
	MaxDocument = 1 << 20
	// MaxDocuments is how many documents a box holds.
	MaxDocuments = 1000
	// MaxDocumentName is the longest name of a document, in characters.
	MaxDocumentName = 64
	// MaxTags is how many tags a device may have; names and values are at most
	// MaxName characters long.
	MaxTags = 64
	// MaxProfileConfig is the largest default configuration of a profile, in
	// bytes.
	MaxProfileConfig = MaxDeviceConfig
)

// DocumentType is what a document from upstream is about.
type DocumentType string

// The types.
const (
	DocumentSigner      DocumentType = "signer"      // the key that signs from now on
	DocumentRevocations DocumentType = "revocations" // devices, hardware and keys that are void
	DocumentTemplates   DocumentType = "templates"   // templates, and keys by their hashes
	DocumentProfiles    DocumentType = "profiles"    // what devices inherit
	DocumentAliases     DocumentType = "aliases"     // device ids that are not the derived ones (P4)
	DocumentAllowList   DocumentType = "allow_list"  // the hardware that a template expects
)

// DocumentTypes lists the types in the order in which they are applied: who may
// no longer comes before who may.
func DocumentTypes() []DocumentType {
	return []DocumentType{
		DocumentSigner, DocumentRevocations, DocumentTemplates, DocumentProfiles, DocumentAliases, DocumentAllowList,
	}
}

// DocumentID names a document. A box holds one version of each.
type DocumentID struct {
	Type DocumentType `json:"type"`
	// Tenant is whose it is; zero of DocumentSigner alone.
	Tenant TenantID `json:"tenant_id,omitzero"`
	// Name tells several of a type and tenant apart: 0 to MaxDocumentName
	// characters of A-Z, a-z, 0-9, '.', '_' and '-'.
	Name string `json:"name,omitempty"`
}

// String is type, tenant and name with slashes between them, for people and for
// keys: "templates/3f0e3f5e-…/", "signer//".
func (id DocumentID) String() string {
	tenant := ""
	if !id.Tenant.IsZero() {
		tenant = id.Tenant.String()
	}
	return string(id.Type) + "/" + tenant + "/" + id.Name
}

// ParseDocumentID undoes String; other input is an InvalidError.
func ParseDocumentID(text string) (DocumentID, error) {
	parts := strings.SplitN(text, "/", 3)
	if len(parts) != 3 {
		return DocumentID{}, invalidf("document", "want type/tenant/name")
	}
	id := DocumentID{Type: DocumentType(parts[0]), Name: parts[2]}
	if parts[1] != "" {
		tenant, err := ParseTenantID(parts[1])
		if err != nil {
			return DocumentID{}, err
		}
		id.Tenant = tenant
	}
	return id, id.Check()
}

// Check returns an InvalidError where the id names no document.
func (id DocumentID) Check() error {
	known := false
	for _, t := range DocumentTypes() {
		known = known || t == id.Type
	}
	switch {
	case !known:
		return invalidf("type", "not a type of documents")
	case id.Tenant.IsZero() != (id.Type == DocumentSigner):
		return invalidf("tenant_id", "a document has one, but for the signer's")
	case len(id.Name) > MaxDocumentName:
		return invalidf("name", "want at most %d characters", MaxDocumentName)
	case id.Name != "" && id.Type != DocumentAllowList && id.Type != DocumentAliases:
		// Two of a type would contradict each other.
		return invalidf("name", "only lists have one")
	}
	for _, c := range []byte(id.Name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return invalidf("name", "want A-Z a-z 0-9 . _ -")
		}
	}
	return nil
}

// StalePolicy is what follows when nobody has confirmed a document for too long.
type StalePolicy string

// The policies. StaleWarn is the default: the line never waits.
const (
	StaleWarn StalePolicy = "warn"
	// StaleDeny: new devices of the tenant are refused. Those that are known log
	// in as before.
	StaleDeny StalePolicy = "deny"
)

// Document is what the platform rules, signed by a key that is kept off the hub,
// and bound to type, tenant, name, version and to whom it is for. Exactly one
// body is set, that of its type.
type Document struct {
	DocumentID
	// Version is 1 or above, and rises: a box takes no lower one.
	Version uint64 `json:"version"`
	// Box and Site say whom it is for; both empty: for all. With both, the box
	// has to be of that site.
	Box  string `json:"box_id,omitempty"`
	Site string `json:"site,omitempty"`
	// IssuedAt raises the clock's floor (P10).
	IssuedAt time.Time `json:"issued_at"`
	// MaxAge is how long it counts as fresh without a word from upstream, in
	// seconds; 0: the box's own setting.
	MaxAge int64 `json:"max_age_seconds,omitempty"`
	// Stale is what follows then; empty: the box's own setting.
	Stale StalePolicy `json:"stale,omitempty"`

	Signer      *Signer      `json:"signer,omitempty"`
	Revocations *Revocations `json:"revocations,omitempty"`
	Templates   *Templates   `json:"templates,omitempty"`
	Profiles    *Profiles    `json:"profiles,omitempty"`
	Aliases     *Aliases     `json:"aliases,omitempty"`
	AllowList   *AllowList   `json:"allow_list,omitempty"`
}

// Fits reports whether the document is for that box.
func (d *Document) Fits(box, site string) bool {
	return (d.Box == "" || d.Box == box) && (d.Site == "" || d.Site == site)
}

// Signer is a next key. It is signed by the one before, which signs nothing from
// then on.
type Signer struct {
	// Key is an Ed25519 public key, unpadded base64url of 32 bytes.
	Key string `json:"public_key"`
}

// Revocations are a tenant's. They only grow: what stood in one version and does
// not in the next has to be in Reinstated by name.
type Revocations struct {
	Devices  []DeviceID   `json:"devices,omitempty"`
	Hardware []HardwareID `json:"hardware,omitempty"`
	// Keys are provisioning keys, by the hash under which they are kept. The
	// devices made with one stay as they are, and are told to the operator.
	Keys       []KeyHash     `json:"keys,omitempty"`
	Reinstated *Reinstations `json:"reinstated,omitempty"`
}

// Reinstations are revocations taken back, by name.
type Reinstations struct {
	Devices  []DeviceID   `json:"devices,omitempty"`
	Hardware []HardwareID `json:"hardware,omitempty"`
	Keys     []KeyHash    `json:"keys,omitempty"`
}

// Templates are a tenant's templates and keys, all of them: what a later version
// does not name is disabled.
type Templates struct {
	// Templates have no CreatedAt, and Owner, Tenant and Leased are not theirs to
	// say. Their status is active where it is empty.
	Templates []Template    `json:"templates"`
	Keys      []TemplateKey `json:"keys,omitempty"`
}

// TemplateKey is a key in a document.
type TemplateKey struct {
	ID       KeyID      `json:"key_id"`
	Template TemplateID `json:"template_id"`
	Hash     KeyHash    `json:"sha256"`
	// Status is active where it is empty; active, disabled or revoked.
	Status KeyStatus `json:"status,omitempty"`
}

// Profiles are a tenant's.
type Profiles struct {
	// Default is what all devices of the tenant inherit, whatever their profile;
	// its ID is empty. nil: nothing.
	Default  *Profile  `json:"default,omitempty"`
	Profiles []Profile `json:"profiles,omitempty"`
}

// Profile is what devices inherit. Of two that say the same, the later of tenant
// default, profile and the device's own wins.
type Profile struct {
	ID string `json:"profile_id,omitempty"` // of 1 to MaxName characters
	// Tags and Groups are those that a new device gets.
	Tags   map[string]string `json:"default_tags,omitempty"`
	Groups []string          `json:"default_groups,omitempty"`
	// Config is a JSON object that the device's own configuration is merged over
	// (RFC 7396), at any time.
	Config json.RawMessage `json:"default_config,omitempty"`
	// Schema is what telemetry has to be; nil: anything.
	Schema *TelemetrySchema `json:"telemetry_schema,omitempty"`
	// OfflineAfter is how long a device may be silent and still be online, in
	// seconds, 1 to 86,400; 0: the box's setting.
	OfflineAfter int64              `json:"offline_threshold_seconds,omitempty"`
	Credentials  *CredentialsPolicy `json:"credentials_policy,omitempty"`
}

// CredentialsPolicy bounds a device's credentials; 0 is the box's setting.
type CredentialsPolicy struct {
	// X509Validity is how long a certificate lives, in seconds.
	X509Validity int64 `json:"x509_validity_seconds,omitempty"`
	// Overlap is how long the old credential stays good beside one that the
	// device asked for itself, in seconds, 0 to 30 days.
	Overlap int64 `json:"overlap_seconds,omitempty"`
}

// TelemetrySchema is the part of JSON Schema (2020-12) that metrics need: of
// each its type and range, which of them have to be there, and whether there may
// be others.
type TelemetrySchema struct {
	Properties map[string]MetricSchema `json:"properties,omitempty"`
	Required   []string                `json:"required,omitempty"`
	// Additional: a metric that is not among Properties is let through; nil is
	// true.
	Additional *bool `json:"additionalProperties,omitempty"`
}

// MetricSchema is what one metric has to be.
type MetricSchema struct {
	Type    MetricType `json:"type,omitempty"` // empty: either
	Minimum *float64   `json:"minimum,omitempty"`
	Maximum *float64   `json:"maximum,omitempty"`
	// Enum are the texts that are allowed, and MaxLength the longest, in
	// characters; empty and nil for no bound.
	Enum      []string `json:"enum,omitempty"`
	MaxLength *int     `json:"maxLength,omitempty"`
}

// MetricType is a JSON type.
type MetricType string

// The types of a metric.
const (
	MetricNumber  MetricType = "number"
	MetricInteger MetricType = "integer"
	MetricText    MetricType = "string"
)

// Aliases are device ids that boards go by which are not derived from them (P4):
// those of a platform that registered them before, and those of swaps elsewhere.
type Aliases struct {
	Aliases []Alias `json:"aliases"`
}

// Alias is one of them.
type Alias struct {
	Hardware HardwareID `json:"hardware_id"`
	Device   DeviceID   `json:"device_id"`
	// Replaces is the board that had the device before, by a swap; zero for none.
	Replaces HardwareID `json:"replaces,omitzero"`
}

// AllowList is hardware that a template expects. All lists of a template count
// together.
type AllowList struct {
	Template TemplateID    `json:"template_id"`
	Rows     []ManifestRow `json:"rows"`
}

// DocumentState is how a box stands to a document.
type DocumentState struct {
	DocumentID
	Version  uint64    `json:"version"`
	Hash     string    `json:"sha256"` // hex, of the signed text's payload
	IssuedAt time.Time `json:"issued_at"`
	// AppliedAt is when the box took this version.
	AppliedAt time.Time `json:"applied_at"`
	// Age is how long ago somebody trustworthy said last that this is the newest
	// version, in seconds of running time, and by the clock where that is
	// synchronised.
	Age float64 `json:"age_seconds"`
	// Stale: older than it may get, and what follows.
	Stale  bool        `json:"stale"`
	Policy StalePolicy `json:"stale_policy"`
	// Confirmed: since it was applied, or the box was restored, upstream has said
	// that it is the newest.
	Confirmed bool `json:"confirmed"`
	// Refused is why the last offer of this document was not taken, empty for
	// none; RefusedVersion is that offer's, 0 where nobody could read it.
	Refused        string    `json:"refused,omitempty"`
	RefusedVersion uint64    `json:"refused_version,omitempty"`
	RefusedAt      time.Time `json:"refused_at,omitzero"`
}

// DocumentRefusal is why a document was not taken: a closed set, so that a metric
// may label by it.
type DocumentRefusal string

// The refusals.
const (
	DocumentUnenrolled   DocumentRefusal = "not_enrolled"  // or enrolled without a key for documents
	DocumentBadSignature DocumentRefusal = "bad_signature" // of no key that the box trusts
	DocumentMalformed    DocumentRefusal = "malformed"     // truncated, too large, or not a document
	DocumentOtherBox     DocumentRefusal = "other_box"     // for another box or site
	DocumentOldVersion   DocumentRefusal = "old_version"   // lower than the box's
	DocumentSameVersion  DocumentRefusal = "same_version"  // as the box's, with another content
	DocumentShrunk       DocumentRefusal = "shrunk"        // revocations that were not taken back by name
	DocumentConflicting  DocumentRefusal = "conflicting"   // with what the box has: another owner, tenant or format
)

// Share is how much of a key that several boxes have this box may use.
type Share struct {
	Key      KeyID      `json:"key_id"`
	Template TemplateID `json:"template_id"`
	// Granted is how many new devices this box may make with the key, from the
	// beginning; Claims how many it has made.
	Granted uint32 `json:"granted"`
	Claims  uint32 `json:"claims"`
	// Exhausted: upstream has nothing more to give.
	Exhausted bool `json:"exhausted,omitempty"`
	// Low: upstream is to be asked for more.
	Low bool `json:"low,omitempty"`
}

// Left is how many more devices the share is good for.
func (s *Share) Left() uint32 {
	if s.Claims >= s.Granted {
		return 0
	}
	return s.Granted - s.Claims
}

// HeldDocument is a document as a box keeps it beside the signed text.
type HeldDocument struct {
	ID       DocumentID
	Version  uint64 // 0: none was taken yet, there is only a refusal
	Hash     string // hex SHA-256 of the payload
	Box      string
	Site     string
	IssuedAt time.Time
	MaxAge   time.Duration // 0: the box's setting
	Stale    StalePolicy   // empty: the box's setting

	AppliedAt time.Time
	// Confirmed: since it was applied, or the box was restored, upstream has said
	// that it is the newest. ConfirmedAt is when that was said last, or it was
	// applied; Synced: the clock was synchronised then. Aged is the running time
	// since, as it was saved last.
	Confirmed   bool
	ConfirmedAt time.Time
	Synced      bool
	Aged        time.Duration

	Refused        DocumentRefusal // why the last offer was not taken; empty for none
	RefusedDetail  string
	RefusedVersion uint64
	RefusedAt      time.Time
}

// DocumentOffer is what somebody says is the newest version of a document.
type DocumentOffer struct {
	DocumentID
	Version uint64 `json:"version"`
	Hash    string `json:"sha256"`
	// Size is of the signed text, in bytes.
	Size int `json:"size"`
	// KeyID names the key that signed it: the same document may be signed anew,
	// by the next one. Empty where whoever offers does not say.
	KeyID string `json:"key_id,omitempty"`
}

// DocumentError is why a document was not taken. It is an ErrInvalid.
type DocumentError struct {
	Reason DocumentRefusal
	Detail string // in words, without secrets; may be empty
}

func (e *DocumentError) Error() string {
	if e.Detail == "" {
		return "document refused: " + string(e.Reason)
	}
	return "document refused: " + string(e.Reason) + ": " + e.Detail
}

// Is makes errors.Is(err, ErrInvalid) hold.
func (*DocumentError) Is(target error) bool { return target == ErrInvalid }

// Inherited is what a device inherits: its tenant's default and its profile, nil
// where there is none. It is shared and never changed.
type Inherited struct {
	Default *Profile
	Profile *Profile
	// Version is that of the tenant's profiles; 0 for none.
	Version uint64
}

// ShareGrant is upstream's word on a key that several boxes have.
type ShareGrant struct {
	Key KeyID `json:"key_id"`
	// Granted is this box's share from the beginning; it never falls.
	Granted uint32 `json:"granted"`
	// Claims is how many devices upstream has heard that this box made with the
	// key: a box that was restored may have forgotten some.
	Claims    uint32 `json:"claims"`
	Exhausted bool   `json:"exhausted,omitempty"`
}

// Verdict is upstream's word on a device that several boxes had given a
// credential: the one that stays, as the box that gave it told it.
type Verdict struct {
	Device Device `json:"device"`
	// Void is the hash of the credential of this box's that does not stay.
	Void    KeyHash `json:"void_sha256"`
	KeptBox string  `json:"kept_box_id"`
}
