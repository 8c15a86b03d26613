package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/internal/signeddoc"

	"github.com/spf13/cobra"
)

const (
	// rowsAtOnce is how many rows are stored in one transaction.
	rowsAtOnce = 2000
	// maxRowErrors is how many refused rows a report names; it counts all.
	maxRowErrors = 1000
)

// importing is what the command line of an import asks for.
type importing struct {
	tenant, template, key string
	dry                   bool
}

func (a *app) devicesImport() *cobra.Command {
	var o importing
	c := &cobra.Command{
		Use: "import FILE|- --tenant TENANT --template TEMPLATE", Short: "Announce boards to the boxes, from the platform's CSV", Args: cobra.ExactArgs(1),
		Long: "Announce boards that a template expects, from the platform's CSV (RFC 4180, UTF-8). Its first line names the\n" +
			"columns, in any order: hardware_id, and of profile_id, name, groups (a;b), tags (k=v;k=v) and device_id those\n" +
			"that there are. device_id is the id by which the platform knows the board, where it is not the derived one.\n\n" +
			"A row that is wrong is said by its line and left out, and the exit code is 1; --dry-run says so of all\n" +
			"without a change. The same again changes nothing. Boxes hear of the boards by documents: with --key, those\n" +
			"are drafted, signed and published at once; where the key is elsewhere, use `edgehub draft allow-list` and\n" +
			"`edgehub draft aliases`.",
		Example: "  edgehub devices import boards.csv --tenant 5f1c0b7e-… --template pumps --dry-run\n" +
			"  edgehub devices import boards.csv --tenant 5f1c0b7e-… --template pumps --key document.key",
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(a, cmd, args[0]) },
	}
	f := c.Flags()
	f.StringVar(&o.tenant, "tenant", "", "whose boards, a UUID")
	f.StringVar(&o.template, "template", "", "which template expects them, a template id")
	f.StringVar(&o.key, "key", "", "file with the private key for documents: sign and publish what the boxes have to hear")
	f.BoolVar(&o.dry, "dry-run", false, "change nothing, say what would be")
	for _, name := range []string{"tenant", "template"} {
		_ = c.MarkFlagRequired(name) // fails only for a name that is no flag
	}
	return c
}

