package telemetry

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"time"

	"edgeclaim"
)

// What an entry of a log looks like, all numbers little-endian: version, form,
// flags, device (16 bytes), tenant (16), wall clock (nanoseconds since 1970, 8),
// uptime (nanoseconds, 8), length of the boot id and itself, what the device
// sent. There is no checksum: the log has one.
const (
	entryVersion = 1
	fixedHeader  = 3 + 16 + 16 + 8 + 8 + 1
	maxBoot      = 64
	maxHeader    = fixedHeader + maxBoot

	flagSynced  = 1 << 0 // the wall clock was
	flagRawBoot = 1 << 1 // the boot id is the 16 bytes of a UUID
)

// form is how a payload has to be read.
type form byte

const (
	formFlat     form = 1 // metric → number or string
	formPlatform form = 2 // numeric_values, string_values
	formEvent    form = 3
)

// entry is what a place of a log says.
type entry struct {
	form    form
	device  edgeclaim.DeviceID
	tenant  edgeclaim.TenantID
	stamp   edgeclaim.Stamp
	payload []byte
}

var errEntry = errors.New("telemetry: not an entry")

// bootName is a boot id as it is written: it is the same for all of a run.
type bootName struct {
	text string
	raw  []byte
	flag byte
}

func newBootName(text string) *bootName {
	if raw, ok := parseBoot(text); ok {
		return &bootName{text: text, raw: raw, flag: flagRawBoot}
	}
	return &bootName{text: text, raw: []byte(text[:min(len(text), maxBoot)])}
}

// parseBoot reads a UUID that formatBoot would write the same.
func parseBoot(text string) ([]byte, bool) {
	id, err := edgeclaim.ParseDeviceID(text)
	if err != nil || id.String() != text {
		return nil, false
	}
	return id.Bytes(), true
}

func formatBoot(raw []byte) string {
	text := hex.EncodeToString(raw)
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}

// appendEntry writes one entry behind buf.
func appendEntry(buf []byte, e *entry, boot *bootName) []byte {
	flags := boot.flag
	if e.stamp.Clock == edgeclaim.ClockSynced {
		flags |= flagSynced
	}
	buf = append(buf, entryVersion, byte(e.form), flags)
	buf = append(buf, e.device.Bytes()...)
	buf = append(buf, e.tenant.Bytes()...)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(e.stamp.Time.UnixNano()))
	buf = binary.LittleEndian.AppendUint64(buf, uint64(e.stamp.Uptime))
	buf = append(buf, byte(len(boot.raw)))
	buf = append(buf, boot.raw...)
	return append(buf, e.payload...)
}

// parseEntry reads what appendEntry wrote. The payload is a part of raw.
func parseEntry(raw []byte) (entry, error) {
	if len(raw) < fixedHeader || raw[0] != entryVersion {
		return entry{}, errEntry
	}
	e := entry{form: form(raw[1])}
	var err1, err2 error
	e.device, err1 = edgeclaim.DeviceIDFromBytes(raw[3:19])
	e.tenant, err2 = edgeclaim.TenantIDFromBytes(raw[19:35])
	boot := int(raw[fixedHeader-1])
	if err1 != nil || err2 != nil || len(raw) < fixedHeader+boot {
		return entry{}, errEntry
	}
	e.stamp = edgeclaim.Stamp{
		Time:   time.Unix(0, int64(binary.LittleEndian.Uint64(raw[35:]))).UTC(),
		Uptime: time.Duration(binary.LittleEndian.Uint64(raw[43:])),
		Clock:  edgeclaim.ClockUnsynced,
	}
	if raw[2]&flagSynced != 0 {
		e.stamp.Clock = edgeclaim.ClockSynced
	}
	name := raw[fixedHeader : fixedHeader+boot]
	if raw[2]&flagRawBoot == 0 {
		e.stamp.Boot = string(name)
	} else if boot == 16 {
		e.stamp.Boot = formatBoot(name)
	} else {
		return entry{}, errEntry
	}
	e.payload = raw[fixedHeader+boot:]
	return e, nil
}
