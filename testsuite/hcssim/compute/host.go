// Package compute is the simulated compute service: systems (containers and virtual machines), their processes, the handles
// that clients have on them, and the notifications that go with these. What runs a process is a Launcher, so that all of this
// can be tested without Windows.
//
// State is on disk, one small file for each system, written before a call is answered: a service that is started again knows
// its systems and finds their processes. Handles and callbacks die with the service or with the client that had them.
package compute

import (
	"os"
	"sync"
	"time"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
	"github.com/slipwayd/slipway/testsuite/hcssim/schema"
)

// A Client is a program that loaded the stub: one for each process and DLL.
type Client struct {
	Name string // tells it from all others
	PID  uint32 // the process that gets ends of pipes
}

// Stdio are handles, valid in the client's process, of the other ends of a process's streams; zero for one not asked for.
type Stdio struct{ In, Out, Err uint64 }

// A Launch is a process to start.
type Launch struct {
	SystemID string
	Client   Client
	Params   *schema.ProcessParameters
	System   *schema.System
}

// A Launcher starts processes and finds them again.
type Launcher interface {
	// Check says what of a system isn't there on the host.
	Check(s *schema.System) error
	// Launch starts a process. Its errors are hresult.Failures.
	Launch(l Launch) (Process, Stdio, error)
	// Reopen finds a process that an earlier service started; an error means that it is no more.
	Reopen(pid uint32, started int64) (Process, error)
}

// A Process is one that runs or ran.
type Process interface {
	PID() uint32
	Started() int64 // tells it from another that got its number later
	Image() string
	Wait() uint32              // blocks, and answers the exit code; may be called more than once
	Kill(code uint32) error    // the process alone
	End(code uint32) error     // and all that it started, also when it has exited itself
	Signal(event string) error // a console event, by its name in schema.ParseSignal
	Suspend(stop bool) error
	Usage() Usage
	Streams(client uint32) (Stdio, error) // new handles, in the client's process, of the ends that Launch gave to it
	CloseStream(name string) error        // of those that the service keeps: "StdIn", "StdOut", "StdErr"
}

// Usage is what a process used so far.
type Usage struct{ Kernel100ns, User100ns, PrivateBytes, CommitBytes uint64 }

// Event types, as the callbacks of vmcompute.dll get them.
const (
	SystemExited    uint32 = 1
	CreateCompleted uint32 = 2
	StartCompleted  uint32 = 3
	PauseCompleted  uint32 = 4
	ResumeCompleted uint32 = 5
	ProcessExited   uint32 = 0x10000
)

// An Event is one call of one callback.
type Event struct {
	Callback uint64
	Type     uint32
	Status   hresult.Code
	Data     string
}

// Exit codes that Windows gives to processes that don't end by themselves.
const (
	ExitAborted   = 1067       // ERROR_PROCESS_ABORTED: terminated
	ExitControlC  = 0xc000013a // STATUS_CONTROL_C_EXIT: a console event that it doesn't handle
	ExitTerminate = 0x40010004 // DBG_TERMINATE_PROCESS: its system ended
)

// Host is the service. Its methods are the functions of vmcompute.dll; their errors carry the HRESULT.
type Host struct {
	launcher Launcher
	dir      string
	send     func(client string, e Event)

	mu      sync.Mutex
	systems map[string]*system
	handles map[uint64]*handle
	last    uint64
	waits   sync.WaitGroup
	guards  guards
}

type handle struct {
	client   string
	sys      *system
	proc     *process // nil for a handle of a system
	callback uint64   // 0 before one is registered
	late     []Event  // what happened before
}

type system struct {
	id, doc, state string // state: Created, Running, Paused, Stopped
	spec           *schema.System
	runtimeID      string
	created        time.Time
	started        time.Time
	procs          map[uint32]*process
	launching      int
}

type process struct {
	sys     *system
	p       Process
	command string
	created time.Time
	exited  bool
	code    uint32
	console bool
	size    [2]uint16 // height, width
}

// New makes a Host that keeps its state in dir, with the systems that it finds there. send must not block.
func New(dir string, l Launcher, send func(client string, e Event)) (*Host, error) {
	h := &Host{launcher: l, dir: dir, send: send, systems: map[string]*system{}, handles: map[uint64]*handle{}, last: 0x1000}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return h, h.load()
}

func (h *Host) open(c Client, s *system, p *process) uint64 {
	h.last += 8
	h.handles[h.last] = &handle{client: c.Name, sys: s, proc: p}
	return h.last
}

// get finds a handle of a system, or of a process.
func (h *Host) get(c Client, id uint64, proc bool) (*handle, error) {
	x := h.handles[id]
	if x == nil || x.client != c.Name || (x.proc != nil) != proc {
		return nil, hresult.New(hresult.InvalidHandle, "The handle is invalid")
	}
	return x, nil
}

// notify tells all handles of a system, or of one of its processes.
func (h *Host) notify(s *system, p *process, t uint32, status hresult.Code) {
	for _, x := range h.handles {
		if x.sys == s && x.proc == p {
			h.tell(x, Event{Type: t, Status: status})
		}
	}
}

func (h *Host) tell(x *handle, e Event) {
	if x.callback == 0 {
		x.late = append(x.late, e) // at most a handful: a system's life has so many steps
		return
	}
	e.Callback = x.callback
	h.send(x.client, e)
}

// Register makes callback hear of what happens to a system or process, and of what happened since the handle was opened.
func (h *Host) Register(c Client, id, callback uint64, proc bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	x, err := h.get(c, id, proc)
	if err != nil {
		return err
	}
	x.callback = callback
	for _, e := range x.late {
		h.tell(x, e)
	}
	x.late = nil
	return nil
}

// Unregister ends a callback.
func (h *Host) Unregister(c Client, callback uint64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, x := range h.handles {
		if x.client == c.Name && x.callback == callback {
			x.callback, x.late = 0, nil
			return nil
		}
	}
	return nil // its handle was closed before
}

// Close closes a handle.
func (h *Host) Close(c Client, id uint64, proc bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	x, err := h.get(c, id, proc)
	if err != nil {
		return err
	}
	delete(h.handles, id)
	h.closed(x.sys)
	return nil
}

// Gone closes all handles of a client that died.
func (h *Host) Gone(c Client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var systems []*system
	for id, x := range h.handles {
		if x.client == c.Name {
			delete(h.handles, id)
			systems = append(systems, x.sys)
		}
	}
	for _, s := range systems {
		h.closed(s)
	}
}

// closed ends a system that lives only as long as somebody has a handle on it.
func (h *Host) closed(s *system) {
	if !s.spec.CloseTerminates || s.state == "Stopped" {
		return
	}
	for _, x := range h.handles {
		if x.sys == s && x.proc == nil {
			return
		}
	}
	h.stop(s, ExitTerminate)
}
