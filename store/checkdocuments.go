package store

import (
	"bytes"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
)

// checkDocuments: documents can be read and have their texts, and what each kind
// brought agrees with it, both ways.
func checkDocuments(tx *bolt.Tx, s state) error {
	count, taken := uint64(0), uint64(0)
	texts := tx.Bucket(bucketTexts)
	err := tx.Bucket(bucketDocuments).ForEach(func(k, v []byte) error {
		count++
		held, err := decodeHeld(k, v)
		if err != nil {
			return err
		}
		if held.Version > 0 {
			taken++
		}
		if (held.Version > 0) != (texts.Get(k) != nil) {
			return fmt.Errorf("documents: %s is of version %d, and its text says otherwise", held.ID, held.Version)
		}
		if (held.Version > 0 && bringsRows(held.ID.Type)) != (tx.Bucket(bucketDocumentRows).Get(k) != nil) {
			return fmt.Errorf("documents: %s is of version %d, and what it brought says otherwise", held.ID, held.Version)
		}
		return nil
	})
	if err != nil {
		return err
	}
	kept := uint64(0)
	if err := texts.ForEach(func(_, _ []byte) error { kept++; return nil }); err != nil {
		return err
	}
	if count != s.Documents || taken != kept {
		return fmt.Errorf("documents: %d rows of which %d are taken, the state says %d, and there are %d texts", count, taken, s.Documents, kept)
	}
	for _, part := range []func(*bolt.Tx, state) error{checkBrought, checkExpected, checkProfiles, checkRevoked, checkWaiting} {
		if err := part(tx, s); err != nil {
			return err
		}
	}
	return nil
}

// bringsRows reports whether a version is compared with what the one before
// brought.
func bringsRows(kind edgeclaim.DocumentType) bool {
	switch kind {
	case edgeclaim.DocumentTemplates, edgeclaim.DocumentAliases, edgeclaim.DocumentAllowList:
		return true
	default:
		return false
	}
}

// checkBrought: what a document brought is noted of documents alone that the box
// has, and the keys among it are those of upstream's templates.
func checkBrought(tx *bolt.Tx, _ state) error {
	all, err := loadCatalog(tx)
	if err != nil {
		return err
	}
	return tx.Bucket(bucketDocumentRows).ForEach(func(k, _ []byte) error {
		id, err := edgeclaim.ParseDocumentID(string(k))
		if err != nil {
			return err
		}
		rows, err := broughtBy(tx, id)
		if err != nil {
			return err
		}
		if tx.Bucket(bucketTexts).Get(k) == nil {
			return fmt.Errorf("document_rows: %s is not there", id)
		}
		if id.Type != edgeclaim.DocumentTemplates {
			return nil
		}
		for _, row := range rows.Rows {
			key, err := edgeclaim.ParseKeyID(string(row))
			if err != nil {
				return err
			}
			found, err := readKey(tx, key)
			if err != nil {
				return fmt.Errorf("document_rows: key %s: %w", key, err)
			}
			grant, err := all.grant(found)
			if err == nil && (grant.Template.Owner != edgeclaim.OwnerUpstream || grant.Template.Tenant != id.Tenant) {
				err = fmt.Errorf("document_rows: key %s is not of the document's templates", key)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// checkProfiles: each can be read, and its tenant has the document.
func checkProfiles(tx *bolt.Tx, s state) error {
	all, err := loadProfiles(tx)
	if err != nil {
		return err
	}
	count := uint64(0)
	for _, one := range all {
		count += uint64(len(one.profile))
	}
	if count != s.Profiles {
		return fmt.Errorf("profiles: %d rows, the state says %d", count, s.Profiles)
	}
	return nil
}

// checkRevoked: each revocation can be read and its tenant has the document, and
// what is named is revoked: every key, and no device is active.
func checkRevoked(tx *bolt.Tx, s state) error {
	bucket, count := tx.Bucket(bucketRevoked), uint64(0)
	err := bucket.ForEach(func(k, v []byte) error {
		count++
		if _, err := decodeRevoked(k, v); err != nil {
			return err
		}
		tenant, err := edgeclaim.TenantIDFromBytes(k[1:revokedPrefix])
		if err != nil {
			return err
		}
		id := edgeclaim.DocumentID{Type: edgeclaim.DocumentRevocations, Tenant: tenant}
		if tx.Bucket(bucketTexts).Get([]byte(id.String())) == nil {
			return fmt.Errorf("revoked: %s is not there", id)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if count != s.Revoked {
		return fmt.Errorf("revoked: %d rows, the state says %d", count, s.Revoked)
	}
	if count == 0 {
		return nil
	}
	err = tx.Bucket(bucketDevices).ForEach(func(_, v []byte) error {
		d, err := decodeDevice(v)
		if err != nil || d.Status != edgeclaim.DeviceActive {
			return err
		}
		denied, err := denialUpstream(tx, d.Tenant, d.Hardware, d.ID)
		if err == nil && denied != nil {
			err = fmt.Errorf("revoked: device %s is %s", d.ID, d.Status)
		}
		return err
	})
	if err != nil {
		return err
	}
	return checkRevokedKeys(tx)
}

func checkRevokedKeys(tx *bolt.Tx) error {
	all, err := loadCatalog(tx)
	if err != nil {
		return err
	}
	return tx.Bucket(bucketRevoked).ForEach(func(k, _ []byte) error {
		if k[0] != revokedKey {
			return nil
		}
		id := tx.Bucket(bucketKeyHashes).Get(k[revokedPrefix:])
		if id == nil {
			return nil // it is not known here yet
		}
		name, err := edgeclaim.ParseKeyID(string(id))
		if err != nil {
			return err
		}
		key, err := readKey(tx, name)
		if err != nil {
			return err
		}
		grant, err := all.grant(key)
		if err == nil && key.Status != edgeclaim.KeyRevoked && bytes.Equal(grant.Template.Tenant.Bytes(), k[1:revokedPrefix]) {
			err = fmt.Errorf("revoked: key %s is %s", name, key.Status)
		}
		return err
	})
}

// checkWaiting: each alias that waits can be read, and is not the one that its
// hardware goes by.
func checkWaiting(tx *bolt.Tx, s state) error {
	count := uint64(0)
	err := tx.Bucket(bucketWaiting).ForEach(func(k, v []byte) error {
		count++
		tenant, hardware, err := parseAliasKey(k)
		if err != nil {
			return err
		}
		w, err := decodeWaiting(v)
		if err != nil {
			return err
		}
		id, _, err := (&sight{tx: tx, aliases: true}).resolve(tenant, hardware)
		if err == nil && id == w.Device {
			err = fmt.Errorf("waiting_aliases: %s goes by its id already", hardware)
		}
		return err
	})
	if err == nil && count != s.Waiting {
		err = fmt.Errorf("waiting_aliases: %d rows, the state says %d", count, s.Waiting)
	}
	return err
}
