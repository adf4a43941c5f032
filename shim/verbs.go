package shim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/shim/server"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

// shimName names a shim of a pod or a container. Sockets have short paths, so it is a hash.
func shimName(kind, ns, id string) string {
	sum := sha256.Sum256([]byte(ns + "/" + id))
	return kind + "-" + hex.EncodeToString(sum[:8])
}

// simple makes an RPC about a task whose answer is empty.
func (m *Manager) simple(ctx context.Context, ns, id, execID, method string, req any) error {
	e, _, err := m.findProc(ns, id, execID)
	if err != nil {
		return err
	}
	return m.call(ctx, e, method, req, &emptypb.Empty{})
}

// Kill sends a signal; NotFound when the process has ended.
func (m *Manager) Kill(ctx context.Context, ns, id, execID string, signal uint32, all bool) error {
	return m.simple(ctx, ns, id, execID, "Kill", &task.KillRequest{ID: id, ExecID: execID, Signal: signal, All: all})
}

// Pause freezes a task.
func (m *Manager) Pause(ctx context.Context, ns, id string) error {
	err := m.simple(ctx, ns, id, "", "Pause", &task.PauseRequest{ID: id})
	if e, ferr := m.find(ns, id); err == nil && ferr == nil {
		e.setPaused(true, time.Now())
	}
	return err
}

// Resume lets a frozen task go on.
func (m *Manager) Resume(ctx context.Context, ns, id string) error {
	err := m.simple(ctx, ns, id, "", "Resume", &task.ResumeRequest{ID: id})
	if e, ferr := m.find(ns, id); err == nil && ferr == nil {
		e.setPaused(false, time.Now())
	}
	return err
}

// ResizePty sets the size of a process's terminal in characters.
func (m *Manager) ResizePty(ctx context.Context, ns, id, execID string, width, height uint32) error {
	return m.simple(ctx, ns, id, execID, "ResizePty", &task.ResizePtyRequest{ID: id, ExecID: execID, Width: width, Height: height})
}

// CloseIO ends a process's standard input.
func (m *Manager) CloseIO(ctx context.Context, ns, id, execID string) error {
	return m.simple(ctx, ns, id, execID, "CloseIO", &task.CloseIORequest{ID: id, ExecID: execID, Stdin: true})
}

// Update changes a task's limits.
func (m *Manager) Update(ctx context.Context, ns, id string, resources opaque.Any, annotations map[string]string) error {
	return m.simple(ctx, ns, id, "", "Update", &task.UpdateTaskRequest{
		ID: id, Resources: &anypb.Any{TypeUrl: resources.TypeURL, Value: resources.Value}, Annotations: annotations,
	})
}

// Checkpoint writes an image of a task to path.
func (m *Manager) Checkpoint(ctx context.Context, ns, id, path string, options *opaque.Any) error {
	req := &task.CheckpointTaskRequest{ID: id, Path: path}
	if options != nil {
		req.Options = &anypb.Any{TypeUrl: options.TypeURL, Value: options.Value}
	}
	return m.simple(ctx, ns, id, "", "Checkpoint", req)
}

// ReopenLog makes the shim open a process's log file by its name again, after rotation. Only shims of ours can.
func (m *Manager) ReopenLog(ctx context.Context, ns, id, execID string) error {
	e, _, err := m.findProc(ns, id, execID)
	if err != nil {
		return err
	}
	c, err := e.shim.connection(ctx)
	if err != nil {
		return err
	}
	return c.callService(ctx, server.Extras, ns, "ReopenLog", &task.StateRequest{ID: id, ExecID: execID}, &emptypb.Empty{})
}

// Tap lets a client read along with a task's output, from now on, through fifos that it has open for reading; "" for a stream that it does not want.
// They end with the task or its shim. Only shims of ours can, and only where the output goes to a log.
func (m *Manager) Tap(ctx context.Context, ns, id, stdout, stderr string) error {
	e, _, err := m.findProc(ns, id, "")
	if err != nil {
		return err
	}
	c, err := e.shim.connection(ctx)
	if err != nil {
		return err
	}
	req := &task.ExecProcessRequest{ID: id, Stdout: stdout, Stderr: stderr}
	return c.callService(ctx, server.Extras, ns, "Tap", req, &emptypb.Empty{})
}

// ShimPid is the process that serves a task.
func (m *Manager) ShimPid(ctx context.Context, ns, id string) (uint32, error) {
	e, _, err := m.findProc(ns, id, "")
	if err != nil {
		return 0, err
	}
	var resp task.ConnectResponse
	if err := m.ask(ctx, e, "Connect", &task.ConnectRequest{ID: id}, &resp); err != nil {
		return 0, err
	}
	return resp.ShimPid, nil
}

