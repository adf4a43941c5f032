package containerd

import (
	"testing"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/slipwayd/slipway/shim"
)

func TestTasksRefusesBadRequests(t *testing.T) {
	h := newHost(t)
	h.server.Ready()
	c := tasks.NewTasksClient(h)
	ctx := metadata.AppendToOutgoingContext(t.Context(), namespaceHeader, "test")
	spec := &anypb.Any{TypeUrl: "x", Value: []byte("{}")}
	for name, tt := range map[string]struct {
		want codes.Code
		call func() error
	}{
		"no namespace": {codes.FailedPrecondition, func() error {
			_, err := c.List(t.Context(), &tasks.ListTasksRequest{})
			return err
		}},
		"no container": {codes.NotFound, func() error {
			_, err := c.Create(ctx, &tasks.CreateTaskRequest{ContainerID: "none"})
			return err
		}},
		"task API elsewhere": {codes.Unimplemented, func() error {
			_, err := c.Create(ctx, &tasks.CreateTaskRequest{ContainerID: "none", TaskApiAddress: "ttrpc+unix:///x"})
			return err
		}},
		"bad checkpoint": {codes.InvalidArgument, func() error {
			_, err := c.Create(ctx, &tasks.CreateTaskRequest{ContainerID: "none", Checkpoint: &types.Descriptor{Digest: "x"}})
			return err
		}},
		"bad options": {codes.InvalidArgument, func() error {
			bad := &anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: []byte{0xff}}
			_, err := c.Create(ctx, &tasks.CreateTaskRequest{ContainerID: "none", Options: bad})
			return err
		}},
		"empty exec id": {codes.InvalidArgument, func() error {
			_, err := c.Exec(ctx, &tasks.ExecProcessRequest{ContainerID: "c", Spec: spec})
			return err
		}},
		"path as exec id": {codes.InvalidArgument, func() error {
			_, err := c.Exec(ctx, &tasks.ExecProcessRequest{ContainerID: "c", ExecID: "../x", Spec: spec})
			return err
		}},
		"exec without a spec": {codes.InvalidArgument, func() error {
			_, err := c.Exec(ctx, &tasks.ExecProcessRequest{ContainerID: "c", ExecID: "e"})
			return err
		}},
		"delete of no process": {codes.InvalidArgument, func() error {
			_, err := c.DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: "c"})
			return err
		}},
		"update of nothing": {codes.InvalidArgument, func() error {
			_, err := c.Update(ctx, &tasks.UpdateTaskRequest{ContainerID: "c"})
			return err
		}},
		"bad checkpoint options": {codes.InvalidArgument, func() error {
			_, err := c.Checkpoint(ctx, &tasks.CheckpointTaskRequest{ContainerID: "c", Options: &anypb.Any{TypeUrl: "other"}})
			return err
		}},
		"no task": {codes.NotFound, func() error {
			_, err := c.Get(ctx, &tasks.GetRequest{ContainerID: "c"})
			return err
		}},
	} {
		if err := tt.call(); status.Code(err) != tt.want {
			t.Errorf("%s: got %v, want %s", name, err, tt.want)
		}
	}
}

func TestProcessToProto(t *testing.T) {
	at := time.Unix(100, 0)
	init := processToProto(shim.State{ID: "c", Pid: 7, Status: shim.Stopped, ExitStatus: 3, ExitedAt: at, Streams: shim.Streams{Stdout: "/o"}})
	if init.ID != "c" || init.Pid != 7 || init.Status != task.Status_STOPPED || init.ExitStatus != 3 || !init.ExitedAt.AsTime().Equal(at) || init.Stdout != "/o" {
		t.Errorf("init: %v", init)
	}
	exec := processToProto(shim.State{ID: "c", ExecID: "e", Status: shim.Running})
	if exec.ID != "e" || exec.ContainerID != "c" || exec.Status != task.Status_RUNNING || exec.ExitedAt != nil {
		t.Errorf("executed process: %v", exec)
	}
	for ours, theirs := range map[shim.Status]task.Status{
		shim.Unknown: task.Status_UNKNOWN, shim.Created: task.Status_CREATED, shim.Running: task.Status_RUNNING,
		shim.Stopped: task.Status_STOPPED, shim.Paused: task.Status_PAUSED, shim.Pausing: task.Status_PAUSING,
	} {
		if got := processToProto(shim.State{Status: ours}).Status; got != theirs {
			t.Errorf("status %d is %s, want %s", ours, got, theirs)
		}
	}
}

func TestRestorePath(t *testing.T) {
	options, err := typeurl.MarshalAnyToProto(&runcoptions.Options{CriuImagePath: "/criu"})
	if err != nil {
		t.Fatal(err)
	}
	for want, r := range map[string]*tasks.CreateTaskRequest{
		"":      {Options: &anypb.Any{TypeUrl: "another runtime's"}},
		"/criu": {Options: options},
		"/cri":  {Options: options, Checkpoint: &types.Descriptor{Annotations: map[string]string{"RestoreFromPath": "/cri"}}},
	} {
		if got, err := restorePath(r); err != nil || got != want {
			t.Errorf("%v: got %q, %v; want %q", r, got, err, want)
		}
	}
}
