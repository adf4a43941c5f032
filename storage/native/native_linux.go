package native

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/slipwayd/slipway/internal/changeset"
	"github.com/slipwayd/slipway/internal/layerdir"
	"github.com/slipwayd/slipway/storage"
)

// Driver implements storage.Driver.
type Driver struct{ root *layerdir.Root }

// New opens the driver in dir, which it makes if necessary and which no other process may use.
func New(dir string) (*Driver, error) {
	root, err := layerdir.Open(dir)
	if err != nil {
		return nil, err
	}
	return &Driver{root}, nil
}

func (d *Driver) files(id string) (string, error) {
	p, err := d.root.Path(id)
	return filepath.Join(p, "fs"), err
}

// dirs answers where the layer's tree and its parent's are, "" for no parent.
func (d *Driver) dirs(l storage.Layer) (own, parent string, err error) {
	if own, err = d.files(l.ID); err != nil {
		return "", "", err
	}
	parent, err = d.parent(l)
	return own, parent, err
}

func (d *Driver) parent(l storage.Layer) (dir string, err error) {
	for i := len(l.Parents) - 1; i >= 0; i-- {
		if dir, err = d.files(l.Parents[i]); err != nil {
			return "", fmt.Errorf("parent: %w", err)
		}
	}
	return dir, nil
}

// Create implements storage.Driver. For an active layer it takes as long as copying the parent.
func (d *Driver) Create(ctx context.Context, l storage.Layer) error {
	parent, err := d.parent(l)
	if err != nil {
		return fmt.Errorf("cannot make layer %s: %w", l.ID, err)
	}
	return d.root.Create(l.ID, func(dir string) error {
		if parent == "" || l.Kind == storage.View {
			return changeset.NewRoot(filepath.Join(dir, "fs"), changeset.Options{})
		}
		return changeset.Copy(ctx, parent, filepath.Join(dir, "fs"))
	})
}

// Mounts implements storage.Driver. The answer is one bind mount.
func (d *Driver) Mounts(_ context.Context, l storage.Layer) ([]storage.Mount, error) {
	source, parent, err := d.dirs(l)
	if err != nil {
		return nil, fmt.Errorf("cannot mount layer %s: %w", l.ID, err)
	}
	if l.Kind == storage.View && parent != "" {
		source = parent
	}
	var options []string
	if l.UIDMap != "" {
		options = append(options, "uidmap="+l.UIDMap, "gidmap="+l.GIDMap)
	}
	mode := "ro"
	if l.Kind == storage.Active {
		mode = "rw"
	}
	return []storage.Mount{{Type: "bind", Source: source, Options: append(options, mode, "rbind")}}, nil
}

// Apply implements storage.Driver. The layer must be as Create left it.
func (d *Driver) Apply(ctx context.Context, l storage.Layer, diff io.Reader) (storage.Usage, error) {
	own, _, err := d.dirs(l)
	if err == nil {
		err = changeset.Apply(ctx, own, diff, changeset.Options{})
	}
	if err == nil {
		err = changeset.Sync(own)
	}
	if err != nil {
		return storage.Usage{}, fmt.Errorf("cannot unpack into layer %s: %w", l.ID, err)
	}
	return changeset.Usage(ctx, own)
}

// Diff implements storage.Driver. It reads both the layer and its parent from end to end.
func (d *Driver) Diff(ctx context.Context, l storage.Layer, w io.Writer) error {
	own, parent, err := d.dirs(l)
	if err == nil && l.Kind != storage.View {
		err = changeset.DiffTrees(ctx, parent, own, w, changeset.Options{})
	} else if err == nil {
		err = changeset.Empty(w)
	}
	if err != nil {
		return fmt.Errorf("cannot diff layer %s: %w", l.ID, err)
	}
	return nil
}

// Seal implements storage.Driver.
func (d *Driver) Seal(ctx context.Context, l storage.Layer) (storage.Usage, error) {
	own, err := d.files(l.ID)
	if err == nil {
		err = changeset.Sync(own)
	}
	if err != nil {
		return storage.Usage{}, fmt.Errorf("cannot seal layer %s: %w", l.ID, err)
	}
	return changeset.Usage(ctx, own)
}

// Usage implements storage.Driver. It counts the whole tree, copied files included.
func (d *Driver) Usage(ctx context.Context, id string) (storage.Usage, error) {
	own, err := d.files(id)
	if err != nil {
		return storage.Usage{}, err
	}
	return changeset.Usage(ctx, own)
}

// Remove implements storage.Driver.
func (d *Driver) Remove(_ context.Context, id string) error { return d.root.Remove(id) }

// List implements storage.Driver.
func (d *Driver) List(context.Context) ([]string, error) { return d.root.List() }
