package signeddoc_test

import (
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"

	"edgeclaim/internal/signeddoc"
)

const (
	tenant = "3f0e3f5e-7f4e-4a57-9a0b-6a1c2d3e4f50"
	device = "7d4f6d1e-3a56-4f7a-9a55-0f7c1d1b8a01"
	other  = "7d4f6d1e-3a56-4f7a-9a55-0f7c1d1b8a02"
)

// seeded is a key that every run has.
func seeded(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune('a'+n)), ed25519.SeedSize)))
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// head is a document's members, but for its body.
func head(kind string) string {
	text := `"type":"` + kind + `","version":7,"issued_at":"2026-03-04T05:06:07Z"`
	if kind != "signer" {
		text += `,"tenant_id":"` + tenant + `"`
	}
	return text
}

// wrap is a document with that body; more is of members behind it.
func wrap(kind, body string, more ...string) string {
	return `{` + head(kind) + `,"` + kind + `":` + body + strings.Join(more, "") + `}`
}

func hash(n int) string { return fmt.Sprintf("%064x", n) }

// good is a document of each type, with all that it can say.
func good() map[string]string {
	key := signeddoc.EncodePublic(public(seeded(1)))
	return map[string]string{
		"signer": wrap("signer", `{"public_key":"`+key+`"}`, `,"max_age_seconds":86400,"stale":"deny"`),
		"revocations": wrap("revocations", `{"devices":["`+device+`"],"hardware":["H1"],"keys":["`+hash(1)+`"],
			"reinstated":{"devices":["`+other+`"],"hardware":["H2"],"keys":["`+hash(2)+`"]}}`, `,"box_id":"box-1","site":"berlin"`),
		"templates": wrap("templates", `{"templates":[{"template_id":"t1","name":"line 1","profile_id":"p1","hardware_id_pattern":"AA.*",
			"expires_at":"2027-01-01T02:00:00+02:00","one_time":true,"max_claims":9,"max_claims_per_minute":3,"credential_type":"psk",
			"default_groups":["a","b"],"hardware_id_format":"mac","approval":"manual","allow_list":true,"expected_claims":4,"status":"disabled"},
			{"template_id":"t2","name":"line 2","hardware_id_format":"mac"}],
			"keys":[{"key_id":"k1","template_id":"t1","sha256":"`+hash(3)+`","status":"revoked"},{"key_id":"k2","template_id":"t2","sha256":"`+hash(4)+`"}]}`),
		"profiles": wrap("profiles", `{"default":{"default_tags":{"site":"x","empty":""},"default_groups":["all"],"default_config":{"a":{"b":null}}},
			"profiles":[{"profile_id":"p1","default_config":{},"offline_threshold_seconds":60,
			"telemetry_schema":{"properties":{"t":{"type":"number","minimum":-1.5,"maximum":1e3},"s":{"type":"string","enum":["on",""],"maxLength":3},"x":{}},
			"required":["t"],"additionalProperties":false},"credentials_policy":{"x509_validity_seconds":3600,"overlap_seconds":0}}]}`),
		"aliases":    wrap("aliases", `{"aliases":[{"hardware_id":"H1","device_id":"`+device+`","replaces":"H0"},{"hardware_id":"H0","device_id":"`+other+`"}]}`, `,"name":"part-1"`),
		"allow_list": wrap("allow_list", `{"template_id":"t1","rows":[{"hardware_id":"H1","profile_id":"p","name":"n","groups":["g"],"tags":{"k":"v"}},{"hardware_id":"H2"}]}`),
	}
}

