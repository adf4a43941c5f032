package overlay

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/changeset"
	"github.com/slipwayd/slipway/internal/layerdir"
	"github.com/slipwayd/slipway/storage"
)

// Driver implements storage.Driver.
//
// With id maps a layer on parents is written under the host's ids, because containerd's clients mount only the lower
// directories id-mapped; Diff and Seal translate them back. A layer without parents is a bind mount and mapped whole.
type Driver struct {
	root        *layerdir.Root
	settling    sync.Mutex // one at a time in settle
	options     []string   // for every mount
	xattrPrefix string
}

// New opens the driver in dir, which it makes if necessary and which no other process may use. FailedPrecondition, with
// the reason, when overlayfs does not work there: package native then does.
func New(dir string) (*Driver, error) {
	root, err := layerdir.Open(dir)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(root.Dir(), `:,\`) {
		return nil, fmt.Errorf("overlayfs cannot have layers in %q: choose a path without colon, comma and backslash: %w", dir, errdefs.ErrFailedPrecondition)
	}
	d := &Driver{root: root}
	d.options, d.xattrPrefix = kernelOptions()
	if err := d.probe(); err != nil {
		return nil, fmt.Errorf("overlayfs does not work in %q: %w (%w)", dir, err, errdefs.ErrFailedPrecondition)
	}
	return d, nil
}

// files answers where a layer's own files are.
func (d *Driver) files(id string) (string, error) {
	p, err := d.root.Path(id)
	return filepath.Join(p, "fs"), err
}

// lower answers the directories of the layers with these ids.
func (d *Driver) lower(ids []string) ([]string, error) {
	dirs := make([]string, len(ids))
	for i, id := range ids {
		dir, err := d.files(id)
		if err != nil {
			return nil, fmt.Errorf("parent: %w", err)
		}
		dirs[i] = dir
	}
	return dirs, nil
}

// Create implements storage.Driver.
func (d *Driver) Create(_ context.Context, l storage.Layer) error {
	lower, err := d.lower(l.Parents)
	if err == nil {
		err = d.settle(l.Parents, lower)
	}
	if err != nil {
		return fmt.Errorf("cannot make layer %s: %w", l.ID, err)
	}
	o := d.changes(l, lower)
	return d.root.Create(l.ID, func(dir string) error {
		if err := changeset.NewRoot(filepath.Join(dir, "fs"), o); err != nil {
			return err
		}
		if l.Kind == storage.View {
			return nil
		}
		return os.Mkdir(filepath.Join(dir, "work"), 0o700)
	})
}

// changes describes the layer's directory to package changeset.
func (d *Driver) changes(l storage.Layer, lower []string) changeset.Options {
	o := changeset.Options{XattrPrefix: d.xattrPrefix, Lower: lower}
	if len(l.Parents) > 0 && l.Kind != storage.Committed {
		o.UIDMap, o.GIDMap = l.UIDMap, l.GIDMap
	}
	return o
}

// Mounts implements storage.Driver. The answer is one bind mount or one overlay, in the form that containerd's own clients
// expect; package mount copes when there are more layers than fit a page.
func (d *Driver) Mounts(_ context.Context, l storage.Layer) ([]storage.Mount, error) {
	own, err := d.files(l.ID)
	if err != nil {
		return nil, err
	}
	lower, err := d.lower(l.Parents)
	if err != nil {
		return nil, fmt.Errorf("cannot mount layer %s: %w", l.ID, err)
	}
	var options []string
	if l.UIDMap != "" {
		options = append(options, "uidmap="+l.UIDMap, "gidmap="+l.GIDMap)
	}
	if l.Kind == storage.Committed {
		lower = append([]string{own}, lower...)
	}
	lower = d.visible(lower)
	switch {
	case l.Kind == storage.Committed:
	case l.Kind == storage.View && len(lower) == 0:
		lower = []string{own}
	case l.Kind == storage.Active && len(lower) == 0:
		return []storage.Mount{{Type: "bind", Source: own, Options: append(options, "rw", "rbind")}}, nil
	}
	if l.Kind != storage.Active && len(lower) == 1 {
		return []storage.Mount{{Type: "bind", Source: lower[0], Options: append(options, "ro", "rbind")}}, nil
	}
	options = append(options, d.options...)
	if l.Kind == storage.Active {
		options = append(options, "workdir="+filepath.Join(filepath.Dir(own), "work"), "upperdir="+own)
	}
	options = append(options, "lowerdir="+strings.Join(lower, ":"))
	return []storage.Mount{{Type: "overlay", Source: "overlay", Options: options}}, nil
}

// visible cuts off what is below a layer whose root is opaque: overlayfs itself heeds that mark on other directories only.
func (d *Driver) visible(lower []string) []string {
	for i, dir := range lower {
		if changeset.Opaque(dir, changeset.Options{XattrPrefix: d.xattrPrefix}) {
			return lower[:i+1]
		}
	}
	return lower
}

func (d *Driver) dirs(l storage.Layer) (own string, lower []string, err error) {
	if own, err = d.files(l.ID); err != nil {
		return "", nil, err
	}
	lower, err = d.lower(l.Parents)
	return own, lower, err
}

func empty(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if names, _ := f.Readdirnames(1); len(names) > 0 {
		return fmt.Errorf("it is not empty: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Diff implements storage.Driver. The layer may be mounted; a file that is cut short meanwhile fails it.
func (d *Driver) Diff(ctx context.Context, l storage.Layer, w io.Writer) error {
	own, lower, err := d.dirs(l)
	if err == nil && l.Kind != storage.View {
		err = changeset.DiffOverlay(ctx, own, w, d.changes(l, lower))
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
	own, lower, err := d.dirs(l)
	if err == nil {
		err = d.settle(append([]string{l.ID}, l.Parents...), append([]string{own}, lower...))
	}
	if err == nil {
		err = changeset.Unshift(ctx, own, d.changes(l, lower))
	}
	if err == nil {
		err = changeset.Sync(own)
	}
	if err != nil {
		return storage.Usage{}, fmt.Errorf("cannot seal layer %s: %w", l.ID, err)
	}
	return changeset.Usage(ctx, own)
}

// Usage implements storage.Driver.
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
