package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	// What libcontainer needs of the program that is to become a container's init; see package reexec.
	_ "github.com/opencontainers/cgroups/devices"
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
	_ "github.com/slipwayd/slipway/platform/linux/reexec"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/linux"
	"github.com/slipwayd/slipway/platform/linux/child"
	"golang.org/x/sys/unix"
)

// seal has this program run from a copy that no container can change, which its executor asks for; see child.Sealed.
func seal() error { return child.Seal() }

func newExecutor(root string, log *slog.Logger) (platform.Executor, error) {
	return linux.New(linux.Config{Root: root, Log: log})
}

// lockWait is how long a shim waits for its dying predecessor to be gone.
const lockWait = 10 * time.Second

// lockState makes sure that one shim only serves a state directory. The kernel takes the lock from a dead one.
func lockState(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open lock: %w", err)
	}
	for deadline := time.Now().Add(lockWait); ; time.Sleep(20 * time.Millisecond) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			f.Close()
			return nil, fmt.Errorf("cannot lock %s: another shim serves this directory: %w", path, err)
		}
	}
}
