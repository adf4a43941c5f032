package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	slipwayapi "github.com/slipwayd/slipway/api/slipway/v1"
)

// Exit is how a process ended.
type Exit struct {
	Code uint32 // exit code, or 128+signal
	At   time.Time
}

// Status of a process.
type Status struct {
	State string // created, running, paused, stopped, unknown
	Pid   uint32
	Exit  Exit // of a stopped one
	// OOMKilled is true when the kernel has killed something in the task for lack of memory, init or another. Told of init, by
	// Slipway's daemon, until the task is deleted.
	OOMKilled bool
}

// Process is init of a task (Exec is "") or a process executed in it.
type Process struct {
	ct      *Container
	Exec    string
	Pid     uint32 // of an executed process 0 before Start
	streams *attached
}

// Task is what runs of a container: its init process and what else is executed in it.
type Task struct{ Process }

// NewTask sets a container up to the point where Start runs its init. Nothing is left after an error.
func (ct *Container) NewTask(ctx context.Context, s Streams) (*Task, error) {
	return ct.newTask(ctx, s, nil)
}

// RestoreTask is NewTask for one that goes on from the directory that Checkpoint wrote: with Start, until which the directory must be there. It
// has no pid before. The container's files must be as they were.
func (ct *Container) RestoreTask(ctx context.Context, s Streams, images string) (*Task, error) {
	return ct.newTask(ctx, s, &types.Descriptor{Annotations: map[string]string{"RestoreFromPath": images}})
}

// Checkpoint has the daemon write what the task is at this moment, with CRIU, into a directory of its host, which is made, or is empty. With exit the task
// ends; else it goes on as it was. FailedPrecondition where CRIU is missing, or cannot.
func (t *Task) Checkpoint(ctx context.Context, images string, exit bool) error {
	options, err := typeurl.MarshalAnyToProto(&runcoptions.CheckpointOptions{ImagePath: images, Exit: exit})
	if err != nil {
		return fmt.Errorf("cannot encode the options of a checkpoint: %w", err)
	}
	_, err = t.ct.c.tasks.Checkpoint(ctx, &tasksapi.CheckpointTaskRequest{ContainerID: t.ct.ID, Options: options})
	return err
}

func (ct *Container) newTask(ctx context.Context, s Streams, checkpoint *types.Descriptor) (*Task, error) {
	a, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	req := &tasksapi.CreateTaskRequest{ContainerID: ct.ID, Terminal: s.Terminal, Stdin: a.stdin, Stdout: a.stdout, Stderr: a.stderr, Checkpoint: checkpoint}
	if req.Rootfs, err = ct.mounts(ctx); err == nil {
		var r *tasksapi.CreateTaskResponse
		if r, err = ct.c.tasks.Create(ctx, req); err == nil {
			return &Task{Process{ct: ct, Pid: r.Pid, streams: a}}, nil
		}
	}
	a.cancel()
	return nil, fmt.Errorf("cannot create the task of %s: %w", ct.ID, err)
}

// mounts answers those of the container's snapshot, which Tasks.Create wants from its caller; Slipway's daemon finds them itself.
func (ct *Container) mounts(ctx context.Context) ([]*types.Mount, error) {
	info, err := ct.c.info(ctx)
	if err != nil || info != nil || ct.SnapshotKey == "" {
		return nil, err
	}
	r, err := ct.c.snapshots.Mounts(ctx, &snapshotsapi.MountsRequest{Snapshotter: ct.Snapshotter, Key: ct.SnapshotKey})
	if err != nil {
		return nil, err
	}
	return r.Mounts, nil
}

// Task answers the container's task, without its streams; NotFound when it has none.
func (ct *Container) Task(ctx context.Context) (*Task, error) {
	r, err := ct.c.tasks.Get(ctx, &tasksapi.GetRequest{ContainerID: ct.ID})
	if err != nil {
		return nil, err
	}
	return &Task{Process{ct: ct, Pid: r.Process.GetPid()}}, nil
}

// Statuses answers the state of every container's init that has a task, by container id.
func (c *Client) Statuses(ctx context.Context) (map[string]Status, error) {
	out, err := c.ownStatuses(ctx)
	if out != nil || err != nil {
		return out, err
	}
	r, err := c.tasks.List(ctx, &tasksapi.ListTasksRequest{})
	if err != nil {
		return nil, err
	}
	out = make(map[string]Status, len(r.Tasks))
	for _, t := range r.Tasks {
		out[t.ID] = statusFromWire(t)
	}
	return out, nil
}

