package engine

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/storage"
)

// uidMapLabel asks that a snapshot be seen under other ids (containerd's core/snapshots).
const uidMapLabel = "containerd.io/snapshot/uidmapping"

// Snapshots is one driver's snapshots in one namespace. The graph is metadata's, the bytes are the driver's; calls for one
// snapshot wait for each other.
//
// A record is made before its layer and removed before it, so that at no moment a layer exists that nobody would find: a
// crash leaves a record whose layer restore makes, or a layer without a record, which restore removes.
type Snapshots struct {
	e      *Engine
	scope  Scope
	name   string
	driver storage.Driver
}

// rebaser is a driver whose layers do not depend on their parents' bytes, so that a layer can be filled first and put on
// its parent when it is committed.
type rebaser interface{ Rebases() bool }

func (e *Engine) checkSnapshotter(name string) error {
	if name == "" {
		return fmt.Errorf("no snapshotter is named: %w", errdefs.ErrInvalidArgument)
	}
	if _, ok := e.drivers[name]; !ok {
		return fmt.Errorf("snapshotter %q is not configured: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Snapshots answers the snapshots of a driver. InvalidArgument when there is no such driver.
func (e *Engine) Snapshots(s Scope, driver string) (*Snapshots, error) {
	driver = e.driverName(driver)
	if err := e.checkSnapshotter(driver); err != nil {
		return nil, err
	}
	return &Snapshots{e: e, scope: s, name: driver, driver: e.drivers[driver]}, nil
}

// DefaultDriver is the snapshotter to use for clients that have no wish.
func (e *Engine) DefaultDriver() string { return e.defaultDriver }

// CanRebase tells whether Commit may name a parent.
func (s *Snapshots) CanRebase() bool {
	r, ok := s.driver.(rebaser)
	return ok && r.Rebases()
}

func (s *Snapshots) lock(ctx context.Context, key string) (unlock func(), err error) {
	return s.e.locks.lock(ctx, "snapshot/"+s.name+"/"+s.scope.Namespace+"/"+key)
}

func (s *Snapshots) records(tx *metadata.Tx) metadata.Snapshots {
	return tx.Snapshots(s.scope.Namespace, s.name)
}

// Prepare makes a writable snapshot on parent ("" for an empty one) and answers its mounts. AlreadyExists when the key is in
// use, or when the label containerd.io/snapshot.ref names a snapshot that is there, or that could be made of what the other labels
// tell of a layer in a registry.
func (s *Snapshots) Prepare(ctx context.Context, key, parent string, labels map[string]string) ([]storage.Mount, error) {
	s.prepareRemote(ctx, parent, labels) // if it does, what follows is AlreadyExists
	mounts, err := s.create(ctx, key, parent, storage.Active, labels)
	if err != nil {
		return nil, err
	}
	s.e.publish(s.scope.Namespace, "/snapshot/prepare", SnapshotPrepare{Key: key, Parent: parent, Snapshotter: s.name})
	return mounts, nil
}

// View makes a read-only snapshot of parent and answers its mounts.
func (s *Snapshots) View(ctx context.Context, key, parent string, labels map[string]string) ([]storage.Mount, error) {
	return s.create(ctx, key, parent, storage.View, labels)
}

func (s *Snapshots) create(ctx context.Context, key, parent string, kind storage.Kind, labels map[string]string) ([]storage.Mount, error) {
	if _, lazy := s.driver.(storage.Lazy); lazy && parent != "" && labels[uidMapLabel] != "" {
		if err := s.here(ctx, parent); err != nil { // FUSE mounts have no id maps
			return nil, err
		}
	}
	unlock, err := s.lock(ctx, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	layer, err := update(s.scope.ctx(ctx), s.e, func(tx *metadata.Tx) (storage.Layer, error) {
		_, l, err := s.records(tx).Prepare(key, parent, kind, labels)
		return l, err
	})
	if err != nil {
		return nil, err
	}
	mounts, err := s.createLayer(ctx, layer)
	if err != nil {
		err = fmt.Errorf("cannot make snapshot %s: %w", key, err)
		undo := s.e.db.Update(context.WithoutCancel(ctx), func(tx *metadata.Tx) error {
			_, err := s.records(tx).Remove(key)
			return err
		})
		if undo != nil {
			return nil, errors.Join(err, undo)
		}
		s.e.trash.put(s.name, layer.ID)
		return nil, err
	}
	return mounts, nil
}

func (s *Snapshots) createLayer(ctx context.Context, layer storage.Layer) ([]storage.Mount, error) {
	if err := s.driver.Create(ctx, layer); err != nil {
		return nil, err
	}
	return s.driver.Mounts(ctx, layer)
}

// layer answers what the driver needs to know of a snapshot.
func (s *Snapshots) layer(ctx context.Context, key string) (storage.Layer, error) {
	return view(ctx, s.e, func(tx *metadata.Tx) (storage.Layer, error) { return s.records(tx).Layer(key) })
}

// Mounts answers how to mount an active snapshot or a view. FailedPrecondition for a committed one.
func (s *Snapshots) Mounts(ctx context.Context, key string) ([]storage.Mount, error) {
	unlock, err := s.lock(ctx, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	layer, err := s.layer(ctx, key)
	if err != nil {
		return nil, err
	}
	if layer.Kind == storage.Committed {
		return nil, fmt.Errorf("snapshot %s is committed, make a view or an active one of it: %w", key, errdefs.ErrFailedPrecondition)
	}
	return s.driver.Mounts(ctx, layer)
}

// Apply unpacks an uncompressed tar into an active snapshot that is still empty. After an error Remove it.
func (s *Snapshots) Apply(ctx context.Context, key string, diff io.Reader) (storage.Usage, error) {
	layer, unlock, err := s.lockActive(ctx, key)
	if err != nil {
		return storage.Usage{}, err
	}
	defer unlock()
	defer s.e.memory.work()()
	return s.driver.Apply(ctx, layer, diff)
}

// lockActive locks a snapshot and answers its layer. FailedPrecondition unless it is active.
func (s *Snapshots) lockActive(ctx context.Context, key string) (storage.Layer, func(), error) {
	unlock, err := s.lock(ctx, key)
	if err != nil {
		return storage.Layer{}, nil, err
	}
	layer, err := s.layer(ctx, key)
	if err == nil && layer.Kind != storage.Active {
		err = fmt.Errorf("snapshot %s is not active: %w", key, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		unlock()
	}
	return layer, unlock, err
}

// Changes writes what an active snapshot has that its parent has not, or has otherwise, as an OCI layer's tar. FailedPrecondition when it is not active.
func (s *Snapshots) Changes(ctx context.Context, key string, w io.Writer) error {
	layer, unlock, err := s.lockActive(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	return s.driver.Diff(ctx, layer, w)
}

// Commit makes the active snapshot key immutable under name, durable first. With a parent it puts a snapshot that was
// prepared without one on it (NotImplemented unless CanRebase).
func (s *Snapshots) Commit(ctx context.Context, name, key string, labels map[string]string, parent string) error {
	if parent != "" && !s.CanRebase() {
		return fmt.Errorf("snapshotter %s cannot commit onto another parent: %w", s.name, errdefs.ErrNotImplemented)
	}
	unlock, err := s.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	layer, err := s.committable(ctx, name, key, parent)
	if err != nil {
		return err
	}
	usage, err := s.driver.Seal(ctx, layer)
	if err != nil {
		return fmt.Errorf("cannot commit snapshot %s: %w", key, err)
	}
	err = s.e.db.Update(s.scope.ctx(ctx), func(tx *metadata.Tx) error {
		_, err := s.records(tx).Commit(name, key, metadata.CommitOptions{Usage: usage, Labels: labels, Parent: parent})
		return err
	})
	if err != nil {
		return err
	}
	s.e.publish(s.scope.Namespace, "/snapshot/commit", SnapshotCommit{Key: key, Name: name, Snapshotter: s.name})
	return nil
}

// committable answers the layer of key, on parent if there is one, and fails for what the commit would refuse after the work
// of sealing.
func (s *Snapshots) committable(ctx context.Context, name, key, parent string) (storage.Layer, error) {
	return view(ctx, s.e, func(tx *metadata.Tx) (storage.Layer, error) {
		layer, err := s.records(tx).Layer(key)
		if err != nil {
			return layer, err
		}
		if layer.Kind != storage.Active {
			return layer, fmt.Errorf("snapshot %s is not active: %w", key, errdefs.ErrFailedPrecondition)
		}
		if _, err := s.records(tx).Get(name); err == nil {
			return layer, fmt.Errorf("snapshot %s: %w", name, errdefs.ErrAlreadyExists)
		} else if !errdefs.IsNotFound(err) {
			return layer, err
		}
		if parent == "" || len(layer.Parents) > 0 {
			return layer, nil
		}
		base, err := s.records(tx).Layer(parent)
		layer.Parents = append([]string{base.ID}, base.Parents...)
		return layer, err
	})
}

// Remove forgets a snapshot; its layer is removed soon after (Cleanup waits). FailedPrecondition when it has children.
func (s *Snapshots) Remove(ctx context.Context, key string) error {
	unlock, err := s.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	gone, err := update(ctx, s.e, func(tx *metadata.Tx) (metadata.Snapshot, error) { return s.records(tx).Remove(key) })
	if err != nil {
		return err
	}
	s.e.trash.put(s.name, gone.LayerID)
	s.e.publish(s.scope.Namespace, "/snapshot/remove", SnapshotRemove{Key: key, Snapshotter: s.name})
	if gone.Parent != "" {
		s.e.gc.schedule() // the parent may have been kept for this child only
	}
	return nil
}

// Stat is NotFound when there is no such snapshot.
func (s *Snapshots) Stat(ctx context.Context, key string) (metadata.Snapshot, error) {
	return view(ctx, s.e, func(tx *metadata.Tx) (metadata.Snapshot, error) { return s.records(tx).Get(key) })
}

// Update changes the labels that fieldpaths name (labels, labels.KEY), all when there are none.
func (s *Snapshots) Update(ctx context.Context, info metadata.Snapshot, fieldpaths ...string) (metadata.Snapshot, error) {
	return update(ctx, s.e, func(tx *metadata.Tx) (metadata.Snapshot, error) { return s.records(tx).Update(info, fieldpaths...) })
}

// Walk calls fn with pages of the snapshots that match any of filters, in order of their keys. Those that come or go
// meanwhile may be missed.
func (s *Snapshots) Walk(ctx context.Context, fn func([]metadata.Snapshot) error, filters ...string) error {
	return pages(ctx, s.e, fn, func(tx *metadata.Tx, last *metadata.Snapshot) ([]metadata.Snapshot, error) {
		after := ""
		if last != nil {
			after = last.Key
		}
		return s.records(tx).Page(after, pageSize, filters...)
	})
}

// Usage answers what the snapshot alone takes: as recorded for a committed one, measured for others.
func (s *Snapshots) Usage(ctx context.Context, key string) (storage.Usage, error) {
	unlock, err := s.lock(ctx, key)
	if err != nil {
		return storage.Usage{}, err
	}
	defer unlock()
	info, err := s.Stat(ctx, key)
	if err != nil {
		return storage.Usage{}, err
	}
	if info.Kind == storage.Committed {
		return info.Usage, nil
	}
	return s.driver.Usage(ctx, info.LayerID)
}

// Cleanup waits until the layers of removed snapshots are gone.
func (s *Snapshots) Cleanup(ctx context.Context) error {
	s.e.trash.retry()
	return s.e.trash.wait(ctx)
}
