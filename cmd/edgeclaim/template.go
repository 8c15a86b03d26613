package main

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"

	"github.com/spf13/cobra"
)

const templatesPath = "/api/v1/templates"

func (a *app) templateCommand() *cobra.Command {
	c := &cobra.Command{Use: "template", Short: "Templates: what keys may claim", Args: cobra.NoArgs, RunE: cli.WantCommand}
	c.AddCommand(a.templateCreateCommand(),
		&cobra.Command{
			Use: "list", Short: "List the templates", Args: cli.NoArguments, Example: "  edgeclaim template list --json",
			RunE: func(cmd *cobra.Command, _ []string) error {
				head := []string{"TEMPLATE ID", "NAME", "TENANT", "OWNER", "STATUS", "PATTERN", "BOUNDS", "EXPIRES"}
				return list(cmd.Context(), a, templatesPath, head, func(t edgeclaim.Template) []string {
					return []string{t.ID.String(), t.Name, t.Tenant.String(), string(t.Owner), string(t.Status), t.Pattern, bounds(&t), cli.When(t.Expires)}
				})
			},
		},
		a.templateVerb("show", "Show a template", http.MethodGet, ""),
		a.templateVerb("disable", "Refuse the claims of a template's keys", http.MethodPost, "/disable"),
		a.templateVerb("enable", "Accept the claims of a template's keys again", http.MethodPost, "/enable"),
	)
	return c
}

// templateVerb is a command on one template.
func (a *app) templateVerb(use, short, method, suffix string) *cobra.Command {
	return &cobra.Command{
		Use: use + " ID", Short: short, Args: cobra.ExactArgs(1),
		Example: "  edgeclaim template " + use + " 019ca7b2-4c1e-7d05-8f33-5a0b6c7d8e9f",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := edgeclaim.ParseTemplateID(args[0])
			if err != nil {
				return cli.Usagef("%v", err)
			}
			path := templatesPath + "/" + url.PathEscape(id.String()) + suffix
			return show(cmd.Context(), a, request{method, path, nil}, a.printTemplate)
		},
	}
}

// templateAsk is a template as it is asked for: what the box decides is left out.
type templateAsk struct {
	Tenant             edgeclaim.TenantID         `json:"tenant_id"`
	Name               string                     `json:"name"`
	Profile            string                     `json:"profile_id,omitempty"`
	Pattern            string                     `json:"hardware_id_pattern,omitempty"`
	Expires            time.Time                  `json:"expires_at,omitzero"`
	OneTime            bool                       `json:"one_time,omitempty"`
	MaxClaims          uint32                     `json:"max_claims,omitempty"`
	MaxClaimsPerMinute uint32                     `json:"max_claims_per_minute,omitempty"`
	Credential         edgeclaim.CredentialType   `json:"credential_type"`
	Groups             []string                   `json:"default_groups,omitempty"`
	HardwareIDFormat   edgeclaim.HardwareIDFormat `json:"hardware_id_format,omitempty"`
	Approval           edgeclaim.Approval         `json:"approval"`
	AllowList          bool                       `json:"allow_list,omitempty"`
	ExpectedClaims     uint32                     `json:"expected_claims,omitempty"`
}

