//go:build !linux

package overlay

import (
	"context"
	"fmt"
	"io"
	"runtime"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/storage"
)

// Driver does not exist on this system.
type Driver struct{}

// New is not implemented on this system.
func New(string) (*Driver, error) { return nil, notImplemented() }

func notImplemented() error {
	return fmt.Errorf("overlayfs is not implemented on %s: %w", runtime.GOOS, errdefs.ErrNotImplemented)
}

func (*Driver) Create(context.Context, storage.Layer) error { return notImplemented() }

func (*Driver) Mounts(context.Context, storage.Layer) ([]storage.Mount, error) {
	return nil, notImplemented()
}

func (*Driver) Apply(context.Context, storage.Layer, io.Reader) (storage.Usage, error) {
	return storage.Usage{}, notImplemented()
}

func (*Driver) Diff(context.Context, storage.Layer, io.Writer) error { return notImplemented() }

func (*Driver) Seal(context.Context, storage.Layer) (storage.Usage, error) {
	return storage.Usage{}, notImplemented()
}

func (*Driver) Usage(context.Context, string) (storage.Usage, error) {
	return storage.Usage{}, notImplemented()
}

func (*Driver) Remove(context.Context, string) error { return notImplemented() }

func (*Driver) List(context.Context) ([]string, error) { return nil, notImplemented() }
