package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// podLife is what kubelet asks for one pod, which ends at the first call that fails.
func (k *kubelet) podLife(ctx context.Context, pod *runtime.PodSandboxConfig) error {
	podID, id, err := k.tryStart(ctx, pod, k.containerConfig(pod, "exec sleep 1000"))
	if err != nil {
		return err
	}
	if _, err := k.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: id}); err != nil {
		return err
	}
	if _, err := k.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: id}); err != nil {
		return err
	}
	if _, err := k.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: podID}); err != nil {
		return err
	}
	_, err = k.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: podID})
	return err
}

// again does what kubelet does after a call failed: it looks for the pod's sandbox, removes it when it is of no use, and begins anew. It must
// succeed whatever the last life was in the middle of.
func (k *kubelet) again(t *testing.T, pod *runtime.PodSandboxConfig) {
	t.Helper()
	// Either the pod was never made or is as good as new, and the call is repeated as it was; or it exists and is in the way.
	err := k.podLife(t.Context(), pod)
	if err != nil && strings.Contains(err.Error(), "AlreadyExists") {
		list, lerr := k.ListPodSandbox(t.Context(), &runtime.ListPodSandboxRequest{})
		if lerr != nil {
			t.Fatal(lerr)
		}
		for _, p := range list.Items {
			if _, err := k.RemovePodSandbox(t.Context(), &runtime.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
				t.Errorf("cannot remove pod %s: %v", p.Id, err)
			}
		}
		err = k.podLife(t.Context(), pod)
	}
	if err != nil {
		t.Errorf("the retry fails: %v", err)
	}
}

// faultPods are kinds of pods whose lives have different steps.
func (k *kubelet) faultPod(t *testing.T, step int) *runtime.PodSandboxConfig {
	pod := k.podConfig(name(t))
	switch step % 3 {
	case 1:
		ownNetwork(pod)
	case 2:
		ownNetwork(pod).Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_POD
	}
	return pod
}

// TestDaemonDiesDuringAPod kills the daemon after ever more of a pod's life has been asked for.
func TestDaemonDiesDuringAPod(t *testing.T) {
	d, k := startCRI(t)
	k.pull(t)
	for step := range 36 {
		pod := k.faultPod(t, step)
		lived := make(chan error)
		go func() { lived <- k.podLife(t.Context(), pod) }()
		// The exact moment is left to chance; a life takes some 50 ms.
		time.Sleep(time.Duration(step) * 2 * time.Millisecond)
		d.kill()
		<-lived
		d.start()
		k = dialCRI(t, d)
		k.again(t, pod)
		k.checkNothing(t, d)
		if t.Failed() {
			t.Fatalf("step %d", step)
		}
	}
}

// TestShimDiesDuringAPod kills the shim instead.
func TestShimDiesDuringAPod(t *testing.T) {
	d, k := startCRI(t)
	k.pull(t)
	for step := range 24 {
		pod := k.faultPod(t, step)
		lived := make(chan error)
		go func() { lived <- k.podLife(t.Context(), pod) }()
		time.Sleep(time.Duration(step) * 2500 * time.Microsecond)
		killed := d.shims()
		for _, s := range killed {
			_ = syscall.Kill(s, syscall.SIGKILL)
		}
		<-lived
		// Until the daemon knows of the death, which takes a while where processors are busy, calls end with the shim that is to answer them.
		eventually(t, "another shim", func() bool {
			return slices.ContainsFunc(d.shims(), func(pid int) bool { return !slices.Contains(killed, pid) })
		})
		k.again(t, pod)
		k.checkNothing(t, d)
		if t.Failed() {
			t.Fatalf("step %d", step)
		}
	}
}

