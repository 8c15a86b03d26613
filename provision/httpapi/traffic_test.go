package httpapi_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

const (
	openAPI = "openapi"
	// maxRecorded bounds what is held against the document, in bytes.
	maxRecorded = 256 << 10
)

// operation is one of docs/protocol/openapi.yaml.
type operation struct {
	method, template string
	path             *regexp.Regexp
	at               string // JSON pointer
	value            map[string]any
	shared           []any // parameters of its path
}

var pathParameter = regexp.MustCompile(`\{[a-z_]+\}|:[a-z_]+`)

// nameless calls every parameter of a route the same: the document has other
// names for them than the server.
func nameless(route string) string { return pathParameter.ReplaceAllString(route, ":id") }

// route is the operation as the server calls it.
func (o *operation) route() string { return nameless(o.method + " " + o.template) }

// description is docs/protocol/openapi.yaml.
type description struct {
	root       map[string]any
	operations []operation

	mu       sync.Mutex // of compiler, which is for one goroutine
	compiler *jsonschema.Compiler
}

// theDocument is read once: it is long.
var theDocument = sync.OnceValues(loadDocument)

func loadDocument() (*description, error) {
	text, err := os.ReadFile("../../docs/protocol/openapi.yaml")
	if err == nil {
		text, err = yaml.YAMLToJSON(text)
	}
	if err != nil {
		return nil, err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	d := &description{root: value.(map[string]any), compiler: jsonschema.NewCompiler()}
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource(openAPI, value); err != nil {
		return nil, err
	}
	parameter := regexp.MustCompile(`\\\{[a-z_]+\\\}`)
	for path, methods := range d.root["paths"].(map[string]any) {
		exact := parameter.ReplaceAllString(regexp.QuoteMeta(path), "[^/]+")
		shared, _ := methods.(map[string]any)["parameters"].([]any)
		for method, value := range methods.(map[string]any) {
			if method == "parameters" {
				continue
			}
			d.operations = append(d.operations, operation{
				method: strings.ToUpper(method), template: path, path: regexp.MustCompile("^" + exact + "$"),
				at:    "/paths/" + strings.ReplaceAll(path, "/", "~1") + "/" + method,
				value: value.(map[string]any), shared: shared,
			})
		}
	}
	return d, nil
}

// find returns the operation of a request; paths without parameters come first.
func (d *description) find(method, path string) (operation, bool) {
	found := slices.IndexFunc(d.operations, func(o operation) bool { return o.method == method && o.template == path })
	if found < 0 {
		found = slices.IndexFunc(d.operations, func(o operation) bool { return o.method == method && o.path.MatchString(path) })
	}
	if found < 0 {
		return operation{}, false
	}
	return d.operations[found], true
}

// follow returns what a pointer or a reference leads to, and its pointer.
func (d *description) follow(at string) (map[string]any, string) {
	var value any = d.root
	for _, name := range strings.Split(strings.TrimPrefix(at, "/"), "/") {
		object, ok := value.(map[string]any)
		if !ok {
			return nil, at
		}
		value = object[strings.NewReplacer("~1", "/", "~0", "~").Replace(name)]
	}
	object, _ := value.(map[string]any)
	if ref, ok := object["$ref"].(string); ok {
		return d.follow(strings.TrimPrefix(ref, "#"))
	}
	return object, at
}

// hold validates a body against the media type's schema at a pointer.
func (d *description) hold(at, contentType string, body []byte) error {
	content, at := d.follow(at)
	described, _ := content["content"].(map[string]any)
	if described == nil && len(body) == 0 {
		return nil // it says all by its status
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return fmt.Errorf("content type %q", contentType)
	}
	if _, ok := described[media]; !ok {
		return fmt.Errorf("%s has no %s", at, media)
	}
	if media != "application/json" || len(body) > maxRecorded {
		return nil // lines, PEM, CBOR: not JSON
	}
	return d.holdSchema(at+"/content/"+strings.ReplaceAll(media, "/", "~1")+"/schema", body)
}

func (d *description) holdSchema(at string, body []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	schema, err := d.compiler.Compile(openAPI + "#" + at)
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

// recorder holds every exchange against the document.
type recorder struct {
	t        testing.TB
	document *description

	mu   sync.Mutex
	seen map[string]bool // "GET /path 200"
	off  atomic.Bool     // for faults that no part of a box has
	gone atomic.Int64    // answers that nobody took whole
}

func newRecorder(t testing.TB) *recorder {
	t.Helper()
	d, err := theDocument()
	if err != nil {
		t.Fatal(err)
	}
	return &recorder{t: t, document: d, seen: map[string]bool{}}
}

// through records what passes the handler of a server.
func (r *recorder) through(served []string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler { return r.before(next, served) }
}

func (r *recorder) before(next http.Handler, served []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		var asked bytes.Buffer
		heard := request.WithContext(request.Context()) // net/http looks at its own body once more
		heard.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(request.Body, limited{&asked}), request.Body}
		answer := &answer{ResponseWriter: w}
		broken := true
		defer func() {
			switch {
			case answer.gone:
				r.gone.Add(1)
			case !broken && !r.off.Load():
				r.hold(request, asked.Bytes(), answer, served)
			}
		}()
		next.ServeHTTP(answer, heard)
		broken = false
	})
}

