package edgeclaim

import (
	"time"
	"unicode/utf8"
)

// Limits of a template.
const (
	// MaxName is the longest name of a template or device, in characters.
	MaxName = 128
	// MaxPattern is the longest hardware id pattern, in bytes.
	MaxPattern = 1024
	// MaxGroups is how many default groups a template may have.
	MaxGroups = 64
)

// Template scopes the keys issued from it: what they may claim, and what the
// devices claimed with them inherit. Only Status changes after creation.
type Template struct {
	ID     TemplateID `json:"template_id"`
	Tenant TenantID   `json:"tenant_id"`
	Name   string     `json:"name"`

	// Profile is the platform's device profile; empty for none.
	Profile string `json:"profile_id,omitempty"`
	// Pattern is an RE2 expression that the whole hardware id must match;
	// empty allows every hardware id.
	Pattern string `json:"hardware_id_pattern,omitempty"`
	// Expires is the UTC instant from which its keys are refused, judged
	// against P10's clock; zero for never.
	Expires time.Time `json:"expires_at,omitzero"`
	// OneTime: a key is used up by its first new device.
	OneTime bool `json:"one_time"`
	// MaxClaims bounds the new devices of one key; 0 for no bound.
	MaxClaims uint32 `json:"max_claims,omitempty"`
	// MaxClaimsPerMinute bounds the rate of new devices of one key; 0 for none.
	MaxClaimsPerMinute uint32 `json:"max_claims_per_minute,omitempty"`

	Credential       CredentialType   `json:"credential_type"`
	Groups           []string         `json:"default_groups,omitempty"`
	HardwareIDFormat HardwareIDFormat `json:"hardware_id_format,omitempty"`
	Approval         Approval         `json:"approval"`
	// AllowList: only hardware on the template's manifest may claim.
	AllowList bool `json:"allow_list,omitempty"`
	// ExpectedClaims is how many new devices one key is meant for; many more
	// raise an alarm. 0: MaxClaims, or nobody knows.
	ExpectedClaims uint32 `json:"expected_claims,omitempty"`

	Status    TemplateStatus `json:"status"`
	CreatedAt time.Time      `json:"created_at"`
	// Owner is who may change it.
	Owner Owner `json:"owner"`
	// Leased: its keys are other boxes' as well, and what bounds them is shared
	// out by upstream; see Key.Granted.
	Leased bool `json:"leased,omitempty"`
}

// Owner is who rules over a template.
type Owner string

// The owners. What upstream owns is read-only here.
const (
	OwnerLocal    Owner = "local"
	OwnerUpstream Owner = "upstream"
)

// Bound is how many new devices one key can make over all boxes; 0 for any
// number.
func (t *Template) Bound() uint32 {
	if t.OneTime {
		return 1
	}
	return t.MaxClaims
}

// Bounded reports whether anything limits how many devices one key can make.
func (t *Template) Bounded() bool { return t.OneTime || t.MaxClaims > 0 }

// TemplateStatus says whether a template's keys may claim.
type TemplateStatus string

// The states of a template.
const (
	TemplateActive   TemplateStatus = "active"
	TemplateDisabled TemplateStatus = "disabled"
)

// Approval says who lets a claim through.
type Approval string

// The kinds of approval.
const (
	ApprovalAuto   Approval = "auto"
	ApprovalManual Approval = "manual"
)

// HardwareIDFormat says how hardware ids are read before they are matched.
type HardwareIDFormat string

// The formats of hardware ids.
const (
	// FormatExact takes a hardware id as it is spelled.
	FormatExact HardwareIDFormat = ""
	// FormatMAC folds the spellings of a MAC address to AA:BB:CC:00:11:22.
	FormatMAC HardwareIDFormat = "mac"
)

// Key is a provisioning key as it is kept: by its hash.
type Key struct {
	ID       KeyID      `json:"key_id"`
	Template TemplateID `json:"template_id"`
	Hash     KeyHash    `json:"sha256"`
	Status   KeyStatus  `json:"status"`
	// Claims counts the new devices made with the key, never re-claims.
	Claims uint32 `json:"claims"`
	// UsedBy is the device that used a one-time key up; zero until then.
	UsedBy    DeviceID  `json:"used_by,omitzero"`
	CreatedAt time.Time `json:"created_at"`
	// Granted is, of a leased template's key, this box's share of the bound, from
	// the beginning; Exhausted: upstream has nothing more to give.
	Granted   uint32 `json:"granted,omitempty"`
	Exhausted bool   `json:"exhausted,omitempty"`
}

// Grant is a key with the template that scopes it.
type Grant struct {
	Key      Key
	Template Template
}

// KeyStatus says whether a key may claim.
type KeyStatus string

// The states of a key. Revoked is terminal.
const (
	KeyActive   KeyStatus = "active"
	KeyDisabled KeyStatus = "disabled"
	KeyUsed     KeyStatus = "used"
	KeyRevoked  KeyStatus = "revoked"
)

// CheckName accepts 1 to MaxName characters of UTF-8 without control
// characters; other input is an InvalidError of that field.
func CheckName(field, name string) error {
	if !utf8.ValidString(name) {
		return invalidf(field, "invalid UTF-8")
	}
	if n := utf8.RuneCountInString(name); n == 0 || n > MaxName {
		return invalidf(field, "want 1 to %d characters", MaxName)
	}
	for _, r := range name {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return invalidf(field, "control characters are not allowed")
		}
	}
	return nil
}
