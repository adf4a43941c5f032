package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/shim"
)

// LabelAutoRemove, when "true" on a container, makes the daemon delete the container when its init has exited, together
// with its task, snapshot and log. That also happens when the exit came while no daemon was there to see it.
const LabelAutoRemove = "slipway.io/auto-remove"

// DetachedExec begins the ids of executed processes that nobody waits for: the daemon deletes them when they have exited. One
// that exits while no daemon is there goes with its task.
const DetachedExec = "slipway-detached-"

// LogFile is where a client keeps a container's output if it wants it to go with the container.
func (e *Engine) LogFile(namespace, id string) string {
	return filepath.Join(e.root, "logs", namespace, id+".log")
}

// TaskEvent publishes what a shim tells of a task, and acts on it.
func (e *Engine) TaskEvent(ctx context.Context, ev Event) error {
	if err := e.Publish(ctx, ev); err != nil {
		return err
	}
	if watch := e.watchers[ev.Namespace]; watch != nil {
		watch(ev)
	}
	e.observeRestored(ev)
	// Not here: the shim that waits for this call to return is the one that deletes.
	switch container, process := e.ended(ev); {
	case container == "":
	case process == "" || process == container:
		e.restarts.look()
		e.background(func(ctx context.Context) { e.autoRemove(ctx, ev.Namespace, container) })
	case strings.HasPrefix(process, DetachedExec):
		e.background(func(ctx context.Context) { e.removeExec(ctx, ev.Namespace, container, process) })
	}
	return nil
}

// WatchTasks has fn called for every event of a shim in a namespace, in order, before Start and by one caller for each
// namespace. fn must not wait for anything, least of all for a verb of tasks.
func (e *Engine) WatchTasks(ns string, fn func(Event)) { e.watchers[ns] = fn }

// EventField answers a field of an event's payload, such as container_id; "" when there is none.
func (e *Engine) EventField(ev Event, name string) string {
	value, _ := e.events.field(ev.Payload, []string{name})
	return value
}

// ended is the container and the process whose exit ev tells of; "" when it tells of something else.
func (e *Engine) ended(ev Event) (container, process string) {
	if ev.Topic == "/tasks/exit" {
		container, _ = e.events.field(ev.Payload, []string{"container_id"})
		process, _ = e.events.field(ev.Payload, []string{"id"})
	}
	return container, process
}

// removeExec deletes an executed process that has exited.
func (e *Engine) removeExec(ctx context.Context, ns, container, process string) {
	if _, err := e.tasks.Delete(ctx, ns, container, process); err != nil && ctx.Err() == nil && !errdefs.IsNotFound(err) {
		e.log.Warn("cannot delete a detached process that has exited; it goes with its container", "namespace", ns, "container", container, "exec", process, "err", err)
	}
}

// autoRemove deletes a container whose init has exited, when its label says so.
func (e *Engine) autoRemove(ctx context.Context, ns, id string) {
	c, err := e.GetContainer(ctx, ns, id)
	if err != nil || c.Labels[LabelAutoRemove] != "true" {
		return
	}
	if err := e.RemoveContainer(ctx, ns, c); err != nil && ctx.Err() == nil && !errdefs.IsNotFound(err) {
		e.log.Warn("cannot remove a container that has exited, will try again at the next start", "namespace", ns, "container", id, "err", err)
	}
}

// RemoveContainer deletes a container with all that is its own, in one transaction. FailedPrecondition while its task runs.
func (e *Engine) RemoveContainer(ctx context.Context, ns string, c metadata.Container) error {
	unlock, err := e.locks.lock(ctx, taskKey(ns, c.ID))
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := e.tasks.Delete(ctx, ns, c.ID, ""); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("cannot delete the task: %w", err)
	}
	if err := e.leave(ctx, c.Labels); err != nil {
		return fmt.Errorf("cannot give back what it has: %w", err)
	}
	var snapshot *metadata.Snapshot
	err = e.db.Update(ctx, func(tx *metadata.Tx) error {
		snapshot = nil
		if c.SnapshotKey != "" {
			s, err := tx.Snapshots(ns, c.Snapshotter).Remove(c.SnapshotKey)
			switch {
			case err == nil:
				snapshot = &s
			case !errdefs.IsNotFound(err):
				return err
			}
		}
		return tx.Containers(ns).Delete(c.ID)
	})
	if err != nil {
		return err
	}
	if snapshot != nil {
		e.trash.put(c.Snapshotter, snapshot.LayerID)
		e.publish(ns, "/snapshot/remove", SnapshotRemove{Key: c.SnapshotKey, Snapshotter: c.Snapshotter})
	}
	e.publish(ns, "/containers/delete", ContainerDelete{ID: c.ID})
	e.gc.schedule()
	if err := os.Remove(e.LogFile(ns, c.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the log: %w", err)
	}
	return nil
}

// restoreAutoRemove removes the containers whose init ended while no daemon was there, or whose removal was cut short.
func (e *Engine) restoreAutoRemove(ctx context.Context) {
	namespaces, err := e.ListNamespaces(ctx)
	if err != nil {
		e.log.Warn("cannot look for containers to remove", "err", err)
		return
	}
	for _, ns := range namespaces {
		marked, err := e.ListContainers(ctx, ns.Name, fmt.Sprintf("labels.%q==true", LabelAutoRemove))
		if err != nil {
			e.log.Warn("cannot look for containers to remove", "namespace", ns.Name, "err", err)
			continue
		}
		for _, c := range marked {
			st, err := e.tasks.State(ctx, ns.Name, c.ID, "")
			if errdefs.IsNotFound(err) || err == nil && st.Status == shim.Stopped {
				e.autoRemove(ctx, ns.Name, c.ID)
			}
		}
	}
}