func (o *importing) run(a *app, cmd *cobra.Command, from string) error {
	i := importer{dry: o.dry, report: importReport{DryRun: o.dry, Refused: []rowError{}}}
	var err error
	if i.tenant, err = edgeclaim.ParseTenantID(o.tenant); err != nil {
		return cli.Usagef("--tenant: %v", err)
	}
	if i.template, err = edgeclaim.ParseTemplateID(o.template); err != nil {
		return cli.Usagef("--template: %v", err)
	}
	var key ed25519.PrivateKey
	if o.key != "" {
		if key, err = readKeyFile(o.key); err != nil {
			return err
		}
	}
	in, size, err := a.openInput(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	return a.withRegistry(cmd, func(ctx context.Context, db *registry.DB) error {
		i.db, i.progress = db, a.newProgress(size)
		err := i.read(ctx, in)
		i.progress.clear()
		if err == nil && key != nil && !o.dry {
			err = i.publish(ctx, a, key)
		}
		if err != nil && i.report.Rows == 0 {
			return err
		}
		return errors.Join(a.printImported(&i.report), err, i.report.fault())
	})
}

// openInput opens a file, or the standard input for -; size is 0 where nobody
// knows it.
func (a *app) openInput(from string) (io.ReadCloser, int64, error) {
	if from == "-" {
		return io.NopCloser(a.stdin), 0, nil
	}
	file, err := os.Open(from)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s: a folder, not a file", from)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	size := int64(0)
	if info.Mode().IsRegular() {
		size = info.Size()
	}
	return file, size, nil
}

// importReport is what became of a file's rows.
type importReport struct {
	DryRun bool `json:"dry_run"`
	Rows   int  `json:"rows"`
	Added  int  `json:"added"` // not announced before
	Known  int  `json:"known"` // announced before; what the file says counts now
	// Refused names the first refused rows, RefusedCount counts all.
	Refused      []rowError    `json:"refused"`
	RefusedCount int           `json:"refused_count"`
	Documents    []publication `json:"documents,omitempty"`
	// Unknown: no published document has the template, so hardware ids are taken
	// as they are spelled.
	Unknown bool `json:"template_unknown,omitempty"`
}

// fault is the error of a file that was not taken whole.
func (r *importReport) fault() error {
	if r.RefusedCount > 0 {
		return fmt.Errorf("%d of %d rows were refused", r.RefusedCount, r.Rows)
	}
	for _, one := range r.Documents {
		if one.Outcome == outcomeRefused {
			return &refusedError{fmt.Sprintf("%s was not published: %s", one.DocumentID, one.Reason)}
		}
	}
	return nil
}

// importer takes a platform's file.
type importer struct {
	db       *registry.DB
	tenant   edgeclaim.TenantID
	template edgeclaim.TemplateID
	dry      bool
	report   importReport
	progress *progress

	fold folding
	// boards are the lines of the hardware ids that came, each by the device id
	// that is derived from it; devices are the lines of the ids that the boards
	// go by.
	boards  map[edgeclaim.DeviceID]int
	devices map[edgeclaim.DeviceID]int
	known   map[edgeclaim.DeviceID]bool // of a dry run: announced before, by derived id
	rows    []registry.Expected         // read, and not stored yet
}

// counted counts what is read.
type counted struct {
	io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// read takes all rows. What was stored when it breaks off stays.
func (i *importer) read(ctx context.Context, in io.Reader) error {
	source := &counted{Reader: in}
	reader, err := newRowReader(source)
	if err != nil {
		return err
	}
	if err := i.begin(ctx); err != nil {
		return err
	}
	for {
		row, err := reader.next()
		bad, refused := errors.AsType[*rowError](err)
		switch {
		case refused:
			i.refuse(bad)
		case errors.Is(err, io.EOF):
			return i.store(ctx)
		case err != nil:
			return errors.Join(err, i.store(ctx))
		default:
			if err := i.take(ctx, &row); err != nil {
				return err
			}
		}
		i.progress.show(source.n, i.report.Rows, i.report.RefusedCount)
	}
}

// begin finds out how the template reads hardware ids and, for a dry run, which
// boards are announced.
func (i *importer) begin(ctx context.Context) error {
	i.boards, i.devices, i.known = map[edgeclaim.DeviceID]int{}, map[edgeclaim.DeviceID]int{}, map[edgeclaim.DeviceID]bool{}
	d := drafter{db: i.db, tenant: i.tenant}
	var err error
	if i.fold, err = d.folding(ctx); err != nil {
		return err
	}
	known, err := d.hasTemplate(ctx, i.template)
	if err != nil {
		return err
	}
	i.report.Unknown = !known
	if !i.dry {
		return nil
	}
	return eachExpected(ctx, i.db, registry.ExpectedFilter{Tenant: i.tenant, Template: i.template}, func(e *registry.Expected) error {
		i.known[edgeclaim.NewDeviceID(i.tenant, e.Hardware, 1)] = true
		return nil
	})
}

func (i *importer) refuse(e *rowError) {
	i.report.Rows++
	i.report.RefusedCount++
	if len(i.report.Refused) < maxRowErrors {
		i.report.Refused = append(i.report.Refused, *e)
	}
}

// take checks a row against those before it and, with enough of them, stores
// them.
func (i *importer) take(ctx context.Context, row *expectedRow) error {
	folded, err := i.fold(row.Hardware)
	if invalid, ok := errors.AsType[*edgeclaim.InvalidError](err); ok {
		i.refuse(&rowError{row.line, columnHardware, invalid.Problem})
		return nil
	}
	row.Hardware = folded
	derived := edgeclaim.NewDeviceID(i.tenant, folded, 1)
	device := row.Device
	if device.IsZero() {
		device = derived
	}
	if line, twice := i.boards[derived]; twice {
		i.refuse(&rowError{row.line, columnHardware, fmt.Sprintf("on line %d already", line)})
		return nil
	}
	if line, twice := i.devices[device]; twice {
		i.refuse(&rowError{row.line, columnDevice, fmt.Sprintf("that of the board on line %d", line)})
		return nil
	}
	if len(i.boards) == edgeclaim.MaxManifest {
		return cli.Usagef("more than %d rows, which is all that a box holds", edgeclaim.MaxManifest)
	}
	i.boards[derived], i.devices[device] = row.line, row.line
	i.report.Rows++
	if i.dry {
		if i.known[derived] {
			i.report.Known++
		} else {
			i.report.Added++
		}
		return nil
	}
	if device == derived {
		device = edgeclaim.DeviceID{}
	}
	i.rows = append(i.rows, registry.Expected{Tenant: i.tenant, Template: i.template, ManifestRow: row.ManifestRow, Device: device})
	if len(i.rows) < rowsAtOnce {
		return nil
	}
	return i.store(ctx)
}

func (i *importer) store(ctx context.Context) error {
	if len(i.rows) == 0 {
		return nil
	}
	added, err := i.db.PutExpected(ctx, i.rows)
	if err != nil {
		return err
	}
	i.report.Added += added
	i.report.Known += len(i.rows) - added
	i.rows = i.rows[:0]
	return nil
}

// publish drafts, signs and publishes what the boxes have to hear.
func (i *importer) publish(ctx context.Context, a *app, key ed25519.PrivateKey) error {
	if err := a.warnUnverified(ctx, i.db); err != nil {
		return err
	}
	d := drafter{db: i.db, tenant: i.tenant, now: time.Now()}
	for _, draw := range []func() ([]draft, error){
		// Who a board is comes before that it may.
		func() ([]draft, error) { return d.aliases(ctx, nil) },
		func() ([]draft, error) { return d.allowList(ctx, i.template, nil, nil) },
	} {
		drafts, err := draw()
		if errors.Is(err, errNothing) {
			continue
		}
		if err != nil {
			return err
		}
		for _, one := range drafts {
			signed, err := signeddoc.Sign(key, one.payload)
			if err != nil {
				return err
			}
			done := publication{signedFact: factOf(signed), signed: signed}
			if err := publishOne(ctx, i.db, &done); err != nil {
				return err
			}
			i.report.Documents = append(i.report.Documents, done)
		}
	}
	return nil
}

// hasTemplate reports whether a published document has the template.
func (d *drafter) hasTemplate(ctx context.Context, id edgeclaim.TemplateID) (bool, error) {
	known, err := d.known(ctx, edgeclaim.DocumentTemplates)
	if err != nil {
		return false, err
	}
	for i := range known {
		if !known[i].InForce {
			continue
		}
		document, _, err := d.read(ctx, &known[i])
		if err != nil {
			return false, err
		}
		for j := range document.Templates.Templates {
			if document.Templates.Templates[j].ID == id {
				return true, nil
			}
		}
	}
	return false, nil
}

func (a *app) printImported(r *importReport) error {
	if a.json {
		return a.printJSON(r)
	}
	if r.Unknown {
		_, _ = fmt.Fprintln(a.stderr, "edgehub: no published document has the template: hardware ids are taken as they are spelled")
	}
	verb := ""
	if r.DryRun {
		verb = "yes: nothing was changed"
	}
	err := cli.Facts(a.stdout, [2]string{"rows", number(int64(r.Rows))}, [2]string{"added", number(int64(r.Added))},
		[2]string{"known", number(int64(r.Known))}, [2]string{"refused", number(int64(r.RefusedCount))}, [2]string{"dry run", verb})
	if err == nil && r.RefusedCount > 0 {
		err = a.printRefused(r)
	}
	if err != nil || len(r.Documents) == 0 {
		return err
	}
	return a.printPublications(r.Documents)
}

func (a *app) printRefused(r *importReport) error {
	table := cli.NewTable(a.stdout, "LINE", "FIELD", "REFUSED")
	for _, row := range r.Refused {
		table.Row(number(int64(row.Line)), row.Field, row.Message)
	}
	err := table.End()
	if more := r.RefusedCount - len(r.Refused); err == nil && more > 0 {
		_, err = fmt.Fprintf(a.stdout, "and %d more\n", more)
	}
	return err
}
