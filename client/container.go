package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	slipwayapi "github.com/slipwayd/slipway/api/slipway/v1"
	"github.com/slipwayd/slipway/internal/mount"
	"github.com/slipwayd/slipway/spec"
	"github.com/slipwayd/slipway/storage"
)

// DefaultRuntime is the built-in executor.
const DefaultRuntime = "io.containerd.slipway.v1"

// Labels that this client puts on containers.
const (
	// LabelStopSignal is the signal that asks the container to stop (image-spec config.md, StopSignal), as containerd's client writes it.
	LabelStopSignal = "io.containerd.image.config.stop-signal"
	// LabelLog is the path of the file that holds the container's output.
	LabelLog = "slipway.io/log"
	// LabelAutoRemove makes the daemon delete the container when its init has exited.
	LabelAutoRemove = "slipway.io/auto-remove"
)

// DetachedExec begins the id of a process whose end nobody waits for: see Task.NewProcess. The daemon deletes it then.
const DetachedExec = "slipway-detached-"

// labelExpire keeps a snapshot from collection until the time it gives (RFC 3339). Slipway's daemon honours it on snapshots;
// on containerd's, give the context a lease.
const labelExpire = "containerd.io/gc.expire"

// specURL types the runtime-spec documents in the API (containerd's convention for JSON in an Any).
const (
	specURL    = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
	processURL = "types.containerd.io/opencontainers/runtime-spec/1/Process"
)

// Container is a record on the daemon; a Task is what runs of it.
type Container struct {
	c *Client

	ID          string
	Image       string
	Labels      map[string]string
	Runtime     string
	Snapshotter string
	SnapshotKey string
	Spec        *specs.Spec // nil when it could not be read
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// ContainerOptions says what CreateContainer makes.
type ContainerOptions struct {
	ID      string
	Image   ImageDetail // see Client.Detail
	User    string      // "user", "uid", "user:group"; the image's when empty
	Labels  map[string]string
	Runtime string     // DefaultRuntime when empty
	Spec    []spec.Opt // applied after the image's config
}

// CreateContainer makes a writable snapshot of the image and a container record on it. Nothing is left after an error.
// AlreadyExists when the id is in use; NotFound when the image is not unpacked.
func (c *Client) CreateContainer(ctx context.Context, o ContainerOptions) (*Container, error) {
	info, err := c.info(ctx)
	if err != nil {
		return nil, err
	}
	snapshotter, err := c.Snapshotter(ctx)
	if err != nil {
		return nil, err
	}
	cgroup := cgroupOf(info.GetUuid(), c.namespace, o.ID)
	if info == nil || o.needsFiles() {
		return c.createInSteps(ctx, o, snapshotter, cgroup)
	}
	doc, err := c.buildSpec(o, cgroup, nil)
	if err != nil {
		return nil, err
	}
	ct, encoded, err := c.newContainer(o, snapshotter, doc)
	if err != nil {
		return nil, err
	}
	made, err := c.own.Create(ctx, &slipwayapi.CreateContainerRequest{
		Id: ct.ID, Image: ct.Image, Parent: o.Image.ChainID.String(), Snapshotter: snapshotter, Runtime: ct.Runtime, Labels: ct.Labels, Spec: encoded,
	})
	if err != nil {
		return nil, explainCreate(o, snapshotter, err)
	}
	ct.CreatedAt = time.Unix(0, made.CreatedAt).UTC()
	ct.UpdatedAt = ct.CreatedAt
	return ct, nil
}

// createInSteps is CreateContainer with containerd's API, which can also look at the image's files before the record is made.
func (c *Client) createInSteps(ctx context.Context, o ContainerOptions, snapshotter, cgroup string) (_ *Container, err error) {
	prepared, err := c.snapshots.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{
		Snapshotter: snapshotter, Key: o.ID, Parent: o.Image.ChainID.String(),
		// Nothing refers to it until the record does: it is held for as long as that can take, without the cost of a lease.
		Labels: map[string]string{labelExpire: time.Now().Add(time.Hour).UTC().Format(time.RFC3339)},
	})
	if err != nil {
		return nil, explainCreate(o, snapshotter, err)
	}
	defer func() {
		if err != nil { // whatever ended ctx must not keep the snapshot
			err = errors.Join(err, c.removeSnapshot(context.WithoutCancel(ctx), snapshotter, o.ID))
		}
	}()
	doc, err := c.buildSpec(o, cgroup, prepared.Mounts)
	if err != nil {
		return nil, err
	}
	ct, encoded, err := c.newContainer(o, snapshotter, doc)
	if err != nil {
		return nil, err
	}
	made, err := c.containers.Create(ctx, &containersapi.CreateContainerRequest{Container: &containersapi.Container{
		ID: ct.ID, Image: ct.Image, Labels: ct.Labels, Runtime: &containersapi.Container_Runtime{Name: ct.Runtime},
		Spec: &anypb.Any{TypeUrl: specURL, Value: encoded}, Snapshotter: snapshotter, SnapshotKey: ct.SnapshotKey,
	}})
	if err != nil {
		return nil, err
	}
	ct.CreatedAt, ct.UpdatedAt = made.Container.CreatedAt.AsTime(), made.Container.UpdatedAt.AsTime()
	return ct, nil
}

func explainCreate(o ContainerOptions, snapshotter string, err error) error {
	switch {
	case errdefs.IsAlreadyExists(err):
		return fmt.Errorf("a container or snapshot named %q is there already; remove it or choose another name: %w", o.ID, errdefs.ErrAlreadyExists)
	case errdefs.IsNotFound(err):
		return fmt.Errorf("image %s is not unpacked for %s; pull it again with this snapshotter: %w", o.Image.Image.Name, snapshotter, errdefs.ErrNotFound)
	}
	return fmt.Errorf("cannot create container %s: %w", o.ID, err)
}