// bad are documents that are refused, by the member at fault.
func bad(t testing.TB) map[string][]string {
	t.Helper()
	ok := good()
	change := func(kind, from, to string) string {
		if strings.Count(ok[kind], from) == 0 {
			t.Fatalf("the good %s has no %s", kind, from)
		}
		return strings.Replace(ok[kind], from, to, 1)
	}
	long := strings.Repeat("x", 129)
	return map[string][]string{
		"document": {``, `{`, `[]`, `null`, `"x"`, `7`, ok["signer"][:40], ok["signer"] + `{}`, ok["signer"] + "x", "\xff", `{"type":"\xff"}`,
			`{` + head("profiles") + `,"profiles":{"default":{"default_config":` + strings.Repeat(`{"a":`, 40) + `1` + strings.Repeat(`}`, 40) + `}}}`},
		"type":      {change("signer", `"signer"`, `"sings"`), change("signer", `"type":"signer",`, ``), change("signer", `"type":"signer"`, `"type":null`)},
		"Type":      {change("signer", `"type"`, `"Type"`)},
		"surprise":  {change("signer", `"version"`, `"surprise":1,"version"`)},
		"version":   {change("signer", `:7`, `:0`), change("signer", `:7`, `:-1`), change("signer", `:7`, `:"7"`), change("signer", `:7`, `:7.5`), change("signer", `:7`, `:9007199254740992`), change("signer", `"version":7`, `"version":7,"version":7`)},
		"tenant_id": {change("signer", `"version"`, `"tenant_id":"`+tenant+`","version"`), change("profiles", tenant, "00000000-0000-0000-0000-000000000000"), change("profiles", tenant, "x")},
		"name":      {change("aliases", `part-1`, `part/1`), change("aliases", `part-1`, long), change("profiles", `"version"`, `"name":"x","version"`)},
		"box_id":    {change("revocations", `box-1`, `box 1`), change("revocations", `box-1`, long), change("signer", `"version"`, `"box_id":"b","version"`), change("revocations", `"box-1"`, `null`)},
		"site":      {change("revocations", `berlin`, `ber/lin`), change("signer", `"version"`, `"site":"s","version"`)},
		"issued_at": {change("signer", `2026-`, `0001-`)[:0] + strings.Replace(ok["signer"], `2026-03-04T05:06:07Z`, `0001-01-01T00:00:00Z`, 1), change("signer", `2026-03-04T05:06:07Z`, `today`), change("signer", `2026-03-04T05:06:07Z`, `9999-12-31T23:59:59-01:00`)},

		"max_age_seconds": {change("signer", `86400`, `-1`), change("signer", `86400`, `315360001`)},
		"stale":           {change("signer", `"deny"`, `"forget"`)},

		"signer":            {`{` + head("signer") + `}`, `{` + head("signer") + `,"signer":null}`, `{` + head("profiles") + `,"profiles":{},"signer":{"public_key":"x"}}`, wrap("signer", `[]`)},
		"profiles":          {`{` + head("profiles") + `}`, change("aliases", `"version"`, `"profiles":{},"version"`)},
		"signer.public_key": {wrap("signer", `{}`), wrap("signer", `{"public_key":"AAAA"}`), wrap("signer", `{"public_key":"`+signeddoc.EncodePublic(public(seeded(1)))+`="}`)},

		"revocations.devices.1":             {change("revocations", `"`+device+`"`, `"`+device+`","`+strings.ToUpper(device)+`"`), change("revocations", `"`+device+`"`, `"`+device+`",7`)},
		"revocations.reinstated.devices.0":  {change("revocations", other, device)},
		"revocations.reinstated.hardware.0": {change("revocations", `"H2"`, `"H1"`)},
		"revocations.reinstated.keys.0":     {change("revocations", hash(2), hash(1))},
		"revocations.hardware.0":            {change("revocations", `"H1"`, `"H 1"`), change("revocations", `"H1"`, `""`)},
		"revocations.hardware":              {change("revocations", `["H1"]`, `"H1"`), change("revocations", `["H1"]`, `null`)},
		"revocations.keys.0":                {change("revocations", hash(1), hash(0)), change("revocations", hash(1), hash(1)[1:])},

		"templates.templates":                       {wrap("templates", `{}`)},
		"templates.templates.0.template_id":         {change("templates", `"template_id":"t1",`, ``)},
		"templates.templates.1.template_id":         {change("templates", `"template_id":"t2"`, `"template_id":"t1"`)},
		"templates.templates.0.tenant_id":           {change("templates", `"name":"line 1"`, `"name":"line 1","tenant_id":"`+tenant+`"`)},
		"templates.templates.0.created_at":          {change("templates", `"name":"line 1"`, `"name":"line 1","created_at":"2026-01-01T00:00:00Z"`)},
		"templates.templates.0.owner":               {change("templates", `"name":"line 1"`, `"name":"line 1","owner":"local"`)},
		"templates.templates.0.leased":              {change("templates", `"name":"line 1"`, `"name":"line 1","leased":true`)},
		"templates.templates.0.name":                {change("templates", `"line 1"`, `""`), change("templates", `"line 1"`, `"a\u0007"`), change("templates", `"line 1"`, `"`+long+`"`)},
		"templates.templates.0.profile_id":          {change("templates", `"p1"`, `"`+long+`"`)},
		"templates.templates.0.max_claims":          {change("templates", `"max_claims":9`, `"max_claims":-9`), change("templates", `"max_claims":9`, `"max_claims":4294967296`)},
		"templates.templates.0.hardware_id_pattern": {change("templates", `AA.*`, `a)(b`), change("templates", `AA.*`, `(`), change("templates", `AA.*`, strings.Repeat("a", 1025)), change("templates", `AA.*`, `(?=a)`)},
		"templates.templates.0.expires_at":          {change("templates", `2027-01-01T02:00:00+02:00`, `9999-12-31T23:59:59-02:00`)},
		"templates.templates.0.default_groups.1":    {change("templates", `["a","b"]`, `["a","a"]`), change("templates", `["a","b"]`, `["a",""]`)},
		"templates.templates.0.default_groups":      {change("templates", `["a","b"]`, `["`+strings.Join(strings.Split(strings.Repeat("g", 65), ""), `","`)+`"]`)},
		"templates.templates.0.credential_type":     {change("templates", `"psk"`, `"PSK"`)},
		"templates.templates.0.approval":            {change("templates", `"manual"`, `"maybe"`)},
		"templates.templates.0.status":              {change("templates", `"status":"disabled"`, `"status":"revoked"`)},
		"templates.templates.0.hardware_id_format":  {change("templates", `"mac"`, `"MAC"`)},
		"templates.templates.1.hardware_id_format":  {change("templates", `2","hardware_id_format":"mac"`, `2"`)},
		"templates.keys.1.key_id":                   {change("templates", `"k2"`, `"k1"`)},
		"templates.keys.1.sha256":                   {change("templates", hash(4), hash(3)), change("templates", `,"sha256":"`+hash(4)+`"`, ``)},
		"templates.keys.0.template_id":              {change("templates", `"key_id":"k1","template_id":"t1"`, `"key_id":"k1","template_id":"t3"`), change("templates", `"key_id":"k1","template_id":"t1"`, `"key_id":"k1"`)},
		"templates.keys.0.status":                   {change("templates", `"revoked"`, `"used"`)},

		"profiles.default.profile_id":                                  {change("profiles", `"default":{`, `"default":{"profile_id":"x",`)},
		"profiles.default.default_tags":                                {change("profiles", `"site":"x"`, `"":"x"`), change("profiles", `"site":"x"`, `"site":"`+long+`"`), change("profiles", `"site":"x"`, `"site":"\n"`)},
		"profiles.default.default_tags.site":                           {change("profiles", `"site":"x"`, `"site":"x","site":"y"`), change("profiles", `"site":"x"`, `"site":null`)},
		"profiles.default.default_groups.0":                            {change("profiles", `["all"]`, `["\t"]`)},
		"profiles.default.default_config":                              {change("profiles", `{"a":{"b":null}}`, `[]`), change("profiles", `{"a":{"b":null}}`, `null`), change("profiles", `{"a":{"b":null}}`, `{"a":"`+strings.Repeat("x", 16<<10)+`"}`)},
		"profiles.default.default_config.a":                            {change("profiles", `{"a":{"b":null}}`, `{"a":1,"a":2}`)},
		"profiles.profiles.0.profile_id":                               {change("profiles", `"profile_id":"p1",`, ``)},
		"profiles.profiles.1.profile_id":                               {change("profiles", `"profiles":[`, `"profiles":[{"profile_id":"p1"},`)},
		"profiles.profiles.0.offline_threshold_seconds":                {change("profiles", `seconds":60`, `seconds":86401`), change("profiles", `seconds":60`, `seconds":-1`)},
		"profiles.profiles.0.credentials_policy.x509_validity_seconds": {change("profiles", `3600`, `59`), change("profiles", `3600`, `-1`), change("profiles", `3600`, `315360001`)},
		"profiles.profiles.0.credentials_policy.overlap_seconds":       {change("profiles", `overlap_seconds":0`, `overlap_seconds":2592001`)},
		"profiles.profiles.0.telemetry_schema.properties.t.minimum":    {change("profiles", `-1.5`, `1001`), change("profiles", `-1.5`, `"1"`), change("profiles", `-1.5`, `1e999`)},
		"profiles.profiles.0.telemetry_schema.properties.t.type":       {change("profiles", `"number"`, `"string"`), change("profiles", `"number"`, `"float"`)},
		"profiles.profiles.0.telemetry_schema.properties.s.type":       {change("profiles", `"string"`, `"integer"`)},
		"profiles.profiles.0.telemetry_schema.properties.s.maxLength":  {change("profiles", `"enum":["on",""],"maxLength":3`, `"maxLength":-3`)},
		"profiles.profiles.0.telemetry_schema.properties.s.enum.0":     {change("profiles", `"maxLength":3`, `"maxLength":1`)},
		"profiles.profiles.0.telemetry_schema.properties.s.enum.1":     {change("profiles", `["on",""]`, `["on","on"]`)},
		"profiles.profiles.0.telemetry_schema.properties.s.enum":       {change("profiles", `["on",""]`, `[]`)},
		"profiles.profiles.0.telemetry_schema.properties":              {change("profiles", `"x":{}`, `"":{}`), change("profiles", `"x":{}`, `"`+long+`":{}`)},
		"profiles.profiles.0.telemetry_schema.properties.x.pattern":    {change("profiles", `"x":{}`, `"x":{"pattern":"a"}`)},
		"profiles.profiles.0.telemetry_schema.required.0":              {change("profiles", `["t"]`, `["u"]`)},
		"profiles.profiles.0.telemetry_schema.required.1":              {change("profiles", `["t"]`, `["t","t"]`)},
		"profiles.profiles.0.telemetry_schema.additionalProperties":    {change("profiles", `:false`, `:"no"`)},

		"aliases.aliases":               {wrap("aliases", `{}`)},
		"aliases.aliases.0.hardware_id": {change("aliases", `"hardware_id":"H1",`, ``)},
		"aliases.aliases.1.hardware_id": {change("aliases", `"hardware_id":"H0"`, `"hardware_id":"H1"`)},
		"aliases.aliases.1.device_id":   {change("aliases", other, device)},
		"aliases.aliases.0.device_id":   {change("aliases", device, "00000000-0000-0000-0000-000000000000")},
		"aliases.aliases.0.replaces":    {change("aliases", `"replaces":"H0"`, `"replaces":"H1"`)},
		"aliases.aliases.1.replaces":    {change("aliases", `"device_id":"`+other+`"`, `"device_id":"`+other+`","replaces":"H0"`)},

		"allow_list.template_id":        {change("allow_list", `"template_id":"t1",`, ``)},
		"allow_list.rows":               {wrap("allow_list", `{"template_id":"t1"}`)},
		"allow_list.rows.1.hardware_id": {change("allow_list", `"H2"`, `"H1"`)},
		"allow_list.rows.0.name":        {change("allow_list", `"n"`, `"\u0000"`)},
		"allow_list.rows.0.profile_id":  {change("allow_list", `"p"`, `"\u007f"`)},
		"allow_list.rows.0.groups.0":    {change("allow_list", `["g"]`, `["`+long+`"]`)},
		"allow_list.rows.0.tags":        {change("allow_list", `"k":"v"`, `"k":"`+long+`"`)},
		"allow_list.rows.0.Tags":        {change("allow_list", `"tags"`, `"Tags"`)},
	}
}
