package ipc

import (
	"context"
	"fmt"
	"os/exec"
	"syscall"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/windows"
)

// detached has a program run without a console, so that no Ctrl-C reaches it, and out of our job where that lets it go: a job may kill
// what is in it when it is closed.
func detached() *syscall.SysProcAttr {
	flags := uint32(windows.CREATE_NEW_PROCESS_GROUP | windows.DETACHED_PROCESS)
	if mayLeaveJob() {
		flags |= windows.CREATE_BREAKAWAY_FROM_JOB
	}
	return &syscall.SysProcAttr{CreationFlags: flags, HideWindow: true}
}

// mayLeaveJob says whether this process is in a job whose children may be outside.
func mayLeaveJob() bool {
	var limits windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION
	err := windows.QueryInformationJobObject(0, windows.JobObjectExtendedLimitInformation, uintptr(unsafe.Pointer(&limits)), uint32(unsafe.Sizeof(limits)), nil)
	return err == nil && limits.BasicLimitInformation.LimitFlags&windows.JOB_OBJECT_LIMIT_BREAKAWAY_OK != 0
}

// listenTimeout is how long a program may take to listen; a predecessor that is ending may hold it up.
const listenTimeout = 15 * time.Second

// start tells the program where to listen, for a pipe cannot be handed over, and waits until it does.
func start(cmd *exec.Cmd, address string) error {
	cmd.Args = append(cmd.Args, "--address", address)
	ended, err := run(cmd)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), listenTimeout)
	defer cancel()
	for {
		c, err := dial(ctx, address)
		if err == nil {
			return c.Close()
		}
		if !nobody(err) {
			return err
		}
		select {
		case <-ended:
			return fmt.Errorf("%s ended before it listened: %w", cmd.Path, errdefs.ErrUnavailable)
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen: %w", cmd.Path, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
