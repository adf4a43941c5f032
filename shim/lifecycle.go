package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

// undoTimeout is how long the undoing of a failed Create may take.
const undoTimeout = 10 * time.Second

// Create makes a task in the shim that its runtime and group call for, up to where Start executes its program.
func (m *Manager) Create(ctx context.Context, o CreateOptions) (pid uint32, err error) {
	e, err := m.prepare(o)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			m.undo(e)
		}
	}()
	if f, ok := e.shim.(*foreign); ok {
		if err := f.start(ctx); err != nil {
			return 0, err
		}
	}
	req := &task.CreateTaskRequest{
		ID: o.ID, Bundle: e.bundle.path, Terminal: o.Streams.Terminal, Stdin: o.Streams.Stdin, Stdout: o.Streams.Stdout,
		Stderr: o.Streams.Stderr, Checkpoint: o.Checkpoint,
	}
	if a := e.record.Options; a != nil {
		req.Options = &anypb.Any{TypeUrl: a.TypeURL, Value: a.Value}
	}
	for _, r := range o.Rootfs {
		req.Rootfs = append(req.Rootfs, &types.Mount{Type: r.Type, Source: r.Source, Target: r.Target, Options: r.Options})
	}
	var resp task.CreateTaskResponse
	if err := m.call(ctx, e, "Create", req, &resp); err != nil {
		if f, ok := e.shim.(*foreign); ok && errors.Is(err, errdefs.ErrUnavailable) {
			err = fmt.Errorf("%w; its log ends with %q", err, f.lastWords())
		}
		return 0, err
	}
	e.mu.Lock()
	e.ready = true
	e.procs[""].state.Pid = resp.Pid
	e.mu.Unlock()
	if f, ok := e.shim.(*foreign); ok {
		f.follow("")
	}
	return resp.Pid, nil
}

// prepare takes the id, makes the bundle and picks the shim.
func (m *Manager) prepare(o CreateOptions) (*entry, error) {
	if err := errors.Join(checkID("namespace", o.Namespace), checkID("id", o.ID)); err != nil {
		return nil, err
	}
	if len(o.Spec) == 0 || !json.Valid(o.Spec) {
		return nil, fmt.Errorf("task %q has no spec, or one that is no JSON: %w", o.ID, errdefs.ErrInvalidArgument)
	}
	binary, conf, err := m.resolve(o.Runtime)
	if err != nil {
		return nil, err
	}
	r := taskRecord{Runtime: o.Runtime, Binary: binary, Options: o.Options, Streams: o.Streams}
	if r.Options == nil && conf != nil {
		r.Options = conf.Options
	}
	if r.Options, err = m.isolate(binary, r.Options); err != nil {
		return nil, err
	}
	e := newEntry(o.Namespace, o.ID, m.bundle(o.Namespace, o.ID), r)
	e.procs[""].since = time.Now()
	if binary == "" {
		e.record.Shim = m.group(o)
		e.shim = m.builtin(e.record.Shim)
	} else {
		e.shim = m.foreignShim(e)
	}
	m.mu.Lock()
	_, exists := m.tasks[tableKey(e.ns, e.id)]
	if !exists {
		m.tasks[tableKey(e.ns, e.id)] = e
	}
	m.mu.Unlock()
	if exists {
		return nil, fmt.Errorf("task %q in namespace %q: %w", o.ID, o.Namespace, errdefs.ErrAlreadyExists)
	}
	if err := e.bundle.create(o.Spec, e.record); err != nil {
		m.forget(e)
		return nil, err
	}
	return e, nil
}

// group names the shim of ours that a task goes to.
func (m *Manager) group(o CreateOptions) string {
	switch m.conf.Group {
	case GroupPod:
		var spec struct{ Annotations map[string]string }
		_ = json.Unmarshal(o.Spec, &spec)
		if pod := spec.Annotations["io.kubernetes.cri.sandbox-id"]; pod != "" {
			return shimName("pod", o.Namespace, pod)
		}
		fallthrough
	case GroupContainer:
		return shimName("container", o.Namespace, o.ID)
	}
	return GroupHost
}

