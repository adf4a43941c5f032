package e2ewine

import (
	"fmt"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestPodsOutlive: pods and their containers do not notice the death of the daemon, nor of the shim, nor of both; what ended meanwhile is told.
func TestPodsOutlive(t *testing.T) {
	k := startCRI(t, natNetwork)
	image := k.hello()
	pod := k.pod("outlives")
	podID := k.run(pod, "")
	stays := k.begin(podID, pod, k.container("stays", image, sleeper...))
	ends := k.begin(podID, pod, k.container("ends", image, "cmd", "/c", "ping -n 3 127.0.0.1 >nul& exit 9"))
	for name, die := range map[string]func(){
		"daemon": k.d.kill,
		"shim":   k.killShim,
		"both": func() {
			shim := k.d.shim()
			k.d.kill()
			if err := shim.Kill(); err != nil {
				t.Fatal(err)
			}
		},
	} {
		die()
		if name != "shim" {
			k.d.start()
			k.dial()
		}
		st, err := k.PodSandboxStatus(k.d.ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: podID})
		if err != nil || st.Status.State != runtime.PodSandboxState_SANDBOX_READY {
			t.Fatalf("after the death of %s the pod is %v, %v", name, st, err)
		}
		if out, code := k.sync(stays, "echo still here"); !strings.Contains(out, "still here") || code != 0 {
			t.Errorf("after the death of %s: ExecSync: %q, %d", name, out, code)
		}
		if st, _ := k.status(stays); st.State != runtime.ContainerState_CONTAINER_RUNNING {
			t.Errorf("after the death of %s: %v", name, st)
		}
	}
	if st := k.ended(ends); st.ExitCode != 9 {
		t.Errorf("what ended meanwhile: %v", st)
	}
}

// killShim kills it and waits for its successor.
func (k *kubelet) killShim() {
	k.Helper()
	first := k.d.shim()
	if err := first.Kill(); err != nil {
		k.Fatal(err)
	}
	k.d.eventually("no other shim comes", func() error {
		if now := k.d.shim(); now == nil || now.Pid == first.Pid {
			return fmt.Errorf("it is %v", now)
		}
		return nil
	})
}

// TestDaemonDiesInAPod: whatever kubelet was doing when the daemon died, it can do again, and nothing is left.
func TestDaemonDiesInAPod(t *testing.T) {
	k := startCRI(t, natNetwork)
	image := k.hello()
	for step, request := range []func() error{
		func() error {
			_, err := k.RunPodSandbox(k.d.ctx, &runtime.RunPodSandboxRequest{Config: k.pod("again")})
			return err
		},
		func() error { return k.life(image) },
		func() error {
			pods, err := k.ListPodSandbox(k.d.ctx, &runtime.ListPodSandboxRequest{})
			for _, p := range pods.GetItems() {
				if _, serr := k.StopPodSandbox(k.d.ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.Id}); serr != nil {
					err = serr
				}
			}
			return err
		},
	} {
		done := make(chan error, 1)
		go func() { done <- request() }()
		k.d.kill()
		<-done // with an error or without
		k.d.start()
		k.dial()
		if err := request(); err != nil {
			t.Errorf("step %d, again: %v", step, err)
		}
	}
}

// life brings the pod to a container that runs, from wherever it is, as kubelet does.
func (k *kubelet) life(image string) error {
	pod := k.pod("again")
	p, err := k.RunPodSandbox(k.d.ctx, &runtime.RunPodSandboxRequest{Config: pod})
	if err != nil {
		return err
	}
	id, err := k.create(p.PodSandboxId, pod, k.container("c", image, sleeper...))
	if err != nil {
		return err
	}
	_, err = k.StartContainer(k.d.ctx, &runtime.StartContainerRequest{ContainerId: id})
	return err
}
