package edgeclaim

import (
	"crypto/sha1" //nolint:gosec // UUIDv5 is defined over SHA-1 (RFC 9562, section 5.5); nothing is secured by it
	"encoding/hex"
	"strconv"
	"strings"
)

// Limits of identifiers.
const (
	// MaxHardwareID is the longest hardware id, in characters.
	MaxHardwareID = 128
	// MaxLocalID is the longest template or key id, in characters.
	MaxLocalID = 64
)

type uuid [16]byte

// parseUUID reads the 36-character form of RFC 9562, section 4, in either case.
func parseUUID(field, text string) (uuid, error) {
	var u uuid
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return uuid{}, invalidf(field, "want a UUID of 36 characters")
	}
	digits := text[0:8] + text[9:13] + text[14:18] + text[19:23] + text[24:36]
	if _, err := hex.Decode(u[:], []byte(digits)); err != nil {
		return uuid{}, invalidf(field, "want a UUID of 36 characters")
	}
	return u, nil
}

func (u uuid) String() string {
	var b [36]byte
	hex.Encode(b[0:8], u[0:4])
	hex.Encode(b[9:13], u[4:6])
	hex.Encode(b[14:18], u[6:8])
	hex.Encode(b[19:23], u[8:10])
	hex.Encode(b[24:36], u[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// TenantID names the customer a key is bound to. A device's tenant always
// derives from the key, never from what the device sends.
type TenantID struct{ u uuid }

// ParseTenantID reads a UUID of 36 characters; other input is ErrInvalid.
func ParseTenantID(text string) (TenantID, error) {
	u, err := parseUUID("tenant_id", text)
	return TenantID{u}, err
}

func (id TenantID) String() string { return id.u.String() }

// Bytes returns the 16 raw bytes of a tenant id.
func (id TenantID) Bytes() []byte { return id.u[:] }

// TenantIDFromBytes takes the 16 raw bytes of a tenant id.
func TenantIDFromBytes(b []byte) (TenantID, error) {
	if len(b) != len(uuid{}) {
		return TenantID{}, invalidf("tenant_id", "want 16 bytes")
	}
	return TenantID{uuid(b)}, nil
}

// IsZero reports whether the id was never set.
func (id TenantID) IsZero() bool { return id == TenantID{} }

// MarshalText implements encoding.TextMarshaler.
func (id TenantID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *TenantID) UnmarshalText(text []byte) error { return unmarshalText(id, text, ParseTenantID) }

// DeviceID is a platform-wide device identity. It is public knowledge, legal as
// an MQTT topic level and never changes.
type DeviceID struct{ u uuid }

// NewDeviceID derives the id of a hardware: the UUIDv5 (RFC 9562, section 5.5)
// with the tenant as namespace and the hardware id as name (P4). Generation 1
// is the first life of a board; a board that was swapped out and released
// claims again as generation 2, named "H#2".
func NewDeviceID(tenant TenantID, hardware HardwareID, generation int) DeviceID {
	name := hardware.String()
	if generation > 1 {
		name += "#" + strconv.Itoa(generation)
	}
	sum := sha1.Sum(append(tenant.u[:], name...)) //nolint:gosec // see the import
	var id DeviceID
	copy(id.u[:], sum[:])
	id.u[6] = id.u[6]&0x0f | 0x50 // version 5
	id.u[8] = id.u[8]&0x3f | 0x80 // the RFC's variant
	return id
}

// ParseDeviceID reads a UUID of 36 characters; other input is ErrInvalid.
func ParseDeviceID(text string) (DeviceID, error) {
	u, err := parseUUID("device_id", text)
	return DeviceID{u}, err
}

// DeviceIDFromBytes takes the 16 raw bytes of a device id.
func DeviceIDFromBytes(b []byte) (DeviceID, error) {
	if len(b) != len(uuid{}) {
		return DeviceID{}, invalidf("device_id", "want 16 bytes")
	}
	return DeviceID{uuid(b)}, nil
}

func (id DeviceID) String() string { return id.u.String() }

// Bytes returns the 16 raw bytes.
func (id DeviceID) Bytes() []byte { return id.u[:] }

// IsZero reports whether the id was never set.
func (id DeviceID) IsZero() bool { return id == DeviceID{} }

// MarshalText implements encoding.TextMarshaler.
func (id DeviceID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *DeviceID) UnmarshalText(text []byte) error { return unmarshalText(id, text, ParseDeviceID) }

// HardwareID names a board, unique within a tenant and matched exactly.
type HardwareID struct{ text string }

// ParseHardwareID accepts 1 to MaxHardwareID printable ASCII characters without
// blanks (0x21 to 0x7e); other input is ErrInvalid.
func ParseHardwareID(text string) (HardwareID, error) {
	if text == "" || len(text) > MaxHardwareID {
		return HardwareID{}, invalidf("hardware_id", "want 1 to %d characters", MaxHardwareID)
	}
	for i := range len(text) {
		if text[i] <= ' ' || text[i] > '~' {
			return HardwareID{}, invalidf("hardware_id", "want printable ASCII without blanks")
		}
	}
	return HardwareID{text}, nil
}

// macDigits is how many hexadecimal digits a MAC address has.
const macDigits = 12

// FoldMAC reads a MAC address (EUI-48) in any of its spellings, AABBCC001122,
// aa:bb:cc:00:11:22, AA-BB-CC-00-11-22 or aabb.cc00.1122, and returns
// AA:BB:CC:00:11:22; other input is ErrInvalid.
func FoldMAC(id HardwareID) (HardwareID, error) {
	digits, ok := macDigitsOf(id.text)
	if !ok || strings.Trim(digits, "0123456789ABCDEF") != "" {
		return HardwareID{}, invalidf("hardware_id", "want a MAC address of %d hexadecimal digits", macDigits)
	}
	pairs := make([]string, 0, macDigits/2)
	for at := 0; at < macDigits; at += 2 {
		pairs = append(pairs, digits[at:at+2])
	}
	return HardwareID{strings.Join(pairs, ":")}, nil
}

// macDigitsOf takes the separators out, which are of one kind and all in place.
func macDigitsOf(text string) (string, bool) {
	separator, group := "", macDigits
	switch {
	case strings.Contains(text, ":"):
		separator, group = ":", 2
	case strings.Contains(text, "-"):
		separator, group = "-", 2
	case strings.Contains(text, "."):
		separator, group = ".", 4
	}
	digits := strings.ToUpper(text)
	if separator != "" {
		parts := strings.Split(digits, separator)
		for _, part := range parts {
			if len(part) != group {
				return "", false
			}
		}
		digits = strings.Join(parts, "")
	}
	return digits, len(digits) == macDigits
}

func (id HardwareID) String() string { return id.text }

// IsZero reports whether the id was never set.
func (id HardwareID) IsZero() bool { return id.text == "" }

// MarshalText implements encoding.TextMarshaler.
func (id HardwareID) MarshalText() ([]byte, error) { return []byte(id.text), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *HardwareID) UnmarshalText(text []byte) error {
	return unmarshalText(id, text, ParseHardwareID)
}

// TemplateID names a template, KeyID a provisioning key. Both are 1 to
// MaxLocalID characters of A-Z, a-z, 0-9, '.', '_' and '-': UUIDs when made
// here, whatever the platform uses when they come from upstream.
type (
	TemplateID struct{ text string }
	KeyID      struct{ text string }
)

const localIDLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

func checkLocalID(field, text string) error {
	if text == "" || len(text) > MaxLocalID || strings.Trim(text, localIDLetters) != "" {
		return invalidf(field, "want 1 to %d characters of A-Z, a-z, 0-9, '.', '_' and '-'", MaxLocalID)
	}
	return nil
}

// ParseTemplateID checks text; other input is ErrInvalid.
func ParseTemplateID(text string) (TemplateID, error) {
	if err := checkLocalID("template_id", text); err != nil {
		return TemplateID{}, err
	}
	return TemplateID{text}, nil
}

func (id TemplateID) String() string { return id.text }

// IsZero reports whether the id was never set.
func (id TemplateID) IsZero() bool { return id.text == "" }

// MarshalText implements encoding.TextMarshaler.
func (id TemplateID) MarshalText() ([]byte, error) { return []byte(id.text), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *TemplateID) UnmarshalText(text []byte) error {
	return unmarshalText(id, text, ParseTemplateID)
}

// ParseKeyID checks text; other input is ErrInvalid.
func ParseKeyID(text string) (KeyID, error) {
	if err := checkLocalID("key_id", text); err != nil {
		return KeyID{}, err
	}
	return KeyID{text}, nil
}

func (id KeyID) String() string { return id.text }

// IsZero reports whether the id was never set.
func (id KeyID) IsZero() bool { return id.text == "" }

// MarshalText implements encoding.TextMarshaler.
func (id KeyID) MarshalText() ([]byte, error) { return []byte(id.text), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *KeyID) UnmarshalText(text []byte) error { return unmarshalText(id, text, ParseKeyID) }

// unmarshalText lets every id be read from JSON by its own parser only.
func unmarshalText[T any](dst *T, text []byte, parse func(string) (T, error)) error {
	v, err := parse(string(text))
	if err == nil {
		*dst = v
	}
	return err
}
