package protocolschema_test

import (
	"maps"
	"strings"
	"testing"

	"edgeclaim"
	"edgeclaim/bridge/wire"

	"github.com/go-json-experiment/json"
)

// data of an event, by member.
type data map[string]any

func (d data) with(name string, value any) data {
	more := maps.Clone(d)
	if more[name] = value; value == nil {
		delete(more, name)
	}
	return more
}

// moments and hashes as boxes write them.
const (
	instant = "2026-03-04T05:06:07.5Z"
	digest  = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
)

// TestEventData: what boxes tell of devices' credentials and of themselves,
// with every member and with the least; and what would mislead a reader is no
// such event. Provision's tests hold every record that the rule makes against
// the same schema.
func TestEventData(t *testing.T) {
	t.Parallel()
	schemas := load(t, true)
	d := device(t)
	about := data{"device_id": d.ID.String(), "tenant_id": d.Tenant.String(), "hardware_id": "H", "box_id": "box-17", "site": "plant-7"}
	box := data{"box_id": "box-17", "site": "plant-7"}
	join := func(a, b data) data {
		all := maps.Clone(a)
		maps.Copy(all, b)
		return all
	}
	key := data{"type": "api_key", "sha256": digest}
	psk := data{"type": "psk", "sha256": digest, "sealed": data{"key_id": "fje9-Q2vHIs3QskVPnZ5iw", "value": "AAAA"}}
	certificate := data{"type": "x509", "fingerprint": digest, "not_after": instant}
	provisioned := join(about, data{
		"name": "n", "template_id": "t1", "key_id": "k1", "credential": key, "claimed_via": "mqtt", "claimed_at": instant, "generation": 1,
	})
	rotated := join(about, data{"credential": certificate, "rotated_by": "device", "rotated_at": instant, "previous": certificate, "previous_until": instant})
	revoked := join(about, data{"revoked_at": instant, "by": "token:ops", "reason": "stolen"})
	swapped := join(about, data{"old_hardware_id": "H0", "generation": 1, "swapped_at": instant, "by": "uid:0"})
	ruled := data{"type": "revocations", "name": "", "version": 7}
	conflicting := join(about, data{"kind": "revoked", "document": ruled, "claimed_at": instant, "at": instant})
	superseded := conflicting.with("kind", "superseded").with("document", nil).with("credential", key).with("kept_box_id", "box-18")
	suspected := join(about, data{"kind": "takeover", "count": 4, "window_seconds": 60.5, "sources": []string{"192.0.2.1"}})
	unconfirmed := join(about, data{"issued_at": instant})
	raised := join(box, data{"alarm": "key_overused", "count": 3, "since": instant, "until": instant, "key_id": "k1"})
	head := data{"segment": "audit-00000000000000000001.jsonl", "sequence": 7, "hash": digest, "time": instant}
	session := data{"device_id": d.ID.String(), "tenant_id": d.Tenant.String()}
	point := join(session, data{"timestamp": "2026-03-04T05:06:07.5+01:00", "values": data{"temperature": 21.5, "door": "closed"}})
	status := join(session, data{
		"command_id": "valve-17", "status": "failed", "at": instant, "origin": "upstream", "by": "hub-1", "expires_at": instant,
		"attempts": 2, "result": []int{1}, "reason": "unknown_device",
	})
	lost := data{"lane": "tel", "from": 3, "to": 9, "count": 7, "reason": "quota", "epoch": epoch}
	for _, c := range []struct {
		name string
		kind edgeclaim.RecordType
		lane edgeclaim.Lane
		good bool
		data data
	}{
		{"key", edgeclaim.TypeDeviceProvisioned, edgeclaim.LaneProv, true, provisioned},
		{"psk", edgeclaim.TypeDeviceProvisioned, edgeclaim.LaneProv, true, provisioned.with("credential", psk).with("alias", true)},
		{"psk unsealed", edgeclaim.TypeDeviceProvisioned, edgeclaim.LaneProv, true, provisioned.with("credential", psk.with("sealed", nil).with("unsealed", "no_upstream_key"))},
		{"certificate", edgeclaim.TypeDeviceProvisioned, edgeclaim.LaneProv, true, provisioned.with("credential", certificate)},
		{"of an earlier version", edgeclaim.TypeDeviceProvisioned, edgeclaim.LaneProv, true, provisioned.with("generation", nil)},
		{"certificate by sha256", edgeclaim.TypeDeviceProvisioned, edgeclaim.LaneProv, false, provisioned.with("credential", certificate.with("sha256", digest))},
		{"certificate without end", edgeclaim.TypeDeviceProvisioned, edgeclaim.LaneProv, false, provisioned.with("credential", certificate.with("not_after", nil))},
		{"key by fingerprint", edgeclaim.TypeDeviceProvisioned, edgeclaim.LaneProv, false, provisioned.with("credential", key.with("fingerprint", digest))},
		{"no hash", edgeclaim.TypeDeviceProvisioned, edgeclaim.LaneProv, false, provisioned.with("credential", data{"type": "psk"})},
		{"psk in the clear", edgeclaim.TypeDeviceProvisioned, edgeclaim.LaneProv, false, provisioned.with("credential", psk.with("psk", "x"))},
		{"rotated", edgeclaim.TypeCredentialRotated, edgeclaim.LaneProv, true, rotated},
		{"rotated at once", edgeclaim.TypeCredentialRotated, edgeclaim.LaneProv, true, rotated.with("previous", nil).with("previous_until", nil).with("rotated_by", "claim")},
		{"overlap without end", edgeclaim.TypeCredentialRotated, edgeclaim.LaneProv, false, rotated.with("previous_until", nil)},
		{"end without overlap", edgeclaim.TypeCredentialRotated, edgeclaim.LaneProv, false, rotated.with("previous", nil)},
		{"rotated by nobody", edgeclaim.TypeCredentialRotated, edgeclaim.LaneProv, false, rotated.with("rotated_by", "")},
		{"rotated in evt", edgeclaim.TypeCredentialRotated, edgeclaim.LaneEvt, false, rotated},
		{"revoked", edgeclaim.TypeCredentialRevoked, edgeclaim.LaneProv, true, revoked},
		{"revoked without reason", edgeclaim.TypeCredentialRevoked, edgeclaim.LaneProv, true, revoked.with("reason", nil)},
		{"revoked by nobody", edgeclaim.TypeCredentialRevoked, edgeclaim.LaneProv, false, revoked.with("by", nil)},
		{"released", edgeclaim.TypeDeviceReleased, edgeclaim.LaneProv, true, join(about, data{"released_at": instant})},
		{"reinstated", edgeclaim.TypeDeviceReleased, edgeclaim.LaneProv, true, join(about, data{"released_at": instant, "reinstated": true})},
		{"swapped", edgeclaim.TypeDeviceSwapped, edgeclaim.LaneProv, true, swapped},
		{"swapped with nothing", edgeclaim.TypeDeviceSwapped, edgeclaim.LaneProv, false, swapped.with("old_hardware_id", nil)},
		{"suspected", edgeclaim.TypeCloneSuspected, edgeclaim.LaneProv, true, suspected},
		{"suspected from nowhere", edgeclaim.TypeCloneSuspected, edgeclaim.LaneProv, true, suspected.with("sources", []string{}).with("kind", "rotation")},
		{"too many sources", edgeclaim.TypeCloneSuspected, edgeclaim.LaneProv, false, suspected.with("sources", strings.Split("1 2 3 4 5", " "))},
		{"unconfirmed", edgeclaim.TypeDeviceUnconfirmed, edgeclaim.LaneEvt, true, unconfirmed},
		{"more unconfirmed", edgeclaim.TypeDeviceUnconfirmed, edgeclaim.LaneEvt, true, join(box, data{"count": 9})},
		{"neither", edgeclaim.TypeDeviceUnconfirmed, edgeclaim.LaneEvt, false, box},
		{"both", edgeclaim.TypeDeviceUnconfirmed, edgeclaim.LaneEvt, false, unconfirmed.with("count", 9)},
		{"alarm", edgeclaim.TypeAlarmRaised, edgeclaim.LaneEvt, true, raised},
		{"alarm of no key", edgeclaim.TypeAlarmRaised, edgeclaim.LaneEvt, true, raised.with("key_id", nil)},
		{"alarm that never rose", edgeclaim.TypeAlarmRaised, edgeclaim.LaneEvt, false, raised.with("count", 0)},
		{"head", edgeclaim.TypeAuditHead, edgeclaim.LaneEvt, true, head},
		{"head of a box", edgeclaim.TypeAuditHead, edgeclaim.LaneEvt, true, join(head, box).with("entries", 7)},
		{"telemetry", edgeclaim.TypeTelemetry, edgeclaim.LaneTel, true, point},
		{"telemetry without a time", edgeclaim.TypeTelemetry, edgeclaim.LaneTel, true, point.with("timestamp", nil)},
		{"telemetry of nobody", edgeclaim.TypeTelemetry, edgeclaim.LaneTel, false, point.with("device_id", nil)},
		{"telemetry without values", edgeclaim.TypeTelemetry, edgeclaim.LaneTel, false, point.with("values", data{})},
		{"telemetry of no metric", edgeclaim.TypeTelemetry, edgeclaim.LaneTel, false, point.with("values", data{"a": true})},
		{"telemetry in evt", edgeclaim.TypeTelemetry, edgeclaim.LaneEvt, false, point},
		{"device event", edgeclaim.TypeDeviceEvent, edgeclaim.LaneEvt, true, session.with("event", data{"door": data{"open": true}})},
		{"device event of a text", edgeclaim.TypeDeviceEvent, edgeclaim.LaneEvt, false, session.with("event", "open")},
		{"command", edgeclaim.TypeCommandStatus, edgeclaim.LaneEvt, true, status},
		{"command of an unknown device", edgeclaim.TypeCommandStatus, edgeclaim.LaneEvt, true,
			status.with("tenant_id", nil).with("by", nil).with("expires_at", nil).with("result", nil).with("reason", nil)},
		{"command of no status", edgeclaim.TypeCommandStatus, edgeclaim.LaneEvt, false, status.with("status", "pending")},
		{"command without id", edgeclaim.TypeCommandStatus, edgeclaim.LaneEvt, false, status.with("command_id", nil)},
		{"gap in tel", edgeclaim.TypeGap, edgeclaim.LaneTel, true, lost},
		{"gap in tel, damaged", edgeclaim.TypeGap, edgeclaim.LaneTel, true, lost.with("reason", "damaged")},
		{"gap in tel, refused", edgeclaim.TypeGap, edgeclaim.LaneTel, true, lost.with("reason", "refused")},
		{"gap in tel without places", edgeclaim.TypeGap, edgeclaim.LaneTel, false, lost.with("from", nil).with("to", nil)},
		{"conflict", edgeclaim.TypeDeviceConflict, edgeclaim.LaneProv, true, conflicting},
		{"conflict in evt", edgeclaim.TypeDeviceConflict, edgeclaim.LaneEvt, false, conflicting},
		{"conflict of no document", edgeclaim.TypeDeviceConflict, edgeclaim.LaneProv, false, conflicting.with("document", nil)},
		{"conflict of no kind", edgeclaim.TypeDeviceConflict, edgeclaim.LaneProv, false, conflicting.with("kind", "renamed")},
		{"swapped by a document", edgeclaim.TypeDeviceConflict, edgeclaim.LaneProv, true, conflicting.with("kind", "swapped").with("old_hardware_id", "H0")},
		{"swapped with nothing", edgeclaim.TypeDeviceConflict, edgeclaim.LaneProv, false, conflicting.with("kind", "swapped")},
		{"another id", edgeclaim.TypeDeviceConflict, edgeclaim.LaneProv, true, conflicting.with("kind", "id_differs").with("other_device_id", d.ID.String())},
		{"no other id", edgeclaim.TypeDeviceConflict, edgeclaim.LaneProv, false, conflicting.with("kind", "id_differs")},
		{"superseded", edgeclaim.TypeDeviceConflict, edgeclaim.LaneProv, true, superseded},
		{"superseded by a document", edgeclaim.TypeDeviceConflict, edgeclaim.LaneProv, false, superseded.with("document", ruled)},
		{"superseded by nobody", edgeclaim.TypeDeviceConflict, edgeclaim.LaneProv, false, superseded.with("kept_box_id", nil)},
		{"telemetry set aside", edgeclaim.TypeGap, edgeclaim.LaneEvt, true, data{"lane": "tel", "reason": "telemetry_set_aside", "epoch": epoch}},
		{"gap of events", edgeclaim.TypeGap, edgeclaim.LaneEvt, true, data{"lane": "evt", "count": 3, "reason": "device_events_full"}},
		{"gap of a large event", edgeclaim.TypeGap, edgeclaim.LaneEvt, true, data{"lane": "evt", "count": 1, "reason": "too_large", "epoch": epoch}},
		{"gap of nothing", edgeclaim.TypeGap, edgeclaim.LaneEvt, false, data{"lane": "evt", "reason": "device_events_full"}},
		{"gap without places", edgeclaim.TypeGap, edgeclaim.LaneEvt, false, data{"lane": "evt", "count": 3, "reason": "quota"}},
		{"head without hash", edgeclaim.TypeAuditHead, edgeclaim.LaneEvt, false, head.with("hash", nil)},
	} {
		text, err := json.Marshal(c.data, json.Deterministic(true))
		if err != nil {
			t.Fatal(err)
		}
		record := edgeclaim.Record{Lane: c.lane, Sequence: 5, Type: c.kind, Data: text, Stamp: edgeclaim.Stamp{Time: moment(), Clock: edgeclaim.ClockSynced, Boot: "b1"}}
		if c.data["device_id"] != nil {
			record.Device = d.ID
		}
		event, err := wire.EncodeEvent(names(), epoch, &record)
		if err != nil {
			t.Fatal(err)
		}
		if err := schemas.Check(names().Up(string(c.lane)), event); (err == nil) != c.good {
			t.Errorf("%s: %v, want it good: %v", c.name, err, c.good)
		}
	}
}
