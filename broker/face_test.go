package broker_test

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"edgeclaim"
)

// A factory's own script: mosquitto_rr, of either version, in either format.
func TestMosquittoRR(t *testing.T) {
	rr, err := exec.LookPath("mosquitto_rr")
	if err != nil {
		t.Skip("mosquitto_rr is not installed")
	}
	b := start(t, &rule{answer: func(ask edgeclaim.Ask) edgeclaim.Answer {
		return edgeclaim.Answer{Body: fmt.Appendf(nil, "%s of %d: %s", ask.Format, len(ask.Body), ask.Body)}
	}}, nil)
	host, port, err := net.SplitHostPort(b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	// mosquitto_rr 2.0.11 sends nothing of what -f and -s read, and -m has no
	// zero byte to offer: {"a": 1} has none.
	const body = "\xa1\x61a\x01"
	for _, version := range []string{"mqttv311", "mqttv5"} {
		for _, tt := range []struct {
			topic, response string
			args            []string
			want            string
		}{
			{"provision/request", "provision/response", []string{"-m", `{"a":0}`}, `application/json of 7: {"a":0}`},
			{"provision/request/cbor", "provision/response/cbor", []string{"-m", body}, "application/cbor of 4: " + body},
			{"provision/request", "provision/response", []string{"-m", "{}", "-u", "provision", "-P", "x", "-i", "same", "-c"}, "application/json of 2: {}"},
		} {
			args := append([]string{"-h", host, "-p", port, "-V", version, "-q", "1", "-N", "-W", "10", "-t", tt.topic, "-e", tt.response}, tt.args...)
			out, err := exec.Command(rr, args...).CombinedOutput()
			if err != nil || string(out) != tt.want {
				t.Errorf("%s %s: %q, %v, want %q", version, tt.topic, out, err, tt.want)
			}
		}
	}
}

// The client that most Go devices use, first as a claimant, then as the device.
func TestPaho(t *testing.T) {
	id := deviceID(t, 1)
	r := &rule{login: knowsAll, answer: func(edgeclaim.Ask) edgeclaim.Answer {
		return edgeclaim.Answer{Body: []byte(id.String() + " " + passwordOf(id))}
	}}
	b := start(t, r, nil)
	answers := make(chan string, 1)
	c := pahoClient(t, b.Addr().String(), func(o *paho.ClientOptions) { o.SetClientID("factory").SetCleanSession(false) })
	wait(t, c.Subscribe("provision/response", 1, func(_ paho.Client, m paho.Message) { answers <- string(m.Payload()) }))
	wait(t, c.Publish("provision/request", 1, false, "{}"))
	user, password, ok := strings.Cut(receive(t, answers), " ")
	if !ok {
		t.Fatal("no answer")
	}
	d := pahoClient(t, b.Addr().String(), func(o *paho.ClientOptions) { o.SetUsername(user).SetPassword(password) })
	commands := make(chan string, 1)
	wait(t, d.Subscribe("devices/"+user+"/commands", 1, func(_ paho.Client, m paho.Message) { commands <- string(m.Payload()) }))
	wait(t, d.Publish("devices/"+user+"/telemetry", 1, false, "21.5"))
	r.tell(b, id, []byte("blink"))
	if got := receive(t, commands); got != "blink" {
		t.Errorf("command %q", got)
	}
	if token := d.Subscribe("devices/#", 1, nil); token.WaitTimeout(patience) {
		if codes := token.(*paho.SubscribeToken).Result(); codes["devices/#"] != 0x80 {
			t.Errorf("subscribed to everything: %v", codes)
		}
	}
}

func pahoClient(t *testing.T, addr string, change func(*paho.ClientOptions)) paho.Client {
	t.Helper()
	o := paho.NewClientOptions().AddBroker("tcp://" + addr).SetAutoReconnect(false).SetProtocolVersion(4)
	change(o)
	c := paho.NewClient(o)
	wait(t, c.Connect())
	t.Cleanup(func() { c.Disconnect(100) })
	return c
}

func wait(t *testing.T, token paho.Token) {
	t.Helper()
	if !token.WaitTimeout(patience) {
		t.Fatal("paho waits")
	}
	if err := token.Error(); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, from <-chan string) string {
	t.Helper()
	select {
	case s := <-from:
		return s
	case <-time.After(patience):
		t.Fatal("nothing came")
		return ""
	}
}
