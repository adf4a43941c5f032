package shim

import (
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/shim/server"
)

// entry is one task in the table.
type entry struct {
	ns, id string
	bundle bundle
	record taskRecord
	shim   endpoint

	life sync.Mutex // one Create or Delete at a time

	mu    sync.Mutex
	ready bool             // Create has been answered
	procs map[string]*proc // "" is init
}

// proc is what is known of a process.
type proc struct {
	state State     // Pid, Status, ExitStatus and ExitedAt change
	since time.Time // when this Manager added it; zero for one that it found
	asked bool      // its Exec has not been answered yet
	done  chan struct{}
}

// isOf says whether an event of time at about process pid is of p, and not of an earlier process of the same name: shims do
// not wait for their events to arrive before they answer. Time alone would not do, for clocks are set back.
func (p *proc) isOf(pid uint32, at time.Time) bool { return pid == p.state.Pid || !at.Before(p.since) }

func newEntry(ns, id string, b bundle, r taskRecord) *entry {
	e := &entry{ns: ns, id: id, bundle: b, record: r, procs: map[string]*proc{}}
	e.add("", r.Streams)
	return e
}

// add needs e.mu, or an entry nobody knows yet. Who adds what did not exist before sets since.
func (e *entry) add(execID string, streams Streams) *proc {
	p := &proc{done: make(chan struct{})}
	p.state = State{Namespace: e.ns, ID: e.id, ExecID: execID, Bundle: e.bundle.path, Streams: streams, Status: Created}
	e.procs[execID] = p
	return p
}

// proc finds a process; NotFound when there is none.
func (e *entry) proc(execID string) (*proc, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p := e.procs[execID]; p != nil && e.ready {
		return p, nil
	}
	return nil, fmt.Errorf("process %q of task %q: %w", execID, e.id, errdefs.ErrNotFound)
}

// started and the like note what a shim answered or told at a time, in whichever order that came. They need no lock held.
func (e *entry) started(execID string, pid uint32, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p := e.procs[execID]; p != nil && p.isOf(pid, at) {
		p.state.Pid = pid
		if p.state.Status == Created {
			p.state.Status = Running
		}
	}
}

func (e *entry) setPaused(paused bool, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if at.Before(e.procs[""].since) {
		return
	}
	for _, p := range e.procs {
		switch {
		case paused && p.state.Status == Running:
			p.state.Status = Paused
		case !paused && p.state.Status == Paused:
			p.state.Status = Running
		}
	}
}

// oomKilled notes that the kernel killed something in the task.
func (e *entry) oomKilled(at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if init := e.procs[""]; !at.Before(init.since) {
		init.state.OOMKilled = true
	}
}

// exited is entry.exited, which also lets go of what was kept for the process.
func (m *Manager) exited(e *entry, execID string, x Exit, at time.Time) bool {
	if !e.exited(execID, x, at) {
		return false
	}
	// All its output has arrived. Its client waits for the end of that, which we would withhold.
	m.kept.Drop(server.KeptName(e.ns, e.id, execID))
	return true
}

// exited notes an end; false when it was known, or there is no such process.
func (e *entry) exited(execID string, x Exit, at time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.procs[execID]
	if p == nil || p.state.Status == Stopped || !p.isOf(x.Pid, at) {
		return false
	}
	if x.Pid != 0 {
		p.state.Pid = x.Pid
	}
	p.state.Status, p.state.ExitStatus, p.state.ExitedAt = Stopped, x.Status, x.At
	close(p.done)
	return true
}

// ran says whether a process has begun, as far as anybody has told.
func (e *entry) ran(execID string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.procs[execID]
	return p != nil && p.state.Pid != 0
}

func (p *proc) exit() Exit {
	return Exit{Pid: p.state.Pid, Status: p.state.ExitStatus, At: p.state.ExitedAt}
}

func tableKey(ns, id string) string { return ns + "/" + id }

func (m *Manager) find(ns, id string) (*entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.tasks[tableKey(ns, id)]; e != nil {
		return e, nil
	}
	return nil, fmt.Errorf("task %q in namespace %q: %w", id, ns, errdefs.ErrNotFound)
}

// findProc finds both.
func (m *Manager) findProc(ns, id, execID string) (*entry, *proc, error) {
	e, err := m.find(ns, id)
	if err != nil {
		return nil, nil, err
	}
	p, err := e.proc(execID)
	return e, p, err
}

// forget takes e off the table.
func (m *Manager) forget(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tasks[tableKey(e.ns, e.id)] == e {
		delete(m.tasks, tableKey(e.ns, e.id))
		m.kept.Drop(server.KeptName(e.ns, e.id, ""))
	}
}

// receive takes an event from a shim: into the table first, then on to the engine. An exit that is known was told already.
func (m *Manager) receive(env *types.Envelope) {
	if env.GetEvent() == nil {
		return
	}
	at := time.Now()
	if env.Timestamp != nil {
		at = env.Timestamp.AsTime()
	}
	if !m.note(env, at) {
		return
	}
	m.tell(Event{
		Namespace: env.Namespace, Topic: env.Topic, At: at,
		Payload: opaque.Any{TypeURL: env.Event.GetTypeUrl(), Value: env.Event.GetValue()},
	})
}

func (m *Manager) tell(e Event) {
	if m.conf.Events != nil {
		m.conf.Events(e)
	}
}

// note brings the table up to date; false when the event says nothing new: the end of a process that is not in the table was
// told when it was taken off.
func (m *Manager) note(env *types.Envelope, at time.Time) bool {
	v, err := typeurl.UnmarshalAny(env.Event)
	if err != nil {
		return true // of a kind we do not know; passed on as it is
	}
	entry := func(id string) *entry {
		e, _ := m.find(env.Namespace, id)
		return e
	}
	switch v := v.(type) {
	case *events.TaskStart:
		if e := entry(v.ContainerID); e != nil {
			e.started("", v.Pid, at)
		}
	case *events.TaskExecStarted:
		if e := entry(v.ContainerID); e != nil {
			e.started(v.ExecID, v.Pid, at)
		}
	case *events.TaskOOM:
		if e := entry(v.ContainerID); e != nil {
			e.oomKilled(at)
		}
	case *events.TaskPaused:
		if e := entry(v.ContainerID); e != nil {
			e.setPaused(true, at)
		}
	case *events.TaskResumed:
		if e := entry(v.ContainerID); e != nil {
			e.setPaused(false, at)
		}
	case *events.TaskExit:
		execID := v.ID
		if execID == v.ContainerID {
			execID = ""
		}
		e := entry(v.ContainerID)
		return e != nil && m.exited(e, execID, Exit{Pid: v.Pid, Status: v.ExitStatus, At: v.ExitedAt.AsTime()}, at)
	}
	return true
}
