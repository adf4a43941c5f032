//go:build !windows

package shim

import (
	"errors"
	"syscall"
)

// detached gives a shim a session of its own: no signal to the daemon's group or terminal reaches it.
func detached() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
