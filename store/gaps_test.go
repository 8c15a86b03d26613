package store_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"edgeclaim/store"
)

// A loss is named under its own epoch where there is a gap record for that,
// however many others there are.
func TestGapsAreNamedUnderTheirEpoch(t *testing.T) {
	gap := func(epoch string, from, to, count uint64) store.Gap {
		return store.Gap{Lane: evt, From: from, To: to, Count: count, Reason: "quota", Epoch: epoch}
	}
	got := store.GapsOf(gap("D", 1, 1, 1), gap("A", 3, 4, 2), gap("B", 5, 5, 1), gap("C", 7, 9, 3), gap("B", 6, 6, 1), gap("D", 2, 2, 1), gap("E", 8, 8, 1))
	want := []store.Gap{gap("D", 1, 2, 3), gap("A", 3, 4, 2), gap("B", 5, 6, 2), gap("C", 7, 9, 3)} // E's under the first
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("gaps (-want +got):\n%s", diff)
	}
}
