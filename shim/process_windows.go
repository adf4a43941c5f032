package shim

import (
	"errors"
	"syscall"
)

func detached() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP, HideWindow: true}
}

func isRefused(err error) bool { return errors.Is(err, syscall.Errno(10061)) } // WSAECONNREFUSED
