package signeddoc

import (
	"strconv"
	"strings"
	"time"

	"edgeclaim"
)

const (
	// MaxVersion is the highest version: the highest whole number that every
	// reader of JSON keeps (RFC 8259, section 6).
	MaxVersion = 1<<53 - 1
	// MaxAge is the longest that a document may count as fresh, in seconds: ten
	// years.
	MaxAge = 10 * 365 * 24 * 60 * 60
	// maxLevel is the longest name of a box or site, in characters.
	maxLevel = 64
)

// check looks at what a document says beyond its shape, and fills in what has a
// default.
func check(d *edgeclaim.Document) error {
	if err := d.Check(); err != nil {
		return err
	}
	if d.Version == 0 || d.Version > MaxVersion {
		return edgeclaim.Invalid("version", "want 1 to %d", uint64(MaxVersion))
	}
	if err := checkScope(d); err != nil {
		return err
	}
	if err := checkTime("issued_at", d.IssuedAt); err != nil {
		return err
	}
	if d.MaxAge < 0 || d.MaxAge > MaxAge {
		return edgeclaim.Invalid("max_age_seconds", "want 0 to %d", MaxAge)
	}
	switch d.Stale {
	case "", edgeclaim.StaleWarn, edgeclaim.StaleDeny:
	default:
		return edgeclaim.Invalid("stale", "want %s or %s", edgeclaim.StaleWarn, edgeclaim.StaleDeny)
	}
	return checkBody(d)
}

// checkScope: a signer is for all boxes, or those it is not for could read nothing
// that the next key signs for all.
func checkScope(d *edgeclaim.Document) error {
	for _, level := range []struct{ member, name string }{{"box_id", d.Box}, {"site", d.Site}} {
		if level.name == "" {
			continue
		}
		if err := checkLevel(level.member, level.name); err != nil {
			return err
		}
		if d.Type == edgeclaim.DocumentSigner {
			return edgeclaim.Invalid(level.member, "a signer is for all boxes")
		}
	}
	return nil
}

func checkLevel(member, name string) error {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
	if name == "" || len(name) > maxLevel || strings.Trim(name, letters) != "" {
		return edgeclaim.Invalid(member, "want 1 to %d characters of A-Z a-z 0-9 . _ -", maxLevel)
	}
	return nil
}

// checkTime: RFC 3339 has four digits for the year; an offset can lead out of
// them.
func checkTime(member string, t time.Time) error {
	if year := t.UTC().Year(); t.IsZero() || year < 1 || year > 9999 {
		return edgeclaim.Invalid(member, "want a time of a year of 1 to 9999")
	}
	return nil
}

// checkBody finds the one body, that of the type.
func checkBody(d *edgeclaim.Document) error {
	for _, body := range []struct {
		of    edgeclaim.DocumentType
		there bool
	}{
		{edgeclaim.DocumentSigner, d.Signer != nil},
		{edgeclaim.DocumentRevocations, d.Revocations != nil},
		{edgeclaim.DocumentTemplates, d.Templates != nil},
		{edgeclaim.DocumentProfiles, d.Profiles != nil},
		{edgeclaim.DocumentAliases, d.Aliases != nil},
		{edgeclaim.DocumentAllowList, d.AllowList != nil},
	} {
		switch {
		case body.of == d.Type && !body.there:
			return edgeclaim.Invalid(string(body.of), "required of a document of that type")
		case body.of != d.Type && body.there:
			return edgeclaim.Invalid(string(body.of), "not of a document of type %s", d.Type)
		}
	}
	switch d.Type {
	case edgeclaim.DocumentSigner:
		if _, err := ParsePublic(d.Signer.Key); err != nil {
			return under("signer", err)
		}
		return nil
	case edgeclaim.DocumentRevocations:
		return under("revocations", checkRevocations(d.Revocations))
	case edgeclaim.DocumentTemplates:
		return under("templates", checkTemplates(d.Templates))
	case edgeclaim.DocumentProfiles:
		return under("profiles", checkProfiles(d.Profiles))
	case edgeclaim.DocumentAliases:
		return under("aliases", checkAliases(d.Aliases))
	default:
		return under("allow_list", checkAllowList(d.AllowList))
	}
}

// under puts a member's name before those that an InvalidError of its own has.
func under(outer string, err error) error {
	if invalid, ok := err.(*edgeclaim.InvalidError); ok { //nolint:errorlint // never wrapped here
		return &edgeclaim.InvalidError{Field: outer + "." + invalid.Field, Problem: invalid.Problem}
	}
	return err
}

