package signeddoc_test

import (
	"fmt"
	"strings"
	"testing"

	"edgeclaim/internal/signeddoc"
)

// BenchmarkOpen reads an allow list, from its signed text.
func BenchmarkOpen(b *testing.B) {
	for _, rows := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			lines := make([]string, rows)
			for n := range lines {
				lines[n] = `{"hardware_id":"` + hash(n) + `"}`
			}
			signed, err := signeddoc.Sign(seeded(1), []byte(wrap("allow_list", `{"template_id":"t1","rows":[`+strings.Join(lines, ",")+`]}`)))
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(signed.Text)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := signeddoc.Open(signed.Text, public(seeded(1))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
