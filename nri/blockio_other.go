//go:build !linux

package nri

import (
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"
)

func deviceNumber(string) (major, minor int64, err error) {
	return 0, 0, fmt.Errorf("limits of block devices are not implemented on %s: %w", runtime.GOOS, errdefs.ErrNotImplemented)
}
