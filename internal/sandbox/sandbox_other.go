//go:build !linux

package sandbox

import (
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"
)

func notImplemented() error {
	return fmt.Errorf("pods are not implemented on %s: %w", runtime.GOOS, errdefs.ErrNotImplemented)
}

func makeSandbox(string, Options) error { return notImplemented() }

func pin(string, string, int) error { return notImplemented() }

func alive(string, []string) bool { return false }

func remove(string) error { return notImplemented() }
