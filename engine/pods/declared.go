package pods

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/internal/changeset"
	"github.com/slipwayd/slipway/spec"
)

// Volumes that an image declares (image-spec config.md, Volumes) are directories ROOT/volumes/CONTAINER/N, copies of what the image has at
// their paths. So they can be written where the rest of the root file system cannot, and count for no layer. They come before the record
// of their container and go after it; Restore removes those of containers that are not there.

// maxDeclared bounds the volumes of an image. Each is a mount.
const maxDeclared = 256

// declared makes a container's and answers their mounts.
func (m *Manager) declared(ctx context.Context, p *pod, c *container, img *image) ([]specs.Mount, error) {
	paths := declaredPaths(img.Config.Config.Volumes, c.record.Spec.Mounts)
	if len(paths) == 0 {
		return nil, nil
	}
	if len(paths) > maxDeclared {
		return nil, fmt.Errorf("there are %d, more than %d: %w", len(paths), maxDeclared, errdefs.ErrInvalidArgument)
	}
	snapshots, err := m.e.Snapshots(scope, p.runtime.Snapshotter)
	if err != nil {
		return nil, err
	}
	err = m.declaredDirs.Create(c.id, func(dir string) error {
		return look(ctx, snapshots, img.ChainID, func(root string) error {
			for n, v := range paths {
				if err := fillVolume(ctx, root, v, filepath.Join(dir, strconv.Itoa(n))); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	dir, err := m.declaredDirs.Path(c.id)
	if err != nil {
		return nil, err
	}
	list := make([]specs.Mount, len(paths))
	for n, v := range paths {
		list[n] = specs.Mount{Destination: v, Type: "bind", Source: filepath.Join(dir, strconv.Itoa(n)), Options: []string{"rbind", "rprivate", "rw"}}
		if u := p.record.Spec.Security.Namespaces.User; u != nil && u.Mode == spec.ModePod { // files have the image's ids
			list[n].UIDMappings, list[n].GIDMappings = spec.Mappings(u.UIDs), spec.Mappings(u.GIDs)
		}
	}
	return list, nil
}

// kept are paths where every container has something that it needs to be one.
var kept = []string{"/", "/dev", "/proc", "/sys"}

// declaredPaths are where an image's volumes are to be, sorted, without those that a mount of the container hides.
func declaredPaths(volumes map[string]struct{}, mounts []spec.PodMount) []string {
	wanted := map[string]bool{}
	for v := range volumes {
		if v = path.Clean(v); path.IsAbs(v) && !slices.Contains(kept, v) {
			wanted[v] = true
		}
	}
	for _, mnt := range mounts {
		delete(wanted, path.Clean(mnt.Destination))
	}
	return slices.Sorted(maps.Keys(wanted))
}

// fillVolume makes dir a copy of directory v of an image, with its owner and mode, or an empty directory where the image has none.
func fillVolume(ctx context.Context, image, v, dir string) error {
	err := changeset.CopyWithin(ctx, image, strings.TrimPrefix(v, "/"), dir)
	if errdefs.IsNotFound(err) {
		return os.Mkdir(dir, 0o755)
	}
	return err
}

// clearDeclared removes the volumes of containers that are not there.
func (m *Manager) clearDeclared() error {
	ids, err := m.declaredDirs.List()
	if err != nil {
		return fmt.Errorf("cannot list the volumes that images declare: %w", err)
	}
	for _, id := range ids {
		m.mu.Lock()
		used := m.containers[id] != nil
		m.mu.Unlock()
		if used {
			continue
		}
		if err := m.declaredDirs.Remove(id); err != nil {
			return err
		}
	}
	return nil
}
