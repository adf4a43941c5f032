//go:build !windows

package hcs

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// Open answers NotImplemented: the service is Windows'.
func Open() (Host, error) {
	return nil, fmt.Errorf("the Host Compute Service is only on Windows: %w", errdefs.ErrNotImplemented)
}
