package bridge_test

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"edgeclaim"
	"edgeclaim/bridge"
	"edgeclaim/internal/mosquitto"
)

// BenchmarkDrain drains a backlog into a real Mosquitto. One operation is one
// record, encoded, sent, acknowledged and forgotten; peer=bare is the MQTT
// client alone with the same payload and as many on their way.
func BenchmarkDrain(b *testing.B) {
	broker := mosquitto.Start(b, mosquitto.Options{})
	for _, rtt := range []time.Duration{0, 40 * time.Millisecond} {
		for _, window := range []int{64, 1024} {
			name := fmt.Sprintf("rtt=%v/window=%d", rtt, window)
			b.Run(name+"/peer=bridge", func(b *testing.B) { benchBridge(b, delayed(b, broker.Addr(), rtt), window) })
			b.Run(name+"/peer=bare", func(b *testing.B) { benchBare(b, delayed(b, broker.Addr(), rtt), window) })
		}
	}
}

func benchBridge(b *testing.B, address string, window int) {
	conf := bridge.Defaults()
	conf.URL, conf.Window = "mqtt://"+address, window
	outbox := newMemory()
	r := start(b, conf, outbox)
	r.awaitStatus(b, up)
	fill(outbox, b.N)
	b.ReportAllocs()
	b.ResetTimer()
	outbox.add(edgeclaim.LaneProv, 1)
	outbox.awaitAcked(b, edgeclaim.LaneProv, uint64(b.N)+1)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	r.stop()
}

// fill appends records without the signal that would start the drain.
func fill(outbox *memory, n int) {
	outbox.mu.Lock()
	defer outbox.mu.Unlock()
	l := outbox.lanes[edgeclaim.LaneProv]
	for i := range n {
		l.records = append(l.records, newRecord(edgeclaim.LaneProv, uint64(i+1)))
	}
}

func benchBare(b *testing.B, address string, window int) {
	client := mqtt.NewClient(plain(address).SetProtocolVersion(4).SetAutoReconnect(false).SetOrderMatters(false))
	if token := client.Connect(); !token.WaitTimeout(patience) || token.Error() != nil {
		b.Fatal(token.Error())
	}
	defer client.Disconnect(250)
	record := newRecord(edgeclaim.LaneProv, 1)
	payload, err := bridge.Encode(identity, epoch, &record)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	out := make(chan mqtt.Token, window)
	var collector sync.WaitGroup
	collector.Go(func() {
		for token := range out {
			if !token.WaitTimeout(patience) || token.Error() != nil {
				b.Error("no PUBACK")
			}
		}
	})
	for range b.N {
		out <- client.Publish(root+"/up/prov", 1, false, payload)
	}
	close(out)
	collector.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// delayed returns the address of a proxy to target that holds every byte back
// for half of rtt in each direction; target itself for none.
func delayed(b *testing.B, target string, rtt time.Duration) string {
	b.Helper()
	if rtt == 0 {
		return target
	}
	u := listen(b, "", func(p *peer) {
		conn, err := net.Dial("tcp", target)
		if err != nil {
			return
		}
		var back sync.WaitGroup
		back.Go(func() { defer p.Close(); hold(p, conn, rtt/2) })
		hold(conn, p, rtt/2)
		conn.Close()
		back.Wait()
	})
	return u.listener.Addr().String()
}

// hold copies from src to dst, every chunk that long after it came.
func hold(dst, src net.Conn, delay time.Duration) {
	type chunk struct {
		bytes []byte
		due   time.Time
	}
	chunks := make(chan chunk, 100_000)
	var writer sync.WaitGroup
	writer.Go(func() {
		for c := range chunks {
			<-time.After(time.Until(c.due))
			if _, err := dst.Write(c.bytes); err != nil {
				src.Close()
			}
		}
	})
	buffer := make([]byte, 64<<10)
	for {
		n, err := src.Read(buffer)
		if err != nil {
			break
		}
		chunks <- chunk{append([]byte(nil), buffer[:n]...), time.Now().Add(delay)}
	}
	close(chunks)
	writer.Wait()
}
