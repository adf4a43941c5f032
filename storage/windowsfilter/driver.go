package windowsfilter

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/layerdir"
	"github.com/slipwayd/slipway/storage"
)

// What containerd's clients and shims know mounts of Windows layers by.
const (
	mountType        = "windows-layer"
	cimMountType     = "CimFS"
	parentsOption    = "parentLayerPaths="
	cimParentsOption = "parentCimPaths="
)

// Driver implements storage.Driver.
type Driver struct {
	root *layerdir.Root
	host Host
	cims string // where layers' composite images are; empty when layers are directories
}

// New opens the driver in dir, which it makes if necessary and which no other process may use.
func New(dir string, host Host) (*Driver, error) {
	d := &Driver{host: host}
	opening := true
	var err error
	d.root, err = layerdir.OpenFor(dir, func(path string) error {
		err := d.destroy(path)
		if opening { // what somebody has open still, maybe a process that is dying, must keep nobody from starting; the next start tries again
			return nil
		}
		return err
	})
	opening = false
	return d, err
}

// destroy deletes the directory of one layer id, with all in it.
func (d *Driver) destroy(dir string) error {
	parts, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, p := range parts {
		if err := d.host.Destroy(filepath.Join(dir, p.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// paths of one layer.
type paths struct {
	own     string   // what is read only
	scratch string   // where the virtual disk is, if there is one
	parents []string // nearest first
}

// layerPrefix begins the names of layers' directories: ids alone would be con, aux and com1 some day, which are devices.
const layerPrefix = "layer"

func layerPaths(dir, id string) paths {
	return paths{own: filepath.Join(dir, layerPrefix+id), scratch: filepath.Join(dir, "scratch"+id)}
}

// dir answers where a layer is. InvalidArgument for what is no id, NotFound when there is none.
func (d *Driver) dir(id string) (string, error) {
	if id == "" {
		return "", fmt.Errorf("a layer needs an id: %w", errdefs.ErrInvalidArgument)
	}
	return d.root.Path(layerPrefix + id)
}

// paths answers where a layer and its parents are. NotFound unless all of them are there.
func (d *Driver) paths(l storage.Layer) (paths, error) {
	parents, err := d.parents(l)
	if err != nil {
		return paths{}, err
	}
	dir, err := d.dir(l.ID)
	p := layerPaths(dir, l.ID)
	p.parents = parents
	return p, err
}

func (d *Driver) parents(l storage.Layer) ([]string, error) {
	parents := make([]string, len(l.Parents))
	for i, id := range l.Parents {
		dir, err := d.dir(id)
		if err != nil {
			return nil, fmt.Errorf("parent: %w", err)
		}
		parents[i] = layerPaths(dir, id).own
	}
	return parents, nil
}

// Create implements storage.Driver. A layer to write in, on parents, gets its virtual disk at once, unless it is to be unpacked into.
func (d *Driver) Create(ctx context.Context, l storage.Layer) error {
	parents, err := d.parents(l)
	if err != nil {
		return fmt.Errorf("cannot make layer %s: %w", l.ID, err)
	}
	size, err := scratchSize(l.Labels)
	if err == nil && l.ID == "" {
		err = fmt.Errorf("it needs an id: %w", errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return fmt.Errorf("cannot make layer %s: %w", l.ID, err)
	}
	return d.root.Create(layerPrefix+l.ID, func(dir string) error {
		p := layerPaths(dir, l.ID)
		p.parents = parents
		if err := os.Mkdir(p.own, 0o700); err != nil {
			return err
		}
		if l.Kind != storage.Active || l.Unpack || len(parents) == 0 {
			return nil
		}
		return d.makeScratch(ctx, p, size)
	})
}

// Mounts implements storage.Driver. Without parents a layer is mounted as it is.
func (d *Driver) Mounts(_ context.Context, l storage.Layer) ([]storage.Mount, error) {
	p, err := d.paths(l)
	if err != nil {
		return nil, fmt.Errorf("cannot mount layer %s: %w", l.ID, err)
	}
	m := storage.Mount{Type: mountType, Source: p.own, Options: []string{"ro"}}
	switch {
	case l.Kind == storage.Active && l.Unpack, l.Kind == storage.Active && len(p.parents) == 0:
		m.Options[0] = "rw"
	case l.Kind == storage.Active:
		m.Source, m.Options[0] = p.scratch, "rw"
	case l.Kind == storage.View && len(p.parents) > 0:
		m.Source, p.parents = p.parents[0], p.parents[1:]
	}
	if d.cims != "" {
		m.Type = cimMountType
	}
	if len(p.parents) == 0 {
		return []storage.Mount{m}, nil
	}
	if m.Options, err = appendList(m.Options, parentsOption, p.parents); err == nil && d.cims != "" {
		m.Options, err = appendList(m.Options, cimParentsOption, cimPaths(d.cims, p.parents))
	}
	return []storage.Mount{m}, err
}

func appendList(options []string, name string, list []string) ([]string, error) {
	text, err := json.Marshal(list)
	return append(options, name+string(text)), err
}

// cimPath is where the composite image of the layer in dir is: Windows wants all of them in one directory.
func cimPath(cims, dir string) string { return filepath.Join(cims, filepath.Base(dir)+".cim") }

func cimPaths(cims string, dirs []string) []string {
	paths := make([]string, len(dirs))
	for i, dir := range dirs {
		paths[i] = cimPath(cims, dir)
	}
	return paths
}

// Diff implements storage.Driver. A scratch must not be in use meanwhile.
func (d *Driver) Diff(ctx context.Context, l storage.Layer, w io.Writer) error {
	err := d.diff(ctx, l, w)
	if err != nil {
		err = fmt.Errorf("cannot diff layer %s: %w", l.ID, err)
	}
	return err
}

func (d *Driver) diff(ctx context.Context, l storage.Layer, w io.Writer) error {
	p, err := d.paths(l)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	from := p.own
	if l.Kind == storage.Active && exists(p.scratch) {
		from = p.scratch
	}
	bare, err := empty(from)
	if err != nil {
		return err
	}
	if bare || l.Kind == storage.View {
		return tar.NewWriter(w).Close()
	}
	return d.host.Export(ctx, w, from, p.parents)
}

// outside is a host that keeps a part of layers outside of their directories.
type outside interface {
	// Outside answers how many bytes those of the layer in dir are.
	Outside(ctx context.Context, dir string) (int64, error)
}

// Usage implements storage.Driver. It counts the lengths of files, each name for itself.
func (d *Driver) Usage(ctx context.Context, id string) (u storage.Usage, err error) {
	dir, err := d.dir(id)
	if err != nil {
		return u, err
	}
	p := layerPaths(dir, id)
	if h, ok := d.host.(outside); ok {
		if u.Size, err = h.Outside(ctx, p.own); err != nil {
			return u, fmt.Errorf("cannot measure layer %s: %w", id, err)
		}
	}
	for _, part := range []string{p.own, p.scratch} {
		err := filepath.WalkDir(part, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // removed meanwhile, or no scratch
			}
			if err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if path == part {
				return nil
			}
			u.Inodes++
			if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
				u.Size += info.Size()
			}
			return nil
		})
		if err != nil {
			return u, fmt.Errorf("cannot measure layer %s: %w", id, err)
		}
	}
	return u, nil
}

// Remove implements storage.Driver. Unavailable while something is attached that cannot be detached.
func (d *Driver) Remove(_ context.Context, id string) error {
	err := d.root.Remove(layerPrefix + id)
	if err == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	// Windows renames no directory of which something is open, such as a disk that stayed attached when its container's owner died.
	dir, pathErr := d.dir(id)
	if pathErr != nil {
		return err
	}
	if detach := d.host.Detach(layerPaths(dir, id).scratch); detach != nil {
		return fmt.Errorf("%w: its disk stays attached: %w: %w", err, detach, errdefs.ErrUnavailable)
	}
	return d.root.Remove(layerPrefix + id)
}

// List implements storage.Driver.
func (d *Driver) List(context.Context) (ids []string, err error) {
	names, err := d.root.List()
	for _, name := range names {
		if id, ok := strings.CutPrefix(name, layerPrefix); ok && id != "" {
			ids = append(ids, id)
		}
	}
	return ids, err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func empty(dir string) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	names, err := f.Readdirnames(1)
	if err != nil && err != io.EOF {
		return false, err
	}
	return len(names) == 0, nil
}
