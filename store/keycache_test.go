package store_test

import (
	"sync"
	"testing"

	"edgeclaim"
)

// TestGrantFollowsEveryChange: a key that is presented all the time, and so is
// cached, is seen as the last commit left it, by readers and within a group.
func TestGrantFollowsEveryChange(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := db.Look(t.Context(), edgeclaim.ClaimRef{Key: k.Hash}); err != nil {
					t.Errorf("look: %v", err)
					return
				}
			}
		})
	}
	for i := range 200 {
		status := []edgeclaim.KeyStatus{edgeclaim.KeyDisabled, edgeclaim.KeyActive}[i%2]
		if _, err := db.ChangeKey(t.Context(), k.ID, func(k *edgeclaim.Key) error {
			k.Status = status
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		got, err := db.Look(t.Context(), edgeclaim.ClaimRef{Key: k.Hash})
		if err != nil || got.Grant.Key.Status != status {
			t.Fatalf("after change %d: %s, %v; want %s", i, got.Grant.Key.Status, err, status)
		}
	}
	close(stop)
	readers.Wait()
	for i := range 3 {
		noErr(t, claim(t, db, k, board(i)))
		got, err := db.Look(t.Context(), edgeclaim.ClaimRef{Key: k.Hash})
		if err != nil || got.Grant.Key.Claims != uint32(i+1) {
			t.Fatalf("after claim %d the key counts %d, %v", i+1, got.Grant.Key.Claims, err)
		}
	}
}
