package bridge_test

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"edgeclaim"
	"edgeclaim/bridge"
	"edgeclaim/bridge/wire"
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
			for _, lane := range benchLanes() {
				b.Run(name+"/lane="+string(lane)+"/peer=bridge", func(b *testing.B) { benchBridge(b, delayed(b, broker.Addr(), rtt), window, lane) })
			}
			b.Run(name+"/peer=bare", func(b *testing.B) { benchBare(b, delayed(b, broker.Addr(), rtt), window) })
		}
	}
}

// benchLanes are the one that claims wait for and the one that is the most.
func benchLanes() []edgeclaim.Lane { return []edgeclaim.Lane{edgeclaim.LaneProv, edgeclaim.LaneTel} }

func benchBridge(b *testing.B, address string, window int, lane edgeclaim.Lane) {
	conf := bridge.Defaults()
	conf.URL, conf.Window = "mqtt://"+address, window
	outbox := newMemory()
	r := startWith(b, conf, outbox.withTelemetry())
	r.awaitStatus(b, up)
	fill(outbox, b.N, lane)
	b.ReportAllocs()
	b.ResetTimer()
	outbox.add(lane, 1)
	outbox.awaitAcked(b, lane, uint64(b.N)+1)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	r.stop()
}

// fill appends records without the signal that would start the drain.
func fill(outbox *memory, n int, lane edgeclaim.Lane) {
	outbox.mu.Lock()
	defer outbox.mu.Unlock()
	l := outbox.lanes[lane]
	l.last = uint64(n)
	for i := range n {
		l.records = append(l.records, newRecord(lane, uint64(i+1)))
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

// BenchmarkAppDrain drains a backlog to an application that takes a batch with
// nothing but its marks. One operation is one record, encoded, sent,
// acknowledged and forgotten; puback is the same records to a broker as bare.
func BenchmarkAppDrain(b *testing.B) {
	for _, rtt := range []time.Duration{0, 40 * time.Millisecond} {
		for _, window := range []int{1024, 4096} {
			for _, lane := range benchLanes() {
				for _, ack := range []string{bridge.AckApp, bridge.AckPuback} {
					b.Run(fmt.Sprintf("rtt=%v/window=%d/lane=%s/ack=%s", rtt, window, lane, ack), func(b *testing.B) {
						u := listen(b, "", fastApplication)
						benchApp(b, delayed(b, u.listener.Addr().String(), rtt), window, ack, lane)
					})
				}
			}
		}
	}
}

func benchApp(b *testing.B, address string, window int, ack string, lane edgeclaim.Lane) {
	conf := bridge.Defaults()
	conf.URL, conf.Window, conf.Ack, conf.StartSpread = "mqtt://"+address, window, ack, 0
	outbox := newMemory()
	r := startWith(b, conf, outbox.withTelemetry())
	r.awaitStatus(b, func(s edgeclaim.UpstreamStatus) bool { return up(s) && s.App != edgeclaim.LampDown })
	fill(outbox, b.N, lane)
	b.ReportAllocs()
	b.ResetTimer()
	outbox.add(lane, 1)
	outbox.awaitAcked(b, lane, uint64(b.N)+1)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	r.stop()
}

// fastApplication acknowledges what it is sent by the head of each batch.
func fastApplication(p *peer) {
	if p.connack(packets.Accepted) == nil {
		return
	}
	var head wire.Head
	say := func(kind string, message wire.Down) {
		m, _ := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
		m.TopicName = root + "/down/" + kind
		m.Payload, _ = wire.Encode(message)
		_ = m.Write(p)
	}
	for {
		switch packet := p.read().(type) {
		case *packets.SubscribePacket:
			ack, _ := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
			ack.MessageID, ack.ReturnCodes = packet.MessageID, []byte{0}
			_ = ack.Write(p)
		case *packets.PublishPacket:
			p.puback(packet.MessageID)
			switch {
			case packet.TopicName == root+"/up/ctl":
				message, err := wire.DecodeUp(wire.Names{Site: site, Box: box}, packet.Payload)
				hello, ok := message.(*wire.Hello)
				if err != nil || !ok {
					return
				}
				head = wire.Head{Type: wire.TypeWelcome, Box: box, Epoch: hello.Epoch, Nonce: hello.Nonce, Time: time.Now().UTC()}
				say(wire.KindControl, &wire.Welcome{
					Head: head, Version: wire.Version, Upstream: "hub-1", Credit: bridge.MaxWindow,
					Resume: map[edgeclaim.Lane]wire.Resume{edgeclaim.LaneProv: {}, edgeclaim.LaneEvt: {}, edgeclaim.LaneTel: {}},
				})
			case bytes.Contains(packet.Payload[:min(400, len(packet.Payload))], []byte(`"type":"batch"`)):
				_, rest, _ := bytes.Cut(packet.Payload, []byte(`"last":"`))
				upto, err := wire.ParseSequence(string(rest[:20]))
				if err != nil {
					return
				}
				head.Type = wire.TypeAck
				lane := edgeclaim.Lane(strings.TrimPrefix(packet.TopicName, root+"/up/"))
				say(wire.KindAck, &wire.Ack{Head: head, Upto: map[edgeclaim.Lane]uint64{lane: upto}})
			}
		case *packets.PingreqPacket:
			_ = packets.NewControlPacket(packets.Pingresp).Write(p)
		case nil:
			return
		}
	}
}
