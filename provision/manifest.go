package provision

import (
	"context"

	"edgeclaim"
)

// MaxManifestRows is how many rows one call takes.
const MaxManifestRows = 1000

// CheckManifestRow checks a row for a template and folds its hardware id as the
// template says. Errors: ErrInvalid naming the field.
func CheckManifestRow(t *edgeclaim.Template, row *edgeclaim.ManifestRow) error {
	if row.Hardware.IsZero() {
		return edgeclaim.Invalid("hardware_id", "required")
	}
	if t.HardwareIDFormat == edgeclaim.FormatMAC {
		folded, err := edgeclaim.FoldMAC(row.Hardware)
		if err != nil {
			return err
		}
		row.Hardware = folded
	}
	if row.Profile != "" {
		if err := edgeclaim.CheckName("profile_id", row.Profile); err != nil {
			return err
		}
	}
	if row.Name != "" {
		if err := edgeclaim.CheckName("name", row.Name); err != nil {
			return err
		}
	}
	if err := checkGroups("groups", row.Groups); err != nil {
		return err
	}
	return checkTags("tags", row.Tags)
}

// maxTags bounds all names and values of a device's tags together, in bytes: they
// are in its record.
const maxTags = 16 << 10

func checkTags(field string, tags map[string]string) error {
	if len(tags) > edgeclaim.MaxTags {
		return edgeclaim.Invalid(field, "more than %d tags", edgeclaim.MaxTags)
	}
	size := 0
	for name, value := range tags {
		if err := edgeclaim.CheckName(field, name); err != nil {
			return err
		}
		if value != "" {
			if err := edgeclaim.CheckName(field, value); err != nil {
				return err
			}
		}
		size += len(name) + len(value)
	}
	if size > maxTags {
		return edgeclaim.Invalid(field, "larger than %d bytes", maxTags)
	}
	return nil
}

// ImportManifest adds or replaces up to MaxManifestRows rows of a template's
// list, all or none. Errors: ErrNotFound for the template, ErrInvalid naming
// the field, ErrUpstreamOwned.
func (s *Service) ImportManifest(ctx context.Context, t edgeclaim.TemplateID, rows []edgeclaim.ManifestRow) (added, changed int, err error) {
	if len(rows) > MaxManifestRows {
		return 0, 0, edgeclaim.Invalid("rows", "more than %d", MaxManifestRows)
	}
	template, err := s.own(ctx, t)
	if err != nil {
		return 0, 0, err
	}
	checked := make([]edgeclaim.ManifestRow, len(rows))
	for i, row := range rows {
		if err := CheckManifestRow(&template, &row); err != nil {
			return 0, 0, err
		}
		checked[i] = row
	}
	return s.store.ImportManifest(ctx, t, checked)
}

// RemoveManifest takes up to MaxManifestRows rows off a template's list, all or
// none, and returns how many of them were on it. Errors as ImportManifest's.
func (s *Service) RemoveManifest(ctx context.Context, t edgeclaim.TemplateID, hardware []edgeclaim.HardwareID) (removed int, err error) {
	if len(hardware) > MaxManifestRows {
		return 0, edgeclaim.Invalid("rows", "more than %d", MaxManifestRows)
	}
	if _, err := s.own(ctx, t); err != nil {
		return 0, err
	}
	return s.store.RemoveManifest(ctx, t, hardware)
}

// Manifest returns up to max rows of a template's list that follow after, in
// order of their hardware ids.
func (s *Service) Manifest(ctx context.Context, t edgeclaim.TemplateID, after edgeclaim.HardwareID, max int) ([]edgeclaim.ManifestRow, error) {
	return s.store.Manifest(ctx, t, after, max)
}
