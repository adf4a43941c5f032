package launch

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/slipwayd/slipway/testsuite/hcssim/compute"
	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
	"github.com/slipwayd/slipway/testsuite/hcssim/schema"
)

// Launcher is the compute.Launcher of Windows.
type Launcher struct {
	// Files answers the folder where the files of the scratch with this volume or folder are, "" when it isn't known.
	Files func(scratch string) string

	creating sync.Mutex // one process inherits its streams at a time, and no other's
	pipes    atomic.Uint64
}

// Check finds mapped directories that the host doesn't have. Layers needn't be there: tests of other things have none.
func (l *Launcher) Check(s *schema.System) error {
	for _, d := range s.Directories {
		if _, err := os.Stat(d.Host); err != nil {
			return hresult.New(hresult.FileNotFound, "there is no '%s' to map to '%s'", d.Host, d.Container)
		}
	}
	return nil
}

// Launch starts a process. Its streams' other ends are handles of the client's process when it returns.
func (l *Launcher) Launch(r compute.Launch) (compute.Process, compute.Stdio, error) {
	client, err := windows.OpenProcess(windows.PROCESS_DUP_HANDLE, false, r.Client.PID)
	if err != nil {
		return nil, compute.Stdio{}, fmt.Errorf("cannot open the caller's process: %w", err)
	}
	defer windows.CloseHandle(client)
	v := view(r.System, l.Files)
	l.creating.Lock()
	defer l.creating.Unlock()
	p := r.Params
	var near, far streams
	defer near.close()
	for i, wanted := range []bool{p.CreateStdInPipe, p.CreateStdOutPipe, p.CreateStdErrPipe} {
		if !wanted {
			continue
		}
		if near[i], far[i], err = l.stream(); err != nil {
			far.close()
			return nil, compute.Stdio{}, err
		}
	}
	io, err := far.give(client)
	if err != nil {
		far.close()
		return nil, compute.Stdio{}, err
	}
	std := near
	if p.EmulateConsole {
		std[2] = std[1]
	}
	q, err := start(v.application(p.ApplicationName), v.commandLine(p.CommandLine), v.directory(p.WorkingDirectory), v.environment(p.Environment), std)
	if err != nil {
		closeFar(client, io)
		far.close()
		return nil, compute.Stdio{}, err
	}
	q.far = far
	return q, io, nil
}

// streams are standard input, output and error; 0 for none.
type streams [3]windows.Handle

func (s *streams) close() {
	for i, h := range s {
		if h != 0 {
			windows.CloseHandle(h)
		}
		s[i] = 0
	}
}

// give makes handles of the client's process of them.
func (s *streams) give(client windows.Handle) (io compute.Stdio, err error) {
	for i, to := range []*uint64{&io.In, &io.Out, &io.Err} {
		if s[i] == 0 {
			continue
		}
		var h windows.Handle
		if err := windows.DuplicateHandle(windows.CurrentProcess(), s[i], client, &h, 0, false, windows.DUPLICATE_SAME_ACCESS); err != nil {
			closeFar(client, io)
			return compute.Stdio{}, fmt.Errorf("cannot hand a pipe to the caller: %w", err)
		}
		*to = uint64(h)
	}
	return io, nil
}

// stream makes a pipe: an end that a child inherits, and one for overlapped use, which the service keeps as long as the child runs.
func (l *Launcher) stream() (near, far windows.Handle, err error) {
	name, err := windows.UTF16PtrFromString(fmt.Sprintf(`\\.\pipe\hcssimd-%d-%d`, os.Getpid(), l.pipes.Add(1)))
	if err != nil {
		return 0, 0, err
	}
	far, err = windows.CreateNamedPipe(name, windows.PIPE_ACCESS_DUPLEX|windows.FILE_FLAG_OVERLAPPED, windows.PIPE_TYPE_BYTE, 1, 65536, 65536, 0, nil)
	if err != nil {
		return 0, 0, fmt.Errorf("cannot make a pipe: %w", err)
	}
	inherit := &windows.SecurityAttributes{InheritHandle: 1}
	inherit.Length = uint32(unsafe.Sizeof(*inherit))
	near, err = windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE, 0, inherit, windows.OPEN_EXISTING, 0, 0)
	if err != nil {
		windows.CloseHandle(far)
		return 0, 0, fmt.Errorf("cannot open a pipe: %w", err)
	}
	return near, far, nil
}

// closeFar takes back what the client was given.
func closeFar(client windows.Handle, io compute.Stdio) {
	for _, h := range []uint64{io.In, io.Out, io.Err} {
		if h != 0 {
			_ = windows.DuplicateHandle(client, windows.Handle(h), 0, nil, 0, false, windows.DUPLICATE_CLOSE_SOURCE) // its process may be gone
		}
	}
}