func (a *app) templateCreateCommand() *cobra.Command {
	var ask templateAsk
	var tenant, expires, credential, approval, format string
	c := &cobra.Command{
		Use: "create", Short: "Make a template", Args: cli.NoArguments,
		Example: `  edgeclaim template create --tenant 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10 --name 'Cold store' \
    --hardware-id-pattern '([0-9A-F]{2}:){5}[0-9A-F]{2}' --max-claims 500
  edgeclaim template create --tenant 5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10 --name 'Line 3' --credential x509 \
    --hardware-id-format mac --allow-list --one-time`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if ask.Tenant, err = edgeclaim.ParseTenantID(tenant); err != nil {
				return cli.Usagef("--tenant: %v", err)
			}
			if cmd.Flags().Changed("expires") { // an empty one, or a zero date, is a mistake and not "never"
				if ask.Expires, err = time.Parse(time.RFC3339, expires); err != nil || ask.Expires.IsZero() {
					return cli.Usagef("--expires: want a time like 2027-01-31T00:00:00Z")
				}
			}
			ask.Credential, ask.Approval = edgeclaim.CredentialType(credential), edgeclaim.Approval(approval)
			ask.HardwareIDFormat = edgeclaim.HardwareIDFormat(format)
			return show(cmd.Context(), a, request{http.MethodPost, templatesPath, ask}, a.printTemplate)
		},
	}
	f := c.Flags()
	f.StringVar(&tenant, "tenant", "", "tenant the keys are bound to, a UUID")
	f.StringVar(&ask.Name, "name", "", "name of the template")
	f.StringVar(&ask.Profile, "profile", "", "the platform's device profile")
	f.StringVar(&ask.Pattern, "hardware-id-pattern", "", "RE2 expression that a whole hardware id must match")
	f.StringVar(&expires, "expires", "", "UTC instant from which claims are refused, RFC 3339")
	f.BoolVar(&ask.OneTime, "one-time", false, "a key is used up by its first new device")
	f.Uint32Var(&ask.MaxClaims, "max-claims", 0, "new devices a key can make, 0 for any number")
	f.Uint32Var(&ask.MaxClaimsPerMinute, "max-claims-per-minute", 0, "new devices a key can make in a minute, 0 for any number")
	f.StringVar(&credential, "credential", string(edgeclaim.CredentialAPIKey), "credential the devices get: api_key, psk or x509")
	f.StringArrayVar(&ask.Groups, "group", nil, "group the devices start in; may be repeated")
	f.StringVar(&approval, "approval", string(edgeclaim.ApprovalAuto), "who lets a claim through: auto, or manual for an operator")
	f.StringVar(&format, "hardware-id-format", "", "how hardware ids are read: mac folds the spellings of one; empty for as they are")
	f.BoolVar(&ask.AllowList, "allow-list", false, "only hardware on the template's manifest may claim; see manifest import")
	f.Uint32Var(&ask.ExpectedClaims, "expected-claims", 0, "new devices a key is meant for: many more raise an alarm")
	required(c, "tenant", "name")
	return c
}

// required marks flags that a command cannot do without.
func required(c *cobra.Command, names ...string) {
	for _, name := range names {
		_ = c.MarkFlagRequired(name) // fails only for a name that is no flag
	}
}

// bounds says in a few words what limits the keys of a template.
func bounds(t *edgeclaim.Template) string {
	var text string
	add := func(s string) {
		if text != "" {
			text += ", "
		}
		text += s
	}
	if t.OneTime {
		add("one time")
	}
	if t.MaxClaims > 0 {
		add(strconv.FormatUint(uint64(t.MaxClaims), 10) + " claims")
	}
	if t.MaxClaimsPerMinute > 0 {
		add(strconv.FormatUint(uint64(t.MaxClaimsPerMinute), 10) + " a minute")
	}
	return text
}

func (a *app) printTemplate(t edgeclaim.Template) error {
	pairs := [][2]string{
		{"template_id", t.ID.String()},
		{"tenant_id", t.Tenant.String()},
		{"name", t.Name},
		{"owner", string(t.Owner)},
		{"status", string(t.Status)},
		{"profile_id", t.Profile},
		{"hardware_id_pattern", t.Pattern},
		{"hardware_id_format", string(t.HardwareIDFormat)},
		{"bounds", bounds(&t)},
		{"expires_at", cli.When(t.Expires)},
		{"credential_type", string(t.Credential)},
		{"approval", string(t.Approval)},
	}
	if t.AllowList {
		pairs = append(pairs, [2]string{"allow_list", "only hardware on its manifest may claim"})
	}
	if t.ExpectedClaims > 0 {
		pairs = append(pairs, [2]string{"expected_claims", strconv.FormatUint(uint64(t.ExpectedClaims), 10)})
	}
	for _, group := range t.Groups {
		pairs = append(pairs, [2]string{"default_group", group})
	}
	return cli.Facts(a.stdout, append(pairs, [2]string{"created_at", cli.When(t.CreatedAt)})...)
}