// ownStatuses is Statuses of the containers of ids, of all without one, with what containerd's API has no field for; nil from
// a daemon that cannot tell it.
func (c *Client) ownStatuses(ctx context.Context, ids ...string) (map[string]Status, error) {
	info, err := c.info(ctx)
	if info == nil || err != nil {
		return nil, err
	}
	r, err := c.own.States(ctx, &slipwayapi.ContainerStatesRequest{Ids: ids})
	if errdefs.IsNotImplemented(err) { // Slipway of an earlier version
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	out := make(map[string]Status, len(r.States))
	for _, s := range r.States {
		out[s.Id] = ownStatus(s)
	}
	return out, nil
}

func ownStatus(s *slipwayapi.ContainerState) Status {
	st := Status{State: s.State, Pid: s.Pid, OOMKilled: s.OomKilled}
	if s.State == "stopped" {
		st.Exit = Exit{Code: s.ExitCode, At: time.Unix(0, s.ExitedAt).UTC()}
	}
	return st
}

// NewProcess prepares one more process; Start runs it. id must be unused in the task. The process is there until Delete, unless
// its id begins with DetachedExec: then until its end.
func (t *Task) NewProcess(ctx context.Context, id string, p *specs.Process, s Streams) (*Process, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("cannot encode process %s: %w", id, err)
	}
	a, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	_, err = t.ct.c.tasks.Exec(ctx, &tasksapi.ExecProcessRequest{
		ContainerID: t.ct.ID, ExecID: id, Terminal: s.Terminal, Stdin: a.stdin, Stdout: a.stdout, Stderr: a.stderr,
		Spec: &anypb.Any{TypeUrl: processURL, Value: b},
	})
	if err != nil {
		a.cancel()
		return nil, fmt.Errorf("cannot execute in %s: %w", t.ct.ID, err)
	}
	return &Process{ct: t.ct, Exec: id, streams: a}, nil
}

// Start runs the process.
func (p *Process) Start(ctx context.Context) error {
	r, err := p.ct.c.tasks.Start(ctx, &tasksapi.StartRequest{ContainerID: p.ct.ID, ExecID: p.Exec})
	if err != nil {
		if p.streams != nil {
			p.streams.cancel()
		}
		return err
	}
	p.Pid = r.Pid
	if p.streams != nil {
		p.streams.started()
		if end := p.streams.inputEnded; end != nil {
			go p.endInput(end)
		}
	}
	return nil
}

// endInput tells the shim that no more input comes: it holds the fifo open too, so that the client's end alone ends nothing.
func (p *Process) endInput(ended <-chan struct{}) {
	<-ended
	_ = p.CloseStdin(context.Background()) // the process may be gone by now
}

// Wait blocks until the process has ended; it may be called at any time until Delete.
func (p *Process) Wait(ctx context.Context) (Exit, error) {
	r, err := p.ct.c.tasks.Wait(ctx, &tasksapi.WaitRequest{ContainerID: p.ct.ID, ExecID: p.Exec})
	if err != nil {
		return Exit{}, err
	}
	return Exit{Code: r.ExitStatus, At: r.ExitedAt.AsTime()}, nil
}

// Kill sends a signal; with all to every process of the container. NotFound when the process has ended.
func (p *Process) Kill(ctx context.Context, signal uint32, all bool) error {
	_, err := p.ct.c.tasks.Kill(ctx, &tasksapi.KillRequest{ContainerID: p.ct.ID, ExecID: p.Exec, Signal: signal, All: all})
	return err
}

// Drain returns when the output of an ended process has arrived, and ends the copying. Delete does it too.
func (p *Process) Drain() {
	if p.streams != nil {
		p.streams.drain()
		p.streams = nil
	}
}

// Delete frees an ended process, after its output has arrived. For init that ends the task.
func (p *Process) Delete(ctx context.Context) (Exit, error) {
	p.Drain()
	var r *tasksapi.DeleteResponse
	var err error
	if p.Exec == "" {
		r, err = p.ct.c.tasks.Delete(ctx, &tasksapi.DeleteTaskRequest{ContainerID: p.ct.ID})
	} else {
		r, err = p.ct.c.tasks.DeleteProcess(ctx, &tasksapi.DeleteProcessRequest{ContainerID: p.ct.ID, ExecID: p.Exec})
	}
	if err != nil {
		return Exit{}, err
	}
	return Exit{Code: r.ExitStatus, At: r.ExitedAt.AsTime()}, nil
}

