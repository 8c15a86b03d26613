package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
)

const (
	// partRoom is how much of a document its rows may take, in bytes; what stands
	// around them is far less than the rest.
	partRoom = edgeclaim.MaxDocument - 4096
	// partFull is where no more rows are added: those that are there may grow.
	partFull = partRoom / 8 * 7
)

// partedList is a list that may be longer than a document, in several. A row
// stays in its document: were it moved to another, a box that has only one of the
// two new versions would miss it.
type partedList struct {
	parts []*listPart
	at    map[string]listPlace
	// base names the documents that come to it: base and a number.
	base  string
	taken map[string]bool // names of other documents
}

// listPart is one document of it.
type listPart struct {
	id     edgeclaim.DocumentID
	newest uint64              // version, whomever it was for; 0: it is new
	before *edgeclaim.Document // nil: it is new, or is in force for others alone
	rows   []listRow
	size   int
	was    [sha256.Size]byte // of the rows as they were
}

type listRow struct {
	key  string
	text []byte // JSON; nil: it is there no more
}

type listPlace struct{ part, row int }

// load adds a document that is published.
func (l *partedList) load(id edgeclaim.DocumentID, newest uint64, before *edgeclaim.Document, rows []listRow) {
	part := &listPart{id: id, newest: newest, before: before}
	l.parts = append(l.parts, part)
	for _, row := range rows {
		l.append(len(l.parts)-1, row)
	}
	part.was = part.sum()
}

func (l *partedList) append(part int, row listRow) {
	p := l.parts[part]
	p.rows = append(p.rows, row)
	p.size += len(row.text) + 1
	l.at[row.key] = listPlace{part, len(p.rows) - 1}
}

// put adds a row, or changes it where it is.
func (l *partedList) put(row listRow, kind edgeclaim.DocumentID) {
	place, known := l.at[row.key]
	if !known {
		l.append(l.roomy(kind), row)
		return
	}
	l.replace(place, row, kind)
}

// replace puts a row in another's place, if there is room for it.
func (l *partedList) replace(place listPlace, row listRow, kind edgeclaim.DocumentID) {
	p := l.parts[place.part]
	old := &p.rows[place.row]
	size := p.size + len(row.text) - len(old.text)
	if size > partRoom {
		l.remove(old.key)
		l.append(l.roomy(kind), row)
		return
	}
	delete(l.at, old.key)
	*old, p.size = row, size
	l.at[row.key] = place
}

// remove takes a row off, and reports whether it was there.
func (l *partedList) remove(key string) bool {
	place, known := l.at[key]
	if !known {
		return false
	}
	p := l.parts[place.part]
	p.size -= len(p.rows[place.row].text) + 1
	p.rows[place.row].text = nil
	delete(l.at, key)
	return true
}

// roomy is a document with room for one more row: the last that was made, or a
// new one.
func (l *partedList) roomy(kind edgeclaim.DocumentID) int {
	if last := len(l.parts) - 1; last >= 0 && l.parts[last].size < partFull {
		return last
	}
	for n := 1; ; n++ {
		id := kind
		id.Name = l.base + fmt.Sprint(n)
		used := slices.ContainsFunc(l.parts, func(p *listPart) bool { return p.id == id })
		if !used && !l.taken[id.Name] {
			l.parts = append(l.parts, &listPart{id: id})
			l.parts[len(l.parts)-1].was = l.parts[len(l.parts)-1].sum()
			return len(l.parts) - 1
		}
	}
}

func (p *listPart) sum() (sum [sha256.Size]byte) {
	hash := sha256.New()
	for _, row := range p.rows {
		if row.text != nil {
			hash.Write(row.text)
			hash.Write([]byte{'\n'})
		}
	}
	hash.Sum(sum[:0])
	return sum
}

// list is the rows as JSON.
func (p *listPart) list() []json.RawMessage {
	rows := make([]json.RawMessage, 0, len(p.rows))
	for _, row := range p.rows {
		if row.text != nil {
			rows = append(rows, row.text)
		}
	}
	return rows
}