// limited keeps the first bytes only.
type limited struct{ *bytes.Buffer }

func (l limited) Write(p []byte) (int, error) {
	if room := maxRecorded + 1 - l.Len(); room > 0 {
		l.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// answer keeps what is answered.
type answer struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
	gone   bool // nobody took all of it
}

func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	_, _ = limited{&a.body}.Write(p)
	n, err := a.ResponseWriter.Write(p)
	a.gone = a.gone || err != nil
	return n, err
}

func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// hold holds one exchange against the document. What is not served at all is not
// in it, and every operation says by one word of HTTP that it is asked wrongly.
func (r *recorder) hold(request *http.Request, asked []byte, a *answer, served []string) {
	path := request.URL.EscapedPath()
	op, ok := r.document.find(request.Method, path)
	if !ok || !slices.ContainsFunc(served, func(route string) bool { return nameless(route) == op.route() }) {
		if a.status != http.StatusNotFound && a.status != http.StatusMethodNotAllowed && request.Method != http.MethodHead {
			r.t.Errorf("%s %s is served (%d) and not documented", request.Method, path, a.status)
		}
		return
	}
	r.mu.Lock()
	r.seen[op.method+" "+op.template+" "+strconv.Itoa(a.status)] = true
	r.mu.Unlock()
	fail := func(what string, err error) {
		r.t.Errorf("%s %s -> %d: %s: %v\n%.2000s", request.Method, request.URL, a.status, what, err, a.body.Bytes())
	}
	if a.status == http.StatusUnsupportedMediaType && request.Header.Get("Content-Encoding") != "" {
		return // of every operation alike, and said once in the document
	}
	responses := op.value["responses"].(map[string]any)
	if _, ok := responses[strconv.Itoa(a.status)]; !ok {
		fail("answer", fmt.Errorf("the status is not documented"))
		return
	}
	if err := r.document.hold(op.at+"/responses/"+strconv.Itoa(a.status), a.Header().Get("Content-Type"), a.body.Bytes()); err != nil {
		fail("answer", err)
	}
	if a.status >= http.StatusBadRequest {
		return // what was asked may be anything
	}
	for name := range request.URL.Query() {
		if !r.document.takes(op, name) {
			fail("request", fmt.Errorf("parameter %s is taken and not documented", name))
		}
	}
	if len(asked) > 0 {
		contentType := request.Header.Get("Content-Type")
		if contentType == "" {
			contentType = "application/json" // the API takes it so
		}
		if err := r.document.hold(op.at+"/requestBody", contentType, asked); err != nil {
			fail("request", err)
		}
	}
}

// takes reports whether an operation has a query parameter.
func (d *description) takes(op operation, name string) bool {
	own, _ := op.value["parameters"].([]any)
	for _, value := range append(slices.Clone(own), op.shared...) {
		parameter := value.(map[string]any)
		if ref, ok := parameter["$ref"].(string); ok {
			parameter, _ = d.follow(strings.TrimPrefix(ref, "#"))
		}
		if parameter["in"] == "query" && parameter["name"] == name {
			return true
		}
	}
	return false
}

// missing returns the documented operations that nobody asked for with success.
func (r *recorder) missing() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var missing []string
	for _, op := range r.document.operations {
		name := op.method + " " + op.template
		if !slices.ContainsFunc(slices.Collect(maps.Keys(r.seen)), func(seen string) bool { return strings.HasPrefix(seen, name+" 2") }) {
			missing = append(missing, name)
		}
	}
	slices.Sort(missing)
	return missing
}

// TestServedIsDocumented: each route has its operation with the scope that it
// asks for, and each operation its route.
func TestServedIsDocumented(t *testing.T) {
	f := newFace(t)
	d := f.traffic.document
	var documented []string
	for _, op := range d.operations {
		documented = append(documented, op.route())
	}
	var served []string
	for _, route := range f.served {
		if !strings.HasPrefix(route, "HEAD ") {
			served = append(served, nameless(route))
		}
	}
	slices.Sort(documented)
	slices.Sort(served)
	served = slices.Compact(served)
	if diff := cmp.Diff(served, documented); diff != "" {
		t.Errorf("routes (-served +documented):\n%s", diff)
	}
	for _, r := range f.parts.Routes() {
		i := slices.IndexFunc(d.operations, func(op operation) bool { return op.route() == nameless(r.Method+" "+r.Path) })
		if i < 0 {
			continue // told above
		}
		if got := d.operations[i].value["x-scope"]; got != r.Scope {
			t.Errorf("%s %s needs %s, documented %v", r.Method, r.Path, r.Scope, got)
		}
	}
}
