package store

import (
	"sync"

	"edgeclaim"
)

// maxCachedKeys bounds the keys kept decoded: a line uses a few shared keys, or
// one-time keys that are never seen twice.
const maxCachedKeys = 1024

// keyCache holds the keys that were presented lately, as the last commit left
// them, so that a claim with a shared key reads no page for it. The leader
// corrects it after each commit that put keys.
type keyCache struct {
	mu   sync.RWMutex // guards all of it
	keys map[edgeclaim.KeyHash]edgeclaim.Key
	// commits counts the commits that put keys: what was read before the last
	// of them may be stale by now, and is not added.
	commits uint64
}

// find returns the key of a hash, and else the count to hand to add.
func (c *keyCache) find(hash edgeclaim.KeyHash) (key edgeclaim.Key, ok bool, commits uint64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	key, ok = c.keys[hash]
	return key, ok, c.commits
}

// add keeps a key that was read from the file after find said commits.
func (c *keyCache) add(key edgeclaim.Key, commits uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.commits != commits {
		return
	}
	if c.keys == nil || len(c.keys) >= maxCachedKeys {
		c.keys = make(map[edgeclaim.KeyHash]edgeclaim.Key)
	}
	c.keys[key.Hash] = key
}

// committed takes over the keys that a commit put.
func (c *keyCache) committed(keys map[edgeclaim.KeyID]*edgeclaim.Key, put map[edgeclaim.KeyID]bool) {
	if len(put) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.commits++
	for id := range put {
		if _, cached := c.keys[keys[id].Hash]; cached {
			c.keys[keys[id].Hash] = *keys[id]
		}
	}
}
