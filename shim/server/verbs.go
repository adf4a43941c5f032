package server

import (
	"context"
	"fmt"
	"math"

	"github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	runc "github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/slipwayd/slipway/platform"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// State tells how a process is.
func (s *Server) State(ctx context.Context, r *task.StateRequest) (*task.StateResponse, error) {
	p, err := s.process(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	resp := &task.StateResponse{
		ID: p.c.id, ExecID: p.id, Bundle: p.c.bundle, Pid: p.pidNow(), Status: tasktypes.Status_CREATED,
		Stdin: p.uris.Stdin, Stdout: p.uris.Stdout, Stderr: p.uris.Stderr, Terminal: p.uris.Terminal,
	}
	switch {
	case p.status == stopped:
		resp.Status = tasktypes.Status_STOPPED
		resp.ExitStatus, resp.ExitedAt = p.exit.Status, timestamppb.New(p.exit.At)
	case p.status == running && p.c.paused:
		resp.Status = tasktypes.Status_PAUSED
	case p.status == running:
		resp.Status = tasktypes.Status_RUNNING
	}
	return resp, nil
}

// OOMKilled says whether the kernel killed something in a container for memory, at any time: what metrics tell only of one that runs.
func (s *Server) OOMKilled(ctx context.Context, r *task.StateRequest) (*wrapperspb.BoolValue, error) {
	c, err := s.find(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return wrapperspb.Bool(c.oom), nil
}

// Wait answers when a process has ended, however long that takes and however long ago it was.
func (s *Server) Wait(ctx context.Context, r *task.WaitRequest) (*task.WaitResponse, error) {
	p, err := s.process(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.ctx.Done():
		return nil, fmt.Errorf("the shim is ending: %w", errdefs.ErrUnavailable)
	}
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	return &task.WaitResponse{ExitStatus: p.exit.Status, ExitedAt: timestamppb.New(p.exit.At)}, nil
}

// Kill sends a signal; NotFound when the process has ended.
func (s *Server) Kill(ctx context.Context, r *task.KillRequest) (*emptypb.Empty, error) {
	p, err := s.process(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.Signal > 64 {
		return nil, fmt.Errorf("there is no signal %d: %w", r.Signal, errdefs.ErrInvalidArgument)
	}
	if err := p.running(); err != nil && (p.id != "" || errdefs.IsNotFound(err)) {
		return nil, err // init has a pid before it is started
	}
	return &emptypb.Empty{}, p.platform.Signal(ctx, int(r.Signal), r.All)
}

// ResizePty sets the size of a process's terminal.
func (s *Server) ResizePty(ctx context.Context, r *task.ResizePtyRequest) (*emptypb.Empty, error) {
	p, err := s.process(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.Width > math.MaxUint16 || r.Height > math.MaxUint16 {
		return nil, fmt.Errorf("a terminal of %d×%d characters is too big: %w", r.Width, r.Height, errdefs.ErrInvalidArgument)
	}
	if p.platform == nil {
		return nil, fmt.Errorf("%s has ended: %w", p.name(), errdefs.ErrNotFound)
	}
	return &emptypb.Empty{}, p.platform.Resize(ctx, uint16(r.Width), uint16(r.Height))
}

// CloseIO ends a process's standard input.
func (s *Server) CloseIO(ctx context.Context, r *task.CloseIORequest) (*emptypb.Empty, error) {
	p, err := s.process(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if !r.Stdin {
		return &emptypb.Empty{}, nil
	}
	p.streams.CloseStdin()
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.stdinClosed = true
	s.save(p.c)
	return &emptypb.Empty{}, nil
}

// Pids lists the processes in a container, and says which of them were executed under which id.
func (s *Server) Pids(ctx context.Context, r *task.PidsRequest) (*task.PidsResponse, error) {
	c, err := s.alive(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	pids, err := c.platform.Pids(ctx)
	if err != nil {
		return nil, err
	}
	ids := map[uint32]string{}
	for _, p := range c.living() {
		ids[p.pid()] = p.id
	}
	resp := &task.PidsResponse{}
	for _, pid := range pids {
		info := &tasktypes.ProcessInfo{Pid: uint32(pid)}
		if id := ids[info.Pid]; id != "" {
			if info.Info, err = typeurl.MarshalAnyToProto(&runc.ProcessDetails{ExecID: id}); err != nil {
				return nil, err
			}
		}
		resp.Processes = append(resp.Processes, info)
	}
	return resp, nil
}

// alive is find for what needs a container that is there and has not ended.
func (s *Server) alive(ctx context.Context, id string) (*container, error) {
	c, err := s.find(ctx, id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.platform == nil || c.init.status == stopped {
		return nil, fmt.Errorf("task %q has ended: %w", id, errdefs.ErrNotFound)
	}
	return c, nil
}

// Stats tells what a container uses.
func (s *Server) Stats(ctx context.Context, r *task.StatsRequest) (*task.StatsResponse, error) {
	c, err := s.alive(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	stats, err := c.platform.Stats(ctx)
	if err != nil {
		return nil, err
	}
	metrics, err := typeurl.MarshalAnyToProto(stats.Metrics)
	if err != nil {
		return nil, fmt.Errorf("cannot encode statistics of task %q: %w", r.ID, err)
	}
	return &task.StatsResponse{Stats: metrics}, nil
}

// Pause and Resume freeze a container and let it go on.
func (s *Server) Pause(ctx context.Context, r *task.PauseRequest) (*emptypb.Empty, error) {
	return s.setPaused(ctx, r.ID, true)
}

func (s *Server) Resume(ctx context.Context, r *task.ResumeRequest) (*emptypb.Empty, error) {
	return s.setPaused(ctx, r.ID, false)
}

func (s *Server) setPaused(ctx context.Context, id string, pause bool) (*emptypb.Empty, error) {
	c, err := s.alive(ctx, id)
	if err != nil {
		return nil, err
	}
	pauser, ok := c.platform.(platform.Pauser)
	if !ok {
		return nil, unable("pause", id)
	}
	c.life.Lock()
	defer c.life.Unlock()
	if pause {
		err = pauser.Pause(ctx)
	} else {
		err = pauser.Resume(ctx)
	}
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.paused = pause
	s.save(c)
	c.mu.Unlock()
	if pause {
		s.publish(c, "/tasks/paused", &events.TaskPaused{ContainerID: c.id})
	} else {
		s.publish(c, "/tasks/resumed", &events.TaskResumed{ContainerID: c.id})
	}
	return &emptypb.Empty{}, nil
}

func unable(what, id string) error {
	return fmt.Errorf("cannot %s task %q: its executor is not able to: %w", what, id, errdefs.ErrNotImplemented)
}

// Update changes a container's limits. Resources is JSON of runtime-spec, whatever its type URL.
func (s *Server) Update(ctx context.Context, r *task.UpdateTaskRequest) (*emptypb.Empty, error) {
	c, err := s.alive(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	u, ok := c.platform.(platform.Updater)
	if !ok {
		return nil, unable("update", r.ID)
	}
	return &emptypb.Empty{}, u.Update(ctx, r.Resources.GetValue(), r.Annotations)
}

// Checkpoint writes what a container is at this moment into r.Path, a directory that is there and empty, or into one that is made.
func (s *Server) Checkpoint(ctx context.Context, r *task.CheckpointTaskRequest) (*emptypb.Empty, error) {
	c, err := s.alive(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	cp, ok := c.platform.(platform.Checkpointer)
	if !ok {
		return nil, unable("checkpoint", r.ID)
	}
	var o runc.CheckpointOptions
	if r.Options != nil {
		if err := typeurl.UnmarshalTo(r.Options, &o); err != nil {
			return nil, fmt.Errorf("cannot read options of checkpoint: %v: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	path := r.Path
	if path == "" {
		path = o.ImagePath
	}
	err = cp.Checkpoint(ctx, platform.CheckpointOptions{
		Images: path, Work: o.WorkPath, Exit: o.Exit, OpenTCP: o.OpenTcp, ExternalSockets: o.ExternalUnixSockets, ShellJob: o.Terminal,
		FileLocks: o.FileLocks, EmptyNamespaces: o.EmptyNamespaces, CgroupsMode: o.CgroupsMode,
	})
	if err != nil {
		return nil, err
	}
	s.publish(c, "/tasks/checkpointed", &events.TaskCheckpointed{ContainerID: c.id, Checkpoint: path})
	return &emptypb.Empty{}, nil
}

// decodeOptions reads the runc options of a Create; none is the defaults, and those of other runtimes must ask for nothing that is not done anyway.
func decodeOptions(a *anypb.Any) (platform.Options, error) {
	var o runc.Options
	if a == nil || a.TypeUrl == "" {
		return platform.Options{}, nil
	}
	if !typeurl.Is(a, &o) {
		return platform.Options{}, checkOtherOptions(a)
	}
	if err := typeurl.UnmarshalTo(a, &o); err != nil {
		return platform.Options{}, fmt.Errorf("cannot read options: %v: %w", err, errdefs.ErrInvalidArgument)
	}
	return platform.Options{
		SystemdCgroup: o.SystemdCgroup, NoPivotRoot: o.NoPivotRoot, NoNewKeyring: o.NoNewKeyring, ShimCgroup: o.ShimCgroup,
		IOUid: o.IoUid, IOGid: o.IoGid, BinaryName: o.BinaryName, Root: o.Root, CriuWorkPath: o.CriuWorkPath,
	}, nil
}
