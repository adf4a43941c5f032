package main

import (
	"fmt"
	"log/slog"

	"github.com/containerd/errdefs"
)

// openDrivers has nothing to open yet.
func openDrivers(config, *slog.Logger) (drivers, error) {
	return drivers{}, fmt.Errorf("layers on Windows are not implemented yet: %w", errdefs.ErrNotImplemented)
}

// startSystem has nothing to start: Windows has no orphans to reap.
func startSystem(*slog.Logger) (stop func(), err error) { return func() {}, nil }
