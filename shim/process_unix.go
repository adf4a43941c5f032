//go:build !windows

package shim

import (
	"errors"
	"syscall"
)

// detached gives a shim a session of its own: no signal to the daemon's group or terminal reaches it.
func detached() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// reap takes the status of a container's process that came to this daemon as an orphan, once its exit is known. A process
// that is no child of ours is left alone.
func reap(pid int) {
	if pid > 1 {
		_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
	}
}

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
