package acceptance

import (
	"bufio"
	"testing"
	"time"

	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/mqttwire"
)

// drainMosquitto returns the rate at which a bridge's queue arrives.
func drainMosquitto(b *testing.B, messages, size int, delay time.Duration) float64 {
	b.Helper()
	far := mosquitto.Start(b, mosquitto.Options{Extra: []string{"log_type none", "set_tcp_nodelay true"}})
	addr, open := cable(b, far.Addr(), delay)
	near := mosquitto.Start(b, mosquitto.Options{Extra: []string{
		"log_type none", "set_tcp_nodelay true", "max_inflight_messages 20", // which is its default
		"connection up", "address " + addr, "topic drain/# out 1", "cleansession false", "try_private false",
		"bridge_protocol_version mqttv311", "restart_timeout 1",
	}})
	arrives := subscribed(b, far.Addr(), "drain/#")
	publishAll(b, near.Addr(), "drain/t", make([]byte, size), messages)
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

// publishAll publishes at QoS 1 and waits for every PUBACK.
func publishAll(b *testing.B, addr, topic string, payload []byte, count int) {
	b.Helper()
	client := brokerClient(b, addr, "speaker")
	const window = 500
	for sent, acked := 0, 0; acked < count; acked++ {
		for ; sent < count && sent-acked < window; sent++ {
			if err := client.Publish(mqttwire.Message{Topic: topic, Payload: payload, QoS: 1}); err != nil {
				b.Fatal(err)
			}
		}
		if p, err := client.Read(); err != nil || p.Type != mqttwire.Puback {
			b.Fatalf("publish: %v, packet %d", err, p.Type)
		}
	}
}
