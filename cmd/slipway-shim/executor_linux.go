package main

import (
	"log/slog"

	// What libcontainer needs of the program that is to become a container's init; see package reexec.
	_ "github.com/opencontainers/cgroups/devices"
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
	_ "github.com/slipwayd/slipway/platform/linux/reexec"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/linux"
	"github.com/slipwayd/slipway/platform/linux/child"
)

// seal has this program run from a copy that no container can change, which its executor asks for; see child.Sealed.
func seal() error { return child.Seal() }

func newExecutor(root string, log *slog.Logger) (platform.Executor, error) {
	return linux.New(linux.Config{Root: root, Log: log})
}
