package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

func checkPrivileges() error { return nil }

// lockDir makes this the only daemon on a directory: root or state, as what names. The lock ends with the process, however it ends.
func lockDir(what, dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the %s directory: %w", what, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the %s directory: %w", what, err)
	}
	var at windows.Overlapped
	err = windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &at)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("another slipwayd uses the %s %s; stop it or choose another --%[1]s: %[3]w", what, dir, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

func settle() {}
