package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/mqttwire"

	"github.com/fxamacker/cbor/v2"
)

// mqttClaim is one whole claim cycle of a constrained device: connect,
// subscribe, publish at QoS 1, read the answer and its PUBACK, disconnect.
func mqttClaim(addr string, v mqttwire.Version, body string) (answer, mqttwire.Packet, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, ack, err := mqttwire.Dial(ctx, addr, v, mqttwire.Login{ClientID: "device", Clean: true, KeepAlive: 30})
	if err != nil {
		return answer{}, mqttwire.Packet{}, err
	}
	defer client.Close()
	if ack.Code() != 0 {
		return answer{}, mqttwire.Packet{}, fmt.Errorf("connack code %#x", ack.Code())
	}
	if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
		return answer{}, mqttwire.Packet{}, err
	}
	if _, err := client.Subscribe("provision/response"); err != nil {
		return answer{}, mqttwire.Packet{}, err
	}
	return askOver(client, body)
}

// askOver publishes a claim on a subscribed connection and reads both replies.
func askOver(client *mqttwire.Client, body string) (answer, mqttwire.Packet, error) {
	if err := client.Publish(mqttwire.Message{Topic: "provision/request", Payload: []byte(body), QoS: 1}); err != nil {
		return answer{}, mqttwire.Packet{}, err
	}
	var said answer
	var puback mqttwire.Packet
	for said.body == "" || puback.Type == 0 {
		p, err := client.Read()
		if err != nil {
			return said, puback, err
		}
		switch p.Type {
		case mqttwire.Publish:
			said.body = string(p.Payload)
		case mqttwire.Puback:
			puback = p
		default:
			return said, puback, fmt.Errorf("packet of type %d in between", p.Type)
		}
	}
	return said, puback, client.Disconnect()
}

func (b *box) ask(v mqttwire.Version, body string) answer {
	b.t.Helper()
	said, _, err := mqttClaim(b.mqttAddr, v, body)
	if err != nil {
		b.t.Fatal(err)
	}
	return said
}

// TestExampleClaim is the platform's example over curl and mosquitto_rr: each
// claim answered with exactly two fields, each re-claim over the other face
// with the same id and "", and upstream told once for each device.
func TestExampleClaim(t *testing.T) {
	for _, tool := range []string{"curl", "mosquitto_rr"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is needed: %v", tool, err)
		}
	}
	upstream := mosquitto.Start(t, mosquitto.Options{})
	events := watch(t, upstream.Addr())
	b := startBox(t, "--upstream", "mqtt://"+upstream.Addr(), "--site", "plant7")
	key := b.key("--hardware-id-pattern", "AA:BB:CC:00:11:2[0-9]")
	host, port, _ := strings.Cut(b.mqttAddr, ":")

	overHTTP := func(hardware string) string {
		return shell(t, "curl", "-sS", "--fail-with-body", "-H", "Content-Type: application/json",
			"-d", claimBody(key, "Cold Store Sensor 014", hardware), "http://"+b.httpAddr+"/api/v1/provision")
	}
	overMQTT := func(version string) func(string) string {
		return func(hardware string) string {
			return strings.TrimSuffix(shell(t, "mosquitto_rr", "-h", host, "-p", port, "-V", version, "-q", "1", "-W", "20",
				"-t", "provision/request", "-e", "provision/response", "-m", claimBody(key, "Cold Store Sensor 014", hardware)), "\n")
		}
	}
	faces := []func(string) string{overHTTP, overMQTT("mqttv311"), overMQTT("mqttv5")}
	ids := map[string]bool{}
	for i, face := range faces {
		hardware := fmt.Sprintf("AA:BB:CC:00:11:2%d", i)
		var first struct {
			DeviceID string `json:"device_id"`
			APIKey   string `json:"api_key"`
		}
		said := face(hardware)
		if err := json.Unmarshal([]byte(said), &first); err != nil {
			t.Fatalf("%q: %v", said, err)
		}
		if want := fmt.Sprintf(`{"device_id":%q,"api_key":%q}`, first.DeviceID, first.APIKey); said != want {
			t.Errorf("answer %s, want %s", said, want)
		}
		if len(first.APIKey) != len("sk_live_")+43 || !strings.HasPrefix(first.APIKey, "sk_live_") {
			t.Errorf("api key has %d characters", len(first.APIKey))
		}
		ids[first.DeviceID] = true
		for j, again := range faces {
			if got, want := again(hardware), fmt.Sprintf(`{"device_id":%q,"api_key":""}`, first.DeviceID); got != want {
				t.Errorf("re-claim of face %d over face %d: %s, want %s", i, j, got, want)
			}
		}
	}
	if len(ids) != len(faces) {
		t.Fatalf("%d devices, want %d", len(ids), len(faces))
	}
	until(t, "upstream has everything", func() bool { return b.status().Outbox["prov"].Pending == 0 })
	told := events.byType(t, "device.provisioned")
	if len(told) != len(ids) {
		t.Fatalf("%d device.provisioned, want %d", len(told), len(ids))
	}
	for _, e := range told {
		if !ids[e.Data["device_id"].(string)] || e.Data["credential"].(map[string]any)["sha256"] == nil {
			t.Errorf("event %v", e)
		}
		if want := fmt.Sprintf("edgeclaim/v1/plant7/%s/up/prov", b.status().BoxID); e.topic != want {
			t.Errorf("topic %s, want %s", e.topic, want)
		}
	}
}