// newContainer is what the daemon is asked to record, with the document as it goes over the wire.
func (c *Client) newContainer(o ContainerOptions, snapshotter string, doc *specs.Spec) (*Container, []byte, error) {
	encoded, err := json.Marshal(doc)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot encode the spec of %s: %w", o.ID, err)
	}
	labels := maps.Clone(o.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	if s := o.Image.Config.Config.StopSignal; s != "" {
		labels[LabelStopSignal] = s
	}
	return &Container{
		c: c, ID: o.ID, Image: o.Image.Image.Name, Labels: labels, Runtime: cmp.Or(o.Runtime, DefaultRuntime),
		Snapshotter: snapshotter, SnapshotKey: o.ID, Spec: doc,
	}, encoded, nil
}

// cgroupOf is the path of a container's cgroup. Daemons side by side may each have a container of that name: the last element,
// which alone is removed with the container, tells them apart.
func cgroupOf(daemon, namespace, id string) string {
	if daemon != "" {
		id += "." + daemon[:min(len(daemon), 8)]
	}
	return "/slipway/" + namespace + "/" + id
}

// user is who the process runs as, as the caller or the image says it.
func (o ContainerOptions) user() string { return cmp.Or(o.User, o.Image.Config.Config.User) }

// needsFiles says whether the user has to be looked up in the image.
func (o ContainerOptions) needsFiles() bool {
	return o.Image.Config.OS != "windows" && spec.NeedsFiles(o.user())
}

// buildSpec makes the document. The image's files are mounted for a moment only where its user has to be looked up.
func (c *Client) buildSpec(o ContainerOptions, cgroup string, mounts []*types.Mount) (*specs.Spec, error) {
	config, asked := o.Image.Config, o.user()
	var user specs.User
	resolve := func(root string) (err error) {
		if root == "" {
			user, err = spec.ResolveUser(nil, asked)
			return err
		}
		r, err := os.OpenRoot(root)
		if err != nil {
			return err
		}
		defer r.Close()
		user, err = spec.ResolveUser(r.FS(), asked)
		return err
	}
	var err error
	switch {
	case config.OS == "windows":
		user.Username = asked
	case o.needsFiles():
		err = mount.Temp("", mountsFromWire(mounts), resolve)
	default:
		err = resolve("")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make the spec of %s: %w", o.ID, err)
	}
	opts := []spec.Opt{spec.Image(config.Config), spec.OSVersion(config.OSVersion), spec.User(user), spec.CgroupsPath(cgroup)}
	return spec.New(config.OS, append(opts, o.Spec...)...)
}

// Container loads a record; NotFound when there is none.
func (c *Client) Container(ctx context.Context, id string) (*Container, error) {
	r, err := c.containers.Get(ctx, &containersapi.GetContainerRequest{ID: id})
	if err != nil {
		return nil, err
	}
	return c.fromWire(r.Container), nil
}

// Containers lists records that match any of the filters, in containerd's filter language; all without one.
func (c *Client) Containers(ctx context.Context, filters ...string) ([]*Container, error) {
	r, err := c.containers.List(ctx, &containersapi.ListContainersRequest{Filters: filters})
	if err != nil {
		return nil, err
	}
	out := make([]*Container, len(r.Containers))
	for i, w := range r.Containers {
		out[i] = c.fromWire(w)
	}
	return out, nil
}

// Remove deletes the container with its ended task, if there is one, and its root file system; Slipway's daemon does it in one
// step, and takes its log too. NotFound when the record is gone, FailedPrecondition while the task runs.
func (ct *Container) Remove(ctx context.Context) error {
	info, err := ct.c.info(ctx)
	if err != nil {
		return err
	}
	if info != nil {
		_, err := ct.c.own.Remove(ctx, &slipwayapi.RemoveContainerRequest{Id: ct.ID})
		return err
	}
	task := Task{Process{ct: ct}}
	if _, err := task.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return ct.Delete(ctx)
}

// Delete removes record and snapshot. FailedPrecondition while a task of it is there.
func (ct *Container) Delete(ctx context.Context) error {
	if _, err := ct.c.containers.Delete(ctx, &containersapi.DeleteContainerRequest{ID: ct.ID}); err != nil {
		return err
	}
	if ct.SnapshotKey == "" {
		return nil
	}
	return ct.c.removeSnapshot(ctx, ct.Snapshotter, ct.SnapshotKey)
}

func (c *Client) removeSnapshot(ctx context.Context, snapshotter, key string) error {
	_, err := c.snapshots.Remove(ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: snapshotter, Key: key})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("cannot remove the root file system %s: %w", key, err)
	}
	return nil
}

func (c *Client) fromWire(w *containersapi.Container) *Container {
	ct := &Container{
		c: c, ID: w.ID, Image: w.Image, Labels: w.Labels, Runtime: w.Runtime.GetName(), Snapshotter: w.Snapshotter,
		SnapshotKey: w.SnapshotKey, CreatedAt: w.CreatedAt.AsTime(), UpdatedAt: w.UpdatedAt.AsTime(),
	}
	var s specs.Spec
	if json.Unmarshal(w.Spec.GetValue(), &s) == nil {
		ct.Spec = &s
	}
	return ct
}

func mountsFromWire(in []*types.Mount) []storage.Mount {
	out := make([]storage.Mount, len(in))
	for i, m := range in {
		out[i] = storage.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options}
	}
	return out
}
