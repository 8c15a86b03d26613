package store

import (
	"fmt"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// checkTrust: denials, pending claims, manifests and tokens can be read, and are
// as many as the state says; a manifest has its template.
func checkTrust(tx *bolt.Tx, s state) error {
	all, err := loadCatalog(tx)
	if err != nil {
		return err
	}
	known := make(map[uint64]bool, len(all.number))
	for _, n := range all.number {
		known[n] = true
	}
	parts := []struct {
		bucket []byte
		want   uint64
		read   func(k, v []byte) error
	}{
		{bucketDenied, s.Denied, func(k, v []byte) error {
			_, err := decodeDenial(k, v)
			return err
		}},
		{bucketPending, s.Pending, func(k, v []byte) error {
			p, err := decodePending(k, v)
			if _, ok := all.byID[p.Template]; err == nil && !ok {
				err = fmt.Errorf("pending: %s has no template", p.ID)
			}
			return err
		}},
		{bucketManifest, s.Listed, func(k, v []byte) error {
			_, err := decodeManifestRow(k, v)
			if err == nil {
				var n uint64
				if n, err = parseNumber(k[:numberSize]); err == nil && !known[n] {
					err = fmt.Errorf("manifest: a row has no template")
				}
			}
			return err
		}},
		{bucketTokens, s.Tokens, func(k, v []byte) error {
			_, err := decodeToken(k, v)
			return err
		}},
	}
	for _, part := range parts {
		count := uint64(0)
		err := tx.Bucket(part.bucket).ForEach(func(k, v []byte) error {
			count++
			return part.read(k, v)
		})
		if err != nil {
			return err
		}
		if count != part.want {
			return fmt.Errorf("%s: %d rows, the state says %d", part.bucket, count, part.want)
		}
	}
	return nil
}

// textTenant is the length of a tenant id in an alias's key, before the slash.
const textTenant = 36

// checkAliases: each can be read, and leads to no other tenant's device.
func checkAliases(tx *bolt.Tx, s state) error {
	var unfolded tail
	if err := loadTail(tx, &unfolded, s.Rows); err != nil {
		return err
	}
	return tx.Bucket(bucketAliases).ForEach(func(k, v []byte) error {
		tenant, _, err := parseAliasKey(k)
		if err != nil {
			return err
		}
		a, err := decodeAlias(v)
		if err != nil {
			return err
		}
		row, ok := unfolded.find(a.id)
		if !ok {
			if row, ok, err = indexed(tx, a.id); err != nil || !ok {
				return err // it is kept for a board that has not claimed yet
			}
		}
		d, err := decodeDevice(tx.Bucket(bucketDevices).Get(number(row)))
		if err == nil && d.Tenant != tenant {
			err = fmt.Errorf("device_aliases: %s is another tenant's", a.id)
		}
		return err
	})
}

// parseAliasKey undoes aliasKey.
func parseAliasKey(k []byte) (tenant edgeclaim.TenantID, hardware edgeclaim.HardwareID, err error) {
	if len(k) <= textTenant+1 || k[textTenant] != '/' {
		return tenant, hardware, damaged("not the key of a hardware", nil)
	}
	if tenant, err = edgeclaim.ParseTenantID(string(k[:textTenant])); err == nil {
		hardware, err = edgeclaim.ParseHardwareID(string(k[textTenant+1:]))
	}
	if err != nil {
		return edgeclaim.TenantID{}, edgeclaim.HardwareID{}, damaged("not the key of a hardware", err)
	}
	return tenant, hardware, nil
}
