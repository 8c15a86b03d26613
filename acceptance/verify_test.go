package acceptance

import (
	"strings"
	"testing"

	"edgeclaim/internal/mosquitto"
)

// TestKnownByWhatItHolds: a device that was provisioned without a link is known
// upstream by its API key once the box has told, and no longer once released.
func TestKnownByWhatItHolds(t *testing.T) {
	s := newSite(t, 1, "")
	key := s.box.key()
	s.box.welcome()
	s.boxCable.Refuse()
	s.boxCable.Reset()
	device := s.box.claimOne(key, "OFFLINE-1")
	if _, valid := s.hub.verify(device.apiKey); valid {
		t.Fatal("the hub knows a key that it was not told of")
	}
	s.boxCable.Heal()
	s.box.drained()
	if id, valid := s.hub.verify(device.apiKey); !valid || id != device.id {
		t.Errorf("the key of %s is valid %v, of device %s", device.id, valid, id)
	}
	if out, errOut, code := s.hub.command("", "verify", "--fingerprint", hash(device.apiKey)); code != 0 || !strings.Contains(string(out), device.id) {
		t.Errorf("by fingerprint: exit code %d: %s%s", code, out, errOut)
	}
	if _, valid := s.hub.verify("sk_live_" + strings.Repeat("A", 43)); valid {
		t.Error("a key that nobody made is valid")
	}
	s.box.json(nil, "device", "release", device.id)
	s.box.drained()
	if _, valid := s.hub.verify(device.apiKey); valid {
		t.Error("the key of a released device is valid")
	}
}

// TestSameHardwareOnTwoBoxes: one device with two credentials and a conflict,
// both valid until the policy decides (P4, P9).
func TestSameHardwareOnTwoBoxes(t *testing.T) {
	for policy, check := range map[string]func(t *testing.T, h *hub, first, second claimed, boxes [2]*box){
		"operator": wantOperatorDecides,
		"first":    wantFirstWins,
	} {
		t.Run(policy, func(t *testing.T) {
			broker := mosquitto.Start(t, mosquitto.Options{})
			h := newHub(t, broker.Addr(), "--policy", policy).quick()
			h.start()
			var boxes [2]*box
			var devices [2]claimed
			for i, site := range []string{"north", "south"} {
				boxes[i] = appBox(t, broker.Addr(), "--site", site)
				boxes[i].start()
				devices[i] = boxes[i].claimOne(boxes[i].key(), "ON-BOTH")
				boxes[i].drained()
			}
			if devices[0].id != devices[1].id {
				t.Fatalf("two boxes made devices %s and %s of one hardware", devices[0].id, devices[1].id)
			}
			if listed := h.devices(); len(listed) != 1 || !h.hasConflict("two_boxes") {
				t.Errorf("the hub lists %v and conflicts %v", listed, h.conflicts())
			}
			check(t, h, devices[0], devices[1], boxes)
		})
	}
}

func wantOperatorDecides(t *testing.T, h *hub, first, second claimed, boxes [2]*box) {
	t.Helper()
	for _, d := range []claimed{first, second} {
		if id, valid := h.verify(d.apiKey); !valid || id != d.id {
			t.Errorf("undecided, a key is valid %v, of device %s", valid, id)
		}
	}
	id := strings.Trim(string(h.conflicts()[0].ID), `"`)
	if out, errOut, code := h.command("", "conflicts", "resolve", id, "--keep", boxes[1].synced().BoxID); code != 0 {
		t.Fatalf("conflicts resolve: exit code %d: %s%s", code, out, errOut)
	}
	if _, valid := h.verify(first.apiKey); valid {
		t.Error("decided for the second box, the first one's key is valid")
	}
	if _, valid := h.verify(second.apiKey); !valid {
		t.Error("decided for the second box, its key is not valid")
	}
}

func wantFirstWins(t *testing.T, h *hub, first, second claimed, _ [2]*box) {
	t.Helper()
	if _, valid := h.verify(first.apiKey); !valid {
		t.Error("the first key is not valid")
	}
	if _, valid := h.verify(second.apiKey); valid {
		t.Error("the second key is valid")
	}
	if said := h.conflicts()[0].Resolution; said != "first" {
		t.Errorf("the conflict is resolved by %q", said)
	}
}
