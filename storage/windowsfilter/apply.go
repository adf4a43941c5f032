package windowsfilter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/storage"
)

// Apply implements storage.Driver. diff is a tar in the format of Windows layers: NotImplemented for one that makes a directory opaque.
func (d *Driver) Apply(ctx context.Context, l storage.Layer, diff io.Reader) (storage.Usage, error) {
	err := d.apply(ctx, l, diff)
	if err != nil {
		return storage.Usage{}, fmt.Errorf("cannot unpack into layer %s: %w", l.ID, err)
	}
	return d.Usage(ctx, l.ID)
}

func (d *Driver) apply(ctx context.Context, l storage.Layer, diff io.Reader) error {
	p, err := d.paths(l)
	if err != nil {
		return err
	}
	if exists(p.scratch) {
		return fmt.Errorf("it has a disk to write to; layers are unpacked into snapshots whose keys begin with \"extract-\": %w", errdefs.ErrFailedPrecondition)
	}
	if bare, err := empty(p.own); err != nil {
		return err
	} else if !bare {
		return fmt.Errorf("it is not empty: %w", errdefs.ErrFailedPrecondition)
	}
	f := newFilter(p.parents)
	f.images = d.cims != ""
	err = piped(
		func(w io.Writer) error { return f.copy(ctx, w, diff) },
		func(r io.Reader) error { return d.host.Import(ctx, r, p.own, p.parents) })
	if err != nil {
		return err
	}
	return d.host.Sync(p.own)
}

// Seal implements storage.Driver. A scratch is turned into what other layers can be built on, and is gone then.
func (d *Driver) Seal(ctx context.Context, l storage.Layer) (storage.Usage, error) {
	err := d.seal(ctx, l)
	if err != nil {
		return storage.Usage{}, fmt.Errorf("cannot seal layer %s: %w", l.ID, err)
	}
	return d.Usage(ctx, l.ID)
}

func (d *Driver) seal(ctx context.Context, l storage.Layer) error {
	p, err := d.paths(l)
	if err != nil {
		return err
	}
	if !exists(p.scratch) {
		return d.host.Sync(p.own)
	}
	// A layer is where it is to stay from the start, as templates of disks know their own path. As long as there is a scratch, what is
	// beside it is half done.
	if err := d.host.Destroy(p.own); err != nil {
		return err
	}
	if err := os.Mkdir(p.own, 0o700); err != nil {
		return err
	}
	err = piped(
		func(w io.Writer) error { return d.host.Export(ctx, w, p.scratch, p.parents) },
		func(r io.Reader) error { return d.host.Import(ctx, r, p.own, p.parents) })
	if err != nil {
		return err
	}
	if err := d.host.Sync(p.own); err != nil {
		return err
	}
	return d.host.Destroy(p.scratch)
}

// piped runs both and answers the error of the one that failed first. What write writes is read by read, or else to its end.
func piped(write func(io.Writer) error, read func(io.Reader) error) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := write(w)
		w.CloseWithError(err)
		written <- err
	}()
	err := read(r)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	r.CloseWithError(errReader)
	if werr := <-written; werr != nil && !errors.Is(werr, errReader) {
		return werr
	}
	return err
}

// errReader is what the writer of a pipe sees of its reader's failure.
var errReader = errors.New("nobody reads on")
