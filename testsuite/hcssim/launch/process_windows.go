package launch

import (
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/slipwayd/slipway/testsuite/hcssim/compute"
)

var (
	ntdll            = windows.NewLazySystemDLL("ntdll.dll")
	ntSuspendProcess = ntdll.NewProc("NtSuspendProcess")
	ntResumeProcess  = ntdll.NewProc("NtResumeProcess")
	kernel32         = windows.NewLazySystemDLL("kernel32.dll")
	getMemoryInfo    = kernel32.NewProc("K32GetProcessMemoryInfo")
	createThread     = kernel32.NewProc("CreateRemoteThread")
	ctrlRoutine      = windows.NewLazySystemDLL("kernelbase.dll").NewProc("CtrlRoutine")
)

// events are the console's, as handlers get them (SetConsoleCtrlHandler).
var events = map[string]uintptr{"CtrlC": 0, "CtrlBreak": 1, "CtrlClose": 2, "CtrlLogOff": 5, "CtrlShutdown": 6}

// process keeps its handle for as long as the simulator runs: there are few, and Windows keeps exit codes no longer.
type process struct {
	h, job  windows.Handle
	pid     uint32
	started int64
	image   string

	mu  sync.Mutex
	far streams // until it ends; none of a process that an earlier simulator started
}

func creation(h windows.Handle) int64 {
	var c, e, k, u windows.Filetime
	if windows.GetProcessTimes(h, &c, &e, &k, &u) != nil {
		return 0
	}
	return c.Nanoseconds()
}

func (p *process) PID() uint32    { return p.pid }
func (p *process) Started() int64 { return p.started }
func (p *process) Image() string  { return p.image }

func (p *process) Wait() uint32 {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.far.close()
	}()
	var code uint32
	if _, err := windows.WaitForSingleObject(p.h, windows.INFINITE); err != nil {
		return compute.ExitAborted
	}
	if windows.GetExitCodeProcess(p.h, &code) != nil {
		return compute.ExitAborted
	}
	return code
}

func (p *process) Kill(code uint32) error {
	if err := windows.TerminateProcess(p.h, code); err != nil {
		return fmt.Errorf("cannot terminate process %d: %w", p.pid, err)
	}
	return nil
}

// End ends the process and all that it started.
func (p *process) End(code uint32) error {
	if p.job != 0 {
		_ = windows.TerminateJobObject(p.job, code)
	}
	return p.Kill(code)
}

// Signal calls the process's handlers as the console does: by a thread in it, in the system's own code, which ends the process when no
// handler says that it did something. DLLs of the system are at the same place in all processes.
func (p *process) Signal(event string) error {
	t, _, err := createThread.Call(uintptr(p.h), 0, 0, ctrlRoutine.Addr(), events[event], 0, 0)
	if t == 0 {
		return fmt.Errorf("cannot signal process %d: %w", p.pid, err)
	}
	return windows.CloseHandle(windows.Handle(t))
}

// Streams hands out the client's ends again.
func (p *process) Streams(client uint32) (compute.Stdio, error) {
	c, err := windows.OpenProcess(windows.PROCESS_DUP_HANDLE, false, client)
	if err != nil {
		return compute.Stdio{}, fmt.Errorf("cannot open the caller's process: %w", err)
	}
	defer windows.CloseHandle(c)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.far.give(c)
}

// CloseStream lets the process read the end of its input once its client has closed its own end too.
func (p *process) CloseStream(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, n := range []string{"StdIn", "StdOut", "StdErr"} {
		if n == name && p.far[i] != 0 {
			windows.CloseHandle(p.far[i])
			p.far[i] = 0
		}
	}
	return nil
}

func (p *process) Suspend(stop bool) error {
	f := ntResumeProcess
	if stop {
		f = ntSuspendProcess
	}
	if status, _, _ := f.Call(uintptr(p.h)); int32(status) < 0 {
		return fmt.Errorf("cannot pause or resume process %d: status 0x%x", p.pid, uint32(status))
	}
	return nil
}

func (p *process) Usage() compute.Usage {
	var u compute.Usage
	var c, e, k, t windows.Filetime
	if windows.GetProcessTimes(p.h, &c, &e, &k, &t) == nil {
		u.Kernel100ns, u.User100ns = ticks(k), ticks(t)
	}
	var m struct { // PROCESS_MEMORY_COUNTERS
		size, faults           uint32
		peak, set              uintptr
		quota                  [4]uintptr
		pagefile, peakPagefile uintptr
	}
	m.size = uint32(unsafe.Sizeof(m))
	if ok, _, _ := getMemoryInfo.Call(uintptr(p.h), uintptr(unsafe.Pointer(&m)), uintptr(m.size)); ok != 0 {
		u.CommitBytes, u.PrivateBytes = uint64(m.pagefile), uint64(m.set)
	}
	return u
}

func ticks(t windows.Filetime) uint64 { return uint64(t.HighDateTime)<<32 | uint64(t.LowDateTime) }
