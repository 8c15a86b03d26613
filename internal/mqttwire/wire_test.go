package mqttwire_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"testing"
	"time"

	"edgeclaim/internal/mqttwire"
)

// The bytes are those of the specification's figures, worked out by hand.
func TestAppend(t *testing.T) {
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{"connect 3.1.1", mqttwire.AppendConnect(nil, mqttwire.V311, &mqttwire.Login{ClientID: "ab", Clean: true, KeepAlive: 60}),
			"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02ab"},
		{"connect 5", mqttwire.AppendConnect(nil, mqttwire.V5, &mqttwire.Login{
			Username: "u", Password: "p", Properties: mqttwire.Properties{SessionExpiry: new(uint32(1))},
		}), "\x10\x18\x00\x04MQTT\x05\xc0\x00\x00\x05\x11\x00\x00\x00\x01\x00\x00\x00\x01u\x00\x01p"},
		{"connect with a will", mqttwire.AppendConnect(nil, mqttwire.V311, &mqttwire.Login{
			Will: &mqttwire.Message{Topic: "t", Payload: []byte("w"), QoS: 1, Retain: true},
		}), "\x10\x12\x00\x04MQTT\x04\x2c\x00\x00\x00\x00\x00\x01t\x00\x01w"},
		{"publish 3.1.1 QoS 0", mqttwire.AppendPublish(nil, mqttwire.V311, &mqttwire.Message{Topic: "a/b", Payload: []byte("hi")}),
			"\x30\x07\x00\x03a/bhi"},
		{"publish 5 QoS 1", mqttwire.AppendPublish(nil, mqttwire.V5, &mqttwire.Message{
			Topic: "a", QoS: 1, ID: 258, Dup: true, Retain: true, Payload: []byte("x"),
			Properties: mqttwire.Properties{ResponseTopic: "r", CorrelationData: []byte{9}},
		}), "\x3b\x0f\x00\x01a\x01\x02\x08\x08\x00\x01r\x09\x00\x01\x09x"},
		{"puback 3.1.1", mqttwire.AppendPuback(nil, mqttwire.V311, 258, 0x87), "\x40\x02\x01\x02"},
		{"puback 5", mqttwire.AppendPuback(nil, mqttwire.V5, 258, 0x87), "\x40\x03\x01\x02\x87"},
		{"puback 5 success", mqttwire.AppendPuback(nil, mqttwire.V5, 258, 0), "\x40\x02\x01\x02"},
		{"subscribe 3.1.1", mqttwire.AppendSubscribe(nil, mqttwire.V311, 3, 1, "a", "b"), "\x82\x0a\x00\x03\x00\x01a\x01\x00\x01b\x01"},
		{"subscribe 5", mqttwire.AppendSubscribe(nil, mqttwire.V5, 3, 0, "a"), "\x82\x07\x00\x03\x00\x00\x01a\x00"},
		{"unsubscribe", mqttwire.AppendUnsubscribe(nil, mqttwire.V311, 3, "a"), "\xa2\x05\x00\x03\x00\x01a"},
		{"pingreq", mqttwire.AppendPingreq(nil), "\xc0\x00"},
		{"disconnect", mqttwire.AppendDisconnect(nil, mqttwire.V311, 4), "\xe0\x00"},
		{"disconnect 5", mqttwire.AppendDisconnect(nil, mqttwire.V5, 4), "\xe0\x01\x04"},
	} {
		if string(tt.got) != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, tt.got, tt.want)
		}
	}
}

func read(v mqttwire.Version, b []byte, limit int) (mqttwire.Packet, error) {
	return mqttwire.Read(bufio.NewReader(bytes.NewReader(b)), v, limit)
}