// Pids lists the processes in a task.
func (m *Manager) Pids(ctx context.Context, ns, id string) ([]ProcessInfo, error) {
	e, _, err := m.findProc(ns, id, "")
	if err != nil {
		return nil, err
	}
	var resp task.PidsResponse
	if err := m.ask(ctx, e, "Pids", &task.PidsRequest{ID: id}, &resp); err != nil {
		return nil, err
	}
	var all []ProcessInfo
	for _, p := range resp.Processes {
		info := ProcessInfo{Pid: p.Pid}
		if p.Info != nil {
			info.Info = &opaque.Any{TypeURL: p.Info.TypeUrl, Value: p.Info.Value}
		}
		all = append(all, info)
	}
	return all, nil
}

// Stats tells what a task uses, as the message its shim made.
func (m *Manager) Stats(ctx context.Context, ns, id string) (opaque.Any, error) {
	e, _, err := m.findProc(ns, id, "")
	if err != nil {
		return opaque.Any{}, err
	}
	var resp task.StatsResponse
	if err := m.ask(ctx, e, "Stats", &task.StatsRequest{ID: id}, &resp); err != nil {
		return opaque.Any{}, err
	}
	return opaque.Any{TypeURL: resp.Stats.GetTypeUrl(), Value: resp.Stats.GetValue()}, nil
}

// State tells how a process is, from the table.
func (m *Manager) State(ctx context.Context, ns, id, execID string) (State, error) {
	e, p, err := m.findProc(ns, id, execID)
	if err != nil {
		return State{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return p.state, nil
}

// Wait answers once a process has ended.
func (m *Manager) Wait(ctx context.Context, ns, id, execID string) (Exit, error) {
	e, p, err := m.findProc(ns, id, execID)
	if err != nil {
		return Exit{}, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return Exit{}, ctx.Err()
	case <-m.ctx.Done():
		return Exit{}, fmt.Errorf("the daemon is ending: %w", errdefs.ErrUnavailable)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return p.exit(), nil
}

// List answers the init states of all tasks of a namespace, of all namespaces for "", in no order.
func (m *Manager) List(ctx context.Context, ns string) ([]State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []State
	for _, e := range m.tasks {
		if ns != "" && e.ns != ns {
			continue
		}
		e.mu.Lock()
		if e.ready {
			all = append(all, e.procs[""].state)
		}
		e.mu.Unlock()
	}
	return all, nil
}

// Info asks a runtime's binary what it can do. Answers to questions without options are kept.
func (m *Manager) Info(ctx context.Context, runtime string, options *opaque.Any) (Info, error) {
	binary, _, err := m.resolve(runtime)
	if err != nil {
		return Info{}, err
	}
	if binary == "" {
		if binary, err = m.binary(); err != nil {
			return Info{}, err
		}
	}
	m.mu.Lock()
	info, ok := m.infos[binary]
	m.mu.Unlock()
	if ok && options == nil {
		return info, nil
	}
	if info, err = askInfo(ctx, binary, options); err != nil {
		return Info{}, err
	}
	if options == nil {
		m.mu.Lock()
		m.infos[binary] = info
		m.mu.Unlock()
	}
	return info, nil
}

// askInfo runs `BINARY -info`: options as an Any on standard input, RuntimeInfo in answer.
func askInfo(ctx context.Context, binary string, options *opaque.Any) (Info, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-info")
	var out, complaint limited
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &complaint, time.Second
	cmd.Env = os.Environ()
	var input []byte
	if options != nil {
		var err error
		if input, err = proto.Marshal(&anypb.Any{TypeUrl: options.TypeURL, Value: options.Value}); err != nil {
			return Info{}, err
		}
	}
	cmd.Stdin = bytes.NewReader(input)
	var r types.RuntimeInfo
	if err := errors.Join(cmd.Run(), proto.Unmarshal(out.Bytes(), &r)); err != nil {
		return Info{}, fmt.Errorf("cannot ask %s what it can do: %w: %s", binary, err, complaint.String())
	}
	info := Info{Name: r.Name, Version: r.GetVersion().GetVersion(), Annotations: r.Annotations}
	if r.Options != nil {
		info.Options = &opaque.Any{TypeURL: r.Options.TypeUrl, Value: r.Options.Value}
	}
	if r.Features != nil {
		info.Features = &opaque.Any{TypeURL: r.Features.TypeUrl, Value: r.Features.Value}
	}
	return info, nil
}
