package edgeclaim_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"edgeclaim/bridge/wire"
	"edgeclaim/internal/mosquitto"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/google/go-cmp/cmp"
)

// TestOperationsACL runs the broker with the rights that docs/operations.md
// gives: a box and the application can do their work, and nobody another's.
func TestOperationsACL(t *testing.T) {
	t.Parallel()
	block := regexp.MustCompile("(?s)```\n(# /etc/mosquitto/edgeclaim.acl.*?)```").FindStringSubmatch(read(t, "docs/operations.md"))
	if block == nil {
		t.Fatal("docs/operations.md has no ACL")
	}
	file := filepath.Join(t.TempDir(), "acl")
	if err := os.WriteFile(file, []byte(block[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	server := mosquitto.Start(t, mosquitto.Options{
		Users: map[string]string{"box-17": "x", "box-18": "x", "edgehub": "x"},
		// Its default. With 0, for no limit, Mosquitto 2.0 throws a client out
		// that publishes what it may not.
		Extra: []string{"acl_file " + file, "max_queued_messages 1000"},
	})
	one, two := wire.Names{Site: "s", Box: "box-17"}, wire.Names{Site: "s", Box: "box-18"}
	hub := login(t, server.Addr(), "edgehub", wire.UpFilter, wire.StateFilter)
	first := login(t, server.Addr(), one.Box, one.Down("#"), two.Down("#"), wire.HostTopic, two.Up("#"), two.State())
	second := login(t, server.Addr(), two.Box, two.Down("#"))

	var toHub, toFirst, toSecond []string
	for _, kind := range []string{"prov", "evt", wire.KindControl, wire.KindSnapshot} {
		first.publish(one.Up(kind))
		first.publish(two.Up(kind)) // acknowledged, and thrown away
		toHub = append(toHub, one.Up(kind))
	}
	first.publish(one.State())
	first.publish(two.State())
	toHub = append(toHub, one.State())
	for _, kind := range []string{wire.KindAck, wire.KindControl} {
		hub.publish(one.Down(kind))
		hub.publish(two.Down(kind))
		first.publish(two.Down(kind))
		first.publish(one.Down(kind)) // nor may a box speak to itself for the application
		toFirst, toSecond = append(toFirst, one.Down(kind)), append(toSecond, two.Down(kind))
	}
	second.publish(wire.HostTopic)
	hub.publish(wire.HostTopic)
	toFirst = append(toFirst, wire.HostTopic)
	// The broker keeps each client's order, so what comes before the last has come.
	last := two.Up("last")
	second.publish(last)
	hub.expect(append(toHub, last))
	hub.publish(one.Down("last"))
	hub.publish(two.Down("last"))
	first.expect(append(toFirst, one.Down("last")))
	second.expect(append(toSecond, two.Down("last")))
}

// client is one login at a broker, and the topics of what came to it.
type client struct {
	t      *testing.T
	name   string
	client mqtt.Client
	came   chan string
}

func login(t *testing.T, addr, user string, filters ...string) *client {
	t.Helper()
	c := &client{t: t, name: user, came: make(chan string, 100)}
	c.client = mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + addr).SetClientID(user).SetUsername(user).
		SetPassword("x").SetAutoReconnect(false).SetProtocolVersion(4).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { c.came <- m.Topic() }))
	c.wait(c.client.Connect())
	t.Cleanup(func() { c.client.Disconnect(100) })
	for _, filter := range filters {
		c.wait(c.client.Subscribe(filter, 1, nil))
	}
	return c
}

func (c *client) publish(topic string) { c.wait(c.client.Publish(topic, 1, false, "x")) }

const patience = 20 * time.Second

func (c *client) wait(token mqtt.Token) {
	c.t.Helper()
	if !token.WaitTimeout(patience) || token.Error() != nil {
		c.t.Fatalf("%s: %v", c.name, token.Error())
	}
}

// expect takes what came, up to the last topic of want, in any order.
func (c *client) expect(want []string) {
	c.t.Helper()
	var got []string
	for deadline := time.After(patience); !slices.Contains(got, want[len(want)-1]); {
		select {
		case topic := <-c.came:
			got = append(got, topic)
		case <-deadline:
			c.t.Fatalf("%s: got %q, want %q", c.name, got, want)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(slices.Sorted(slices.Values(want)), got); diff != "" {
		c.t.Error(fmt.Sprintf("%s (-want +got):\n", c.name) + diff)
	}
}