// Status asks for the state.
func (p *Process) Status(ctx context.Context) (Status, error) {
	if p.Exec == "" {
		own, err := p.ct.c.ownStatuses(ctx, p.ct.ID)
		if err != nil {
			return Status{}, err
		}
		if s, ok := own[p.ct.ID]; ok {
			return s, nil
		} // else the error is the other API's
	}
	r, err := p.ct.c.tasks.Get(ctx, &tasksapi.GetRequest{ContainerID: p.ct.ID, ExecID: p.Exec})
	if err != nil {
		return Status{}, err
	}
	return statusFromWire(r.Process), nil
}

// Resize sets the size of the process's terminal in characters.
func (p *Process) Resize(ctx context.Context, width, height uint32) error {
	_, err := p.ct.c.tasks.ResizePty(ctx, &tasksapi.ResizePtyRequest{ContainerID: p.ct.ID, ExecID: p.Exec, Width: width, Height: height})
	return err
}

// CloseStdin ends the process's input.
func (p *Process) CloseStdin(ctx context.Context) error {
	_, err := p.ct.c.tasks.CloseIO(ctx, &tasksapi.CloseIORequest{ContainerID: p.ct.ID, ExecID: p.Exec, Stdin: true})
	return err
}

// Pause freezes every process of the task.
func (t *Task) Pause(ctx context.Context) error {
	_, err := t.ct.c.tasks.Pause(ctx, &tasksapi.PauseTaskRequest{ContainerID: t.ct.ID})
	return err
}

// Resume thaws a paused task.
func (t *Task) Resume(ctx context.Context) error {
	_, err := t.ct.c.tasks.Resume(ctx, &tasksapi.ResumeTaskRequest{ContainerID: t.ct.ID})
	return err
}

// Metrics answers the task's resource use: *cgroup1/stats.Metrics or *cgroup2/stats.Metrics of containerd's cgroups module,
// when the caller's program links it.
func (t *Task) Metrics(ctx context.Context) (any, error) {
	r, err := t.ct.c.tasks.Metrics(ctx, &tasksapi.MetricsRequest{Filters: []string{"id==" + t.ct.ID}})
	if err != nil {
		return nil, err
	}
	for _, m := range r.Metrics {
		if m.ID == t.ct.ID {
			return typeurl.UnmarshalAny(m.Data)
		}
	}
	return nil, fmt.Errorf("no metrics of %s: %w", t.ct.ID, errdefs.ErrNotFound)
}

// Run starts the task, waits for its end and deletes it. When ctx ends first the container is killed.
func (t *Task) Run(ctx context.Context) (Exit, error) {
	cleanup := context.WithoutCancel(ctx)
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	var exit Exit
	ended := make(chan error, 1)
	go func() { // beside Start: of a task that ends at once that saves a round trip
		var err error
		exit, err = t.Wait(waiting)
		ended <- err
	}()
	if err := t.Start(ctx); err != nil {
		stop()
		<-ended
		_, derr := t.Delete(cleanup)
		return Exit{}, errors.Join(err, ignoreNotFound(derr))
	}
	err := <-ended
	if err != nil {
		if kerr := t.Kill(cleanup, 9, true); kerr == nil {
			_, _ = t.Wait(cleanup)
		}
	}
	_, derr := t.Delete(cleanup)
	return exit, errors.Join(err, ignoreNotFound(derr))
}

func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

func statusFromWire(p *tasktypes.Process) Status {
	s := Status{State: "unknown", Pid: p.GetPid()}
	switch p.GetStatus() {
	case tasktypes.Status_CREATED:
		s.State = "created"
	case tasktypes.Status_RUNNING:
		s.State = "running"
	case tasktypes.Status_STOPPED:
		s.State, s.Exit = "stopped", Exit{Code: p.ExitStatus, At: p.ExitedAt.AsTime()}
	case tasktypes.Status_PAUSED, tasktypes.Status_PAUSING:
		s.State = "paused"
	}
	return s
}
