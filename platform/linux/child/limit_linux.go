package child

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// FileLimit is this process's limit of open files as it was when it began. Go raises the lower half at the start of each
// program, and gives the old one back to those only that it executes itself. So one is executed and looked at: it is traced and
// stops before its first instruction.
var FileLimit = sync.OnceValues(func() (limit unix.Rlimit, err error) {
	runtime.LockOSThread() // the tracer is a thread
	defer runtime.UnlockOSThread()
	p, err := os.StartProcess("/proc/self/exe", []string{"limits"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}})
	if err != nil {
		return limit, fmt.Errorf("cannot tell our limit of open files: %w", err)
	}
	err = unix.Prlimit(p.Pid, unix.RLIMIT_NOFILE, nil, &limit)
	_ = p.Kill()
	_, _ = p.Wait()
	if err != nil {
		return limit, fmt.Errorf("cannot tell our limit of open files: %w", err)
	}
	return limit, nil
})
