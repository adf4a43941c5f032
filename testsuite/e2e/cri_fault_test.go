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

// lifeCalls are the calls that kubelet makes for one pod from its start to its end.
func (k *kubelet) lifeCalls(pod *runtime.PodSandboxConfig) []func(context.Context) error {
	var podID, id string
	return []func(context.Context) error{
		func(ctx context.Context) error {
			made, err := k.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: pod})
			podID = made.GetPodSandboxId()
			return err
		},
		func(ctx context.Context) error {
			c := k.containerConfig(pod, "exec sleep 1000")
			made, err := k.CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: podID, Config: c, SandboxConfig: pod})
			id = made.GetContainerId()
			return err
		},
		func(ctx context.Context) error {
			_, err := k.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: id})
			return err
		},
		func(ctx context.Context) error {
			_, err := k.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: id})
			return err
		},
		func(ctx context.Context) error {
			_, err := k.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: id})
			return err
		},
		func(ctx context.Context) error {
			_, err := k.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: podID})
			return err
		},
		func(ctx context.Context) error {
			_, err := k.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: podID})
			return err
		},
	}
}

// podLife makes these calls, and ends at the first that fails.
func (k *kubelet) podLife(ctx context.Context, pod *runtime.PodSandboxConfig) error {
	for _, call := range k.lifeCalls(pod) {
		if err := call(ctx); err != nil {
			return err
		}
	}
	return nil
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

// moments of a call at which something may die: as it is asked for, in the midst of it (where is left to chance), and when it was answered.
var moments = []struct {
	after    time.Duration
	answered bool
}{{after: 0}, {after: 2 * time.Millisecond}, {after: 8 * time.Millisecond}, {answered: true}}

// eachMoment lives a pod's life up to each of its calls, has kill kill something at each moment of that, and recover bring back what died; then
// kubelet begins again.
func eachMoment(t *testing.T, d *daemon, k *kubelet, kill func(), recover func() *kubelet) {
	t.Helper()
	for step := range k.lifeCalls(nil) {
		for n, moment := range moments {
			pod := k.faultPod(t, step+n)
			calls := k.lifeCalls(pod)
			for before, call := range calls[:step] {
				if err := call(t.Context()); err != nil {
					t.Fatalf("call %d: %v", before, err)
				}
			}
			asked := make(chan error, 1)
			go func() { asked <- calls[step](t.Context()) }()
			if moment.answered {
				if err := <-asked; err != nil {
					t.Errorf("call %d: %v", step, err)
				}
				kill()
			} else {
				time.Sleep(moment.after)
				kill()
				<-asked
			}
			k = recover()
			k.again(t, pod)
			k.checkNothing(t, d)
			if t.Failed() {
				t.Fatalf("call %d, killed at %+v", step, moment)
			}
		}
	}
}

// TestDaemonDiesDuringAPod: whatever the daemon was in the middle of when it was killed, nothing is left of it.
func TestDaemonDiesDuringAPod(t *testing.T) {
	d, k := startCRI(t)
	k.pullVolumes(t)
	image, layers := k.image, k.layers
	eachMoment(t, d, k, d.kill, func() *kubelet {
		d.start()
		next := dialCRI(t, d)
		next.image, next.layers = image, layers
		return next
	})
}

// TestShimDiesDuringAPod kills the shim instead.
func TestShimDiesDuringAPod(t *testing.T) {
	d, k := startCRI(t)
	k.pull(t)
	var killed []int
	kill := func() {
		killed = d.shims()
		for _, s := range killed {
			_ = syscall.Kill(s, syscall.SIGKILL)
		}
	}
	eachMoment(t, d, k, kill, func() *kubelet {
		// Until the daemon knows of the death, which takes a while where processors are busy, calls end with the shim that is to answer them.
		eventually(t, "another shim", func() bool {
			return len(killed) == 0 || slices.ContainsFunc(d.shims(), func(pid int) bool { return !slices.Contains(killed, pid) })
		})
		return k
	})
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
