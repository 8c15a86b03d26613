package acceptance

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// honest is a book that is whole: 1 to 10, of which 4 was dropped, 7 discarded,
// 9 is in quarantine.
func honest() *book {
	return &book{
		lane: "prov", appended: 10, mark: 10,
		applied: []uint64{1, 2, 3, 5, 6, 8, 10},
		holes:   []span{{From: 4, To: 4}, {From: 7, To: 7}, {From: 9, To: 9}},
		named:   []span{{4, 4, "quota", 1}, {7, 7, "discarded", 1}},
		parked:  []uint64{9},
	}
}

// TestLedgerCheckFails plants each fault that the ledger test looks for: a check
// that cannot fail finds nothing.
func TestLedgerCheckFails(t *testing.T) {
	if found := honest().faults(); len(found) > 0 {
		t.Fatalf("a book that is whole: %q", found)
	}
	for name, c := range map[string]struct {
		plant func(*book)
		want  string
	}{
		"a loss":                    {func(b *book) { b.applied = b.applied[1:]; b.holes = append(b.holes, span{From: 1, To: 1}) }, "1 is lost"},
		"a loss at the end":         {func(b *book) { b.applied, b.mark = b.applied[:6], 9 }, "10 is lost"},
		"a loss behind the mark":    {func(b *book) { b.applied = b.applied[:6] }, "10 is lost"},
		"a duplicate":               {func(b *book) { b.applied = append(b.applied, 5) }, "5 is applied 2 times"},
		"one that nobody appended":  {func(b *book) { b.applied = append(b.applied, 11) }, "11 is applied and was never appended"},
		"a gap without its record":  {func(b *book) { b.named = b.named[1:] }, "4 is lost"},
		"one out of the quarantine": {func(b *book) { b.parked = nil }, "9 is lost"},
		"parked, yet applied":       {func(b *book) { b.applied = append(b.applied, 9) }, "9 is applied and in quarantine"},
		"discarded, yet applied":    {func(b *book) { b.applied = append(b.applied, 7) }, "7 is applied and was discarded"},
		"a hole nobody noted":       {func(b *book) { b.holes = b.holes[1:] }, "4: applied 0 times"},
		"a hole that was applied":   {func(b *book) { b.holes = append(b.holes, span{From: 2, To: 2}) }, "2: applied 1 times"},
		"a mark behind":             {func(b *book) { b.mark = 9 }, "the hub stands at 9"},
		"a damaged record":          {func(b *book) { b.named[0].Reason = "damaged" }, "a gap record names"},
	} {
		b := honest()
		c.plant(b)
		if found := strings.Join(b.faults(), "\n"); !strings.Contains(found, c.want) {
			t.Errorf("%s: found %q, want %q", name, found, c.want)
		}
	}
}

// TestOrderCheckFails does the same for the order of the provisioning lane.
func TestOrderCheckFails(t *testing.T) {
	record := func(number uint64, kind, apiKey string) told {
		data := fmt.Sprintf(`{"credential":{"sha256":%q}}`, hash(apiKey))
		return told{Epoch: "E", Lane: "prov", Type: kind, Device: "D", Data: json.RawMessage(data), number: number, received: int64(number)}
	}
	records := []told{record(1, "device.provisioned", "first"), record(2, "device.released", ""), record(3, "device.provisioned", "second")}
	answered := map[string][]string{"D": {"first", "second"}}
	if found := append(outOfOrder(records), misordered(records, answered)...); len(found) > 0 {
		t.Fatalf("records in order: %q", found)
	}
	for name, c := range map[string]struct {
		records  []told
		answered []string
	}{
		"keys the other way round": {records, []string{"second", "first"}},
		"an unknown key":           {records, []string{"third"}},
		"no release between":       {[]told{records[0], records[2]}, nil},
		"a release first":          {records[1:], nil},
	} {
		if found := misordered(c.records, map[string][]string{"D": c.answered}); len(found) == 0 {
			t.Errorf("%s: found nothing", name)
		}
	}
	records[0].received = 5
	if found := outOfOrder(records); len(found) == 0 {
		t.Error("committed out of order: found nothing")
	}
}
