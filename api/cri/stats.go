package cri

import (
	"context"

	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/engine/pods"
	"github.com/slipwayd/slipway/internal/usage"
)

func (s *runtimeService) ContainerStats(ctx context.Context, r *runtime.ContainerStatsRequest) (*runtime.ContainerStatsResponse, error) {
	st, err := s.pods.ContainerStats(ctx, r.ContainerId)
	if err != nil {
		return nil, err
	}
	return &runtime.ContainerStatsResponse{Stats: containerStats(st)}, nil
}

func (s *runtimeService) ListContainerStats(ctx context.Context, r *runtime.ListContainerStatsRequest) (*runtime.ListContainerStatsResponse, error) {
	return &runtime.ListContainerStatsResponse{Stats: s.listContainerStats(ctx, r.Filter)}, nil
}

func (s *runtimeService) StreamContainerStats(r *runtime.StreamContainerStatsRequest, stream grpc.ServerStreamingServer[runtime.StreamContainerStatsResponse]) error {
	return chunks(s.listContainerStats(stream.Context(), r.Filter), func(part []*runtime.ContainerStats) error {
		return stream.Send(&runtime.StreamContainerStatsResponse{ContainerStats: part})
	})
}

func (s *runtimeService) listContainerStats(ctx context.Context, f *runtime.ContainerStatsFilter) []*runtime.ContainerStats {
	found := s.pods.AllContainerStats(ctx, pods.Filter{ID: f.GetId(), PodID: f.GetPodSandboxId(), Labels: f.GetLabelSelector()})
	list := make([]*runtime.ContainerStats, 0, len(found))
	for _, st := range found {
		list = append(list, containerStats(st))
	}
	return list
}

func (s *runtimeService) PodSandboxStats(ctx context.Context, r *runtime.PodSandboxStatsRequest) (*runtime.PodSandboxStatsResponse, error) {
	p, err := s.pods.Pod(r.PodSandboxId) // before the list, which takes any number
	if err != nil {
		return nil, err
	}
	for _, st := range s.pods.AllPodStats(ctx, pods.Filter{ID: p.ID}) {
		return &runtime.PodSandboxStatsResponse{Stats: s.podStats(st)}, nil
	}
	_, err = s.pods.Pod(p.ID) // it went in between
	return &runtime.PodSandboxStatsResponse{}, err
}

func (s *runtimeService) ListPodSandboxStats(ctx context.Context, r *runtime.ListPodSandboxStatsRequest) (*runtime.ListPodSandboxStatsResponse, error) {
	return &runtime.ListPodSandboxStatsResponse{Stats: s.listPodStats(ctx, r.Filter)}, nil
}

func (s *runtimeService) StreamPodSandboxStats(r *runtime.StreamPodSandboxStatsRequest, stream grpc.ServerStreamingServer[runtime.StreamPodSandboxStatsResponse]) error {
	return chunks(s.listPodStats(stream.Context(), r.Filter), func(part []*runtime.PodSandboxStats) error {
		return stream.Send(&runtime.StreamPodSandboxStatsResponse{PodSandboxStats: part})
	})
}

func (s *runtimeService) listPodStats(ctx context.Context, f *runtime.PodSandboxStatsFilter) []*runtime.PodSandboxStats {
	found := s.pods.AllPodStats(ctx, pods.Filter{ID: f.GetId(), Labels: f.GetLabelSelector()})
	list := make([]*runtime.PodSandboxStats, 0, len(found))
	for _, st := range found {
		list = append(list, s.podStats(st))
	}
	return list
}

func containerStats(st pods.Stats) *runtime.ContainerStats {
	c := st.Container
	out := &runtime.ContainerStats{
		Attributes: containerAttributes(c),
		Cpu:        cpuUsage(st.Use, st.NanoCores), Memory: memoryUsage(st.Use), Swap: swapUsage(st.Use), Io: ioUsage(st.Use),
	}
	if l := st.Layer; l != nil {
		out.WritableLayer = filesystemUsage(*l)
	}
	return out
}

func containerAttributes(c pods.Container) *runtime.ContainerAttributes {
	return &runtime.ContainerAttributes{Id: c.ID, Metadata: containerMetadata(c), Labels: c.Spec.Labels, Annotations: c.Spec.Annotations}
}

