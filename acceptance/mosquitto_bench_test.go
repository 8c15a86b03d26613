package acceptance

import (
	"bufio"
	"fmt"
	"testing"
	"time"

	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/mqttwire"
)

// drainMosquitto returns the rate at which a bridge's queue arrives.
func drainMosquitto(b *testing.B, messages, size int) float64 {
	b.Helper()
	far := mosquitto.Start(b, mosquitto.Options{Extra: []string{"log_type none", "set_tcp_nodelay true"}})
	addr, open := cable(b, far.Addr(), 0)
	near := mosquitto.Start(b, mosquitto.Options{Extra: []string{
		"log_type none", "set_tcp_nodelay true", fmt.Sprint("max_inflight_messages ", mosquittoWindow),
		"connection up", "address " + addr, "topic drain/# out 1", "cleansession false", "try_private false",
		"bridge_protocol_version mqttv311", "restart_timeout 1",
	}})
	arrives := subscribed(b, far.Addr(), "drain/#")
	publishAll(b, near.Addr(), make([]byte, size), messages, 500)
	open()
	if _, err := mqttwire.Read(arrives, mqttwire.V311, mqttwire.MaxPacket); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	for range messages - 1 {
		if _, err := mqttwire.Read(arrives, mqttwire.V311, mqttwire.MaxPacket); err != nil {
			b.Fatal(err)
		}
	}
	return float64(messages-1) / time.Since(start).Seconds()
}

// mosquittoWindow is how many messages Mosquitto has in flight by default.
const mosquittoWindow = 20

// drainWindow returns the rate of a client that keeps to Mosquitto's default
// window over a long cable. It is the peer there, not the bridge: Mosquitto
// 2.0.11 stops at its window only until the first PUBACK, and then sends all
// that is queued.
func drainWindow(b *testing.B, messages, size int, delay time.Duration) float64 {
	b.Helper()
	far := mosquitto.Start(b, mosquitto.Options{Extra: []string{"log_type none", "set_tcp_nodelay true"}})
	addr, open := cable(b, far.Addr(), delay)
	open()
	start := time.Now()
	publishAll(b, addr, make([]byte, size), messages, mosquittoWindow)
	return float64(messages) / time.Since(start).Seconds()
}

// subscribed subscribes at QoS 0 and returns what arrives.
func subscribed(b *testing.B, addr, filter string) *bufio.Reader {
	b.Helper()
	client := brokerClient(b, addr, "listener")
	if err := client.Send(mqttwire.AppendSubscribe(nil, mqttwire.V311, 1, 0, filter)); err != nil {
		b.Fatal(err)
	}
	if p, err := client.Read(); err != nil || p.Type != mqttwire.Suback {
		b.Fatalf("subscribe: %v", err)
	}
	return bufio.NewReaderSize(client.Conn(), 64<<10)
}

// publishAll publishes at QoS 1, so many at once, and waits for every PUBACK.
func publishAll(b *testing.B, addr string, payload []byte, count, window int) {
	b.Helper()
	client := brokerClient(b, addr, "speaker")
	for sent, acked := 0, 0; acked < count; acked++ {
		for ; sent < count && sent-acked < window; sent++ {
			if err := client.Publish(mqttwire.Message{Topic: "drain/t", Payload: payload, QoS: 1}); err != nil {
				b.Fatal(err)
			}
		}
		if p, err := client.Read(); err != nil || p.Type != mqttwire.Puback {
			b.Fatalf("publish: %v, packet %d", err, p.Type)
		}
	}
}