// TestPodsOutliveTheDaemon: pods are found again, with what happened meanwhile, and none of them notices.
func TestPodsOutliveTheDaemon(t *testing.T) {
	const count = 20
	d, k := startCRI(t)
	k.pull(t)
	var ids []string
	for n := range count {
		pod := ownNetwork(k.podConfig(fmt.Sprintf("%s-%d", name(t), n)))
		c := k.containerConfig(pod, "trap 'exit 9' USR1; i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")
		_, id := k.start(t, pod, c)
		ids = append(ids, id)
	}
	before := map[string]*runtime.ContainerStatus{}
	pids := map[string]int{}
	for _, id := range ids {
		before[id] = k.awaitState(t, id, runtime.ContainerState_CONTAINER_RUNNING)
		pids[id] = k.pid(t, id)
	}
	d.kill()
	for _, id := range ids[:count/2] { // these end while nobody watches
		if err := syscall.Kill(pids[id], syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the end of a container", func() bool { return gone(pids[id]) })
	}
	d.start()
	k = dialCRI(t, d)
	for n, id := range ids {
		if n < count/2 {
			if st := k.awaitState(t, id, runtime.ContainerState_CONTAINER_EXITED); st.ExitCode != 9 || st.StartedAt != before[id].StartedAt {
				t.Errorf("container %d ended with %v", n, st)
			}
			continue
		}
		if st := k.status(t, id); st.State != runtime.ContainerState_CONTAINER_RUNNING || st.StartedAt != before[id].StartedAt || k.pid(t, id) != pids[id] {
			t.Errorf("container %d is now %v", n, st)
		}
		out, err := k.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: id, Cmd: []string{"echo", "here"}})
		if err != nil || string(out.Stdout) != "here\n" {
			t.Errorf("ExecSync: %v, %v", out, err)
		}
		checkCount(t, before[id].LogPath)
	}
	k.removeAll(t, d)
}

// pid is that of a container's init.
func (k *kubelet) pid(t *testing.T, id string) int {
	t.Helper()
	r, err := k.ContainerStatus(t.Context(), &runtime.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var info struct{ Pid int }
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil || info.Pid == 0 {
		t.Fatalf("info of container %s has no pid: %v", id, err)
	}
	return info.Pid
}

// checkCount checks that a log holds 1, 2, 3… without a gap.
func checkCount(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		if !strings.HasSuffix(line, fmt.Sprintf(" stdout F %d\n", n)) {
			t.Fatalf("line %d of the log is %q", n, line)
		}
	}
	if n == 0 {
		t.Error("the log is empty")
	}
}

// TestHundredPodsRestart: of a hundred pods none is lost or touched by a restart, and what ended meanwhile is told with its code. How
// long it took is in the test's log.
func TestHundredPodsRestart(t *testing.T) {
	const count = 100
	d, k := startCRI(t)
	k.pull(t)
	ids := make([]string, count)
	var group errgroup.Group
	group.SetLimit(8)
	for n := range count {
		group.Go(func() error {
			pod := k.podConfig(fmt.Sprintf("%s-%d", name(t), n))
			_, id, err := k.tryStart(t.Context(), pod, k.containerConfig(pod, "echo here; trap 'exit 9' USR1; sleep 10000 & wait"))
			ids[n] = id
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	pids := map[string]int{}
	for _, id := range ids {
		k.awaitLog(t, id, "here")
		pids[id] = k.pid(t, id)
	}
	d.kill()
	if err := syscall.Kill(pids[ids[0]], syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of a container", func() bool { return gone(pids[ids[0]]) })
	begun := time.Now()
	d.start()
	t.Logf("%d pods are served again after %s", count, time.Since(begun).Round(time.Millisecond))
	k = dialCRI(t, d)
	if st := k.awaitState(t, ids[0], runtime.ContainerState_CONTAINER_EXITED); st.ExitCode != 9 {
		t.Errorf("the container that ended meanwhile: %v", st)
	}
	for _, id := range ids[1:] {
		if st := k.status(t, id); st.State != runtime.ContainerState_CONTAINER_RUNNING || k.pid(t, id) != pids[id] {
			t.Errorf("after the restart: %v", st)
		}
	}
	stats, err := k.ListContainerStats(t.Context(), &runtime.ListContainerStatsRequest{})
	if err != nil || len(stats.Stats) < count-1 {
		t.Errorf("stats of %d containers, %v", len(stats.GetStats()), err)
	}
	out, err := k.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: ids[count-1], Cmd: []string{"echo", "here"}})
	if err != nil || string(out.Stdout) != "here\n" {
		t.Errorf("ExecSync: %v, %v", out, err)
	}
	k.removeAll(t, d)
}
