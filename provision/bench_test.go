package provision_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edgeclaim"
)

// BenchmarkAnswer: the rule and the store together, without a face: new
// hardware, with a nonce and without, of each type; known hardware, and a
// device that asks again for an answer that it lost; a refusal already past its
// delay.
func BenchmarkAnswer(b *testing.B) {
	for _, c := range []struct {
		kind       string
		credential edgeclaim.CredentialType
		nonce      bool
	}{
		{"new", edgeclaim.CredentialAPIKey, false}, {"new", edgeclaim.CredentialAPIKey, true},
		{"new", edgeclaim.CredentialPSK, true}, {"new", edgeclaim.CredentialX509, true},
		{"known", edgeclaim.CredentialAPIKey, false}, {"again", edgeclaim.CredentialAPIKey, true}, {"again", edgeclaim.CredentialX509, true},
		{"refused", edgeclaim.CredentialAPIKey, false},
	} {
		b.Run(fmt.Sprintf("kind=%s/type=%s/nonce=%t/askers=64", c.kind, c.credential, c.nonce), func(b *testing.B) {
			r := newRig(b)
			key := r.keyOf(c.credential).Reveal()
			if c.kind == "refused" {
				key = "pk_factory_unknown"
			}
			nonce := ""
			if c.nonce {
				nonce = `,"claim_nonce":"` + nonceA + `"`
			}
			var next atomic.Int64
			b.SetParallelism(32)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					hardware := "KNOWN"
					if c.kind == "new" {
						hardware = fmt.Sprint("HW-", next.Add(1))
					}
					body := fmt.Appendf(nil, `{"provision_key":%q,"device_name":"bench","hardware_id":%q%s}`, key, hardware, nonce)
					r.Answer(b.Context(), edgeclaim.Ask{
						Body: body, Format: edgeclaim.FormatJSON, Via: edgeclaim.ViaHTTP, ReceivedAt: time.Now().Add(-time.Minute),
					})
				}
			})
		})
	}
}

// BenchmarkFirstLogin: a shift starts, and every device uses its credential for
// the first time; and once more, which writes nothing.
func BenchmarkFirstLogin(b *testing.B) {
	for _, first := range []bool{true, false} {
		b.Run(fmt.Sprintf("first=%t/devices=64", first), func(b *testing.B) {
			r := newRig(b)
			key := r.key(nil)
			devices := make([]said, 1)
			if first {
				devices = make([]said, b.N)
			}
			var next atomic.Int64
			claims := func(n int) {
				for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
					devices[i] = r.claimNonce(key, fmt.Sprint("H", i), nonceA)
				}
			}
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() { claims(len(devices)) })
			}
			wg.Wait()
			next.Store(0)
			b.SetParallelism(32)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					d := devices[int(next.Add(1)-1)%len(devices)]
					if _, err := r.login(d.id(b), d.APIKey); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
