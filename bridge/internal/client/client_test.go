package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"edgeclaim/bridge/internal/client"
	"edgeclaim/internal/mosquitto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func dial(t *testing.T, address string, o client.Options) *client.Conn {
	t.Helper()
	conf := client.Defaults()
	conf.URL = "mqtt://" + address
	c, err := client.Dial(t.Context(), conf, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Cut)
	return c
}

// inbound collects what comes to a connection.
type inbound struct {
	messages  chan client.Message
	oversized chan int
}

func newInbound(maximum int) (*inbound, client.Options) {
	in := &inbound{messages: make(chan client.Message, 10_000), oversized: make(chan int, 100)}
	return in, client.Options{
		MaxInbound: maximum,
		OnMessage: func(topic string, payload []byte, retained bool) {
			in.messages <- client.Message{Topic: topic, Payload: payload, Retained: retained}
		},
		OnOversized: func(bytes int) { in.oversized <- bytes },
	}
}

func next[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case one := <-from:
		return one
	case <-timer.C:
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func arrive(t *testing.T, c *client.Conn, m client.Message) {
	t.Helper()
	if err := c.Wait(t.Context(), c.Publish(m), patience); err != nil {
		t.Fatal(err)
	}
}

// TestOverMosquitto: messages arrive in order, those above the limit are thrown
// away and no more than that, and each QoS 1 goes on long after more of them
// than a broker has in flight.
func TestOverMosquitto(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{})
	in, options := newInbound(1000)
	options.ClientID = "reader"
	reader := dial(t, broker.Addr(), options)
	if err := reader.Subscribe(t.Context(), 1, "a/#", "b"); err != nil {
		t.Fatal(err)
	}
	writer := dial(t, broker.Addr(), client.Options{ClientID: "writer"})
	for i := range 60 {
		arrive(t, writer, client.Message{Topic: "a/x", Payload: make([]byte, 2000)})
		arrive(t, writer, client.Message{Topic: "b", Payload: fmt.Append(nil, i)})
	}
	for i := range 60 {
		if m := next(t, in.messages); m.Topic != "b" || string(m.Payload) != fmt.Sprint(i) || m.Retained {
			t.Fatalf("message %d: %+v", i, m)
		}
		if n := next(t, in.oversized); n < 2000 {
			t.Errorf("told of %d bytes", n)
		}
	}
	if err := reader.Close(t.Context(), &client.Message{Topic: "b", Payload: []byte("last"), Retained: true}); err != nil {
		t.Fatal(err)
	}
	if err := reader.Cause(); err == nil {
		t.Error("closed, and no cause")
	}
	late, options := newInbound(1000)
	options.ClientID = "late"
	c := dial(t, broker.Addr(), options)
	if err := c.Subscribe(t.Context(), 0, "b"); err != nil {
		t.Fatal(err)
	}
	if m := next(t, late.messages); string(m.Payload) != "last" || !m.Retained {
		t.Errorf("retained %+v", m)
	}
}

// TestWill: a connection that is cut leaves a will, one that is closed does not.
func TestWill(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{})
	in, options := newInbound(1000)
	options.ClientID = "reader"
	reader := dial(t, broker.Addr(), options)
	if err := reader.Subscribe(t.Context(), 0, "will/#"); err != nil {
		t.Fatal(err)
	}
	willing := func(name string) *client.Conn {
		return dial(t, broker.Addr(), client.Options{ClientID: name, Will: &client.Message{Topic: "will/" + name, Payload: []byte("gone")}})
	}
	if err := willing("closed").Close(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	willing("cut").Cut()
	if m := next(t, in.messages); m.Topic != "will/cut" {
		t.Errorf("%+v", m)
	}
}

// TestSubscribe: a broker that refuses, one that does not answer, and a
// connection that nothing may come on.
func TestSubscribe(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{})
	if err := dial(t, broker.Addr(), client.Options{ClientID: "no"}).Subscribe(t.Context(), 0, "a"); err == nil {
		t.Error("subscribed where nothing may come")
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for name, tc := range map[string]struct {
		answer string
		want   string
	}{
		"refused":     {"\x90\x03\x00\x01\x80", "refused the subscription"},
		"forged":      {"\x40\x02\x00\x01", "acknowledged what"},
		"no answer":   {"", "too late"},
		"disconnects": {"end", "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			done := make(chan struct{})
			go func() { // awaited below
				defer close(done)
				conn, err := silent.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				buffer := make([]byte, 1000)
				_, _ = conn.Read(buffer)
				_, _ = conn.Write([]byte("\x20\x02\x00\x00"))
				_, _ = conn.Read(buffer)
				if tc.answer == "end" {
					return
				}
				_, _ = conn.Write([]byte(tc.answer))
				_, _ = conn.Read(buffer)
			}()
			c := dial(t, silent.Addr().String(), client.Options{ClientID: "c", MaxInbound: 100})
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("too late"))
			defer cancel()
			if err := c.Subscribe(ctx, 0, "a"); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			c.Cut()
			<-done
		})
	}
}

// TestFail: whoever waits hears why the connection was given up.
func TestFail(t *testing.T) {
	broker := mosquitto.Start(t, mosquitto.Options{})
	c := dial(t, broker.Addr(), client.Options{ClientID: "c"})
	ended := make(chan struct{})
	c.OnEnd(func() { close(ended) })
	why := errors.New("given up")
	c.Fail(why)
	next(t, ended)
	if !errors.Is(c.Cause(), why) {
		t.Errorf("cause %v", c.Cause())
	}
	select {
	case <-c.Done():
	default:
		t.Error("not done")
	}
}
