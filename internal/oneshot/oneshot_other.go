//go:build !linux

package oneshot

import (
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"
)

func notImplemented() error {
	return fmt.Errorf("executing for the output is not implemented on %s: %w", runtime.GOOS, errdefs.ErrNotImplemented)
}

type output struct{}

func newOutput(string, int) (*Output, error) { return nil, notImplemented() }

func (output) drain() ([]byte, error) { return nil, notImplemented() }

func (output) close() {}

func killTree(int) error { return notImplemented() }
