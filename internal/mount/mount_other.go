//go:build !linux

package mount

import (
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/storage"
)

func notImplemented() error {
	return fmt.Errorf("mounting is not implemented on %s: %w", runtime.GOOS, errdefs.ErrNotImplemented)
}

func one(string, storage.Mount) (func(), error) { return nil, notImplemented() }

func unmount(string) error { return notImplemented() }

func temp(string, []storage.Mount, func(string) error) error { return notImplemented() }
