package containerd

import (
	"context"
	"fmt"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/shim"
)

func registerTasks(r grpc.ServiceRegistrar, eng *engine.Engine, _ Options) {
	tasks.RegisterTasksServer(r, &tasksServer{engine: eng})
}

// tasksServer is the Tasks service. Nothing it does is written to disk: a task lives in its shim.
type tasksServer struct {
	tasks.UnimplementedTasksServer
	engine *engine.Engine
}

func (s *tasksServer) Create(ctx context.Context, r *tasks.CreateTaskRequest) (*tasks.CreateTaskResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	if r.TaskApiAddress != "" {
		return nil, fmt.Errorf("task %s: a task API at a given address: %w", r.ContainerID, errdefs.ErrNotImplemented)
	}
	restore, err := restorePath(r)
	if err != nil {
		return nil, err
	}
	var checkpoint *ocispec.Descriptor
	if r.Checkpoint != nil && restore == "" {
		d, err := descriptorFromWire(r.Checkpoint)
		if err != nil {
			return nil, err
		}
		checkpoint = &d
	}
	pid, err := s.engine.CreateTask(ctx, sc, engine.TaskOptions{
		ContainerID:    r.ContainerID,
		Runtime:        r.RuntimePath,
		Options:        fromAny(r.Options),
		Rootfs:         mountsFromWire(r.Rootfs),
		Streams:        shim.Streams{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		CheckpointPath: restore,
		Checkpoint:     checkpoint,
	})
	if err != nil {
		return nil, err
	}
	return &tasks.CreateTaskResponse{ContainerID: r.ContainerID, Pid: pid}, nil
}

func (s *tasksServer) Start(ctx context.Context, r *tasks.StartRequest) (*tasks.StartResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	pid, err := s.engine.Tasks().Start(ctx, sc.Namespace, r.ContainerID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &tasks.StartResponse{Pid: pid}, nil
}

func (s *tasksServer) Delete(ctx context.Context, r *tasks.DeleteTaskRequest) (*tasks.DeleteResponse, error) {
	return s.delete(ctx, r.ContainerID, "")
}

func (s *tasksServer) DeleteProcess(ctx context.Context, r *tasks.DeleteProcessRequest) (*tasks.DeleteResponse, error) {
	if r.ExecID == "" {
		return nil, fmt.Errorf("exec id cannot be empty: %w", errdefs.ErrInvalidArgument)
	}
	return s.delete(ctx, r.ContainerID, r.ExecID)
}

func (s *tasksServer) delete(ctx context.Context, id, execID string) (*tasks.DeleteResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	exit, err := s.engine.Tasks().Delete(ctx, sc.Namespace, id, execID)
	if err != nil {
		return nil, err
	}
	return &tasks.DeleteResponse{ID: execID, Pid: exit.Pid, ExitStatus: exit.Status, ExitedAt: toTime(exit.At)}, nil
}

func (s *tasksServer) Get(ctx context.Context, r *tasks.GetRequest) (*tasks.GetResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	st, err := s.engine.Tasks().State(ctx, sc.Namespace, r.ContainerID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &tasks.GetResponse{Process: processToProto(st)}, nil
}

// List ignores the filter, as containerd does: clients filter by themselves.
func (s *tasksServer) List(ctx context.Context, _ *tasks.ListTasksRequest) (*tasks.ListTasksResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	states, err := s.engine.Tasks().List(ctx, sc.Namespace)
	if err != nil {
		return nil, err
	}
	resp := &tasks.ListTasksResponse{}
	for _, st := range states {
		resp.Tasks = append(resp.Tasks, processToProto(st))
	}
	return resp, nil
}

func (s *tasksServer) Kill(ctx context.Context, r *tasks.KillRequest) (*emptypb.Empty, error) {
	return s.do(ctx, func(ns string, t engine.Tasks) error {
		return t.Kill(ctx, ns, r.ContainerID, r.ExecID, r.Signal, r.All)
	})
}

func (s *tasksServer) Exec(ctx context.Context, r *tasks.ExecProcessRequest) (*emptypb.Empty, error) {
	if err := engine.CheckIdentifier(r.ExecID); err != nil {
		return nil, fmt.Errorf("exec id: %w", err)
	}
	if len(r.GetSpec().GetValue()) == 0 {
		return nil, fmt.Errorf("exec %s has no process spec: %w", r.ExecID, errdefs.ErrInvalidArgument)
	}
	return s.do(ctx, func(ns string, t engine.Tasks) error {
		return t.Exec(ctx, ns, r.ContainerID, shim.ExecOptions{
			ExecID:  r.ExecID,
			Spec:    r.Spec.Value,
			Streams: shim.Streams{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		})
	})
}

func (s *tasksServer) ResizePty(ctx context.Context, r *tasks.ResizePtyRequest) (*emptypb.Empty, error) {
	return s.do(ctx, func(ns string, t engine.Tasks) error {
		return t.ResizePty(ctx, ns, r.ContainerID, r.ExecID, r.Width, r.Height)
	})
}

func (s *tasksServer) CloseIO(ctx context.Context, r *tasks.CloseIORequest) (*emptypb.Empty, error) {
	return s.do(ctx, func(ns string, t engine.Tasks) error {
		if !r.Stdin { // the only stream that can be closed
			return nil
		}
		return t.CloseIO(ctx, ns, r.ContainerID, r.ExecID)
	})
}

func (s *tasksServer) Pause(ctx context.Context, r *tasks.PauseTaskRequest) (*emptypb.Empty, error) {
	return s.do(ctx, func(ns string, t engine.Tasks) error { return t.Pause(ctx, ns, r.ContainerID) })
}

func (s *tasksServer) Resume(ctx context.Context, r *tasks.ResumeTaskRequest) (*emptypb.Empty, error) {
	return s.do(ctx, func(ns string, t engine.Tasks) error { return t.Resume(ctx, ns, r.ContainerID) })
}

func (s *tasksServer) Update(ctx context.Context, r *tasks.UpdateTaskRequest) (*emptypb.Empty, error) {
	if r.Resources == nil {
		return nil, fmt.Errorf("update of task %s names no resources: %w", r.ContainerID, errdefs.ErrInvalidArgument)
	}
	return s.do(ctx, func(ns string, t engine.Tasks) error {
		return t.Update(ctx, ns, r.ContainerID, *fromAny(r.Resources), r.Annotations)
	})
}

// do runs a verb that answers nothing.
func (s *tasksServer) do(ctx context.Context, verb func(ns string, t engine.Tasks) error) (*emptypb.Empty, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	if err := verb(sc.Namespace, s.engine.Tasks()); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func (s *tasksServer) ListPids(ctx context.Context, r *tasks.ListPidsRequest) (*tasks.ListPidsResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	pids, err := s.engine.Tasks().Pids(ctx, sc.Namespace, r.ContainerID)
	if err != nil {
		return nil, err
	}
	resp := &tasks.ListPidsResponse{}
	for _, p := range pids {
		resp.Processes = append(resp.Processes, &task.ProcessInfo{Pid: p.Pid, Info: toAny(p.Info)})
	}
	return resp, nil
}

func (s *tasksServer) Checkpoint(ctx context.Context, r *tasks.CheckpointTaskRequest) (*tasks.CheckpointTaskResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	var opts runcoptions.CheckpointOptions
	if r.Options != nil {
		if err := typeurl.UnmarshalTo(r.Options, &opts); err != nil {
			return nil, fmt.Errorf("checkpoint options %s: %w: %w", r.Options.GetTypeUrl(), err, errdefs.ErrInvalidArgument)
		}
	}
	descs, err := s.engine.CheckpointTask(ctx, sc, r.ContainerID, opts.ImagePath, fromAny(r.Options))
	if err != nil {
		return nil, err
	}
	resp := &tasks.CheckpointTaskResponse{}
	for _, d := range descs {
		resp.Descriptors = append(resp.Descriptors, descriptorToWire(d))
	}
	return resp, nil
}

func (s *tasksServer) Metrics(ctx context.Context, r *tasks.MetricsRequest) (*tasks.MetricsResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	metrics, err := s.engine.TaskMetrics(ctx, sc, r.Filters)
	if err != nil {
		return nil, err
	}
	resp := &tasks.MetricsResponse{}
	for _, m := range metrics {
		resp.Metrics = append(resp.Metrics, &types.Metric{
			ID: m.ContainerID, Timestamp: toTime(m.At), Data: toAny(&m.Data),
		})
	}
	return resp, nil
}

func (s *tasksServer) Wait(ctx context.Context, r *tasks.WaitRequest) (*tasks.WaitResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	exit, err := s.engine.Tasks().Wait(ctx, sc.Namespace, r.ContainerID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &tasks.WaitResponse{ExitStatus: exit.Status, ExitedAt: toTime(exit.At)}, nil
}

// processToProto puts the id of the process into id, as clients expect: for init that is the container's.
func processToProto(st shim.State) *task.Process {
	id := st.ExecID
	if id == "" {
		id = st.ID
	}
	return &task.Process{
		ContainerID: st.ID,
		ID:          id,
		Pid:         st.Pid,
		Status:      task.Status(st.Status),
		Stdin:       st.Streams.Stdin,
		Stdout:      st.Streams.Stdout,
		Stderr:      st.Streams.Stderr,
		Terminal:    st.Streams.Terminal,
		ExitStatus:  st.ExitStatus,
		ExitedAt:    toTime(st.ExitedAt),
	}
}

// restorePath finds the directory of a CRIU image in the places where clients put it: runc's options, or (CRI) an
// annotation on the checkpoint's descriptor.
func restorePath(r *tasks.CreateTaskRequest) (string, error) {
	if path := r.GetCheckpoint().GetAnnotations()["RestoreFromPath"]; path != "" {
		return path, nil
	}
	if !typeurl.Is(r.Options, &runcoptions.Options{}) {
		return "", nil
	}
	var opts runcoptions.Options
	if err := typeurl.UnmarshalTo(r.Options, &opts); err != nil {
		return "", fmt.Errorf("options of task %s: %w: %w", r.ContainerID, err, errdefs.ErrInvalidArgument)
	}
	return opts.CriuImagePath, nil
}
