package bridge_test

import (
	"bufio"
	"errors"
	"net"
	"sync"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// upstream is a broker made of a listener and a script that every connection
// runs.
type upstream struct {
	listener net.Listener
	script   func(*peer)
	work     sync.WaitGroup

	mu    sync.Mutex
	peers []*peer // guarded by mu; every connection so far
}

// peer is one connection of an upstream, used by its script only.
type peer struct {
	net.Conn
	number int // of the connection, from 1
	reader *bufio.Reader
	done   chan struct{} // closed at the end of the test
}

// listen starts an upstream on address, "" for a free port.
func listen(t testing.TB, address string, script func(*peer)) *upstream {
	t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{listener: listener, script: script}
	done := make(chan struct{})
	u.work.Go(func() { u.accept(done) })
	t.Cleanup(func() {
		close(done)
		listener.Close()
		u.cut()
		u.work.Wait()
	})
	return u
}

func (u *upstream) accept(done chan struct{}) {
	for {
		conn, err := u.listener.Accept()
		if err != nil {
			return
		}
		u.mu.Lock()
		p := &peer{Conn: conn, number: len(u.peers) + 1, reader: bufio.NewReader(conn), done: done}
		u.peers = append(u.peers, p)
		u.mu.Unlock()
		u.work.Go(func() {
			defer conn.Close()
			u.script(p)
		})
	}
}

func (u *upstream) url() string { return "mqtt://" + u.listener.Addr().String() }

// cut closes every connection without a word.
func (u *upstream) cut() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, p := range u.peers {
		p.Close()
	}
}

func (u *upstream) connections() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.peers)
}

// read returns the next packet, nil at the end of the connection.
func (p *peer) read() packets.ControlPacket {
	packet, err := packets.ReadPacket(p.reader)
	if err != nil {
		return nil
	}
	return packet
}

// connack reads up to CONNECT and answers it.
func (p *peer) connack(code byte) *packets.ConnectPacket {
	connect, ok := p.read().(*packets.ConnectPacket)
	if !ok {
		return nil
	}
	answer, _ := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
	answer.ReturnCode = code
	if answer.Write(p) != nil {
		return nil
	}
	return connect
}

func (p *peer) puback(id uint16) {
	answer, _ := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
	answer.MessageID = id
	_ = answer.Write(p)
}

// publishes hands every PUBLISH to take, and answers pings, until the
// connection ends or take returns false.
func (p *peer) publishes(take func(*packets.PublishPacket) bool) {
	for {
		switch packet := p.read().(type) {
		case *packets.PublishPacket:
			if !take(packet) {
				return
			}
		case *packets.PingreqPacket:
			_ = packets.NewControlPacket(packets.Pingresp).Write(p)
		case nil:
			return
		}
	}
}

// hang keeps the connection open and reads nothing more.
func (p *peer) hang() { <-p.done }

// online accepts CONNECT and acknowledges the state, as far as a bridge asks
// before it sends records.
func (p *peer) online() error {
	if p.connack(packets.Accepted) == nil {
		return errors.New("no CONNECT")
	}
	state, ok := p.read().(*packets.PublishPacket)
	if !ok {
		return errors.New("no state")
	}
	p.puback(state.MessageID)
	return nil
}