// at names an element of a list, or a member of it.
func at(list string, i int, member string) string {
	name := list + "." + strconv.Itoa(i)
	if member != "" {
		name += "." + member
	}
	return name
}

// A distinct refuses what is there twice, and what was never set.
type distinct[T comparable] map[T]struct{}

func (d distinct[T]) add(member string, value T) error {
	var zero T
	if value == zero {
		return edgeclaim.Invalid(member, "required")
	}
	if _, ok := d[value]; ok {
		return edgeclaim.Invalid(member, "there twice")
	}
	d[value] = struct{}{}
	return nil
}

// once refuses a list in which something is twice.
func once[T comparable](seen distinct[T], list string, values []T) error {
	for i, value := range values {
		if err := seen.add(at(list, i, ""), value); err != nil {
			return err
		}
	}
	return nil
}

// checkRevocations: what is revoked and reinstated at once is neither.
func checkRevocations(r *edgeclaim.Revocations) error {
	again := r.Reinstated
	if again == nil {
		again = &edgeclaim.Reinstations{}
	}
	devices, hardware, keys := distinct[edgeclaim.DeviceID]{}, distinct[edgeclaim.HardwareID]{}, distinct[edgeclaim.KeyHash]{}
	return first(
		once(devices, "devices", r.Devices), once(devices, "reinstated.devices", again.Devices),
		once(hardware, "hardware", r.Hardware), once(hardware, "reinstated.hardware", again.Hardware),
		once(keys, "keys", r.Keys), once(keys, "reinstated.keys", again.Keys),
	)
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkAliases: one board has one id, and one id one board.
func checkAliases(a *edgeclaim.Aliases) error {
	if a.Aliases == nil {
		return edgeclaim.Invalid("aliases", "required")
	}
	boards, replaced, devices := distinct[edgeclaim.HardwareID]{}, distinct[edgeclaim.HardwareID]{}, distinct[edgeclaim.DeviceID]{}
	for i := range a.Aliases {
		alias := &a.Aliases[i]
		err := first(
			boards.add(at("aliases", i, "hardware_id"), alias.Hardware),
			devices.add(at("aliases", i, "device_id"), alias.Device),
		)
		if err == nil && !alias.Replaces.IsZero() {
			err = replaced.add(at("aliases", i, "replaces"), alias.Replaces)
		}
		if err == nil && alias.Replaces == alias.Hardware {
			err = edgeclaim.Invalid(at("aliases", i, "replaces"), "a board does not replace itself")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func checkAllowList(list *edgeclaim.AllowList) error {
	if list.Template.IsZero() {
		return edgeclaim.Invalid("template_id", "required")
	}
	if list.Rows == nil {
		return edgeclaim.Invalid("rows", "required")
	}
	seen := distinct[edgeclaim.HardwareID]{}
	for i := range list.Rows {
		row := &list.Rows[i]
		if err := first(
			seen.add(at("rows", i, "hardware_id"), row.Hardware),
			checkOptional(at("rows", i, "profile_id"), row.Profile),
			checkOptional(at("rows", i, "name"), row.Name),
			checkGroups(at("rows", i, "groups"), row.Groups),
			checkTags(at("rows", i, "tags"), row.Tags),
		); err != nil {
			return err
		}
	}
	return nil
}

func checkOptional(member, name string) error {
	if name == "" {
		return nil
	}
	return edgeclaim.CheckName(member, name)
}

func checkGroups(member string, groups []string) error {
	if len(groups) > edgeclaim.MaxGroups {
		return edgeclaim.Invalid(member, "more than %d groups", edgeclaim.MaxGroups)
	}
	seen := distinct[string]{}
	for i, group := range groups {
		if err := first(edgeclaim.CheckName(at(member, i, ""), group), seen.add(at(member, i, ""), group)); err != nil {
			return err
		}
	}
	return nil
}

// checkTags: a tag may be empty, its name not.
func checkTags(member string, tags map[string]string) error {
	if len(tags) > edgeclaim.MaxTags {
		return edgeclaim.Invalid(member, "more than %d tags", edgeclaim.MaxTags)
	}
	for name, value := range tags {
		if err := first(edgeclaim.CheckName(member, name), checkOptional(member, value)); err != nil {
			return err
		}
	}
	return nil
}