// undo removes what a failed Create left. A shim that did not answer may have made the task all the same. While that
// cannot be found out the bundle stays, and Restore or the shim's successor finds it.
func (m *Manager) undo(e *entry) {
	ctx, cancel := context.WithTimeout(m.ctx, undoTimeout)
	defer cancel()
	e.life.Lock()
	defer e.life.Unlock()
	f, ok := e.shim.(*foreign)
	if ok {
		m.forget(e) // its shim's death is no surprise now
	}
	err := m.deleteIn(ctx, e)
	for errors.Is(err, errdefs.ErrUnavailable) && ctx.Err() == nil { // the shim's successor does not answer yet
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
		err = m.deleteIn(ctx, e)
	}
	if ok && e.record.Address == "" {
		if _, cerr := f.command(ctx, nil, "delete"); cerr != nil {
			m.conf.Log.Warn("cannot clean up after a shim that did not start", "id", e.id, "error", cerr)
		}
		f.close()
		err = nil
	}
	if err == nil {
		err = e.bundle.remove()
	}
	if err != nil {
		m.conf.Log.Error("cannot undo a failed create yet", "namespace", e.ns, "id", e.id, "error", err)
		e.mu.Lock()
		e.ready = true // so that it is seen, and can be deleted
		e.mu.Unlock()
		return
	}
	m.forget(e)
}

// deleteIn kills a task in its shim and deletes it there; nil when the shim knows none.
func (m *Manager) deleteIn(ctx context.Context, e *entry) error {
	var gone *goneError
	err := m.call(ctx, e, "Kill", &task.KillRequest{ID: e.id, Signal: 9, All: true}, &emptypb.Empty{})
	if err == nil {
		err = m.call(ctx, e, "Wait", &task.WaitRequest{ID: e.id}, &task.WaitResponse{})
	}
	if err == nil || errors.Is(err, errdefs.ErrNotFound) {
		err = m.call(ctx, e, "Delete", &task.DeleteRequest{ID: e.id}, &task.DeleteResponse{})
	}
	if f, ok := e.shim.(*foreign); ok {
		_ = m.call(ctx, e, "Shutdown", &task.ShutdownRequest{ID: e.id}, &emptypb.Empty{})
		f.close()
	}
	if errors.Is(err, errdefs.ErrNotFound) || errors.As(err, &gone) {
		return nil
	}
	return err
}

// call makes an RPC about e's task.
func (m *Manager) call(ctx context.Context, e *entry, method string, req, resp any) error {
	c, err := e.shim.connection(ctx)
	if err != nil {
		return err
	}
	return c.call(ctx, e.ns, method, req, resp)
}

// ask is call for what may be asked twice: when the shim dies meanwhile, its successor is asked.
func (m *Manager) ask(ctx context.Context, e *entry, method string, req, resp any) error {
	err := m.call(ctx, e, method, req, resp)
	if errors.Is(err, errdefs.ErrUnavailable) && ctx.Err() == nil {
		err = m.call(ctx, e, method, req, resp)
	}
	return err
}

// Start executes init's program, or an executed process.
func (m *Manager) Start(ctx context.Context, ns, id, execID string) (uint32, error) {
	e, _, err := m.findProc(ns, id, execID)
	if err != nil {
		return 0, err
	}
	var resp task.StartResponse
	if err := m.call(ctx, e, "Start", &task.StartRequest{ID: id, ExecID: execID}, &resp); err != nil {
		return 0, err
	}
	e.started(execID, resp.Pid, time.Now())
	if f, ok := e.shim.(*foreign); ok && execID != "" {
		f.follow(execID)
	}
	return resp.Pid, nil
}

