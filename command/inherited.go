package command

import (
	"encoding/json"
	"sync"

	"edgeclaim"
)

// maxBases is how many merged configurations of tenants and profiles are kept,
// 32 KiB of JSON each at most. Of those beyond, one is merged again.
const maxBases = 128

// base is what a device's own configuration is laid over.
type base struct {
	tenant  edgeclaim.TenantID
	version uint64
	tree    *tree
	text    json.RawMessage // shared: nobody changes it
}

// baseKey names a base by what it is made of, which is never changed: that is
// cheaper than to compare, and cannot be mistaken for another version.
type baseKey struct{ first, second *edgeclaim.Profile }

// bases keeps what many devices have in common.
type bases struct {
	mu   sync.Mutex // guards what follows
	kept map[baseKey]*base
}

func newBases() *bases { return &bases{kept: map[baseKey]*base{}} }

// of merges the configurations that are inherited; nil: there is none.
func (b *bases) of(tenant edgeclaim.TenantID, in *edgeclaim.Inherited) (*base, error) {
	key := baseKey{withConfig(in.Default), withConfig(in.Profile)}
	if key == (baseKey{}) {
		return nil, nil //nolint:nilnil // there may be none, and that is no error
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if known := b.kept[key]; known != nil {
		return known, nil
	}
	made := &base{tenant: tenant, version: in.Version}
	for _, p := range []*edgeclaim.Profile{key.first, key.second} {
		if p == nil {
			continue
		}
		patch, err := parseTree(p.Config)
		if err != nil {
			return nil, err
		}
		made.tree = made.tree.merge(patch)
	}
	made.text = made.tree.text()
	b.keep(key, made)
	return made, nil
}

// withConfig is the profile where it has a configuration.
func withConfig(p *edgeclaim.Profile) *edgeclaim.Profile {
	if p == nil || len(p.Config) == 0 {
		return nil
	}
	return p
}

// keep keeps a base, and forgets those of the tenant's other versions. With mu
// held.
func (b *bases) keep(key baseKey, made *base) {
	for k, old := range b.kept {
		if old.tenant == made.tenant && old.version != made.version || len(b.kept) >= maxBases {
			delete(b.kept, k)
		}
	}
	b.kept[key] = made
}
