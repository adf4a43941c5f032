package e2ewine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/testsuite/registry"
)

// TestPodStats: what kubelet measures, by both of its ways.
func TestPodStats(t *testing.T) {
	k := startCRI(t, natNetwork)
	pod := k.pod("stats")
	podID := k.run(pod, "")
	c := k.container("c", k.hello(), sleeper...)
	c.Windows.Resources.MemoryLimitInBytes = 512 << 20
	id := k.begin(podID, pod, c)
	done := k.begin(podID, pod, k.container("done", c.Image.Image, "cmd", "/c", "exit 0"))
	k.ended(done)
	k.d.eventually("the pod's statistics do not come", func() error {
		all, err := k.ListPodSandboxStats(k.d.ctx, &runtime.ListPodSandboxStatsRequest{})
		if err != nil || len(all.Stats) != 1 {
			return fmt.Errorf("%v, %w", all, err)
		}
		w := all.Stats[0].Windows
		if all.Stats[0].Linux != nil || w.GetCpu().GetUsageCoreNanoSeconds() == nil || w.Memory.GetWorkingSetBytes() == nil || w.Process.GetProcessCount().GetValue() == 0 ||
			w.Network.GetDefaultInterface().GetName() == "" || len(w.Containers) != 2 {
			return fmt.Errorf("statistics of the pod: %v", all.Stats[0])
		}
		if !slices.ContainsFunc(w.Containers, func(s *runtime.WindowsContainerStats) bool {
			return s.Attributes.Id == id && s.Cpu.GetTimestamp() > 0 && s.Memory.GetAvailableBytes().GetValue() > 0 && s.WritableLayer.GetFsId().GetMountpoint() != ""
		}) {
			return fmt.Errorf("statistics of containers: %v", w.Containers)
		}
		return nil
	})
	one, err := k.ContainerStats(k.d.ctx, &runtime.ContainerStatsRequest{ContainerId: id})
	if err != nil || one.Stats.Cpu.GetUsageCoreNanoSeconds() == nil || one.Stats.Memory.GetWorkingSetBytes() == nil || one.Stats.Attributes.Metadata.Name != "c" {
		t.Errorf("ContainerStats: %v, %v", one, err)
	}
	list, err := k.ListContainerStats(k.d.ctx, &runtime.ListContainerStatsRequest{Filter: &runtime.ContainerStatsFilter{PodSandboxId: podID}})
	if err != nil || len(list.Stats) != 2 {
		t.Errorf("ListContainerStats: %v, %v", list, err)
	}
	if _, err := k.ListPodSandboxMetrics(k.d.ctx, &runtime.ListPodSandboxMetricsRequest{}); err != nil {
		t.Error(err)
	}
	fs, err := k.images.ImageFsInfo(k.d.ctx, &runtime.ImageFsInfoRequest{})
	if err != nil || len(fs.ImageFilesystems) != 1 || fs.ImageFilesystems[0].UsedBytes.Value == 0 || !strings.Contains(fs.ImageFilesystems[0].FsId.Mountpoint, `:\`) {
		t.Errorf("ImageFsInfo: %v, %v", fs, err)
	}
}

// TestPodEvents: kubelet hears of each change.
func TestPodEvents(t *testing.T) {
	k := startCRI(t, natNetwork)
	ctx, cancel := context.WithCancel(k.d.ctx)
	defer cancel()
	stream, err := k.GetContainerEvents(ctx, &runtime.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil { // it is being served
		t.Fatal(err)
	}
	pod := k.pod("events")
	podID := k.run(pod, "")
	id := k.begin(podID, pod, k.container("c", k.hello(), "cmd", "/c", "exit 3"))
	for _, want := range []struct {
		id   string
		kind runtime.ContainerEventType
	}{
		{podID, runtime.ContainerEventType_CONTAINER_CREATED_EVENT}, {podID, runtime.ContainerEventType_CONTAINER_STARTED_EVENT},
		{id, runtime.ContainerEventType_CONTAINER_CREATED_EVENT}, {id, runtime.ContainerEventType_CONTAINER_STARTED_EVENT},
		{id, runtime.ContainerEventType_CONTAINER_STOPPED_EVENT},
	} {
		ev, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if ev.ContainerId != want.id || ev.ContainerEventType != want.kind {
			t.Errorf("event %s of %s, want %s of %s", ev.ContainerEventType, ev.ContainerId, want.kind, want.id)
		}
		if want.kind == runtime.ContainerEventType_CONTAINER_STOPPED_EVENT && (len(ev.ContainersStatuses) != 1 || ev.ContainersStatuses[0].ExitCode != 3) {
			t.Errorf("the last event says %v", ev.ContainersStatuses)
		}
	}
}

// TestPodImages: pulls with and without credentials, what is told of images, and their removal.
func TestPodImages(t *testing.T) {
	k := startCRI(t, natNetwork)
	ref, r := k.push(hello())
	r.RequireBasic(registry.Basic{Username: "me", Password: "secret"})
	if err := k.pull(ref, nil); !errdefs.IsUnauthorized(err) && !errdefs.IsPermissionDenied(err) {
		t.Errorf("without credentials: %v", err)
	}
	if err := k.pull(ref, &runtime.AuthConfig{Username: "me", Password: "wrong"}); err == nil {
		t.Error("a wrong password is good enough")
	}
	if err := k.pull(ref, &runtime.AuthConfig{Username: "me", Password: "secret"}); err != nil {
		t.Fatal(err)
	}
	st, err := k.images.ImageStatus(k.d.ctx, &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: ref}})
	if err != nil || !slices.Contains(st.GetImage().GetRepoTags(), ref) || st.Image.Size == 0 {
		t.Fatalf("ImageStatus: %v, %v", st, err)
	}
	if _, err := k.images.RemoveImage(k.d.ctx, &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: st.Image.Id}}); err != nil {
		t.Error(err)
	}
	if list, err := k.images.ListImages(k.d.ctx, &runtime.ListImagesRequest{}); err != nil || len(list.Images) != 0 {
		t.Errorf("after its removal: %v, %v", list, err)
	}
}
