package compute

import (
	"encoding/json"
	"time"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
	"github.com/slipwayd/slipway/testsuite/hcssim/schema"
)

const maxProcesses = 512 // in one system

// CreateProcess starts a process in a running system.
func (h *Host) CreateProcess(c Client, id uint64, doc string) (proc uint64, pid uint32, io Stdio, err error) {
	params, err := schema.ParseProcess(doc)
	if err != nil {
		return 0, 0, Stdio{}, err
	}
	s, err := h.beginLaunch(c, id)
	if err != nil {
		return 0, 0, Stdio{}, err
	}
	p, io, err := h.launcher.Launch(Launch{SystemID: s.id, Client: c, Params: params, System: s.spec})
	h.mu.Lock()
	defer h.mu.Unlock()
	s.launching--
	defer h.ended(s)
	if err != nil {
		return 0, 0, Stdio{}, err
	}
	q := &process{sys: s, p: p, command: params.CommandLine, created: time.Now(), console: params.EmulateConsole}
	if len(params.ConsoleSize) == 2 {
		q.size = [2]uint16{params.ConsoleSize[0], params.ConsoleSize[1]}
	}
	s.procs[p.PID()] = q
	proc = h.open(c, s, q)
	h.watch(q)
	if s.state == "Stopped" { // meanwhile
		_ = p.Kill(ExitTerminate)
	} else if err := h.save(s); err != nil {
		_ = p.Kill(ExitTerminate)
		return 0, 0, Stdio{}, err
	}
	return proc, p.PID(), io, nil
}

// beginLaunch keeps a system from exiting while a process is being started in it.
func (h *Host) beginLaunch(c Client, id uint64) (*system, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	x, err := h.get(c, id, false)
	if err != nil {
		return nil, err
	}
	if x.sys.state != "Running" {
		return nil, hresult.New(hresult.InvalidState, "'%s' is in the state '%s'", x.sys.id, x.sys.state)
	}
	if len(x.sys.procs)+x.sys.launching >= maxProcesses {
		return nil, hresult.New(hresult.Fail, "'%s' has %d processes already", x.sys.id, maxProcesses)
	}
	x.sys.launching++
	return x.sys, nil
}

// watch waits for a process to end, in a goroutine that lives as long as the process or the service.
func (h *Host) watch(q *process) {
	h.waits.Add(1)
	go func() {
		defer h.waits.Done()
		code := q.p.Wait()
		h.mu.Lock()
		defer h.mu.Unlock()
		q.exited, q.code = true, code
		if q.sys.state != "Stopped" {
			_ = h.save(q.sys) // an exit that isn't on disk is found again as a process that is no more
		}
		h.notify(q.sys, q, ProcessExited, hresult.OK)
		h.ended(q.sys)
	}()
}

// OpenProcess opens a process of a system, also one that exited.
func (h *Host) OpenProcess(c Client, id uint64, pid uint32) (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	x, err := h.get(c, id, false)
	if err != nil {
		return 0, err
	}
	p := x.sys.procs[pid]
	if p == nil {
		return 0, hresult.New(hresult.ElementNotFound, "'%s' has no process %d", x.sys.id, pid)
	}
	n := h.open(c, x.sys, p)
	if p.exited {
		h.tell(h.handles[n], Event{Type: ProcessExited})
	}
	return n, nil
}

func (h *Host) running(c Client, id uint64) (*process, error) {
	x, err := h.get(c, id, true)
	if err != nil {
		return nil, err
	}
	if x.proc.exited {
		return nil, hresult.New(hresult.ProcessAlreadyEnded, "process %d has exited", x.proc.p.PID())
	}
	return x.proc, nil
}

// TerminateProcess kills a process.
func (h *Host) TerminateProcess(c Client, id uint64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, err := h.running(c, id)
	if err != nil {
		return err
	}
	return p.p.Kill(ExitAborted)
}

// SignalProcess sends a console event: a process that doesn't handle it ends with ExitControlC.
func (h *Host) SignalProcess(c Client, id uint64, options string) error {
	event, err := schema.ParseSignal(options)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	p, err := h.running(c, id)
	if err != nil {
		return err
	}
	return p.p.Signal(event)
}

// ModifyProcess resizes a console or closes a stream.
func (h *Host) ModifyProcess(c Client, id uint64, settings string) error {
	change, err := schema.ParseProcessChange(settings)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	p, err := h.running(c, id)
	if err != nil {
		return err
	}
	if change.ConsoleSize != nil {
		if !p.console {
			return hresult.New(hresult.InvalidState, "process %d has no console", p.p.PID())
		}
		p.size = [2]uint16{change.ConsoleSize.Height, change.ConsoleSize.Width}
	}
	if change.CloseHandle != nil {
		return p.p.CloseStream(change.CloseHandle.Handle)
	}
	return nil
}

// ProcessProperties answers a process's status as a JSON document.
func (h *Host) ProcessProperties(c Client, id uint64) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	x, err := h.get(c, id, true)
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(struct {
		ProcessID      uint32 `json:"ProcessId"`
		Exited         bool
		ExitCode       uint32
		LastWaitResult int32
	}{x.proc.p.PID(), x.proc.exited, x.proc.code, 0})
	return string(b), err
}

// ProcessInfo answers the number of a running process, and its streams once more.
func (h *Host) ProcessInfo(c Client, id uint64) (uint32, Stdio, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, err := h.running(c, id)
	if err != nil {
		return 0, Stdio{}, err
	}
	io, err := p.p.Streams(c.PID)
	return p.p.PID(), io, err
}
