package e2e

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// kubelet is a client of the daemon as a kubelet is one.
type kubelet struct {
	runtime.RuntimeServiceClient
	images runtime.ImageServiceClient
	logs   string // directory of pods' logs
	image  string // of containers; busybox if it is empty
	layers int    // of images
	cgroup string // parent of pods' cgroups, with a name that nobody else uses
}

// fakePlugin is a CNI plugin that gives addresses and keeps a file for each attachment, so that a test sees those that are left.
const fakePlugin = `#!/bin/sh
dir=$(dirname "$0")/attached
mkdir -p "$dir"
cat > /dev/null
case $CNI_COMMAND in
ADD) : > "$dir/$CNI_CONTAINERID"; echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}],"ips":[{"address":"10.1.2.3/24","interface":0}]}' ;;
DEL) rm -f "$dir/$CNI_CONTAINERID" ;;
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}' ;;
esac
`

// startCRI starts a daemon whose pods get their network of fakePlugin.
func startCRI(t *testing.T) (*daemon, *kubelet) {
	t.Helper()
	return startCRIWith(t, func(*daemon) {})
}

// startCRIWith lets prepare add to the section [cri] of the configuration.
func startCRIWith(t *testing.T, prepare func(*daemon)) (*daemon, *kubelet) {
	t.Helper()
	d := startDaemonWith(t, func(d *daemon) {
		for path, text := range map[string]string{
			"cni/bin/fake":              fakePlugin,
			"cni/net.d/10-net.conflist": `{"cniVersion":"1.0.0","name":"fake","plugins":[{"type":"fake"}]}`,
		} {
			path = filepath.Join(d.dir, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		d.config += fmt.Sprintf("[cri]\ncni_conf_dir = %q\ncni_bin_dirs = [%q]\n", filepath.Join(d.dir, "cni/net.d"), filepath.Join(d.dir, "cni/bin"))
		prepare(d)
	})
	return d, dialCRI(t, d)
}

// attached are the pods that the network thinks it has.
func (d *daemon) attached() []string { return children(filepath.Join(d.dir, "cni/bin/attached")) }

func dialCRI(t *testing.T, d *daemon) *kubelet {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+d.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	k := &kubelet{
		RuntimeServiceClient: runtime.NewRuntimeServiceClient(conn), images: runtime.NewImageServiceClient(conn),
		logs: filepath.Join(d.dir, "logs"), cgroup: "/" + filepath.Base(d.dir), layers: 1,
	}
	if err := os.MkdirAll(k.logs, 0o755); err != nil {
		t.Fatal(err)
	}
	return k
}

// pull pulls busybox.
func (k *kubelet) pull(t *testing.T) {
	t.Helper()
	if _, err := k.images.PullImage(t.Context(), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: busybox}}); err != nil {
		t.Fatal(err)
	}
}

// podConfig is a pod in the host's network, with PID namespaces of containers' own, as kubelet makes them.
func (k *kubelet) podConfig(name string) *runtime.PodSandboxConfig {
	return &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: name, Uid: name + "-uid", Namespace: "default"}, LogDirectory: k.logs,
		Linux: &runtime.LinuxPodSandboxConfig{
			CgroupParent: k.cgroup,
			SecurityContext: &runtime.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtime.NamespaceOption{Network: runtime.NamespaceMode_NODE, Pid: runtime.NamespaceMode_CONTAINER},
			},
		},
	}
}

// ownNetwork gives a pod a network namespace.
func ownNetwork(c *runtime.PodSandboxConfig) *runtime.PodSandboxConfig {
	c.Linux.SecurityContext.NamespaceOptions.Network = runtime.NamespaceMode_POD
	return c
}

func (k *kubelet) containerConfig(pod *runtime.PodSandboxConfig, script string) *runtime.ContainerConfig {
	return &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: "main"}, Image: &runtime.ImageSpec{Image: cmp.Or(k.image, busybox)},
		Command: []string{"sh", "-c", script}, LogPath: pod.Metadata.Name + ".log",
		Linux: &runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{
			NamespaceOptions: pod.Linux.SecurityContext.NamespaceOptions,
		}},
	}
}

// start runs a pod with one container and answers both ids.
func (k *kubelet) start(t *testing.T, pod *runtime.PodSandboxConfig, c *runtime.ContainerConfig) (podID, id string) {
	t.Helper()
	podID, id, err := k.tryStart(t.Context(), pod, c)
	if err != nil {
		t.Fatal(err)
	}
	return podID, id
}

func (k *kubelet) tryStart(ctx context.Context, pod *runtime.PodSandboxConfig, c *runtime.ContainerConfig) (podID, id string, err error) {
	p, err := k.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: pod})
	if err != nil {
		return "", "", err
	}
	made, err := k.CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: p.PodSandboxId, Config: c, SandboxConfig: pod})
	if err != nil {
		return p.PodSandboxId, "", err
	}
	_, err = k.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: made.ContainerId})
	return p.PodSandboxId, made.ContainerId, err
}

