package cri

import (
	"context"
	"encoding/json"
	"time"

	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/engine/pods"
)

func (s *runtimeService) RunPodSandbox(ctx context.Context, r *runtime.RunPodSandboxRequest) (*runtime.RunPodSandboxResponse, error) {
	pod, err := podFromWire(r.Config, r.RuntimeHandler, s.side)
	if err != nil {
		return nil, err
	}
	id, err := s.pods.Run(ctx, pod)
	if err != nil {
		return nil, err
	}
	return &runtime.RunPodSandboxResponse{PodSandboxId: id}, nil
}

func (s *runtimeService) StopPodSandbox(ctx context.Context, r *runtime.StopPodSandboxRequest) (*runtime.StopPodSandboxResponse, error) {
	return &runtime.StopPodSandboxResponse{}, s.pods.StopPod(ctx, r.PodSandboxId)
}

func (s *runtimeService) RemovePodSandbox(ctx context.Context, r *runtime.RemovePodSandboxRequest) (*runtime.RemovePodSandboxResponse, error) {
	return &runtime.RemovePodSandboxResponse{}, s.pods.RemovePod(ctx, r.PodSandboxId)
}

func (s *runtimeService) PodSandboxStatus(ctx context.Context, r *runtime.PodSandboxStatusRequest) (*runtime.PodSandboxStatusResponse, error) {
	p, err := s.pods.Pod(r.PodSandboxId)
	if err != nil {
		return nil, err
	}
	resp := &runtime.PodSandboxStatusResponse{Status: podStatus(p), Timestamp: time.Now().UnixNano()}
	for _, c := range s.pods.Containers(pods.Filter{PodID: p.ID}) {
		resp.ContainersStatuses = append(resp.ContainersStatuses, s.containerStatus(c))
	}
	if r.Verbose {
		resp.Info, err = info(map[string]any{"pid": p.Pid, "netns": p.NetNS, "config": p.Spec, "network": json.RawMessage(p.Network)})
	}
	return resp, err
}

func (s *runtimeService) ListPodSandbox(_ context.Context, r *runtime.ListPodSandboxRequest) (*runtime.ListPodSandboxResponse, error) {
	return &runtime.ListPodSandboxResponse{Items: s.listPods(r.Filter)}, nil
}

func (s *runtimeService) StreamPodSandboxes(r *runtime.StreamPodSandboxesRequest, stream grpc.ServerStreamingServer[runtime.StreamPodSandboxesResponse]) error {
	return chunks(s.listPods(r.Filter), func(part []*runtime.PodSandbox) error {
		return stream.Send(&runtime.StreamPodSandboxesResponse{PodSandboxes: part})
	})
}

func (s *runtimeService) listPods(f *runtime.PodSandboxFilter) []*runtime.PodSandbox {
	filter := pods.Filter{ID: f.GetId(), Labels: f.GetLabelSelector()}
	if f.GetState() != nil {
		ready := f.State.State == runtime.PodSandboxState_SANDBOX_READY
		filter.Ready = &ready
	}
	found := s.pods.Pods(filter)
	list := make([]*runtime.PodSandbox, 0, len(found))
	for _, p := range found {
		list = append(list, &runtime.PodSandbox{
			Id: p.ID, Metadata: podMetadata(p), State: podState(p), CreatedAt: p.Created.UnixNano(),
			Labels: p.Spec.Labels, Annotations: p.Spec.Annotations, RuntimeHandler: p.Spec.Handler,
		})
	}
	return list
}

func (s *runtimeService) UpdatePodSandboxResources(ctx context.Context, r *runtime.UpdatePodSandboxResourcesRequest) (*runtime.UpdatePodSandboxResourcesResponse, error) {
	overhead, resources, err := s.side.updatePod(r)
	if err != nil {
		return nil, err
	}
	return &runtime.UpdatePodSandboxResourcesResponse{}, s.pods.UpdatePod(ctx, r.PodSandboxId, overhead, resources)
}

func podMetadata(p pods.Pod) *runtime.PodSandboxMetadata {
	return &runtime.PodSandboxMetadata{Name: p.Spec.Name, Uid: p.Spec.UID, Namespace: p.Spec.Namespace, Attempt: p.Spec.Attempt}
}

func podState(p pods.Pod) runtime.PodSandboxState {
	if p.Ready {
		return runtime.PodSandboxState_SANDBOX_READY
	}
	return runtime.PodSandboxState_SANDBOX_NOTREADY
}

func podStatus(p pods.Pod) *runtime.PodSandboxStatus {
	st := &runtime.PodSandboxStatus{
		Id: p.ID, Metadata: podMetadata(p), State: podState(p), CreatedAt: p.Created.UnixNano(), Network: &runtime.PodSandboxNetworkStatus{},
		Labels: p.Spec.Labels, Annotations: p.Spec.Annotations, RuntimeHandler: p.Spec.Handler,
		Linux: &runtime.LinuxPodSandboxStatus{Namespaces: &runtime.Namespace{Options: namespacesToWire(p.Spec.Security.Namespaces)}},
	}
	for i, ip := range p.IPs {
		if i == 0 {
			st.Network.Ip = ip
		} else {
			st.Network.AdditionalIps = append(st.Network.AdditionalIps, &runtime.PodIP{Ip: ip})
		}
	}
	return st
}

// chunk is how many items of a list one message of a stream carries.
const chunk = 64

func chunks[T any](list []T, send func([]T) error) error {
	for begin := 0; begin < len(list); begin += chunk {
		if err := send(list[begin:min(begin+chunk, len(list))]); err != nil {
			return err
		}
	}
	return nil
}

// info is what tools show of a thing beyond the API: JSON under the key "info", as crictl expects it.
func info(v map[string]any) (map[string]string, error) {
	for key, value := range v {
		if raw, ok := value.(json.RawMessage); ok && len(raw) == 0 {
			delete(v, key)
		}
	}
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return map[string]string{"info": string(data)}, nil
}
