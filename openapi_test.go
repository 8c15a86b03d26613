package edgeclaim_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"edgeclaim"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

const openAPI = "docs/protocol/openapi.yaml"

// openAPIDocument loads docs/protocol/openapi.yaml as JSON values, and a
// compiler of its schemas: OpenAPI 3.1 speaks JSON Schema 2020-12.
func openAPIDocument(t *testing.T) (map[string]any, *jsonschema.Compiler) {
	t.Helper()
	text, err := yaml.YAMLToJSON([]byte(read(t, openAPI)))
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource(openAPI, document); err != nil {
		t.Fatal(err)
	}
	return document.(map[string]any), compiler
}

// TestOpenAPIIsWhole: references lead somewhere, operations have names of their
// own, and examples are what their schemas say.
func TestOpenAPIIsWhole(t *testing.T) {
	t.Parallel()
	document, compiler := openAPIDocument(t)
	operations := map[string]string{}
	walk(document, "", func(pointer string, value map[string]any) {
		if ref, ok := value["$ref"].(string); ok && !resolves(document, ref) {
			t.Errorf("%s: %s leads nowhere", pointer, ref)
		}
		if id, ok := value["operationId"].(string); ok {
			if other := operations[id]; other != "" {
				t.Errorf("%s: operationId %s is that of %s", pointer, id, other)
			}
			operations[id] = pointer
		}
		if _, ok := value["schema"]; !ok {
			return
		}
		schema, err := compiler.Compile(openAPI + "#" + pointer + "/schema")
		if err != nil {
			t.Errorf("%s: %v", pointer, err)
			return
		}
		for _, example := range examples(value) {
			if err := schema.Validate(example); err != nil {
				t.Errorf("%s: example: %v", pointer, err)
			}
		}
	})
	if len(operations) < 10 {
		t.Errorf("%d operations found", len(operations))
	}
}

