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
	if err := e.restoreScratch(); err != nil && !errdefs.IsNotImplemented(err) {
		return fmt.Errorf("cannot remove what diffs left: %w", err)
	}
	e.background(e.sweepBlobs)
	if err := e.tasks.Restore(ctx); err != nil {
		return fmt.Errorf("cannot find the tasks again: %w", err)
	}
	if err := e.restoreCheckpoints(ctx); err != nil {
		return fmt.Errorf("cannot remove what checkpoints left: %w", err)
	}
	return nil
}

// restoreLayers removes layers without a record and makes those whose record came first.
func (e *Engine) restoreLayers(ctx context.Context, name string, driver storage.Driver) error {
	have, err := driver.List(ctx)
	if err != nil {
		return err
	}
	missing, err := view(ctx, e, func(tx *metadata.Tx) (map[string]metadata.Owner, error) { return tx.LayerIDs(name) })
	if err != nil {
		return err
	}
	for _, id := range have {
		if _, ok := missing[id]; ok {
			delete(missing, id)
			continue
		}
		e.trash.put(name, id)
	}
	for _, owner := range missing {
		s := &Snapshots{e: e, scope: Scope{Namespace: owner.Namespace}, name: name, driver: driver}
		if err := s.remake(ctx, owner.Name); err != nil {
			e.log.Error("a snapshot has lost its layer", "snapshotter", name, "namespace", owner.Namespace, "snapshot", owner.Name, "err", err)
		}
	}
	return nil
}

// remake makes the layer of an active snapshot or view, which is empty because no client ever got an answer for it. A
// committed layer that is gone cannot be made again.
func (s *Snapshots) remake(ctx context.Context, key string) error {
	layer, err := s.layer(ctx, key)
	if err != nil {
		return err
	}
	if layer.Kind == storage.Committed {
		return fmt.Errorf("layer %s is not on disk, remove the images that use it and pull them again: %w", layer.ID, errdefs.ErrDataLoss)
	}
	if err := s.driver.Create(ctx, layer); err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// restoreIngests aborts ingests in the store that no namespace has a record of.
func (e *Engine) restoreIngests(ctx context.Context) error {
	have, err := e.blobs.Ingests(ctx)
	if err != nil || len(have) == 0 {
		return err
	}
	want, err := view(ctx, e, func(tx *metadata.Tx) (map[string]metadata.Owner, error) { return tx.StoreRefs() })
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