func (s *runtimeService) podStats(st pods.PodStats) *runtime.PodSandboxStats {
	p := st.Pod
	out := &runtime.PodSandboxStats{
		Attributes: &runtime.PodSandboxAttributes{Id: p.ID, Metadata: podMetadata(p), Labels: p.Spec.Labels, Annotations: p.Spec.Annotations},
	}
	s.side.stats(st, out)
	return out
}

// tasks is how many a pod runs.
func tasks(st pods.PodStats) (n uint64) {
	for _, c := range st.Containers {
		if c.Use != nil {
			n += c.Use.Tasks
		}
	}
	return n
}

func count(n uint64) *runtime.UInt64Value { return &runtime.UInt64Value{Value: n} }

func cpuUsage(u *usage.Usage, cores *uint64) *runtime.CpuUsage {
	if u == nil {
		return nil
	}
	out := &runtime.CpuUsage{Timestamp: u.At.UnixNano(), UsageCoreNanoSeconds: count(u.CPU)}
	if cores != nil {
		out.UsageNanoCores = count(*cores)
	}
	if u.Pressure != nil {
		out.Psi = pressure(u.Pressure.CPU)
	}
	return out
}

func memoryUsage(u *usage.Usage) *runtime.MemoryUsage {
	if u == nil {
		return nil
	}
	out := &runtime.MemoryUsage{
		Timestamp: u.At.UnixNano(), WorkingSetBytes: count(u.WorkingSet), UsageBytes: count(u.Memory), RssBytes: count(u.RSS),
		PageFaults: count(u.Faults), MajorPageFaults: count(u.Majors),
	}
	if u.Limit > 0 {
		out.AvailableBytes = count(u.Limit - min(u.Limit, u.WorkingSet))
	}
	if u.Pressure != nil {
		out.Psi = pressure(u.Pressure.Memory)
	}
	return out
}

func swapUsage(u *usage.Usage) *runtime.SwapUsage {
	if u == nil || u.Swap == nil {
		return nil
	}
	out := &runtime.SwapUsage{Timestamp: u.At.UnixNano(), SwapUsageBytes: count(*u.Swap)}
	if u.SwapLimit > 0 {
		out.SwapAvailableBytes = count(u.SwapLimit - min(u.SwapLimit, *u.Swap))
	}
	return out
}

func ioUsage(u *usage.Usage) *runtime.IoUsage {
	if u == nil || u.Pressure == nil {
		return nil
	}
	return &runtime.IoUsage{Timestamp: u.At.UnixNano(), Psi: pressure(u.Pressure.IO)}
}

func pressure(p usage.Pressure) *runtime.PsiStats {
	stall := func(s usage.Stall) *runtime.PsiData {
		return &runtime.PsiData{Total: s.Total, Avg10: s.Avg10, Avg60: s.Avg60, Avg300: s.Avg300}
	}
	return &runtime.PsiStats{Some: stall(p.Some), Full: stall(p.Full)}
}

// mainInterface is what networks call the one that leads out of a pod.
const mainInterface = "eth0"

func networkUsage(at int64, all []pods.Interface) *runtime.NetworkUsage {
	if len(all) == 0 {
		return nil
	}
	out := &runtime.NetworkUsage{Timestamp: at}
	for _, i := range all {
		one := &runtime.NetworkInterfaceUsage{
			Name: i.Name, RxBytes: count(i.RxBytes), RxErrors: count(i.RxErrors), TxBytes: count(i.TxBytes), TxErrors: count(i.TxErrors),
		}
		switch i.Name {
		case "lo":
		case mainInterface:
			out.DefaultInterface = one
		default:
			out.Interfaces = append(out.Interfaces, one)
		}
	}
	return out
}

func filesystemUsage(u pods.FilesystemUsage) *runtime.FilesystemUsage {
	return &runtime.FilesystemUsage{
		Timestamp: u.At.UnixNano(), FsId: &runtime.FilesystemIdentifier{Mountpoint: u.Path},
		UsedBytes: count(uint64(u.Bytes)), InodesUsed: count(uint64(u.Inodes)),
	}
}
