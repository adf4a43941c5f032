package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

func checkPrivileges() error { return nil }

// lockRoot makes this the only daemon on a root. The lock ends with the process, however it ends.
func lockRoot(root string) (unlock func(), err error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the root directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(root, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the root directory: %w", err)
	}
	var at windows.Overlapped
	err = windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &at)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("another slipwayd uses the root %s; stop it or choose another --root: %w", root, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

func settle() {}
