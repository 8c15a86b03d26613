package provision_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"edgeclaim"
)

// BenchmarkAnswer: the rule and the store together, without a face: new
// hardware, known hardware and a refusal already past its delay.
func BenchmarkAnswer(b *testing.B) {
	for _, kind := range []string{"new", "known", "refused"} {
		b.Run("kind="+kind+"/askers=64", func(b *testing.B) {
			r := newRig(b)
			key := r.key(nil).Reveal()
			if kind == "refused" {
				key = "pk_factory_unknown"
			}
			var next atomic.Int64
			b.SetParallelism(32)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					hardware := "KNOWN"
					if kind == "new" {
						hardware = fmt.Sprint("HW-", next.Add(1))
					}
					body := fmt.Appendf(nil, `{"provision_key":%q,"device_name":"bench","hardware_id":%q}`, key, hardware)
					r.Answer(b.Context(), edgeclaim.Ask{
						Body: body, Format: edgeclaim.FormatJSON, Via: edgeclaim.ViaHTTP, ReceivedAt: time.Now().Add(-time.Minute),
					})
				}
			})
		})
	}
}