// Delete forgets an executed process, or a whole task with its bundle. What runs must be killed first.
func (m *Manager) Delete(ctx context.Context, ns, id, execID string) (Exit, error) {
	e, p, err := m.findProc(ns, id, execID)
	if err != nil {
		return Exit{}, err
	}
	if execID == "" {
		e.life.Lock()
		defer e.life.Unlock()
		if again, err := m.find(ns, id); err != nil || again != e {
			return Exit{}, fmt.Errorf("task %q in namespace %q: %w", id, ns, errdefs.ErrNotFound)
		}
	}
	var resp task.DeleteResponse
	var gone *goneError
	err = m.ask(ctx, e, "Delete", &task.DeleteRequest{ID: id, ExecID: execID}, &resp)
	switch {
	case err == nil:
		m.end(e, execID, Exit{Pid: resp.Pid, Status: resp.ExitStatus, At: resp.ExitedAt.AsTime()})
	case errors.As(err, &gone), errors.Is(err, errdefs.ErrNotFound): // what is left is ours
		m.end(e, execID, Exit{Status: 255, At: time.Now()})
	default:
		return Exit{}, err
	}
	e.mu.Lock()
	x := p.exit()
	if execID != "" {
		delete(e.procs, execID)
	}
	e.mu.Unlock()
	if execID != "" {
		e.bundle.removeExec(execID)
		return x, nil
	}
	m.finish(ctx, e)
	if err := e.bundle.remove(); err != nil {
		return Exit{}, err
	}
	m.forget(e)
	return x, nil
}

// finish lets a shim that serves nothing else end.
func (m *Manager) finish(ctx context.Context, e *entry) {
	switch s := e.shim.(type) {
	case *foreign:
		if c, err := s.connection(ctx); err == nil {
			m.endAll(e, Exit{Status: 255, At: time.Now()})
			m.forget(e) // so that its death is no surprise
			_ = c.call(ctx, e.ns, "Shutdown", &task.ShutdownRequest{ID: e.id}, &emptypb.Empty{})
		}
		s.close()
	case *builtin:
		if s.name != GroupHost {
			s.retire(ctx)
		}
	}
}

// Exec prepares one more process in a task; Start runs it.
func (m *Manager) Exec(ctx context.Context, ns, id string, o ExecOptions) error {
	if o.ExecID == "" {
		return fmt.Errorf("cannot execute a process without an exec id: %w", errdefs.ErrInvalidArgument)
	}
	if err := checkID("exec id", o.ExecID); err != nil {
		return err
	}
	e, _, err := m.findProc(ns, id, "")
	if err != nil {
		return err
	}
	e.mu.Lock()
	if e.procs[o.ExecID] != nil {
		e.mu.Unlock()
		return fmt.Errorf("process %q of task %q: %w", o.ExecID, id, errdefs.ErrAlreadyExists)
	}
	p := e.add(o.ExecID, o.Streams)
	p.since, p.asked = time.Now(), true
	e.mu.Unlock()
	err = e.bundle.addExec(o.ExecID)
	if err == nil {
		err = m.call(ctx, e, "Exec", &task.ExecProcessRequest{
			ID: id, ExecID: o.ExecID, Terminal: o.Streams.Terminal, Stdin: o.Streams.Stdin, Stdout: o.Streams.Stdout,
			Stderr: o.Streams.Stderr, Spec: &anypb.Any{TypeUrl: processType, Value: o.Spec},
		}, &emptypb.Empty{})
	}
	e.mu.Lock()
	p.asked = false
	if err != nil {
		delete(e.procs, o.ExecID)
	}
	e.mu.Unlock()
	if err != nil {
		e.bundle.removeExec(o.ExecID)
	}
	return err
}

// processType is containerd's name for runtime-spec's process object in an Any; its value is JSON.
const processType = "types.containerd.io/opencontainers/runtime-spec/1/Process"