// drafts are the documents of the list that say something else than before.
func (l *partedList) drafts(d *drafter, body func([]json.RawMessage) any) ([]draft, error) {
	var all []draft
	for _, part := range l.parts {
		head := d.head(part.id, part.newest, part.before)
		if part.sum() == part.was && sameTerms(&head, part.before) {
			continue
		}
		one, err := finish(head, body(part.list()))
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	if len(all) == 0 {
		return nil, errNothing
	}
	return all, nil
}

// parted reads the documents of a kind that are for all boxes and that rows has
// something to say of.
func (d *drafter) parted(ctx context.Context, kind edgeclaim.DocumentType, base string,
	rows func(*edgeclaim.Document) (own bool, rows []listRow, err error),
) (*partedList, error) {
	known, err := d.known(ctx, kind)
	if err != nil {
		return nil, err
	}
	l := &partedList{at: map[string]listPlace{}, base: base, taken: map[string]bool{}}
	for i := range known {
		p := &known[i]
		l.taken[p.Name] = true
		if !p.InForce || p.Box != "" || p.Site != "" {
			continue
		}
		document, _, err := d.read(ctx, p)
		if err != nil {
			return nil, err
		}
		own, found, err := rows(document)
		if err != nil {
			return nil, err
		}
		if own {
			_, newest := d.base(known, p.DocumentID)
			l.load(p.DocumentID, newest, document, found)
		}
	}
	return l, nil
}

// partNames is what the names of a template's lists begin with. The template is
// in them, for two of a tenant must not be one document.
func partNames(t edgeclaim.TemplateID) string {
	const word, digits = ".part-", 4
	name := t.String()
	if len(name)+len(word)+digits > edgeclaim.MaxDocumentName {
		sum := sha256.Sum256([]byte(name))
		name = hex.EncodeToString(sum[:8])
	}
	return name + word
}

// allowList drafts the lists of a template: what is published, the boards that
// were announced, those of more, and without those of gone.
func (d *drafter) allowList(ctx context.Context, t edgeclaim.TemplateID, more []edgeclaim.ManifestRow, gone []edgeclaim.HardwareID) ([]draft, error) {
	kind := edgeclaim.DocumentID{Type: edgeclaim.DocumentAllowList, Tenant: d.tenant}
	l, err := d.parted(ctx, kind.Type, partNames(t), func(document *edgeclaim.Document) (own bool, rows []listRow, err error) {
		if document.AllowList.Template != t {
			return false, nil, nil
		}
		rows = make([]listRow, len(document.AllowList.Rows))
		for i := range rows {
			if rows[i], err = manifestRow(&document.AllowList.Rows[i]); err != nil {
				return false, nil, err
			}
		}
		return true, rows, nil
	})
	if err != nil {
		return nil, err
	}
	put := func(row *edgeclaim.ManifestRow) error {
		text, err := manifestRow(row)
		if err == nil {
			l.put(text, kind)
		}
		return err
	}
	err = eachExpected(ctx, d.db, registry.ExpectedFilter{Tenant: d.tenant, Template: t}, func(e *registry.Expected) error { return put(&e.ManifestRow) })
	if err != nil {
		return nil, err
	}
	for i := range more {
		if err := put(&more[i]); err != nil {
			return nil, err
		}
	}
	for _, id := range gone {
		if !l.remove(id.String()) {
			return nil, fmt.Errorf("hardware %s is on no list of the template: %w", id, edgeclaim.ErrNotFound)
		}
	}
	return l.drafts(d, func(rows []json.RawMessage) any {
		return struct {
			Template edgeclaim.TemplateID `json:"template_id"`
			Rows     []json.RawMessage    `json:"rows"`
		}{t, rows}
	})
}

func manifestRow(row *edgeclaim.ManifestRow) (listRow, error) {
	text, err := json.Marshal(row)
	return listRow{row.Hardware.String(), text}, err
}

// eachExpected calls do with the announced boards, in order of their ids.
func eachExpected(ctx context.Context, db *registry.DB, f registry.ExpectedFilter, do func(*registry.Expected) error) error {
	f.Limit = pageRows
	for {
		page, err := db.ExpectedRows(ctx, f)
		if err != nil {
			return err
		}
		for i := range page {
			if err := do(&page[i]); err != nil {
				return err
			}
		}
		if len(page) < pageRows {
			return nil
		}
		last := &page[len(page)-1]
		f.AfterHardware, f.AfterTemplate = last.Hardware, last.Template
	}
}
