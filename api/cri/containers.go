package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/engine/pods"
)

func (s *runtimeService) CreateContainer(ctx context.Context, r *runtime.CreateContainerRequest) (*runtime.CreateContainerResponse, error) {
	c, err := containerFromWire(r.Config, s.side)
	if err != nil {
		return nil, err
	}
	id, err := s.pods.Create(ctx, r.PodSandboxId, c)
	if err != nil {
		return nil, err
	}
	return &runtime.CreateContainerResponse{ContainerId: id}, nil
}

func (s *runtimeService) StartContainer(ctx context.Context, r *runtime.StartContainerRequest) (*runtime.StartContainerResponse, error) {
	return &runtime.StartContainerResponse{}, s.pods.Start(ctx, r.ContainerId)
}

func (s *runtimeService) StopContainer(ctx context.Context, r *runtime.StopContainerRequest) (*runtime.StopContainerResponse, error) {
	return &runtime.StopContainerResponse{}, s.pods.Stop(ctx, r.ContainerId, seconds(r.Timeout))
}

func (s *runtimeService) RemoveContainer(ctx context.Context, r *runtime.RemoveContainerRequest) (*runtime.RemoveContainerResponse, error) {
	return &runtime.RemoveContainerResponse{}, s.pods.Remove(ctx, r.ContainerId)
}

func (s *runtimeService) ListContainers(_ context.Context, r *runtime.ListContainersRequest) (*runtime.ListContainersResponse, error) {
	return &runtime.ListContainersResponse{Containers: s.listContainers(r.Filter)}, nil
}

func (s *runtimeService) StreamContainers(r *runtime.StreamContainersRequest, stream grpc.ServerStreamingServer[runtime.StreamContainersResponse]) error {
	return chunks(s.listContainers(r.Filter), func(part []*runtime.Container) error {
		return stream.Send(&runtime.StreamContainersResponse{Containers: part})
	})
}

func (s *runtimeService) listContainers(f *runtime.ContainerFilter) []*runtime.Container {
	filter := pods.Filter{ID: f.GetId(), PodID: f.GetPodSandboxId(), Labels: f.GetLabelSelector()}
	if f.GetState() != nil {
		state := pods.State(f.State.State)
		filter.State = &state
	}
	found := s.pods.Containers(filter)
	list := make([]*runtime.Container, 0, len(found))
	for _, c := range found {
		list = append(list, &runtime.Container{
			Id: c.ID, PodSandboxId: c.PodID, Metadata: containerMetadata(c), Image: imageSpec(c), ImageRef: c.ImageID, ImageId: c.ImageID,
			State: runtime.ContainerState(c.State), CreatedAt: c.Created.UnixNano(), Labels: c.Spec.Labels, Annotations: c.Spec.Annotations,
		})
	}
	return list
}

func (s *runtimeService) ContainerStatus(ctx context.Context, r *runtime.ContainerStatusRequest) (*runtime.ContainerStatusResponse, error) {
	c, err := s.pods.Container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	resp := &runtime.ContainerStatusResponse{Status: s.containerStatus(c)}
	if r.Verbose {
		document, err := s.pods.Document(ctx, c.ID)
		if err != nil {
			return nil, err
		}
		resp.Info, err = info(map[string]any{"pid": c.Pid, "sandboxID": c.PodID, "config": c.Spec, "runtimeSpec": document})
		return resp, err
	}
	return resp, nil
}

func (s *runtimeService) UpdateContainerResources(ctx context.Context, r *runtime.UpdateContainerResourcesRequest) (*runtime.UpdateContainerResourcesResponse, error) {
	resources, err := s.side.update(r)
	if err != nil {
		return nil, err
	}
	return &runtime.UpdateContainerResourcesResponse{}, s.pods.Update(ctx, r.ContainerId, resources)
}

func (s *runtimeService) ReopenContainerLog(ctx context.Context, r *runtime.ReopenContainerLogRequest) (*runtime.ReopenContainerLogResponse, error) {
	return &runtime.ReopenContainerLogResponse{}, s.pods.ReopenLog(ctx, r.ContainerId)
}

func (s *runtimeService) ExecSync(ctx context.Context, r *runtime.ExecSyncRequest) (*runtime.ExecSyncResponse, error) {
	out, err := s.pods.ExecSync(ctx, r.ContainerId, r.Cmd, seconds(r.Timeout))
	if err != nil {
		return nil, err
	}
	return &runtime.ExecSyncResponse{Stdout: out.Stdout, Stderr: out.Stderr, ExitCode: out.ExitCode}, nil
}

func (s *runtimeService) CheckpointContainer(ctx context.Context, r *runtime.CheckpointContainerRequest) (*runtime.CheckpointContainerResponse, error) {
	c, err := s.pods.Container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	status, err := json.Marshal(s.containerStatus(c))
	if err != nil {
		return nil, fmt.Errorf("cannot encode the status of container %s: %w", c.ID, err)
	}
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, seconds(r.Timeout))
		defer cancel()
	}
	return &runtime.CheckpointContainerResponse{}, s.pods.Checkpoint(ctx, c.ID, r.Location, status)
}

// seconds bounds what a client may ask for to what a time.Duration holds.
func seconds(n int64) time.Duration {
	const most = int64(365 * 24 * time.Hour / time.Second)
	return time.Duration(min(max(n, 0), most)) * time.Second
}

func containerMetadata(c pods.Container) *runtime.ContainerMetadata {
	return &runtime.ContainerMetadata{Name: c.Spec.Name, Attempt: c.Spec.Attempt}
}

func imageSpec(c pods.Container) *runtime.ImageSpec {
	i := c.Spec.Image
	return &runtime.ImageSpec{Image: i.Ref, UserSpecifiedImage: i.UserRef, RuntimeHandler: i.Handler, Annotations: i.Annotations}
}

func (s *runtimeService) containerStatus(c pods.Container) *runtime.ContainerStatus {
	st := &runtime.ContainerStatus{
		Id: c.ID, Metadata: containerMetadata(c), State: runtime.ContainerState(c.State), CreatedAt: c.Created.UnixNano(),
		StartedAt: nano(c.Started), FinishedAt: nano(c.Finished), ExitCode: c.ExitCode,
		Image: imageSpec(c), ImageRef: c.ImageRef, ImageId: c.ImageID, Reason: c.Reason, Message: c.Message,
		Labels: c.Spec.Labels, Annotations: c.Spec.Annotations, LogPath: c.LogPath,
		Resources: s.side.resources(c.Resources), User: s.side.user(c),
	}
	st.Image.Image = c.Image
	if n, ok := runtime.Signal_value[signalToWire(c.StopSignal)]; ok {
		st.StopSignal = runtime.Signal(n)
	}
	for _, m := range c.Spec.Mounts {
		st.Mounts = append(st.Mounts, mountToWire(m))
	}
	return st
}

// nano is 0 for what has not happened.
func nano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
