package engine

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/storage"
)

// restore finishes or undoes what was under way when the last daemon ended: first what is on disk, then the tasks, whose
// exits are published to nobody yet but kept by their shims.
func (e *Engine) restore(ctx context.Context) error {
	for name, driver := range e.drivers {
		if err := e.restoreLayers(ctx, name, driver); err != nil {
			return fmt.Errorf("cannot reconcile the layers of %s: %w", name, err)
		}
	}
	if err := e.restoreIngests(ctx); err != nil {
		return fmt.Errorf("cannot reconcile ingests: %w", err)
	}
	e.background(e.sweepBlobs)
	if err := e.removeCheckpoints(); err != nil {
		return err
	}
	if err := e.tasks.Restore(ctx); err != nil {
		return fmt.Errorf("cannot find the tasks again: %w", err)
	}
	e.background(e.restoreAutoRemove)
	return nil
}

// restoreLayers removes layers without a record and makes those whose record came first.
func (e *Engine) restoreLayers(ctx context.Context, name string, driver storage.Driver) error {
	have, err := driver.List(ctx)
	if err != nil {
		return err
	}
	want, err := view(ctx, e, func(tx *metadata.Tx) (map[string]struct{}, error) { return tx.LayerIDs(name) })
	if err != nil {
		return err
	}
	for _, id := range have {
		if _, ok := want[id]; ok {
			delete(want, id)
			continue
		}
		e.trash.put(name, id)
	}
	if len(want) == 0 {
		return nil
	}
	return e.makeLayers(ctx, name, driver, want)
}

// makeLayers makes the layers in missing that may be made: those of active snapshots and views, which are empty because no
// client ever got an answer for them. A committed layer that is missing cannot be made again.
func (e *Engine) makeLayers(ctx context.Context, name string, driver storage.Driver, missing map[string]struct{}) error {
	namespaces, err := e.ListNamespaces(ctx)
	if err != nil {
		return err
	}
	for _, ns := range namespaces {
		s := &Snapshots{e: e, scope: Scope{Namespace: ns.Name}, name: name, driver: driver}
		err := s.Walk(ctx, func(page []metadata.Snapshot) error {
			for _, snap := range page {
				if _, ok := missing[snap.LayerID]; !ok {
					continue
				}
				if snap.Kind == storage.Committed {
					e.log.Error("a committed layer is gone from disk: remove the images that use it and pull them again",
						"snapshotter", name, "namespace", ns.Name, "snapshot", snap.Key, "layer", snap.LayerID)
					continue
				}
				layer, err := s.layer(ctx, snap.Key)
				if err != nil {
					return err
				}
				if err := driver.Create(ctx, layer); err != nil && !errdefs.IsAlreadyExists(err) {
					e.log.Error("cannot make the layer of a snapshot", "snapshotter", name, "namespace", ns.Name, "snapshot", snap.Key, "err", err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// restoreIngests aborts ingests in the store that no namespace has a record of.
func (e *Engine) restoreIngests(ctx context.Context) error {
	have, err := e.blobs.Ingests(ctx)
	if err != nil || len(have) == 0 {
		return err
	}
	want, err := view(ctx, e, func(tx *metadata.Tx) (map[string]struct{}, error) { return tx.StoreRefs() })
	if err != nil {
		return err
	}
	for _, in := range have {
		if _, ok := want[in.Ref]; ok {
			continue
		}
		if err := e.blobs.Abort(ctx, in.Ref); err != nil && !errdefs.IsNotFound(err) {
			e.log.Warn("cannot remove an ingest that nobody has", "ingest", in.Ref, "err", err)
		}
	}
	return nil
}

// sweepBatch is how many digests sweepBlobs offers to metadata at a time.
const sweepBatch = 1000

// sweepBlobs deletes blobs that no namespace has a record of, while the daemon serves.
func (e *Engine) sweepBlobs(ctx context.Context) {
	batch := make([]digest.Digest, 0, sweepBatch)
	flush := func() error {
		defer func() { batch = batch[:0] }()
		return e.db.Reap(ctx, batch, e.blobs.Delete)
	}
	err := e.blobs.Walk(ctx, func(b content.Blob) error {
		batch = append(batch, b.Digest)
		if len(batch) < sweepBatch {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err != nil && ctx.Err() == nil {
		e.log.Warn("cannot remove blobs that nobody has", "err", err)
	}
}