// TestOpenAPIFitsTheNouns: what the nouns are as JSON is what the document says,
// member for member.
func TestOpenAPIFitsTheNouns(t *testing.T) {
	t.Parallel()
	document, compiler := openAPIDocument(t)
	for name, noun := range sampleNouns(t) {
		text, err := json.Marshal(noun)
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		schema, err := compiler.Compile(openAPI + "#/components/schemas/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); err != nil {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
		documented := members(document, name)
		for member := range value.(map[string]any) {
			if !slices.Contains(documented, member) {
				t.Errorf("%s: %q is not documented", name, member)
			}
		}
	}
}

// sampleNouns returns the nouns that the admin API speaks, with no member left
// at a zero that JSON leaves out.
func sampleNouns(t *testing.T) map[string]any {
	t.Helper()
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	tenant := parsed(t, edgeclaim.ParseTenantID, "5f0c6a1e-7d5b-4c39-9a57-0d3c1b1f4e10")
	hardware := parsed(t, edgeclaim.ParseHardwareID, "AA:BB:CC:00:11:22")
	template := parsed(t, edgeclaim.ParseTemplateID, "t1")
	key := parsed(t, edgeclaim.ParseKeyID, "k1")
	hash := edgeclaim.NewSecret("pk_factory_1").Hash()
	device := edgeclaim.NewDeviceID(tenant, hardware, 1)
	document := edgeclaim.DocumentState{
		DocumentID: edgeclaim.DocumentID{Type: edgeclaim.DocumentAliases, Tenant: tenant, Name: "part-1"}, Version: 2, Hash: hash.String(), IssuedAt: now,
		AppliedAt: now, Age: 1.5, Stale: true, Policy: edgeclaim.StaleDeny, Confirmed: true, Refused: string(edgeclaim.DocumentOldVersion),
		RefusedVersion: 1, RefusedAt: now,
	}
	share := edgeclaim.Share{Key: key, Template: template, Granted: 2, Claims: 1, Exhausted: true, Low: true}
	clock := edgeclaim.ClockStatus{Wall: now, Floor: now, State: edgeclaim.ClockSynced}
	return map[string]any{
		"Template": edgeclaim.Template{
			ID: template, Tenant: tenant, Name: "Line 4", Profile: "p", Pattern: "[A-F0-9:]+", Expires: now, OneTime: true,
			MaxClaims: 5, MaxClaimsPerMinute: 6, Credential: edgeclaim.CredentialAPIKey, Groups: []string{"g"},
			Approval: edgeclaim.ApprovalAuto, Status: edgeclaim.TemplateActive, CreatedAt: now,
			AllowList: true, ExpectedClaims: 7, HardwareIDFormat: edgeclaim.FormatMAC,
			Owner: edgeclaim.OwnerUpstream, Leased: true,
		},
		"Key": edgeclaim.Key{
			ID: key, Template: template, Hash: hash, Status: edgeclaim.KeyUsed, Claims: 1, UsedBy: device, CreatedAt: now,
			Granted: 2, Exhausted: true,
		},
		"Device": edgeclaim.Device{
			ID: device, Tenant: tenant, Hardware: hardware, Name: "n", Template: template, Key: key, Profile: "p",
			Groups: []string{"g"}, Tags: map[string]string{"hall": "4"}, Generation: 1, Status: edgeclaim.DeviceActive, ClaimedAt: now, ClaimedVia: edgeclaim.ViaMQTT,
			Credential:    edgeclaim.Credential{Type: edgeclaim.CredentialX509, Hash: hash, IssuedAt: now, NotAfter: now, ConfirmedAt: now},
			Previous:      edgeclaim.Credential{Type: edgeclaim.CredentialAPIKey, Hash: hash, IssuedAt: now, ConfirmedAt: now},
			PreviousUntil: now, RotatedBy: edgeclaim.RotatorDevice,
		},
		"Pending": edgeclaim.Pending{
			ID: device, Tenant: tenant, Hardware: hardware, Template: template, Key: key, Name: "n", Via: edgeclaim.ViaHTTP,
			Source: "192.0.2.1", AskedAt: now, Asked: 2, Status: edgeclaim.PendingApproved, By: "uid:0",
		},
		"Denial": edgeclaim.Denial{
			Tenant: tenant, Hardware: hardware, Reason: edgeclaim.DeniedSwapped, By: "uid:0", At: now, Device: device,
		},
		"ManifestRow":   edgeclaim.ManifestRow{Hardware: hardware, Profile: "p", Name: "n", Groups: []string{"g"}, Tags: map[string]string{"hall": "4"}},
		"DocumentState": document,
		"Share":         share,
		"Clock":         clock,
		"Status": edgeclaim.Status{
			BoxID: "b", Site: "s", Version: "v", Clock: clock,
			Outbox:       map[edgeclaim.Lane]edgeclaim.LaneStats{edgeclaim.LaneProv: {}, edgeclaim.LaneEvt: {}},
			Upstream:     edgeclaim.UpstreamStatus{Link: edgeclaim.LampUp, Broker: edgeclaim.LampDown, App: edgeclaim.LampOff, URL: "u", LastError: "e", NextTrySeconds: 1},
			Listeners:    map[string]string{"http": "127.0.0.1:8080"},
			Store:        edgeclaim.StoreStatus{Path: "p", SetAside: "q"},
			Alarms:       []edgeclaim.AlarmCount{{Alarm: edgeclaim.AlarmCloned, Count: 1, Last: now}},
			Audit:        edgeclaim.AuditStatus{Sequence: 1, Hash: "h", Lost: 2},
			Certificates: map[string]edgeclaim.CertificateStatus{"ca": {NotAfter: now, Problem: "p"}},
			Telemetry:    edgeclaim.TelemetryStatus{Online: 1, Rejected: map[string]uint64{"malformed": 2}},
			Commands:     edgeclaim.CommandsStatus{Waiting: 3},
			Documents:    []edgeclaim.DocumentState{document},
			Shares:       []edgeclaim.Share{share},
		},
		"Command": edgeclaim.Command{
			ID: parsed(t, edgeclaim.ParseCommandID, "c1"), Device: device, Tenant: tenant, Payload: []byte(`{"a":1}`),
			Origin: edgeclaim.OriginLocal, By: "scada", Status: edgeclaim.CommandFailed, QueuedAt: now, ExpiresAt: now, ChangedAt: now,
			Attempts: 2, Result: []byte(`"r"`), Reason: "expired",
		},
		"DeviceConfig": edgeclaim.DeviceConfig{Version: 3, Config: []byte(`{"a":1}`)},
	}
}

func parsed[T any](t *testing.T, parse func(string) (T, error), text string) T {
	t.Helper()
	value, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// walk visits every object of a document with its JSON pointer.
func walk(value any, pointer string, visit func(string, map[string]any)) {
	switch value := value.(type) {
	case map[string]any:
		visit(pointer, value)
		for name, member := range value {
			walk(member, pointer+"/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(name), visit)
		}
	case []any:
		for i, item := range value {
			walk(item, fmt.Sprintf("%s/%d", pointer, i), visit)
		}
	}
}

func resolves(document map[string]any, ref string) bool {
	var value any = document
	for _, name := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
		object, ok := value.(map[string]any)
		if !ok {
			return false
		}
		if value, ok = object[name]; !ok {
			return false
		}
	}
	return true
}

// examples returns those of a media type.
func examples(media map[string]any) []any {
	var found []any
	if example, ok := media["example"]; ok {
		found = append(found, example)
	}
	if named, ok := media["examples"].(map[string]any); ok {
		for _, example := range named {
			found = append(found, example.(map[string]any)["value"])
		}
	}
	return found
}

// members returns the names that a schema documents, its allOf included.
func members(document map[string]any, name string) []string {
	schema := document["components"].(map[string]any)["schemas"].(map[string]any)[name].(map[string]any)
	var names []string
	if properties, ok := schema["properties"].(map[string]any); ok {
		for property := range properties {
			names = append(names, property)
		}
	}
	parts, _ := schema["allOf"].([]any)
	for _, part := range parts {
		ref := part.(map[string]any)["$ref"].(string)
		names = append(names, members(document, ref[strings.LastIndex(ref, "/")+1:])...)
	}
	return names
}

// TestOpenAPIHasTheDevicesSide pins the statuses that a device has to be ready
// for. That every route is documented, and said as it is documented, the tests of
// provision/httpapi see to.
func TestOpenAPIHasTheDevicesSide(t *testing.T) {
	t.Parallel()
	document, _ := openAPIDocument(t)
	always := []int{http.StatusOK, http.StatusInternalServerError, http.StatusServiceUnavailable}
	body := append([]int{
		http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusTooManyRequests,
	}, always...)
	for operation, statuses := range map[string][]int{
		"post /api/v1/provision": append([]int{http.StatusAccepted, http.StatusForbidden}, body...),
		"post /api/v1/telemetry": append([]int{http.StatusUnauthorized}, body...),
		"post /api/v1/events":    append([]int{http.StatusUnauthorized}, body...),
		"get /api/v1/commands":   append([]int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusTooManyRequests}, always...),
		"get /api/v1/config":     append([]int{http.StatusNotModified, http.StatusUnauthorized}, always...),
	} {
		method, path, _ := strings.Cut(operation, " ")
		responses := document["paths"].(map[string]any)[path].(map[string]any)[method].(map[string]any)["responses"]
		for _, status := range statuses {
			if _, ok := responses.(map[string]any)[fmt.Sprint(status)]; !ok {
				t.Errorf("%s: status %d is not documented", operation, status)
			}
		}
	}
}
