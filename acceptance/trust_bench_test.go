package acceptance

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"edgeclaim/internal/mqttwire"
)

// The attack that BenchmarkGoodUnderAttack measures against.
const (
	attackSources = 50   // loopback addresses, 127.0.1.1 and on
	attackRate    = 200  // wrong keys a second, of all of them
	goodDevices   = 4000 // new ones, each time: the 99th percentile of fewer is a matter of luck
	goodRate      = 500  // claims a second of good devices
	goodTurn      = 125  // of them in a row, quiet or under attack
)

// BenchmarkGoodUnderAttack: the 99th percentile of good devices' claims while 50
// sources try 200 wrong keys a second, of that while nobody does; the limit is
// 1.5. Thousands of devices claim at a steady pace, half over each face, each on a
// connection of its own, and the attack comes and goes, so that a slow moment of
// the machine is both's.
func BenchmarkGoodUnderAttack(b *testing.B) {
	box := startBox(b)
	key := box.key()
	guesses := startGuessing(b, box)
	times := map[bool][]time.Duration{}
	for b.Loop() {
		for turn := range goodDevices / goodTurn {
			attacked := turn%2 == 1
			guesses.on.Store(attacked)
			times[attacked] = append(times[attacked], goodClaims(b, box, key, goodTurn, goodRate)...)
		}
	}
	guesses.end()
	p99 := func(attacked bool) float64 {
		slices.Sort(times[attacked])
		return float64(times[attacked][len(times[attacked])*99/100].Microseconds())
	}
	if tried, during := guesses.refused.Load(), time.Duration(len(times[true]))*time.Second/goodRate; float64(tried) < during.Seconds()*attackRate/2 {
		b.Errorf("only %d wrong keys were refused in %v", tried, during)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(p99(true), "attacked-p99-µs")
	b.ReportMetric(p99(false), "quiet-p99-µs")
	b.ReportMetric(p99(true)/p99(false), "of-quiet")
}

// goodClaims lets so many devices claim, each at its own time whatever became of
// the ones before, rate of them a second, and returns how long each took.
func goodClaims(b *testing.B, box *box, key string, n, rate int) []time.Duration {
	b.Helper()
	took := make([]time.Duration, n)
	errs := make(chan error, n)
	var claims sync.WaitGroup
	ticker := time.NewTicker(time.Second / time.Duration(rate))
	defer ticker.Stop()
	for i := range took {
		due := <-ticker.C
		claims.Go(func() {
			if err := goodClaim(box, i%2 == 0, claimBody(key, "n", fmt.Sprint("GOOD-", serial.Add(1)))); err != nil {
				errs <- err
			}
			took[i] = time.Since(due) // what it waited for its turn is the machine's doing, in either case
		})
	}
	claims.Wait()
	close(errs)
	for err := range errs {
		b.Fatal(err)
	}
	return took
}

func goodClaim(box *box, overMQTT bool, body string) error {
	if overMQTT {
		return cycle(box.mqttAddr, "provision/response", "provision/request", []byte(body))
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	said, err := httpClaim(client, box.httpAddr, "application/json", body)
	if err == nil && said.status != http.StatusOK {
		err = fmt.Errorf("answered %d %s", said.status, said.body)
	}
	return err
}

// guessing tries wrong keys from many addresses, half over each face, while it
// is on.
type guessing struct {
	on      atomic.Bool
	refused atomic.Int64
	stop    context.CancelFunc
	work    sync.WaitGroup
}

func startGuessing(b *testing.B, box *box) *guessing {
	b.Helper()
	ctx, stop := context.WithCancel(context.Background())
	g := &guessing{stop: stop}
	b.Cleanup(g.end)
	for source := range attackSources {
		dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(source+1))}}
		g.work.Go(func() {
			within(time.Duration(source)*time.Second/attackRate, ctx.Done()) // not all at once: it is a rate
			each(ctx, time.Second*attackSources/attackRate, func(i int) {
				if !g.on.Load() {
					return
				}
				body := claimBody(fmt.Sprint("pk_factory_", source, "-", i), "n", "GUESS")
				if err := guess(ctx, dialer, box, (source+i)%2 == 0, body); err == nil {
					g.refused.Add(1)
				}
			})
		})
	}
	return g
}

func (g *guessing) end() {
	g.stop()
	g.work.Wait()
}

// guess makes one claim that is refused, on a connection of its own.
func guess(ctx context.Context, dialer *net.Dialer, box *box, overMQTT bool, body string) error {
	if !overMQTT {
		client := &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
		said, err := httpClaim(client, box.httpAddr, "application/json", body)
		if err == nil && said.body != denied {
			err = fmt.Errorf("answered %d %s", said.status, said.body)
		}
		return err
	}
	conn, err := dialer.DialContext(ctx, "tcp", box.mqttAddr)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := mqttwire.New(conn, mqttwire.V311)
	if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := client.Login(asClaimant()); err != nil {
		return err
	}
	if _, err := client.Subscribe("provision/response"); err != nil {
		return err
	}
	said, _, err := askOver(client, body)
	if err == nil && said.body != denied {
		err = fmt.Errorf("answered %s", said.body)
	}
	return err
}
