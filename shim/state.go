package shim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/shim/server"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// refresh asks a shim how a process is; known is false when it knows of none.
func (m *Manager) refresh(ctx context.Context, c *conn, e *entry, execID string) (known bool, err error) {
	e.mu.Lock()
	p := e.procs[execID]
	asked := p != nil && p.asked
	e.mu.Unlock()
	if asked {
		return true, nil // its Exec is under way and will say how that ended
	}
	var r task.StateResponse
	err = c.call(ctx, e.ns, "State", &task.StateRequest{ID: e.id, ExecID: execID}, &r)
	if errors.Is(err, errdefs.ErrNotFound) {
		if execID != "" {
			e.mu.Lock()
			again := e.procs[execID] != p // another of the name came meanwhile
			if !again {
				delete(e.procs, execID)
			}
			e.mu.Unlock()
			if again {
				return true, nil
			}
			e.bundle.removeExec(execID)
			m.kept.Drop(server.KeptName(e.ns, e.id, execID))
		}
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("cannot learn the state of task %q in namespace %q: %w", e.id, e.ns, err)
	}
	if _, ours := e.shim.(*builtin); ours && execID == "" {
		var oom wrapperspb.BoolValue
		err := c.callService(ctx, server.Extras, e.ns, "OOMKilled", &task.StateRequest{ID: e.id}, &oom)
		if err != nil { // a shim of an earlier version
			m.conf.Log.Debug("cannot learn whether a task ran out of memory", "namespace", e.ns, "id", e.id, "error", err)
		}
		if oom.Value {
			e.oomKilled(time.Now())
		}
	}
	status := Status(r.Status)
	e.mu.Lock()
	if p := e.procs[execID]; p != nil && p.state.Status != Stopped {
		p.state.Pid = r.Pid
		p.state.Streams = Streams{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal}
		if status != Stopped {
			p.state.Status = status
		}
	}
	e.mu.Unlock()
	if status == Stopped {
		m.end(e, execID, Exit{Pid: r.Pid, Status: r.ExitStatus, At: r.ExitedAt.AsTime()})
	}
	return true, nil
}

// end notes an exit that no event has told, and tells it. The end of an executed process that never ran is nothing to tell: clients
// (dockerd) would take its status for one of the program.
func (m *Manager) end(e *entry, execID string, x Exit) {
	if !m.exited(e, execID, x, time.Now()) || execID != "" && !e.ran(execID) {
		return
	}
	id := execID
	if id == "" {
		id = e.id
	}
	m.tellMessage(e.ns, "/tasks/exit", x.At, &events.TaskExit{
		ContainerID: e.id, ID: id, Pid: x.Pid, ExitStatus: x.Status, ExitedAt: timestamppb.New(x.At),
	})
}

// tellMessage is tell for an event of the Manager's own.
func (m *Manager) tellMessage(ns, topic string, at time.Time, message any) {
	payload, err := typeurl.MarshalAny(message)
	if err != nil {
		m.conf.Log.Error("cannot encode an event", "topic", topic, "error", err)
		return
	}
	m.tell(Event{Namespace: ns, Topic: topic, At: at, Payload: opaque.Any{TypeURL: payload.GetTypeUrl(), Value: payload.GetValue()}})
}