func (k *kubelet) status(t *testing.T, id string) *runtime.ContainerStatus {
	t.Helper()
	r, err := k.ContainerStatus(t.Context(), &runtime.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status
}

// awaitState waits until a container is in a state.
func (k *kubelet) awaitState(t *testing.T, id string, want runtime.ContainerState) *runtime.ContainerStatus {
	t.Helper()
	var st *runtime.ContainerStatus
	eventually(t, "container "+id+" is "+want.String(), func() bool {
		st = k.status(t, id)
		return st.State == want
	})
	return st
}

// removeAll removes every pod and checks that nothing is left of them.
func (k *kubelet) removeAll(t *testing.T, d *daemon) {
	t.Helper()
	pods, err := k.ListPodSandbox(t.Context(), &runtime.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.Items {
		if _, err := k.RemovePodSandbox(t.Context(), &runtime.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			t.Errorf("cannot remove pod %s: %v", p.Id, err)
		}
	}
	k.checkNothing(t, d)
}

// checkNothing fails when anything but images is left: namespaces, addresses, mounts, cgroups, processes, snapshots.
func (k *kubelet) checkNothing(t *testing.T, d *daemon) {
	t.Helper()
	if left := children(filepath.Join(d.state, "pods")); len(left) > 0 {
		t.Errorf("directories of pods are left: %q", left)
	}
	if left := d.attached(); len(left) > 0 {
		t.Errorf("pods are still attached to the network: %q", left)
	}
	var left []string
	eventually(t, "removal of all writable layers", func() bool {
		left = d.onDisk("layers")
		return len(left) <= k.layers // of images
	})
	_ = os.Remove("/sys/fs/cgroup" + k.cgroup) // kubelet's own, which is not the daemon's to remove
	for _, parent := range pathsWith("/sys/fs/cgroup", filepath.Base(k.cgroup)) {
		entries, _ := os.ReadDir(parent)
		for _, e := range entries {
			if e.IsDir() {
				t.Errorf("cgroup is left: %s", filepath.Join(parent, e.Name()))
			}
		}
		_ = os.Remove(parent)
	}
	d.checkNoContainers(t)
}

func TestPodLife(t *testing.T) {
	d, k := startCRI(t)
	k.pull(t)
	pod := ownNetwork(k.podConfig(name(t)))
	pod.Hostname = "somebody"
	podID, id := k.start(t, pod, k.containerConfig(pod, `trap "exit 7" TERM; hostname; echo problem >&2; while :; do sleep 0.05; done`))
	st := k.awaitState(t, id, runtime.ContainerState_CONTAINER_RUNNING)
	if st.StartedAt == 0 || st.ImageId == "" {
		t.Errorf("status %v lacks when it started, or what", st)
	}
	k.awaitLog(t, id, "problem") // by then it takes the signal
	exec, err := k.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "hostname; echo no >&2; exit 3"}})
	if err != nil || string(exec.Stdout) != "somebody\n" || string(exec.Stderr) != "no\n" || exec.ExitCode != 3 {
		t.Errorf("ExecSync: %v, %v", exec, err)
	}
	p, err := k.PodSandboxStatus(t.Context(), &runtime.PodSandboxStatusRequest{PodSandboxId: podID})
	if err != nil || p.Status.Network.Ip != "10.1.2.3" || p.Status.State != runtime.PodSandboxState_SANDBOX_READY {
		t.Errorf("status of the pod: %v, %v", p, err)
	}
	if _, err := k.StopContainer(t.Context(), &runtime.StopContainerRequest{ContainerId: id, Timeout: 30}); err != nil {
		t.Fatal(err)
	}
	if st = k.status(t, id); st.ExitCode != 7 || st.State != runtime.ContainerState_CONTAINER_EXITED || st.Reason != "Error" {
		t.Errorf("status after the stop: %v", st)
	}
	log, err := os.ReadFile(st.LogPath)
	if err != nil || !strings.Contains(string(log), " stdout F somebody\n") || !strings.Contains(string(log), " stderr F problem\n") {
		t.Errorf("log: %q, %v", log, err)
	}
	k.removeAll(t, d)
}

// TestExecTimeout: nothing that a command began outlives it.
func TestExecTimeout(t *testing.T) {
	d, k := startCRI(t)
	k.pull(t)
	pod := k.podConfig(name(t))
	_, id := k.start(t, pod, k.containerConfig(pod, "exec sleep 1000"))
	_, err := k.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "sleep 2000 & sleep 2001"}, Timeout: 1})
	wantCode(t, err, "DeadlineExceeded")
	out, err := k.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: id, Cmd: []string{"ps"}})
	if err != nil || strings.Contains(string(out.Stdout), "sleep 200") {
		t.Errorf("after the time-out there run:\n%s%v", out.GetStdout(), err)
	}
	k.removeAll(t, d)
}

// TestPodSharesProcesses: containers of a pod with one PID namespace see each other, and the pod needs no image for that.
func TestPodSharesProcesses(t *testing.T) {
	d, k := startCRI(t)
	k.pull(t)
	pod := k.podConfig(name(t))
	pod.Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_POD
	podID, _ := k.start(t, pod, k.containerConfig(pod, "exec sleep 1234"))
	second := k.containerConfig(pod, "exec sleep 1235")
	second.Metadata.Name, second.LogPath = "second", ""
	made, err := k.CreateContainer(t.Context(), &runtime.CreateContainerRequest{PodSandboxId: podID, Config: second, SandboxConfig: pod})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		t.Fatal(err)
	}
	ps := func() string {
		out, err := k.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: made.ContainerId, Cmd: []string{"ps"}})
		if err != nil {
			t.Fatal(err)
		}
		return string(out.Stdout)
	}
	eventually(t, "both commands run", func() bool { s := ps(); return strings.Contains(s, "sleep 1234") && strings.Contains(s, "sleep 1235") })
	if s := ps(); !strings.Contains(s, "/pause") {
		t.Errorf("init of the shared namespace is not there:\n%s", s)
	}
	k.removeAll(t, d)
}
