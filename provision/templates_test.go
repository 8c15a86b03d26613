package provision_test

import (
	"errors"
	"testing"
	"time"

	"edgeclaim"
)

// An expiry is kept in UTC, where its year must still be one that RFC 3339 can
// write: a template that cannot be written would spoil every list.
func TestExpiryIsOfAYearThatCanBeWritten(t *testing.T) {
	r := newRig(t)
	tenant, err := edgeclaim.ParseTenantID(tenantText)
	if err != nil {
		t.Fatal(err)
	}
	for text, fine := range map[string]bool{
		"9999-12-31T23:59:59Z":      true,
		"9999-12-31T23:59:59+10:00": true,
		"9999-12-31T23:59:59-10:00": false,
		"0001-01-01T00:00:01Z":      true,
		"0001-01-01T00:00:00+10:00": false,
	} {
		expires, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.CreateTemplate(t.Context(), edgeclaim.Template{Tenant: tenant, Name: "T", Expires: expires})
		invalid, ok := errors.AsType[*edgeclaim.InvalidError](err)
		if (err == nil) != fine || ok == fine || (ok && invalid.Field != "expires_at") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
