package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/storage"
)

// GetContainer is NotFound when there is none of that id.
func (e *Engine) GetContainer(ctx context.Context, ns, id string) (metadata.Container, error) {
	return view(ctx, e, func(tx *metadata.Tx) (metadata.Container, error) { return tx.Containers(ns).Get(id) })
}

// ListContainers answers those that match any of filters (all when there are none) in order of their ids.
func (e *Engine) ListContainers(ctx context.Context, ns string, filters ...string) ([]metadata.Container, error) {
	return view(ctx, e, func(tx *metadata.Tx) ([]metadata.Container, error) { return tx.Containers(ns).List(filters...) })
}

// WalkContainers calls fn for those that match any of filters, in order of their ids, and holds only some in memory. Those
// that come or go meanwhile may be missed.
func (e *Engine) WalkContainers(ctx context.Context, ns string, fn func(metadata.Container) error, filters ...string) error {
	each := func(page []metadata.Container) error {
		for _, c := range page {
			if err := fn(c); err != nil {
				return err
			}
		}
		return nil
	}
	return pages(ctx, e, each, func(tx *metadata.Tx, last *metadata.Container) ([]metadata.Container, error) {
		after := ""
		if last != nil {
			after = last.ID
		}
		return tx.Containers(ns).Page(after, pageSize, filters...)
	})
}

// CreateContainer records what is to be run; nothing runs yet. AlreadyExists when the id is in use.
func (e *Engine) CreateContainer(ctx context.Context, ns string, c metadata.Container) (metadata.Container, error) {
	c.Snapshotter = e.driverName(c.Snapshotter)
	if err := e.checkSnapshotter(c.Snapshotter); c.Snapshotter != "" && err != nil {
		return c, fmt.Errorf("container %s: %w", c.ID, err)
	}
	made, err := update(ctx, e, func(tx *metadata.Tx) (metadata.Container, error) { return tx.Containers(ns).Create(c) })
	if err != nil {
		return made, err
	}
	e.publish(ns, "/containers/create", ContainerCreate{ID: made.ID, Image: made.Image, Runtime: made.Runtime})
	return made, nil
}

// CreateContainerOn is CreateContainer together with its root file system: the snapshot c.SnapshotKey on parent, both recorded in one
// transaction. Nothing is left after an error; after a crash either there are both records, whose layer Start makes, or none.
func (e *Engine) CreateContainerOn(ctx context.Context, sc Scope, c metadata.Container, parent string, labels map[string]string) (metadata.Container, error) {
	s, err := e.Snapshots(sc, c.Snapshotter)
	if err != nil {
		return c, err
	}
	c.Snapshotter = s.name
	unlock, err := s.lock(ctx, c.SnapshotKey)
	if err != nil {
		return c, err
	}
	defer unlock()
	var layer storage.Layer
	made, err := update(sc.ctx(ctx), e, func(tx *metadata.Tx) (metadata.Container, error) {
		var err error
		if _, layer, err = s.records(tx).Prepare(c.SnapshotKey, parent, storage.Active, labels); err != nil {
			return c, err
		}
		return tx.Containers(sc.Namespace).Create(c)
	})
	if err != nil {
		return made, err
	}
	if err := s.driver.Create(ctx, layer); err != nil {
		err = fmt.Errorf("cannot make the root file system of container %s: %w", c.ID, err)
		return made, errors.Join(err, e.RemoveContainer(context.WithoutCancel(ctx), sc.Namespace, made))
	}
	e.publish(sc.Namespace, "/snapshot/prepare", SnapshotPrepare{Key: c.SnapshotKey, Parent: parent, Snapshotter: c.Snapshotter})
	e.publish(sc.Namespace, "/containers/create", ContainerCreate{ID: made.ID, Image: made.Image, Runtime: made.Runtime})
	return made, nil
}

// UpdateContainer changes the fields that fieldpaths name; when there are none labels, spec, extensions, image and
// snapshotkey.
func (e *Engine) UpdateContainer(ctx context.Context, ns string, c metadata.Container, fieldpaths ...string) (metadata.Container, error) {
	c.Snapshotter = e.driverName(c.Snapshotter)
	made, err := update(ctx, e, func(tx *metadata.Tx) (metadata.Container, error) {
		return tx.Containers(ns).Update(c, fieldpaths...)
	})
	if err != nil {
		return made, err
	}
	if made.Labels[labelRestartStatus] != "" {
		e.restarts.look()
	}
	e.publish(ns, "/containers/update", ContainerUpdate{ID: made.ID, Image: made.Image, Labels: made.Labels, SnapshotKey: made.SnapshotKey})
	return made, nil
}

// DeleteContainer removes the record. FailedPrecondition while it has a task.
func (e *Engine) DeleteContainer(ctx context.Context, ns, id string) error {
	if err := CheckIdentifier(id); err != nil {
		return err
	}
	unlock, err := e.locks.lock(ctx, taskKey(ns, id))
	if err != nil {
		return err
	}
	defer unlock()
	switch _, err := e.tasks.State(ctx, ns, id, ""); {
	case err == nil:
		return fmt.Errorf("container %s has a task, delete that first: %w", id, errdefs.ErrFailedPrecondition)
	case !errdefs.IsNotFound(err):
		// A shim that does not answer must not make the record undeletable, nor be forgotten silently.
		e.log.Warn("cannot ask for the task of a container that is being deleted", "namespace", ns, "container", id, "err", err)
	}
	switch c, err := e.GetContainer(ctx, ns, id); {
	case err == nil:
		if err := e.leave(ctx, c.Labels); err != nil {
			return fmt.Errorf("cannot give back what container %s has: %w", id, err)
		}
	case !errdefs.IsNotFound(err): // the deletion says that
		return err
	}
	if err := e.db.Update(ctx, func(tx *metadata.Tx) error { return tx.Containers(ns).Delete(id) }); err != nil {
		return err
	}
	e.publish(ns, "/containers/delete", ContainerDelete{ID: id})
	e.gc.schedule()
	return nil
}
