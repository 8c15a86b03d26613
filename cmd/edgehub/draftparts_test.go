package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"edgeclaim"
)

// Whatever comes and goes, each row is in one document, none is too large, and no
// row moves that did not have to.
func TestPartedList(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 6))
		l := &partedList{at: map[string]listPlace{}, base: "part-", taken: map[string]bool{"part-2": true}}
		kind := edgeclaim.DocumentID{Type: edgeclaim.DocumentAllowList}
		model := map[string]string{}
		for n := range 1200 {
			key := fmt.Sprint(random.IntN(300))
			place, known := l.at[key]
			if random.IntN(4) == 0 {
				if l.remove(key) != known {
					t.Fatalf("seed %d: removed what was not there, or not what was", seed)
				}
				delete(model, key)
				continue
			}
			text := strings.Repeat("x", 1+random.IntN(5<<10*(1+n/150)))
			fits := known && l.parts[place.part].size+len(text)-len(model[key]) <= partRoom
			l.put(listRow{key, []byte(text)}, kind)
			model[key] = text
			if fits && l.at[key] != place {
				t.Fatalf("seed %d: a row moved from %v to %v", seed, place, l.at[key])
			}
		}
		checkParts(t, l, model)
	}
}

func checkParts(t *testing.T, l *partedList, model map[string]string) {
	t.Helper()
	names, found := map[string]bool{}, 0
	for _, part := range l.parts {
		if part.id.Name == "part-2" || names[part.id.Name] {
			t.Errorf("the name %s is another's", part.id.Name)
		}
		names[part.id.Name] = true
		size := 0
		for _, row := range part.list() {
			size += len(row) + 1
		}
		if size != part.size || size > partRoom {
			t.Errorf("%s: %d bytes, counted %d", part.id.Name, size, part.size)
		}
		for i, row := range part.rows {
			if row.text == nil {
				continue
			}
			found++
			if model[row.key] != string(row.text) || l.parts[l.at[row.key].part] != part || l.at[row.key].row != i {
				t.Errorf("%s: row %s is not what was put", part.id.Name, row.key)
			}
		}
	}
	if found != len(model) || len(names) < 3 {
		t.Errorf("%d rows in %d documents, want %d", found, len(names), len(model))
	}
}

// The name of a list's document has its template in it, where that fits.
func TestPartNames(t *testing.T) {
	for text, want := range map[string]string{
		"pumps":                 "pumps.part-",
		strings.Repeat("a", 54): strings.Repeat("a", 54) + ".part-",
		strings.Repeat("a", 55): "9f4390f8d30c2dd9.part-",
		strings.Repeat("a", 64): "ffe054fe7ae0cb6d.part-",
	} {
		id, err := edgeclaim.ParseTemplateID(text)
		if err != nil {
			t.Fatal(err)
		}
		got := partNames(id)
		if err := (edgeclaim.DocumentID{Type: edgeclaim.DocumentAllowList, Tenant: someTenant(t), Name: got + "9999"}).Check(); got != want || err != nil {
			t.Errorf("%s: %s, %v, want %s", text, got, err, want)
		}
	}
}