// TestClaimInCBOR claims in CBOR over both faces and reads the answer in CBOR.
func TestClaimInCBOR(t *testing.T) {
	b := startBox(t)
	key := b.key()
	claim := func(hardware string) []byte {
		body, err := cbor.Marshal(map[string]string{"provision_key": key, "device_name": "n", "hardware_id": hardware, "request_id": "r1"})
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	check := func(face, body string) {
		t.Helper()
		var fields map[string]string
		if err := cbor.Unmarshal([]byte(body), &fields); err != nil {
			t.Fatalf("%s: %v in %q", face, err, body)
		}
		if len(fields) != 3 || fields["request_id"] != "r1" || !strings.HasPrefix(fields["api_key"], "sk_live_") {
			t.Errorf("%s: fields %v", face, len(fields))
		}
	}
	said, err := httpClaim(httpClient(1), b.httpAddr, "application/cbor", string(claim("C1")))
	if err != nil || said.status != 200 || said.header.Get("Content-Type") != "application/cbor" {
		t.Fatalf("HTTP: %v, %+v", err, said)
	}
	check("HTTP", said.body)

	host, port, _ := strings.Cut(b.mqttAddr, ":")
	out := shell(t, "mosquitto_rr", "-h", host, "-p", port, "-q", "1", "-W", "20", "-N",
		"-t", "provision/request/cbor", "-e", "provision/response/cbor", "-m", string(claim("C2"))) // its -f sends nothing
	check("MQTT", out)
}

// TestDeviceAfterTheClaim: the key logs the device in, to its own topics only;
// a release ends its session and lets the hardware claim anew.
func TestDeviceAfterTheClaim(t *testing.T) {
	b := startBox(t)
	key := b.key("--one-time")
	said := b.post(claimBody(key, "n", "H1"))
	id, apiKey := said.text(t, "device_id"), said.text(t, "api_key")

	client := login(t, b.mqttAddr, id, apiKey)
	suback, err := client.Subscribe("devices/"+id+"/commands", "devices/"+id+"/config", "devices/other/commands", "#", "provision/response")
	if err != nil {
		t.Fatal(err)
	}
	for i, good := range []bool{true, true, false, false, false} {
		if granted := suback.Codes[i] < 0x80; granted != good {
			t.Errorf("filter %d: code %#x, want granted %v", i, suback.Codes[i], good)
		}
	}
	if code := loginCode(t, b.mqttAddr, id, "sk_live_wrong"); code == 0 {
		t.Error("a wrong key logged in")
	}
	if code := loginCode(t, b.mqttAddr, "8f1c0b7e-3d2a-4f56-9a10-2c4e6f8b1d33", apiKey); code == 0 {
		t.Error("another device's id logged in")
	}
	if err := client.Ping(); err != nil {
		t.Fatal(err)
	}
	if p, err := client.Read(); err != nil || p.Type != mqttwire.Pingresp {
		t.Fatalf("wrong log-ins disturbed the session: %v, %v", p.Type, err)
	}

	b.json(nil, "device", "release", id)
	if p, err := client.Read(); err == nil && p.Type != mqttwire.Disconnect {
		t.Errorf("the session of a released device got packet %d", p.Type)
	}
	if code := loginCode(t, b.mqttAddr, id, apiKey); code == 0 {
		t.Error("a released device's key logged in")
	}
	again := b.post(claimBody(key, "n", "H1")) // its own one-time key, used up by itself
	if again.text(t, "device_id") != id || again.text(t, "api_key") == "" || again.text(t, "api_key") == apiKey {
		t.Errorf("claim after release: %s", again.body)
	}
	if other := b.post(claimBody(key, "n", "H2")); other.status != 403 {
		t.Errorf("other hardware with the used key: %d", other.status)
	}
	if code := loginCode(t, b.mqttAddr, id, again.text(t, "api_key")); code != 0 {
		t.Errorf("log-in with the new key: %#x", code)
	}
}

// TestCommandLineClaims: `edgeclaim claim` is a device over both faces.
func TestCommandLineClaims(t *testing.T) {
	b := startBox(t)
	key := b.key()
	for i, url := range []string{"http://" + b.httpAddr, "mqtt://" + b.mqttAddr} {
		var got struct {
			DeviceID string `json:"device_id"`
			APIKey   string `json:"api_key"`
		}
		b.json(&got, "claim", "--url", url, "--key", key, "--name", "n", "--hardware-id", fmt.Sprint("H", i))
		if got.DeviceID == "" || got.APIKey == "" {
			t.Errorf("%s: %+v", url, got)
		}
	}
	if _, _, code := b.command("", "claim", "--url", "mqtt://"+b.mqttAddr, "--key", "wrong", "--name", "n", "--hardware-id", "H"); code == 0 {
		t.Error("a refused claim exits 0")
	}
	if got := len(b.devices()); got != 2 {
		t.Errorf("%d devices, want 2", got)
	}
}

func loginCode(t testing.TB, addr, id, key string) byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, ack, err := mqttwire.Dial(ctx, addr, mqttwire.V311, mqttwire.Login{ClientID: id, Username: id, Password: key, Clean: true, KeepAlive: 30})
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	return ack.Code()
}

func login(t testing.TB, addr, id, key string) *mqttwire.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, ack, err := mqttwire.Dial(ctx, addr, mqttwire.V311, mqttwire.Login{ClientID: id, Username: id, Password: key, Clean: true, KeepAlive: 30})
	if err != nil || ack.Code() != 0 {
		t.Fatalf("log in: %v, code %#x", err, ack.Code())
	}
	t.Cleanup(func() { client.Close() })
	if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return client
}

// shell runs a real client and returns what it prints.
func shell(t testing.TB, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	return string(out)
}
