package metadata

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// A blob and its records are in different places, so that a blob whose last record went could be deleted while somebody, who
// found it still there, records it anew. Two rules prevent that:
//
//   - Who commits a blob or finds it in the content store, and then creates a record of it, holds the digest from before the
//     first to after the second: Hold. (Who has seen another namespace's record in the same transaction need not.)
//   - Nobody deletes a blob but through Reap, which looks for records while nobody holds the digest, and lets nobody hold it until
//     the deletion is done.
//
// A crash in between leaves a blob without records, which start-up gives to Reap: that is safe for any digest.

// reaper knows which digests are held, which are being deleted, and which could not be because they were held.
type reaper struct {
	mu       sync.Mutex
	held     map[digest.Digest]int
	deleting map[digest.Digest]chan struct{} // closed when it is done
	later    map[digest.Digest]struct{}
}

// Hold keeps d from being deleted until release, which may be called more than once; it waits while d is being deleted.
func (db *DB) Hold(ctx context.Context, d digest.Digest) (release func(), err error) {
	r := &db.reaper
	for {
		r.mu.Lock()
		done := r.deleting[d]
		if done == nil {
			break
		}
		r.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot hold blob %s, which is being deleted: %w", d, ctx.Err())
		}
	}
	defer r.mu.Unlock()
	if r.held == nil {
		r.held = map[digest.Digest]int{}
	}
	r.held[d]++
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.held[d]--; r.held[d] == 0 {
			delete(r.held, d)
		}
	}), nil
}

// Reap calls del, which is the content store's Delete, for each of digests that no namespace has a record of. Those that are held
// meanwhile, or that del fails for, are tried again by the next Reap. It may be called at any time, concurrently too.
func (db *DB) Reap(ctx context.Context, digests []digest.Digest, del func(context.Context, digest.Digest) error) error {
	r := &db.reaper
	r.mu.Lock()
	if r.deleting == nil {
		r.deleting, r.later = map[digest.Digest]chan struct{}{}, map[digest.Digest]struct{}{}
	}
	for _, d := range digests {
		r.later[d] = struct{}{}
	}
	var all []digest.Digest
	for d := range r.later {
		all = append(all, d)
	}
	r.mu.Unlock()
	slices.Sort(all)

	var errs []error
	for _, d := range all {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if err := db.reap(ctx, d, del); err != nil {
			errs = append(errs, fmt.Errorf("cannot delete blob %s: %w", d, err))
		}
	}
	return errors.Join(errs...)
}

func (db *DB) reap(ctx context.Context, d digest.Digest, del func(context.Context, digest.Digest) error) (err error) {
	r := &db.reaper
	for {
		r.mu.Lock()
		if _, wanted := r.later[d]; !wanted || r.held[d] > 0 {
			r.mu.Unlock()
			return nil
		}
		another := r.deleting[d]
		if another == nil {
			break
		}
		r.mu.Unlock()
		select { // who calls Reap wants it gone, not under way
		case <-another:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	done := make(chan struct{})
	r.deleting[d] = done
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if err == nil {
			delete(r.later, d)
		}
		delete(r.deleting, d)
		close(done)
	}()

	var owners []string
	if err := db.View(ctx, func(tx *Tx) (err error) {
		owners, err = tx.Owners(d)
		return err
	}); err != nil || len(owners) > 0 {
		return err
	}
	if err := del(ctx, d); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return err
	}
	return nil
}

// Owner is the record that something in a store belongs to. Name is a snapshot's key or an ingest's ref.
type Owner struct {
	Namespace, Name string
}

// LayerIDs answers all layers that the driver should have, for start-up: what else it lists is to be removed.
func (tx *Tx) LayerIDs(driver string) (map[string]Owner, error) {
	ids := map[string]Owner{}
	return ids, tx.scan(bucketSnapshots, "", "", func(key string, data []byte) (bool, error) {
		parts := strings.SplitN(key, separator, 3)
		if len(parts) != 3 || parts[1] != driver {
			return true, nil
		}
		s, err := snapshots.read(parts[2], data)
		ids[s.LayerID] = Owner{parts[0], parts[2]}
		return true, err
	})
}

// Digests answers all blobs that the content store should have, for start-up: what else it has goes to Reap.
func (tx *Tx) Digests() (map[digest.Digest]struct{}, error) {
	all := map[digest.Digest]struct{}{}
	return all, tx.scan(bucketBlobs, "", "", func(key string, _ []byte) (bool, error) {
		_, d, _ := strings.Cut(key, separator)
		all[digest.Digest(d)] = struct{}{}
		return true, nil
	})
}

// StoreRefs answers the content store's refs of all ingests, for start-up: others are to be aborted.
func (tx *Tx) StoreRefs() (map[string]Owner, error) {
	refs := map[string]Owner{}
	return refs, tx.scan(bucketIngests, "", "", func(key string, data []byte) (bool, error) {
		ns, ref, _ := strings.Cut(key, separator)
		i, err := ingests.read(ref, data)
		refs[i.StoreRef] = Owner{ns, ref}
		return true, err
	})
}
