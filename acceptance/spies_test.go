package acceptance

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/mqttwire"
)

// spyFilters are all that a claimant could think of to hear another's answer.
var spyFilters = []string{
	"#", "+", "+/+", "+/#", "/#", "+/+/+", "provision/#", "provision/+", "provision/response", "provision/response/+",
	"provision/response/#", "provision/response/cbor", "provision/response/+/cbor", "provision/request", "provision/request/#",
	"provision/+/cbor", "devices/#", "devices/+/+", "devices/+/commands", "$SYS/#", "$SYS/broker/clients/connected",
	"$share/g/provision/response", "$share/g/#", "$queue/#", "edgeclaim/#",
}

// TestNobodySeesAnothersAnswer: hundreds burnt with one client id claim at once
// among eight spies; each gets its own answer, no spy hears anything, and no
// secret is left in a log, a file, a metric or an event (P5).
func TestNobodySeesAnothersAnswer(t *testing.T) {
	const claimants, spies = 500, 8
	upstream := mosquitto.Start(t, mosquitto.Options{})
	told := watch(t, upstream.Addr())
	b := startBox(t, "--upstream", "mqtt://"+upstream.Addr())
	key := b.key()

	var heard sync.Map
	var watching sync.WaitGroup
	var open []*mqttwire.Client
	for i := range spies {
		spy := claimant(t, b.mqttAddr, spyFilters...)
		open = append(open, spy)
		watching.Go(func() {
			for {
				p, err := spy.Read()
				if err != nil {
					return // closed at the end
				}
				if p.Type == mqttwire.Publish {
					heard.Store(fmt.Sprint(i, p.Topic), string(p.Payload))
				}
			}
		})
	}

	var mu sync.Mutex
	answers := map[string]answer{} // by hardware
	next := make(chan int, claimants)
	for i := range claimants {
		next <- i
	}
	close(next)
	parallel(t, 100, func() error {
		for i := range next {
			hardware := fmt.Sprintf("HW-%03d", i)
			said, _, err := mqttClaim(b.mqttAddr, []mqttwire.Version{mqttwire.V311, mqttwire.V5}[i%2], claimBody(key, "n", hardware))
			if err != nil {
				return fmt.Errorf("%s: %w", hardware, err)
			}
			mu.Lock()
			answers[hardware] = said
			mu.Unlock()
		}
		return nil
	})
	for _, spy := range open {
		spy.Close()
	}
	watching.Wait()
	heard.Range(func(who, what any) bool { t.Errorf("spy %v heard %v", who, what); return true })

	secrets := []string{key}
	byHardware := map[string]string{}
	for _, d := range b.devices() {
		byHardware[d.HardwareID] = d.DeviceID
	}
	for hardware, said := range answers {
		if said.text(t, "device_id") != byHardware[hardware] {
			t.Errorf("%s was answered %s, it is %s", hardware, said.text(t, "device_id"), byHardware[hardware])
		}
		secrets = append(secrets, said.text(t, "api_key"))
	}
	if len(secrets) != claimants+1 {
		t.Fatalf("%d answers, want %d", len(secrets)-1, claimants)
	}
	until(t, "upstream has everything", func() bool { return b.status().Outbox["prov"].Pending == 0 })
	metrics := get(t, "http://"+b.metricsAddr+"/metrics")
	if !strings.Contains(metrics, "edgeclaim_") {
		t.Error("the metrics are empty")
	}
	list, _, _ := b.command("", "device", "list", "--json")
	if code := b.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for place, text := range map[string]string{"the log": b.log.String(), "the metrics": metrics, "an event": told.everything(), "the device list": string(list)} {
		wantNoSecret(t, place, []byte(text), secrets)
	}
	err := filepath.WalkDir(b.data, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		wantNoSecret(t, path, content, secrets)
		info, infoErr := entry.Info()
		if infoErr == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", path, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func wantNoSecret(t *testing.T, place string, content []byte, secrets []string) {
	t.Helper()
	for _, secret := range secrets {
		if bytes.Contains(content, []byte(secret)) || bytes.Contains(content, []byte(strings.TrimPrefix(secret, "sk_live_"))) {
			t.Errorf("a secret is in %s", place)
			return
		}
	}
}

func get(t testing.TB, url string) string {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d, %v", url, response.StatusCode, err)
	}
	return string(body)
}

// TestMetricsStayOnTheAdminListener: a device's listener shows none.
func TestMetricsStayOnTheAdminListener(t *testing.T) {
	b := startBox(t)
	for _, path := range []string{"/metrics", "/api/v1/devices", "/api/v1/templates", "/api/v1/status", "/debug/pprof/"} {
		response, err := http.Get("http://" + b.httpAddr + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusNotFound {
			t.Errorf("%s on the claim listener: %d", path, response.StatusCode)
		}
	}
}
