package metadata

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

func TestReap(t *testing.T) {
	db := open(t)
	store := map[digest.Digest]bool{dgst(1): true, dgst(2): true, dgst(3): true, dgst(4): true}
	del := func(_ context.Context, d digest.Digest) error {
		if !store[d] {
			return errdefs.ErrNotFound
		}
		delete(store, d)
		return nil
	}
	update(t, db, func(tx *Tx) error {
		_, err := tx.Blobs("ns").Create(blob(1))
		return err
	})
	release, err := db.Hold(t.Context(), dgst(2))
	if err != nil {
		t.Fatal(err)
	}
	failed := errors.New("failed")
	is(t, "Reap", db.Reap(t.Context(), []digest.Digest{dgst(1), dgst(2), dgst(3), dgst(4), dgst(5)}, func(ctx context.Context, d digest.Digest) error {
		if d == dgst(4) {
			return failed
		}
		return del(ctx, d)
	}), failed)
	if !store[dgst(1)] || !store[dgst(2)] || store[dgst(3)] || !store[dgst(4)] {
		t.Errorf("left %v, want 1 (has a record), 2 (is held), 4 (failed)", store)
	}
	release()
	release()
	is(t, "second Reap", db.Reap(t.Context(), nil, del), nil)
	if len(store) != 1 || !store[dgst(1)] {
		t.Errorf("left %v, want 1", store)
	}

	// Hold waits for a deletion that runs.
	store[dgst(6)] = true
	deleting, proceed := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		is(t, "Reap", db.Reap(context.Background(), []digest.Digest{dgst(6)}, func(ctx context.Context, d digest.Digest) error {
			close(deleting)
			<-proceed
			return del(ctx, d)
		}), nil)
	})
	<-deleting
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = db.Hold(ctx, dgst(6))
	is(t, "Hold with a cancelled context", err, context.Canceled)
	close(proceed)
	release, err = db.Hold(t.Context(), dgst(6))
	is(t, "Hold", err, nil)
	wg.Wait()
	if store[dgst(6)] {
		t.Error("Hold did not wait for the deletion")
	}
	release()
}
