package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// systemctl asks the systemd that runs here.
func systemctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("systemctl %q: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// property is one of a unit.
func property(t *testing.T, unit, name string) string {
	t.Helper()
	return systemctl(t, "show", "--property", name, "--value", unit)
}

// TestSystemdPods: where systemd makes cgroups, containers are scopes in the slice that kubelet made for the pod, with their limits; these can be
// changed, what the pod uses is told, its own limit holds, and no scope is left.
func TestSystemdPods(t *testing.T) {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		t.Skip("systemd does not run here; ci/test-cgroup2 runs this where it does")
	}
	d, k := startCRIWith(t, func(d *daemon) { d.config += "systemd_cgroup = true\n" })
	k.pull(t)
	conf, err := k.RuntimeConfig(t.Context(), &runtime.RuntimeConfigRequest{})
	if err != nil || conf.Linux.GetCgroupDriver() != runtime.CgroupDriver_SYSTEMD {
		t.Errorf("the cgroup driver is told as %v, %v", conf, err)
	}
	// As kubelet names slices, and asks for them: kubetest-burstable-podUID.slice lies in kubetest-burstable.slice in kubetest.slice.
	const slice = "kubetest-burstable-podabc.slice"
	k.cgroup = "/kubetest.slice/kubetest-burstable.slice/" + slice
	systemctl(t, "start", slice)
	systemctl(t, "set-property", "--runtime", slice, "MemoryMax=40M")
	t.Cleanup(func() { systemctl(t, "stop", "kubetest.slice") })

	pod := k.podConfig(name(t))
	pod.Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_POD // so that there is a process that holds it, too
	c := k.containerConfig(pod, "exec sleep 1000")
	c.Linux.Resources = &runtime.LinuxContainerResources{MemoryLimitInBytes: 32 << 20, CpuShares: 512}
	podID, id := k.start(t, pod, c)
	scope := "cri-containerd-" + id + ".scope"
	for unit, group := range map[string]string{scope: k.cgroup + "/" + scope, "cri-containerd-" + podID + ".scope": k.cgroup + "/cri-containerd-" + podID + ".scope"} {
		if got := property(t, unit, "ControlGroup"); got != group {
			t.Errorf("scope %s is %q, not %q", unit, got, group)
		}
	}
	if got := property(t, scope, "MemoryMax"); got != "33554432" {
		t.Errorf("the memory of the container is limited to %s", got)
	}
	change := &runtime.LinuxContainerResources{MemoryLimitInBytes: 48 << 20}
	if _, err := k.UpdateContainerResources(t.Context(), &runtime.UpdateContainerResourcesRequest{ContainerId: id, Linux: change}); err != nil {
		t.Error(err)
	}
	systemctl(t, "daemon-reload") // which sets what systemd was told of
	if max := strings.TrimSpace(readFile(t, "/sys/fs/cgroup"+k.cgroup+"/"+scope+"/memory.max")); max != "50331648" || property(t, scope, "MemoryMax") != max {
		t.Errorf("after the change it is limited to %s", max)
	}
	k.systemdStats(t, podID)

	greedy := k.containerConfig(pod, "exec dd if=/dev/zero of=/dev/null bs=60M count=1") // which has no limit but the pod's
	greedy.Metadata.Name = "greedy"
	made, err := k.CreateContainer(t.Context(), &runtime.CreateContainerRequest{PodSandboxId: podID, Config: greedy, SandboxConfig: pod})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		t.Fatal(err)
	}
	if st := k.awaitState(t, made.ContainerId, runtime.ContainerState_CONTAINER_EXITED); st.ExitCode != 137 {
		t.Errorf("a container took more memory than its pod may: %v", st)
	}

	d.kill() // whoever comes next finds the scopes again
	d.start()
	k2 := dialCRI(t, d)
	k2.cgroup = k.cgroup
	if out, err := k2.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: id, Cmd: []string{"cat", "/proc/self/cgroup"}}); err != nil || out.ExitCode != 0 {
		t.Errorf("exec after a restart: %v, %v", out, err)
	}
	k2.removeAll(t, d)
	if left := systemctl(t, "list-units", "--all", "--plain", "--no-legend", "cri-containerd-*"); left != "" {
		t.Errorf("systemd still has %s", left)
	}
}

// systemdStats looks at what a pod is told to use: what its slice says, which is more than one of its containers does.
func (k *kubelet) systemdStats(t *testing.T, podID string) {
	t.Helper()
	r, err := k.ListPodSandboxStats(t.Context(), &runtime.ListPodSandboxStatsRequest{Filter: &runtime.PodSandboxStatsFilter{Id: podID}})
	if err != nil || len(r.Stats) != 1 || len(r.Stats[0].Linux.GetContainers()) != 1 {
		t.Errorf("stats of the pod: %v, %v", r, err)
		return
	}
	whole, one := r.Stats[0].Linux.GetMemory().GetUsageBytes().GetValue(), r.Stats[0].Linux.Containers[0].GetMemory().GetUsageBytes().GetValue()
	if one == 0 || whole <= one {
		t.Errorf("the pod uses %d bytes, its container %d: the process that holds it uses some too", whole, one)
	}
	if r.Stats[0].Linux.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 {
		t.Error("the pod has used no processor")
	}
}
