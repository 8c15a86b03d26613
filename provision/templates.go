package provision

import (
	"context"
	"fmt"

	"edgeclaim"

	"github.com/google/uuid"
)

// CreateTemplate checks t, gives it an id, and stores it active. An expiry in
// the past is allowed: such a template refuses. Errors: ErrInvalid naming the
// field, ErrUnavailable.
func (s *Service) CreateTemplate(ctx context.Context, t edgeclaim.Template) (edgeclaim.Template, error) {
	id, err := newID()
	if err != nil {
		return edgeclaim.Template{}, err
	}
	if t.ID, err = edgeclaim.ParseTemplateID(id); err != nil {
		return edgeclaim.Template{}, err
	}
	if t.Credential == "" {
		t.Credential = edgeclaim.CredentialAPIKey
	}
	if t.Approval == "" {
		t.Approval = edgeclaim.ApprovalAuto
	}
	t.Owner, t.Leased = edgeclaim.OwnerLocal, false
	t.Status, t.CreatedAt, t.Expires = edgeclaim.TemplateActive, s.clock.Now(), t.Expires.UTC()
	if err := checkTemplate(&t); err != nil {
		return edgeclaim.Template{}, err
	}
	s.creating.Lock()
	defer s.creating.Unlock()
	if err := s.checkAgreement(ctx, &t); err != nil {
		return edgeclaim.Template{}, err
	}
	if err := s.store.CreateTemplate(ctx, t); err != nil {
		return edgeclaim.Template{}, err
	}
	s.logger.Info("template created", "template_id", t.ID, "tenant_id", t.Tenant)
	return t, nil
}

func checkTemplate(t *edgeclaim.Template) error {
	if t.Tenant.IsZero() {
		return edgeclaim.Invalid("tenant_id", "required")
	}
	if err := edgeclaim.CheckName("name", t.Name); err != nil {
		return err
	}
	if t.Profile != "" {
		if err := edgeclaim.CheckName("profile_id", t.Profile); err != nil {
			return err
		}
	}
	if _, err := compilePattern(t.Pattern); err != nil {
		return err
	}
	// RFC 3339 has four digits for the year; an offset can lead out of them.
	if year := t.Expires.UTC().Year(); year < 1 || year > 9999 {
		return edgeclaim.Invalid("expires_at", "want a year of 1 to 9999 in UTC")
	}
	if err := checkGroups("default_groups", t.Groups); err != nil {
		return err
	}
	switch t.Credential {
	case edgeclaim.CredentialAPIKey, edgeclaim.CredentialPSK, edgeclaim.CredentialX509:
	default:
		return edgeclaim.Invalid("credential_type", "want %s, %s or %s",
			edgeclaim.CredentialAPIKey, edgeclaim.CredentialPSK, edgeclaim.CredentialX509)
	}
	switch t.Approval {
	case edgeclaim.ApprovalAuto, edgeclaim.ApprovalManual:
	default:
		return edgeclaim.Invalid("approval", "want %s or %s", edgeclaim.ApprovalAuto, edgeclaim.ApprovalManual)
	}
	switch t.HardwareIDFormat {
	case edgeclaim.FormatExact, edgeclaim.FormatMAC:
	default:
		return edgeclaim.Invalid("hardware_id_format", "want %s, or nothing", edgeclaim.FormatMAC)
	}
	return nil
}

func checkGroups(field string, groups []string) error {
	if len(groups) > edgeclaim.MaxGroups {
		return edgeclaim.Invalid(field, "more than %d groups", edgeclaim.MaxGroups)
	}
	for _, group := range groups {
		if err := edgeclaim.CheckName(field, group); err != nil {
			return err
		}
	}
	return nil
}

// checkAgreement refuses a template that reads hardware ids in another way than
// its tenant's others: one board would be two devices.
func (s *Service) checkAgreement(ctx context.Context, t *edgeclaim.Template) error {
	templates, err := s.store.Templates(ctx)
	if err != nil {
		return err
	}
	for i := range templates {
		if other := &templates[i]; other.Tenant == t.Tenant && other.HardwareIDFormat != t.HardwareIDFormat {
			return edgeclaim.Invalid("hardware_id_format", "the tenant's template %s has %q", other.ID, other.HardwareIDFormat)
		}
	}
	return nil
}

// Template returns one template, ErrNotFound when there is none.
func (s *Service) Template(ctx context.Context, id edgeclaim.TemplateID) (edgeclaim.Template, error) {
	return s.store.Template(ctx, id)
}

// Templates returns all templates in order of creation.
func (s *Service) Templates(ctx context.Context) ([]edgeclaim.Template, error) {
	return s.store.Templates(ctx)
}

// SetTemplateStatus disables or enables a template and so all its keys;
// setting it to what it is changes nothing. One of upstream's is ErrUpstreamOwned.
func (s *Service) SetTemplateStatus(ctx context.Context, id edgeclaim.TemplateID, status edgeclaim.TemplateStatus) (edgeclaim.Template, error) {
	t, err := s.store.ChangeTemplate(ctx, id, func(t *edgeclaim.Template) error {
		if t.Owner == edgeclaim.OwnerUpstream {
			return ErrUpstreamOwned
		}
		t.Status = status
		return nil
	})
	if err == nil {
		s.logger.Info("template status set", "template_id", id, "status", status)
	}
	return t, err
}

// own returns a template that may be changed here.
func (s *Service) own(ctx context.Context, id edgeclaim.TemplateID) (edgeclaim.Template, error) {
	t, err := s.store.Template(ctx, id)
	if err == nil && t.Owner == edgeclaim.OwnerUpstream {
		err = ErrUpstreamOwned
	}
	return t, err
}

// newID returns a UUIDv7: ids made one after the other lie side by side in the
// store, whose speed is decided by the pages it touches.
func newID() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make an id: %w", err)
	}
	return id.String(), nil
}
