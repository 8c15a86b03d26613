package store

import (
	"encoding/json"
	"errors"

	"github.com/fxamacker/cbor/v2"

	"edgeclaim"
)

// commandRow is what the key of a command, its number, does not say.
type commandRow struct {
	ID        string  `cbor:"1,keyasint"`
	Device    []byte  `cbor:"2,keyasint"`
	Tenant    []byte  `cbor:"3,keyasint"`
	Payload   []byte  `cbor:"4,keyasint"`
	Origin    string  `cbor:"5,keyasint"`
	By        string  `cbor:"6,keyasint,omitempty"`
	Status    string  `cbor:"7,keyasint"`
	QueuedAt  instant `cbor:"8,keyasint"`
	ExpiresAt instant `cbor:"9,keyasint"`
	ChangedAt instant `cbor:"10,keyasint"`
	Attempts  int     `cbor:"11,keyasint,omitempty"`
	Result    []byte  `cbor:"12,keyasint,omitempty"`
	Reason    string  `cbor:"13,keyasint,omitempty"`
}

func encodeCommand(c *edgeclaim.Command) ([]byte, error) {
	return cbor.Marshal(&commandRow{
		ID: c.ID.String(), Device: c.Device.Bytes(), Tenant: c.Tenant.Bytes(), Payload: c.Payload,
		Origin: string(c.Origin), By: c.By, Status: string(c.Status), QueuedAt: toInstant(c.QueuedAt),
		ExpiresAt: toInstant(c.ExpiresAt), ChangedAt: toInstant(c.ChangedAt), Attempts: c.Attempts,
		Result: c.Result, Reason: c.Reason,
	})
}

func decodeCommand(key, value []byte) (edgeclaim.Command, error) {
	var c edgeclaim.Command
	var row commandRow
	if err := cbor.Unmarshal(value, &row); err != nil {
		return c, damaged("command", err)
	}
	var errs [4]error
	c.Number, errs[0] = parseNumber(key)
	c.ID, errs[1] = edgeclaim.ParseCommandID(row.ID)
	c.Device, errs[2] = edgeclaim.DeviceIDFromBytes(row.Device)
	c.Tenant, errs[3] = edgeclaim.TenantIDFromBytes(row.Tenant)
	if err := errors.Join(errs[:]...); err != nil {
		return edgeclaim.Command{}, damaged("command", err)
	}
	c.Payload, c.Result = json.RawMessage(row.Payload), json.RawMessage(row.Result)
	c.Origin, c.By, c.Status = edgeclaim.CommandOrigin(row.Origin), row.By, edgeclaim.CommandStatus(row.Status)
	c.QueuedAt, c.ExpiresAt, c.ChangedAt = row.QueuedAt.time(), row.ExpiresAt.time(), row.ChangedAt.time()
	c.Attempts, c.Reason = row.Attempts, row.Reason
	return c, nil
}

// commandKey names a command in bucketCommandIDs, so that those of a device lie
// together.
func commandKey(device edgeclaim.DeviceID, id edgeclaim.CommandID) []byte {
	return append(device.Bytes()[:idSize:idSize], id.String()...)
}

// configRow is a device's configuration.
type configRow struct {
	Version uint64 `cbor:"1,keyasint"`
	Config  []byte `cbor:"2,keyasint"`
}

func encodeConfig(c *edgeclaim.DeviceConfig) ([]byte, error) {
	return cbor.Marshal(&configRow{Version: c.Version, Config: c.Config})
}

func decodeConfig(value []byte) (edgeclaim.DeviceConfig, error) {
	var row configRow
	if err := cbor.Unmarshal(value, &row); err != nil {
		return edgeclaim.DeviceConfig{}, damaged("device configuration", err)
	}
	return edgeclaim.DeviceConfig{Version: row.Version, Config: row.Config}, nil
}
