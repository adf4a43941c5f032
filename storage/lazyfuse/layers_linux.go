package lazyfuse

import (
	"context"
	"fmt"
	"io"
	"io/fs"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
	"github.com/slipwayd/slipway/storage/lazyfuse/state"
)

// Create implements storage.Driver.
func (d *Driver) Create(ctx context.Context, l storage.Layer) error {
	if err := d.ready(ctx, l.Parents); err != nil {
		return fmt.Errorf("cannot make layer %s: %w", l.ID, err)
	}
	return d.Driver.Create(ctx, l)
}

// Mounts implements storage.Driver. A stack that is to be seen under other ids must be here: FUSE mounts have none.
func (d *Driver) Mounts(ctx context.Context, l storage.Layer) ([]storage.Mount, error) {
	ids := l.Parents
	if l.Kind == storage.Committed {
		ids = append([]string{l.ID}, ids...)
	}
	if l.UIDMap != "" {
		for _, id := range ids {
			if s := d.lookup(id); s != nil && !s.isFilled() {
				return nil, fmt.Errorf("cannot mount layer %s under other ids before layer %s has arrived, wait for it: %w", l.ID, id, errdefs.ErrFailedPrecondition)
			}
		}
	}
	if err := d.ready(ctx, ids); err != nil {
		return nil, fmt.Errorf("cannot mount layer %s: %w", l.ID, err)
	}
	return d.Driver.Mounts(ctx, l)
}

// Diff implements storage.Driver.
func (d *Driver) Diff(ctx context.Context, l storage.Layer, w io.Writer) error {
	if err := d.ready(ctx, append([]string{l.ID}, l.Parents...)); err != nil {
		return fmt.Errorf("cannot diff layer %s: %w", l.ID, err)
	}
	return d.Driver.Diff(ctx, l, w)
}

// Seal implements storage.Driver.
func (d *Driver) Seal(ctx context.Context, l storage.Layer) (storage.Usage, error) {
	if err := d.ready(ctx, append([]string{l.ID}, l.Parents...)); err != nil {
		return storage.Usage{}, fmt.Errorf("cannot seal layer %s: %w", l.ID, err)
	}
	if s := d.lookup(l.ID); s != nil {
		return s.state.Usage, nil
	}
	return d.Driver.Seal(ctx, l)
}

// Usage implements storage.Driver. Of a layer that is on its way it is what it will take.
func (d *Driver) Usage(ctx context.Context, id string) (storage.Usage, error) {
	if s := d.lookup(id); s != nil && !s.isFilled() {
		return s.state.Usage, nil
	}
	return d.Driver.Usage(ctx, id)
}

// Remove implements storage.Driver. A served layer that something is mounted on is Unavailable.
func (d *Driver) Remove(ctx context.Context, id string) error {
	if s := d.lookup(id); s != nil {
		s.mu.Lock()
		err := d.letGo(ctx, s)
		s.mu.Unlock()
		if err != nil {
			return fmt.Errorf("cannot remove lazy layer %s: %w", id, err)
		}
	}
	return d.Driver.Remove(ctx, id)
}

// letGo has the server drop a layer unless it is in use. The caller holds s.mu.
func (d *Driver) letGo(ctx context.Context, s *served) error {
	used, err := d.mounted(s.id)
	if err != nil {
		return err
	}
	if used[s.id] {
		return fmt.Errorf("%w: %w", errMounted, errdefs.ErrUnavailable)
	}
	if err := d.detach(ctx, s.id); err != nil {
		return err
	}
	s.attached, s.gone = false, true
	d.forget(s.id)
	return nil
}

// Attach implements storage.Lazy.
func (d *Driver) Attach(_ context.Context, l storage.Layer, x storage.LayerIndex, src storage.Source) (storage.Usage, error) {
	u, err := d.begin(l, x, src)
	if err != nil {
		err = fmt.Errorf("cannot attach layer %s: %w", l.ID, err)
	}
	return u, err
}

func (d *Driver) begin(l storage.Layer, x storage.LayerIndex, src storage.Source) (u storage.Usage, err error) {
	if l.UIDMap != "" || l.GIDMap != "" {
		return u, fmt.Errorf("layers under other ids are not served lazily: %w", errdefs.ErrNotImplemented)
	}
	parsed, err := parse(x, src)
	if err != nil {
		return u, err
	}
	if parsed.BlobSize() != src.Descriptor.Size {
		return u, fmt.Errorf("the index is of a blob of %d bytes, %s has %d: %w", parsed.BlobSize(), src.Descriptor.Digest, src.Descriptor.Size, errdefs.ErrInvalidArgument)
	}
	dir, err := d.lazyDir(l.ID)
	if err != nil {
		return u, err
	}
	s := newServed(l.ID, dir, newState(parsed, x, src))
	if err := state.Write(dir, s.state, x.Document); err != nil {
		return u, err
	}
	if err := d.Driver.Serve(l.ID, d.target(l.ID)); err != nil {
		return u, err
	}
	if err := d.Driver.Sync(l.ID); err != nil {
		return u, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.served[l.ID] = s
	return s.state.Usage, nil
}

// parse answers the index of a layer, or an empty one when it is to be served while it comes.
func parse(x storage.LayerIndex, src storage.Source) (*index.Index, error) {
	if x.Kind == storage.Stream {
		return index.Empty(src.Descriptor.Size)
	}
	return index.Parse(x.Document, index.Limits{})
}

// usage is what the files of a layer take when they are here.
func usage(x *index.Index) (u storage.Usage) {
	for i := range x.Len() {
		n := x.Node(i)
		u.Inodes++
		if n.Mode.IsRegular() {
			u.Size += (n.Size + 4095) / 4096 * 4096
		} else if n.Mode.IsDir() {
			u.Size += 4096
		}
	}
	return u
}

// settle fits a layer to the layers below. The caller holds s.mu; those below are settled and attached.
func (d *Driver) settle(s *served, parents []string) error {
	coming := d.comingOf(parents)
	err := state.Settle(s.dir, s.state, func(path string) (index.Node, bool, error) {
		if len(coming) > 0 {
			return index.Node{}, false, nil // s comes too, and has but its root to ask for: see askable
		}
		if path == "" {
			path = "."
		}
		a, exists, err := d.Driver.Below(parents, path)
		if err != nil || a == nil {
			return index.Node{}, exists, err
		}
		return index.Node{Mode: fs.ModeDir | index.FileMode(a.Mode), UID: a.UID, GID: a.GID, ModTime: a.ModTime, Xattrs: a.Xattrs}, true, nil
	})
	s.settled = err == nil
	return err
}
