package pods

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/internal/mount"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/spec"
)

// Images that are volumes are read-only snapshots, mounted below the pod's directory while their container exists. A lease of the pod keeps
// them from collection.

func (m *Manager) volumesDir(podID string) string { return filepath.Join(m.dir(podID), "volumes") }

func leaseOf(podID string) string { return "pod-" + podID }

// volumeKey is the snapshot, and the name of the directory, of a container's n-th volume.
func volumeKey(c *container, n int) string { return fmt.Sprintf("%s-volume-%d", c.id, n) }

// volumes answers the mounts of a container that are of images: those that it names, and what its own image declares. undo takes them away.
func (m *Manager) volumes(ctx context.Context, p *pod, c *container, img *image) (list []specs.Mount, undo func(context.Context) error, err error) {
	undo = func(ctx context.Context) error {
		ctx, cancel := undoing(ctx)
		defer cancel()
		return m.unmountOwn(ctx, c)
	}
	if list, err = m.declared(ctx, p, c, img); err != nil {
		err = fmt.Errorf("cannot make the volumes that image %s declares: %w", img.Image.Name, err)
		return nil, undo, errors.Join(err, undo(ctx))
	}
	for n, v := range c.record.Spec.Mounts {
		if v.Image == nil {
			continue
		}
		one, err := m.imageVolume(ctx, p, volumeKey(c, n), v)
		if err != nil {
			err = fmt.Errorf("cannot mount image %s on %s: %w", v.Image.Ref, v.Destination, err)
			return nil, undo, errors.Join(err, undo(ctx))
		}
		list = append(list, one)
	}
	return list, undo, nil
}

func (m *Manager) imageVolume(ctx context.Context, p *pod, key string, v spec.PodMount) (specs.Mount, error) {
	img, err := m.image(ctx, v.Image.Ref, p.runtime.Snapshotter)
	if err != nil {
		return specs.Mount{}, err
	}
	lease := leaseOf(p.id)
	if _, err := m.e.CreateLease(ctx, Namespace, metadata.Lease{ID: lease}); err != nil && !errdefs.IsAlreadyExists(err) {
		return specs.Mount{}, err
	}
	snapshots, err := m.e.Snapshots(engine.Scope{Namespace: Namespace, Lease: lease}, p.runtime.Snapshotter)
	if err != nil {
		return specs.Mount{}, err
	}
	mounts, err := snapshots.View(ctx, key, img.ChainID, m.sys.snapshotLabels(p, nil))
	if err != nil {
		return specs.Mount{}, err
	}
	dir := filepath.Join(m.volumesDir(p.id), key)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return specs.Mount{}, err
	}
	if err := mount.All(dir, mounts); err != nil {
		return specs.Mount{}, err
	}
	source, err := below(dir, v.ImageSubPath)
	if err != nil {
		return specs.Mount{}, err
	}
	return specs.Mount{Destination: path.Clean(v.Destination), Type: "bind", Source: source, Options: []string{"rbind", "rprivate", "ro", "nosuid", "nodev"}}, nil
}

// below finds a directory in an image. Links in it must not lead out.
func below(dir, sub string) (string, error) {
	if sub == "" {
		return dir, nil
	}
	if path.IsAbs(sub) || strings.Contains("/"+sub+"/", "/../") {
		return "", fmt.Errorf("path %.200q in the image is not relative, or leads out of it: %w", sub, errdefs.ErrInvalidArgument)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	// The image does not change while it is mounted: what is found now is there later. Links are refused, as the mount would follow them.
	for at := path.Clean(sub); at != "."; at = path.Dir(at) {
		st, err := root.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("there is no %.200q in the image: %w", sub, errdefs.ErrInvalidArgument)
		} else if err != nil {
			return "", err
		}
		if st.Mode()&fs.ModeSymlink != 0 {
			return "", fmt.Errorf("%.200q in the image is a symbolic link: %w", at, errdefs.ErrInvalidArgument)
		}
	}
	return filepath.Join(dir, filepath.FromSlash(sub)), nil
}

// unmountOwn takes away a container's volumes.
func (m *Manager) unmountOwn(ctx context.Context, c *container) error {
	for n, v := range c.record.Spec.Mounts {
		if v.Image == nil {
			continue
		}
		if err := m.unmountVolume(ctx, c.pod, volumeKey(c, n)); err != nil {
			return err
		}
	}
	return m.declaredDirs.Remove(c.id)
}

func (m *Manager) unmountVolume(ctx context.Context, p *pod, key string) error {
	dir := filepath.Join(m.volumesDir(p.id), key)
	if err := mount.Unmount(dir); err != nil {
		return fmt.Errorf("cannot unmount a volume: %w", err)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) { // and never what is in it
		return fmt.Errorf("cannot remove the directory of a volume: %w", err)
	}
	snapshots, err := m.e.Snapshots(scope, p.runtime.Snapshotter)
	if err != nil {
		return err
	}
	if err := snapshots.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("cannot remove the snapshot of a volume: %w", err)
	}
	return nil
}

// unmountVolumes takes away what volumes are left of a pod.
func (m *Manager) unmountVolumes(ctx context.Context, podID string) error {
	entries, err := os.ReadDir(m.volumesDir(podID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("cannot list the volumes of pod %s: %w", podID, err)
	}
	for _, entry := range entries {
		dir := filepath.Join(m.volumesDir(podID), entry.Name())
		if err := mount.Unmount(dir); err != nil {
			return fmt.Errorf("cannot unmount a volume of pod %s: %w", podID, err)
		}
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove a volume of pod %s: %w", podID, err)
		}
	}
	// The snapshots go with the lease.
	if err := m.e.DeleteLease(ctx, Namespace, leaseOf(podID), false); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("cannot release the volumes of pod %s: %w", podID, err)
	}
	return nil
}
