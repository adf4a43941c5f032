package child

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Limit is one resource limit (getrlimit(2)).
type Limit struct {
	Kind  int
	Limit unix.Rlimit
}

// Limits are those of this process's resource limits that are not what they were when it began, or not always. Go raises that
// of open files at the start of each program, and gives the old one back to those only that it executes itself; whoever
// loads BPF programs lifts that of locked memory for a moment. So a program is executed and looked at: it is traced, and
// stops before its first instruction. Call it once before anything else runs.
var Limits = sync.OnceValues(func() ([]Limit, error) {
	runtime.LockOSThread() // the tracer is a thread
	defer runtime.UnlockOSThread()
	p, err := os.StartProcess("/proc/self/exe", []string{"limits"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}})
	if err != nil {
		return nil, fmt.Errorf("cannot tell our resource limits: %w", err)
	}
	limits := []Limit{{Kind: unix.RLIMIT_NOFILE}, {Kind: unix.RLIMIT_MEMLOCK}}
	for i := range limits {
		if err == nil {
			err = unix.Prlimit(p.Pid, limits[i].Kind, nil, &limits[i].Limit)
		}
	}
	_ = p.Kill()
	_, _ = p.Wait()
	if err != nil {
		return nil, fmt.Errorf("cannot tell our resource limits: %w", err)
	}
	return limits, nil
})
