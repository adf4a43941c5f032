//go:build !linux

package main

import (
	"fmt"
	"log/slog"

	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/platform"
)

func newExecutor(root string, log *slog.Logger) (platform.Executor, error) {
	return nil, fmt.Errorf("cannot run containers on this system: %w", errdefs.ErrNotImplemented)
}

func lockState(path string) (unlock func(), err error) { return func() {}, nil }

func seal() error { return nil }
