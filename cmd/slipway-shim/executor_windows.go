package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/windows"

	"github.com/slipwayd/slipway/platform"
	executor "github.com/slipwayd/slipway/platform/windows"
)

func newExecutor(root string, log *slog.Logger) (platform.Executor, error) {
	return executor.New(executor.Config{Root: root, Log: log})
}

// lockWait is how long a shim waits for its dying predecessor to be gone.
const lockWait = 10 * time.Second

// lockState makes sure that one shim only serves a state directory. The system takes the lock from a dead one.
func lockState(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open lock: %w", err)
	}
	for deadline := time.Now().Add(lockWait); ; time.Sleep(20 * time.Millisecond) {
		err = windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &windows.Overlapped{})
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, windows.ERROR_LOCK_VIOLATION) && !errors.Is(err, windows.ERROR_IO_PENDING) || time.Now().After(deadline) {
			f.Close()
			return nil, fmt.Errorf("cannot lock %s: another shim serves this directory: %w", path, err)
		}
	}
}

// seal has nothing to seal: no container can reach this program's file.
func seal() error { return nil }
