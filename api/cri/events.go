package cri

import (
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/engine/pods"
)

// GetContainerEvents tells of changes from now on, each with the pod as it is by then. It ends with ResourceExhausted for a client that
// falls far behind, which then lists and asks again.
func (s *runtimeService) GetContainerEvents(_ *runtime.GetEventsRequest, stream grpc.ServerStreamingServer[runtime.ContainerEventResponse]) error {
	queue, stop := s.pods.Watch()
	defer stop()
	if err := stream.SendHeader(nil); err != nil { // the client knows now that it misses nothing from here on
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case ev, ok := <-queue:
			if !ok {
				return fmt.Errorf("events are not read fast enough, list again: %w", errdefs.ErrResourceExhausted)
			}
			if err := stream.Send(s.event(ev)); err != nil {
				return err
			}
		}
	}
}

func (s *runtimeService) event(ev pods.Event) *runtime.ContainerEventResponse {
	out := &runtime.ContainerEventResponse{ContainerId: ev.ID, ContainerEventType: runtime.ContainerEventType(ev.Change), CreatedAt: ev.At.UnixNano()}
	p, err := s.pods.Pod(ev.PodID)
	switch {
	case err == nil:
	case ev.Pod != nil:
		p = *ev.Pod
	default: // gone by now
		return out
	}
	out.PodSandboxStatus = podStatus(p)
	for _, c := range s.pods.Containers(pods.Filter{PodID: p.ID}) {
		out.ContainersStatuses = append(out.ContainersStatuses, s.containerStatus(c))
	}
	return out
}
