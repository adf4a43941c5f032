package e2e

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestNothingIsUnimplemented asks every method of CRI for nothing.
func TestNothingIsUnimplemented(t *testing.T) {
	d, _ := startCRI(t)
	conn, err := grpc.NewClient("unix://"+d.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, service := range []grpc.ServiceDesc{runtime.RuntimeService_ServiceDesc, runtime.ImageService_ServiceDesc} {
		for _, m := range service.Methods {
			err := conn.Invoke(t.Context(), "/"+service.ServiceName+"/"+m.MethodName, &emptypb.Empty{}, &emptypb.Empty{})
			if c := status.Code(err); c == codes.Unimplemented || c == codes.Unknown {
				t.Errorf("%s: %v", m.MethodName, err)
			}
		}
		for _, s := range service.Streams {
			if err := beginStream(t.Context(), conn, s, "/"+service.ServiceName+"/"+s.StreamName); err != nil {
				t.Errorf("%s: %v", s.StreamName, err)
			}
		}
	}
}

// beginStream is nil when the server takes the call: by its headers, which it sends before any message, or by its end.
func beginStream(ctx context.Context, conn *grpc.ClientConn, desc grpc.StreamDesc, method string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := conn.NewStream(ctx, &desc, method)
	if err != nil {
		return err
	}
	if err := errors.Join(s.SendMsg(&emptypb.Empty{}), s.CloseSend()); err != nil {
		return err
	}
	head, err := s.Header()
	if err != nil || head != nil {
		return err
	}
	if err := s.RecvMsg(&emptypb.Empty{}); !errors.Is(err, io.EOF) { // it ended without a header
		return err
	}
	return nil
}

// TestStats: what a container and its pod use is told by every method that tells it.
func TestStats(t *testing.T) {
	d, k := startCRI(t)
	k.pull(t)
	pod := ownNetwork(k.podConfig(name(t)))
	c := k.containerConfig(pod, "head -c 3000000 /dev/zero > /file; ping -c 2 127.0.0.1; echo done; exec sleep 1000")
	podID, id := k.start(t, pod, c)
	k.awaitLog(t, id, "done")
	one, err := k.ContainerStats(t.Context(), &runtime.ContainerStatsRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, s *runtime.ContainerStats) {
		t.Helper()
		if s.GetAttributes().GetId() != id || s.Attributes.Metadata.Name != "main" || s.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 || s.GetMemory().GetWorkingSetBytes().GetValue() == 0 {
			t.Errorf("%s: %v", what, s)
		}
	}
	check("ContainerStats", one.Stats)
	eventually(t, "measurement of the writable layer", func() bool {
		one, err = k.ContainerStats(t.Context(), &runtime.ContainerStatsRequest{ContainerId: id})
		return err == nil && one.Stats.GetWritableLayer().GetUsedBytes().GetValue() >= 3000000
	})
	all, err := k.ListContainerStats(t.Context(), &runtime.ListContainerStatsRequest{Filter: &runtime.ContainerStatsFilter{PodSandboxId: podID}})
	if err != nil || len(all.Stats) != 1 {
		t.Fatalf("ListContainerStats: %v, %v", all, err)
	}
	check("ListContainerStats", all.Stats[0])
	stream, err := k.StreamContainerStats(t.Context(), &runtime.StreamContainerStatsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); err != nil || len(r.ContainerStats) != 1 {
		t.Errorf("StreamContainerStats: %v, %v", r, err)
	}
	p, err := k.PodSandboxStats(t.Context(), &runtime.PodSandboxStatsRequest{PodSandboxId: podID})
	if err != nil {
		t.Fatal(err)
	}
	linux := p.Stats.Linux
	if linux.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 || len(linux.GetContainers()) != 1 || linux.GetProcess().GetProcessCount().GetValue() == 0 {
		t.Errorf("PodSandboxStats: %v", p)
	}
	if _, err = k.ContainerStats(t.Context(), &runtime.ContainerStatsRequest{ContainerId: "nothing"}); status.Code(err) != codes.NotFound {
		t.Errorf("stats of what is not there: %v", err)
	}
	k.checkMetrics(t, podID)
	if _, err := k.StopContainer(t.Context(), &runtime.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if one, err = k.ContainerStats(t.Context(), &runtime.ContainerStatsRequest{ContainerId: id}); err != nil || one.Stats.Cpu != nil || one.Stats.WritableLayer == nil {
		t.Errorf("stats of one that has ended: %v, %v", one, err)
	}
	k.removeAll(t, d)
}

// checkMetrics: each metric has a descriptor, with as many labels, and those that dashboards live on are there.
func (k *kubelet) checkMetrics(t *testing.T, podID string) {
	t.Helper()
	descs, err := k.ListMetricDescriptors(t.Context(), &runtime.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]int{}
	for _, desc := range descs.Descriptors {
		labels[desc.Name] = len(desc.LabelKeys)
	}
	r, err := k.ListPodSandboxMetrics(t.Context(), &runtime.ListPodSandboxMetricsRequest{})
	if err != nil || len(r.PodMetrics) != 1 || r.PodMetrics[0].PodSandboxId != podID || len(r.PodMetrics[0].ContainerMetrics) != 1 {
		t.Fatalf("ListPodSandboxMetrics: %v, %v", r, err)
	}
	seen := map[string]bool{}
	for _, m := range append(r.PodMetrics[0].Metrics, r.PodMetrics[0].ContainerMetrics[0].Metrics...) {
		seen[m.Name] = true
		if n, ok := labels[m.Name]; !ok || n != len(m.LabelValues) {
			t.Errorf("metric %v has a descriptor with %d labels", m, n)
		}
	}
	for _, want := range []string{"container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_memory_failures_total", "container_processes", "container_fs_usage_bytes"} {
		if !seen[want] {
			t.Errorf("there is no metric %s", want)
		}
	}
}

// awaitLog waits until a container has written text.
func (k *kubelet) awaitLog(t *testing.T, id, text string) {
	t.Helper()
	path := k.status(t, id).LogPath
	eventually(t, "the log to have "+text, func() bool {
		log, _ := os.ReadFile(path)
		return strings.Contains(string(log), "F "+text)
	})
}

// TestEvents: each change of a pod and its container is told once, in order, with the pod as it is by then.
func TestEvents(t *testing.T) {
	d, k := startCRI(t)
	k.pull(t)
	stream, err := k.GetContainerEvents(t.Context(), &runtime.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil { // from here on nothing is missed
		t.Fatal(err)
	}
	pod := k.podConfig(name(t))
	podID, id := k.start(t, pod, k.containerConfig(pod, "exit 3"))
	k.awaitState(t, id, runtime.ContainerState_CONTAINER_EXITED)
	k.removeAll(t, d)
	want := []string{"pod CREATED", "pod STARTED", "container CREATED", "container STARTED", "container STOPPED", "pod STOPPED", "container DELETED", "pod DELETED"}
	for _, w := range want {
		ev, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		what := map[string]string{podID: "pod", id: "container"}[ev.ContainerId]
		change := strings.TrimSuffix(strings.TrimPrefix(ev.ContainerEventType.String(), "CONTAINER_"), "_EVENT")
		if what+" "+change != w || ev.CreatedAt == 0 {
			t.Errorf("told %s %s, want %s", what, change, w)
		}
	}
}
