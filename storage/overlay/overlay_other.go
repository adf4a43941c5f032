//go:build !linux

package overlay

import (
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/storage"
)

// Driver does not exist on this system: New answers none.
type Driver struct{ storage.Driver }

// New is not implemented on this system.
func New(string) (*Driver, error) {
	return nil, fmt.Errorf("overlayfs is not implemented on %s: %w", runtime.GOOS, errdefs.ErrNotImplemented)
}