func start(application, command, dir string, env []uint16, std [3]windows.Handle) (*process, error) {
	var app, cwd *uint16
	var err error
	if application != "" {
		if app, err = windows.UTF16PtrFromString(application); err != nil {
			return nil, hresult.New(hresult.InvalidParameter, "the application's name has a zero in it")
		}
	}
	line, err := windows.UTF16PtrFromString(command)
	if err != nil {
		return nil, hresult.New(hresult.InvalidParameter, "the command line has a zero in it")
	}
	if dir != "" {
		if cwd, err = windows.UTF16PtrFromString(dir); err != nil {
			return nil, hresult.New(hresult.InvalidParameter, "the working directory has a zero in it")
		}
	}
	si := windows.StartupInfo{Flags: windows.STARTF_USESTDHANDLES, StdInput: std[0], StdOutput: std[1], StdErr: std[2]}
	si.Cb = uint32(unsafe.Sizeof(si))
	var pi windows.ProcessInformation
	const flags = windows.CREATE_UNICODE_ENVIRONMENT | windows.CREATE_NO_WINDOW | windows.CREATE_SUSPENDED | windows.CREATE_NEW_PROCESS_GROUP
	err = windows.CreateProcess(app, line, nil, nil, true, flags, &env[0], cwd, &si, &pi)
	for tries := 0; err == windows.ERROR_INTERNAL_ERROR && tries < 20; tries++ { // wine's, under load; Windows has none like it
		err = windows.CreateProcess(app, line, nil, nil, true, flags, &env[0], cwd, &si, &pi)
	}
	if err != nil {
		var no syscall.Errno
		if errors.As(err, &no) {
			return nil, hresult.New(hresult.Code(0x80070000|uint32(no)&0xffff), "CreateProcess failed: %s", no.Error())
		}
		return nil, err
	}
	defer windows.CloseHandle(pi.Thread)
	q := &process{h: pi.Process, pid: pi.ProcessId, started: creation(pi.Process), image: image(application, command)}
	if q.job, err = windows.CreateJobObject(nil, nil); err == nil {
		err = windows.AssignProcessToJobObject(q.job, q.h)
	}
	if err == nil {
		err = hearCtrlC(q.h)
	}
	if err == nil {
		_, err = windows.ResumeThread(pi.Thread)
	}
	if err != nil {
		_ = windows.TerminateProcess(q.h, compute.ExitAborted)
		return nil, fmt.Errorf("cannot put process %d into a job: %w", q.pid, err)
	}
	return q, nil
}

// hearCtrlC undoes what a process group of its own does beside making the process independent of the simulator's console, with which it
// would end: Ctrl-C is ignored. The flag is among the process's parameters, before its first instruction.
func hearCtrlC(h windows.Handle) error {
	var info windows.PROCESS_BASIC_INFORMATION
	if err := windows.NtQueryInformationProcess(h, windows.ProcessBasicInformation, unsafe.Pointer(&info), uint32(unsafe.Sizeof(info)), nil); err != nil {
		return err
	}
	var params, flags uintptr
	at := uintptr(unsafe.Pointer(info.PebBaseAddress)) + unsafe.Offsetof(windows.PEB{}.ProcessParameters)
	if err := windows.ReadProcessMemory(h, at, (*byte)(unsafe.Pointer(&params)), unsafe.Sizeof(params), nil); err != nil {
		return err
	}
	return windows.WriteProcessMemory(h, params+consoleFlags, (*byte)(unsafe.Pointer(&flags)), 4, nil)
}

// consoleFlags is where RTL_USER_PROCESS_PARAMETERS has its ConsoleFlags, on 64-bit Windows.
const consoleFlags = 0x18

// reopened are the rights that Process needs.
const reopened = windows.PROCESS_TERMINATE | windows.PROCESS_QUERY_INFORMATION | windows.PROCESS_VM_READ | windows.PROCESS_VM_WRITE | windows.PROCESS_VM_OPERATION |
	windows.PROCESS_CREATE_THREAD | windows.PROCESS_SUSPEND_RESUME | windows.SYNCHRONIZE

// Reopen finds a process that runs since started.
func (l *Launcher) Reopen(pid uint32, started int64) (compute.Process, error) {
	h, err := windows.OpenProcess(reopened, false, pid)
	if err != nil {
		return nil, err
	}
	if creation(h) != started {
		windows.CloseHandle(h)
		return nil, fmt.Errorf("process %d is another one", pid)
	}
	return &process{h: h, pid: pid, started: started, image: "unknown"}, nil
}
