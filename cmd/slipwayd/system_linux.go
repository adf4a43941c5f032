package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/internal/ipc"
)

func checkPrivileges() error {
	if os.Geteuid() != 0 {
		return errors.New("must run as root, because it mounts file systems and makes namespaces; try sudo")
	}
	return nil
}

// lockDir makes this the only daemon on a directory: root or state, as what names. The lock ends with the process, however it ends.
func lockDir(what, dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("cannot make the %s directory: %w", what, err)
	}
	path := filepath.Join(dir, "lock")
	f, err := ipc.TryLock(path)
	if err != nil {
		if !errdefs.IsUnavailable(err) {
			return nil, fmt.Errorf("cannot lock the %s directory: %w", what, err)
		}
		pid, _ := os.ReadFile(path)
		return nil, fmt.Errorf("another slipwayd (process %s) uses the %s %s; stop it or choose another --%[2]s", strings.TrimSpace(string(pid)), what, dir)
	}
	// The pid is for the message above; the lock is what counts.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
	}
	return func() { _ = f.Close() }, nil
}

// adoptOrphans makes this process the parent of those whose parent, a shim, dies: their exit status then comes here
// instead of to pid 1, where it would be lost.
func adoptOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot become a subreaper: %w", err)
	}
	return nil
}

// settle gives memory back that only starting needed.
func settle() { debug.FreeOSMemory() }