func TestRead(t *testing.T) {
	for _, tt := range []struct {
		name string
		v    mqttwire.Version
		in   string
		want mqttwire.Packet
	}{
		{"connack", mqttwire.V311, "\x20\x02\x01\x05", mqttwire.Packet{Type: mqttwire.Connack, SessionPresent: true, Codes: []byte{5}}},
		{"connack 5", mqttwire.V5, "\x20\x06\x00\x00\x03\x13\x00\x3c", mqttwire.Packet{
			Type: mqttwire.Connack, Codes: []byte{0}, Message: mqttwire.Message{Properties: mqttwire.Properties{ServerKeepAlive: 60}},
		}},
		{"suback 5", mqttwire.V5, "\x90\x05\x00\x07\x00\x01\x87", mqttwire.Packet{
			Type: mqttwire.Suback, Codes: []byte{1, 0x87}, Message: mqttwire.Message{ID: 7},
		}},
		{"puback 5 short", mqttwire.V5, "\x40\x02\x00\x07", mqttwire.Packet{Type: mqttwire.Puback, Codes: []byte{0}, Message: mqttwire.Message{ID: 7}}},
		{"puback 5 with a reason", mqttwire.V5, "\x40\x08\x00\x07\x97\x04\x1f\x00\x01x", mqttwire.Packet{
			Type: mqttwire.Puback, Codes: []byte{0x97}, Message: mqttwire.Message{ID: 7, Properties: mqttwire.Properties{ReasonString: "x"}},
		}},
		{"disconnect 5", mqttwire.V5, "\xe0\x01\x8b", mqttwire.Packet{Type: mqttwire.Disconnect, Codes: []byte{0x8b}}},
		{"pingresp", mqttwire.V311, "\xd0\x00", mqttwire.Packet{Type: mqttwire.Pingresp}},
	} {
		got, err := read(tt.v, []byte(tt.in), 100)
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, %v, want %+v", tt.name, got, err, tt.want)
		}
	}
	for in, want := range map[string]error{
		"\x30\x05\x00\x09ab":                io.ErrUnexpectedEOF,
		"\x30\x03\x00\x09a":                 mqttwire.ErrMalformed,
		"\x40\x01\x00":                      mqttwire.ErrMalformed,
		"\x30\x80\x80\x80\x80\x01":          mqttwire.ErrMalformed,
		"\x30\xff\xff\xff\x7f":              mqttwire.ErrTooLarge,
		"\x10\x00":                          mqttwire.ErrMalformed,
		"\x20\x04\x00\x00\x01\x7f":          mqttwire.ErrMalformed, // no such property
		"\x20\x05\x00\x00\x09\x13\x00":      mqttwire.ErrMalformed, // properties beyond the packet
		"\x20\x05\x00\x00\x02\x13\x00":      mqttwire.ErrMalformed, // a property beyond the properties
		"\x30\x06\x00\x01a\x80\x80\x80":     mqttwire.ErrMalformed,
		"\x90\x02\x00\x07":                  mqttwire.ErrMalformed, // no length of properties
		"\xe0\x02\x00\x80":                  mqttwire.ErrMalformed,
		"\x20\x07\x00\x00\x04\x26\x00\x01x": mqttwire.ErrMalformed,
	} {
		if _, err := read(mqttwire.V5, []byte(in), 100); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", in, err, want)
		}
	}
}

// Whatever is read as a message is written as one that reads the same.
func FuzzRead(f *testing.F) {
	f.Add(byte(4), []byte("\x30\x07\x00\x03a/bhi"))
	f.Add(byte(5), []byte("\x3b\x0f\x00\x01a\x01\x02\x08\x08\x00\x01r\x09\x00\x01\x09x"))
	f.Add(byte(5), []byte("\x20\x06\x00\x00\x03\x13\x00\x3c"))
	f.Add(byte(5), []byte("\x40\x08\x00\x07\x97\x04\x1f\x00\x01x"))
	f.Fuzz(func(t *testing.T, version byte, in []byte) {
		v := mqttwire.Version(version%2 + 4)
		p, err := read(v, in, 1000)
		if err != nil || p.Type != mqttwire.Publish {
			return
		}
		if len(p.Properties.CorrelationData) == 0 {
			p.Properties.CorrelationData = nil // empty is not sent
		}
		again, err := read(v, mqttwire.AppendPublish(nil, v, &p.Message), 3000)
		if len(again.Payload) == 0 && len(p.Payload) == 0 {
			again.Payload = p.Payload
		}
		if err != nil || !reflect.DeepEqual(again, p) {
			t.Fatalf("%+v\nbecame %+v, %v", p, again, err)
		}
	})
}

// A client against a server that says what it should.
func TestClient(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	heard := make(chan []byte, 1)
	go func() { // ends with the client
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "\x20\x02\x00\x00\x90\x03\x00\x01\x01\x30\x04\x00\x01a!\xd0\x00")
		all, _ := io.ReadAll(c)
		heard <- all
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, ack, err := mqttwire.Dial(ctx, ln.Addr().String(), mqttwire.V311, mqttwire.Login{Clean: true})
	if err != nil || ack.Code() != 0 {
		t.Fatalf("CONNACK %#x, %v", ack.Code(), err)
	}
	if ack, err = c.Subscribe("a"); err != nil || ack.Code() != 1 {
		t.Fatalf("SUBACK %#x, %v", ack.Code(), err)
	}
	if p, err := c.Read(); err != nil || p.Topic != "a" || string(p.Payload) != "!" {
		t.Fatalf("%+v, %v", p, err)
	}
	if err := c.Publish(mqttwire.Message{Topic: "b", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	if err := c.Ping(); err != nil {
		t.Fatal(err)
	}
	if p, err := c.Read(); err != nil || p.Type != mqttwire.Pingresp {
		t.Fatalf("%+v, %v", p, err)
	}
	if err := c.Disconnect(); err != nil {
		t.Fatal(err)
	}
	want := "\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00\x82\x06\x00\x01\x00\x01a\x01\x32\x05\x00\x01b\x00\x02\xc0\x00\xe0\x00"
	if all := <-heard; string(all) != want {
		t.Errorf("said %q, want %q", all, want)
	}
}

func TestDialObeysItsContext(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // which never answers
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err = mqttwire.Dial(ctx, ln.Addr().String(), mqttwire.V5, mqttwire.Login{})
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%v, want a timeout", err)
	}
}
