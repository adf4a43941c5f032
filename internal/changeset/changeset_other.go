//go:build !linux

package changeset

import (
	"context"
	"fmt"
	"io"
	"runtime"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/storage"
)

func notImplemented() error {
	return fmt.Errorf("layers on disk are not implemented on %s: %w", runtime.GOOS, errdefs.ErrNotImplemented)
}

// Apply is not implemented on this system.
func Apply(context.Context, string, io.Reader, Options) error { return notImplemented() }

// DiffOverlay is not implemented on this system.
func DiffOverlay(context.Context, string, io.Writer, Options) error { return notImplemented() }

// DiffTrees is not implemented on this system.
func DiffTrees(context.Context, string, string, io.Writer, Options) error { return notImplemented() }

// Usage is not implemented on this system.
func Usage(context.Context, string) (storage.Usage, error) {
	return storage.Usage{}, notImplemented()
}

// CopyWithin is not implemented on this system.
func CopyWithin(context.Context, string, string, string) error { return notImplemented() }

// Sync is not implemented on this system.
func Sync(string) error { return notImplemented() }
