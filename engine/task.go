package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/metadata/filter"
	"github.com/slipwayd/slipway/shim"
	"github.com/slipwayd/slipway/storage"
)

// metricsParallel is how many tasks are asked for their statistics side by side.
const metricsParallel = 8

// TaskOptions is what a client says when it makes a task of a container.
type TaskOptions struct {
	ContainerID string
	Runtime     string      // instead of the container's; usually empty
	Options     *opaque.Any // instead of the container's; nil for those
	// Rootfs are the mounts of the root file system. When there are none, they are those of the container's snapshot; a
	// container without a snapshot brings its own root (spec.Root.Path).
	Rootfs  []storage.Mount
	Streams shim.Streams
	// CheckpointPath is the directory of a CRIU image to restore from, there until the task is started; Checkpoint a blob that holds one,
	// unpacked for the purpose. Both are usually empty.
	CheckpointPath string
	Checkpoint     *ocispec.Descriptor
}

// Tasks are the verbs of tasks that need nothing of the engine but the shims.
func (e *Engine) Tasks() Tasks { return e.tasks }

// CreateTask sets a container up to the point where its init is ready to exec, and answers init's pid. It writes nothing
// durable. NotFound without the container, AlreadyExists when it has a task.
func (e *Engine) CreateTask(ctx context.Context, sc Scope, o TaskOptions) (uint32, error) {
	unlock, err := e.locks.lock(ctx, taskKey(sc.Namespace, o.ContainerID))
	if err != nil {
		return 0, err
	}
	defer unlock()
	c, err := e.GetContainer(ctx, sc.Namespace, o.ContainerID)
	if err != nil {
		return 0, err
	}
	create := shim.CreateOptions{
		Namespace: sc.Namespace, ID: c.ID, Runtime: c.Runtime.Name, Options: c.Runtime.Options,
		Rootfs: o.Rootfs, Streams: o.Streams, Checkpoint: o.CheckpointPath,
	}
	if o.Runtime != "" {
		create.Runtime = o.Runtime
	}
	if o.Options != nil {
		create.Options = o.Options
	}
	if c.Spec == nil {
		return 0, fmt.Errorf("container %s has no spec: %w", c.ID, errdefs.ErrFailedPrecondition)
	}
	create.Spec = c.Spec.Value
	if len(create.Rootfs) == 0 && c.SnapshotKey != "" {
		if create.Rootfs, err = e.rootfs(ctx, sc, c); err != nil {
			return 0, fmt.Errorf("cannot mount the root of container %s: %w", c.ID, err)
		}
	}
	if o.Checkpoint != nil {
		if create.Checkpoint, err = e.unpackCheckpoint(ctx, sc, c.ID, *o.Checkpoint); err != nil {
			return 0, err
		}
	}
	start := e.beforeStart(ctx, sc, c)
	pid, err := e.tasks.Create(ctx, create)
	if start == nil && err == nil && create.Checkpoint == "" { // one that is restored reads nothing of its start
		start = e.observe(ctx, sc, c, pid)
	}
	start.created(err)
	if err != nil {
		e.forgetCheckpoint(sc.Namespace, c.ID)
	}
	return pid, err
}

// rootfs answers the mounts of a container's snapshot.
func (e *Engine) rootfs(ctx context.Context, sc Scope, c metadata.Container) ([]storage.Mount, error) {
	s, err := e.Snapshots(sc, c.Snapshotter)
	if err != nil {
		return nil, err
	}
	return s.Mounts(ctx, c.SnapshotKey)
}

// taskKey is the lock that orders the making of a task against the deletion of its container.
func taskKey(namespace, id string) string { return "task/" + namespace + "/" + id }

// TaskMetric is what one task uses at a time.
type TaskMetric struct {
	ContainerID string
	At          time.Time
	Data        opaque.Any // cgroup1 or cgroup2 Metrics, or Windows' statistics
}

// TaskMetrics collects the statistics of the tasks that match any of filters (all when there are none) over the fields
// id and namespace. Tasks that end meanwhile are left out.
func (e *Engine) TaskMetrics(ctx context.Context, sc Scope, filters []string) ([]TaskMetric, error) {
	match, err := filter.Parse(filters...)
	if err != nil {
		return nil, err
	}
	states, err := e.tasks.List(ctx, sc.Namespace)
	if err != nil {
		return nil, err
	}
	found := make([]*TaskMetric, len(states))
	var group errgroup.Group
	group.SetLimit(metricsParallel)
	for i, st := range states {
		if !match.Match(taskField(st)) {
			continue
		}
		group.Go(func() error {
			data, err := e.tasks.Stats(ctx, st.Namespace, st.ID)
			switch {
			case err == nil:
				found[i] = &TaskMetric{ContainerID: st.ID, At: time.Now(), Data: data}
			case !errdefs.IsNotFound(err):
				e.log.Warn("cannot collect the metrics of a task", "namespace", st.Namespace, "container", st.ID, "err", err)
			}
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var all []TaskMetric
	for _, m := range found {
		if m != nil {
			all = append(all, *m)
		}
	}
	return all, nil
}

// taskField is a task as filters see it.
func taskField(st shim.State) filter.Adaptor {
	return func(path []string) (string, bool) {
		if len(path) != 1 {
			return "", false
		}
		switch path[0] {
		case "id":
			return st.ID, true
		case "namespace":
			return st.Namespace, true
		}
		return "", false
	}
}
