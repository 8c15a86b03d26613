package signeddoc

import (
	"regexp"

	"edgeclaim"
)

// checkTemplates: what a box's own templates have to be, and no more said of them
// than a document may.
func checkTemplates(t *edgeclaim.Templates) error {
	if t.Templates == nil {
		return edgeclaim.Invalid("templates", "required")
	}
	ids := distinct[edgeclaim.TemplateID]{}
	for i := range t.Templates {
		template := &t.Templates[i]
		if err := ids.add(at("templates", i, "template_id"), template.ID); err != nil {
			return err
		}
		if err := under(at("templates", i, ""), checkTemplate(template)); err != nil {
			return err
		}
		if template.HardwareIDFormat != t.Templates[0].HardwareIDFormat {
			// One board would be two devices.
			return edgeclaim.Invalid(at("templates", i, "hardware_id_format"), "want the same for all of a tenant")
		}
	}
	keys, hashes := distinct[edgeclaim.KeyID]{}, distinct[edgeclaim.KeyHash]{}
	for i := range t.Keys {
		key := &t.Keys[i]
		if err := first(keys.add(at("keys", i, "key_id"), key.ID), hashes.add(at("keys", i, "sha256"), key.Hash)); err != nil {
			return err
		}
		if _, ok := ids[key.Template]; !ok {
			return edgeclaim.Invalid(at("keys", i, "template_id"), "want one of the document's templates")
		}
		switch key.Status {
		case "":
			key.Status = edgeclaim.KeyActive
		case edgeclaim.KeyActive, edgeclaim.KeyDisabled, edgeclaim.KeyRevoked:
		default:
			return edgeclaim.Invalid(at("keys", i, "status"), "want active, disabled or revoked")
		}
	}
	return nil
}

func checkTemplate(t *edgeclaim.Template) error {
	switch {
	case !t.Tenant.IsZero():
		return edgeclaim.Invalid("tenant_id", "the document's own is meant")
	case !t.CreatedAt.IsZero():
		return edgeclaim.Invalid("created_at", "not a document's to say")
	case t.Owner != "":
		return edgeclaim.Invalid("owner", "not a document's to say")
	case t.Leased:
		return edgeclaim.Invalid("leased", "not a document's to say")
	}
	if err := first(
		edgeclaim.CheckName("name", t.Name), checkOptional("profile_id", t.Profile),
		checkPattern("hardware_id_pattern", t.Pattern), checkGroups("default_groups", t.Groups),
	); err != nil {
		return err
	}
	if !t.Expires.IsZero() {
		if err := checkTime("expires_at", t.Expires); err != nil {
			return err
		}
		t.Expires = t.Expires.UTC()
	}
	return checkKinds(t)
}

// checkKinds looks at the members that are one of a few words.
func checkKinds(t *edgeclaim.Template) error {
	switch t.Credential {
	case "":
		t.Credential = edgeclaim.CredentialAPIKey
	case edgeclaim.CredentialAPIKey, edgeclaim.CredentialPSK, edgeclaim.CredentialX509:
	default:
		return edgeclaim.Invalid("credential_type", "want api_key, psk or x509")
	}
	switch t.Approval {
	case "":
		t.Approval = edgeclaim.ApprovalAuto
	case edgeclaim.ApprovalAuto, edgeclaim.ApprovalManual:
	default:
		return edgeclaim.Invalid("approval", "want auto or manual")
	}
	switch t.HardwareIDFormat {
	case edgeclaim.FormatExact, edgeclaim.FormatMAC:
	default:
		return edgeclaim.Invalid("hardware_id_format", "want mac, or nothing")
	}
	switch t.Status {
	case "":
		t.Status = edgeclaim.TemplateActive
	case edgeclaim.TemplateActive, edgeclaim.TemplateDisabled:
	default:
		return edgeclaim.Invalid("status", "want active or disabled")
	}
	return nil
}

// checkPattern compiles an RE2 expression bare, and as it is used: "a)(b" must not
// become valid by the brackets around it.
func checkPattern(member, pattern string) error {
	if len(pattern) > edgeclaim.MaxPattern {
		return edgeclaim.Invalid(member, "longer than %d bytes", edgeclaim.MaxPattern)
	}
	for _, text := range []string{pattern, `\A(?:` + pattern + `)\z`} {
		if _, err := regexp.Compile(text); err != nil {
			return edgeclaim.Invalid(member, "not an RE2 expression")
		}
	}
	return nil
}
