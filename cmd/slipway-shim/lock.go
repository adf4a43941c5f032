package main

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/ipc"
)

// lockWait is how long a shim waits for its dying predecessor to be gone.
const lockWait = 10 * time.Second

// lockState makes sure that one shim only serves a state directory. The system takes the lock from a dead one.
func lockState(path string) (unlock func(), err error) {
	for deadline := time.Now().Add(lockWait); ; time.Sleep(20 * time.Millisecond) {
		f, err := ipc.TryLock(path)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case !errdefs.IsUnavailable(err):
			return nil, fmt.Errorf("cannot lock %s: %w", path, err)
		case time.Now().After(deadline):
			return nil, fmt.Errorf("another shim serves this directory: %w", err)
		}
	}
}
