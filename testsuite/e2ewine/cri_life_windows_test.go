package e2ewine

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/Microsoft/hcsshim/hcn"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestPodLife is a pod with two containers, from its making to its removal.
func TestPodLife(t *testing.T) {
	k := startCRI(t, natNetwork)
	image := k.hello()
	pod := k.pod("life")
	pod.PortMappings = []*runtime.PortMapping{{Protocol: runtime.Protocol_TCP, ContainerPort: 80, HostPort: 8491}}
	podID := k.run(pod, "")
	st, err := k.PodSandboxStatus(k.d.ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: podID})
	if err != nil {
		t.Fatal(err)
	}
	if s := st.Status; s.State != runtime.PodSandboxState_SANDBOX_READY || net.ParseIP(s.Network.Ip) == nil || s.Linux.Namespaces.Options.Network != runtime.NamespaceMode_POD {
		t.Errorf("status of the pod: %v", s)
	}

	web := k.container("web", image, "cmd", "/c", "echo up& echo problem>&2& ping -n 1000 127.0.0.1 >nul")
	web.Envs = []*runtime.KeyValue{{Key: "WHO", Value: []byte("the web")}}
	web.Windows.Resources = &runtime.WindowsContainerResources{CpuMaximum: 5000, MemoryLimitInBytes: 256 << 20}
	// A file, and its destination, as kubelet writes them of the message that a program leaves at its end.
	message := filepath.Join(k.logs, "message")
	if err := os.WriteFile(message, []byte("nothing yet"), 0o600); err != nil {
		t.Fatal(err)
	}
	web.Mounts = []*runtime.Mount{{HostPath: message, ContainerPath: "c:/dev/termination-log"}, {HostPath: k.logs, ContainerPath: `C:\data`, Readonly: true}}
	webID := k.begin(podID, pod, web)
	sideID := k.begin(podID, pod, k.container("side", image, "cmd", "/c", "exit 5"))
	status, doc := k.status(webID)
	if status.State != runtime.ContainerState_CONTAINER_RUNNING || status.StartedAt == 0 || status.ImageId == "" || status.User != nil ||
		!proto.Equal(status.Resources, &runtime.ContainerResources{Windows: web.Windows.Resources}) {
		t.Errorf("status of a container: %v", status)
	}
	if len(status.Mounts) != 2 || status.Mounts[0].ContainerPath != "c:/dev/termination-log" || status.Mounts[0].HostPath != message { // by which kubelet finds it again
		t.Errorf("mounts of a container: %v", status.Mounts)
	}
	if ids, err := hcn.GetNamespaceEndpointIds(doc.Windows.Network.NetworkNamespace); err != nil || len(ids) != 1 {
		t.Errorf("its namespace %q has endpoints %v, %v", doc.Windows.Network.NetworkNamespace, ids, err)
	}
	_, side := k.status(sideID)
	if side.Windows.Network != doc.Windows.Network || side.Windows.Network.NetworkNamespace == "" || doc.Hostname != "life" {
		t.Errorf("documents of one pod: %+v, %+v", doc, side)
	}
	k.log("web", " stdout P up")
	k.log("web", " stderr P problem")
	if out, code := k.sync(webID, "echo %WHO%& exit 3"); !strings.Contains(out, "the web") || code != 3 {
		t.Errorf("ExecSync: %q, %d", out, code)
	}
	_, err = k.ExecSync(k.d.ctx, &runtime.ExecSyncRequest{ContainerId: webID, Cmd: []string{"ping", "-n", "1000", "127.0.0.1"}, Timeout: 1})
	k.refused(err, isTimeout, "within 1s")
	if st := k.ended(sideID); st.ExitCode != 5 || st.Reason != "Error" {
		t.Errorf("the container that ended: %v", st)
	}
	k.update(webID)
	k.stop(podID, webID)
	k.removeAll()
}

func isTimeout(err error) bool { return errors.Is(err, context.DeadlineExceeded) }

// update changes limits of a container that runs.
func (k *kubelet) update(id string) {
	k.Helper()
	want := &runtime.WindowsContainerResources{CpuMaximum: 2500, MemoryLimitInBytes: 128 << 20}
	if _, err := k.UpdateContainerResources(k.d.ctx, &runtime.UpdateContainerResourcesRequest{ContainerId: id, Windows: want}); err != nil {
		k.Error(err)
	}
	if st, _ := k.status(id); !proto.Equal(st.Resources.GetWindows(), want) {
		k.Errorf("resources after the update: %v", st.Resources)
	}
	_, err := k.UpdateContainerResources(k.d.ctx, &runtime.UpdateContainerResourcesRequest{ContainerId: id, Windows: &runtime.WindowsContainerResources{CpuMaximum: 1, CpuShares: 2}})
	k.refused(err, errdefs.IsInvalidArgument, "cpu_shares")
	_, err = k.UpdateContainerResources(k.d.ctx, &runtime.UpdateContainerResourcesRequest{ContainerId: id, Linux: &runtime.LinuxContainerResources{CpuQuota: 1000}})
	k.refused(err, errdefs.IsInvalidArgument, "linux.cpu_quota")
}

// stop stops a container and then its pod, which may both be repeated.
func (k *kubelet) stop(podID, id string) {
	k.Helper()
	for range 2 {
		if _, err := k.StopContainer(k.d.ctx, &runtime.StopContainerRequest{ContainerId: id, Timeout: 5}); err != nil {
			k.Fatal(err)
		}
	}
	if st, _ := k.status(id); st.State != runtime.ContainerState_CONTAINER_EXITED || st.FinishedAt < st.StartedAt {
		k.Errorf("status of what was stopped: %v", st)
	}
	for range 2 {
		if _, err := k.StopPodSandbox(k.d.ctx, &runtime.StopPodSandboxRequest{PodSandboxId: podID}); err != nil {
			k.Fatal(err)
		}
	}
	st, err := k.PodSandboxStatus(k.d.ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: podID})
	if err != nil || st.Status.State != runtime.PodSandboxState_SANDBOX_NOTREADY {
		k.Errorf("status of the stopped pod: %v, %v", st, err)
	}
}

// TestRuntimeClasses: the classes that clusters name for Windows are there without configuration.
func TestRuntimeClasses(t *testing.T) {
	k := startCRI(t, natNetwork)
	image := k.hello()
	for handler, virtual := range map[string]bool{"": false, "runhcs-wcow-process": false, "runhcs-wcow-hypervisor": true} {
		pod := k.pod("class-" + handler)
		podID := k.run(pod, handler)
		id := k.begin(podID, pod, k.container("c", image, sleeper...))
		if out, code := k.sync(id, "echo inside"); !strings.Contains(out, "inside") || code != 0 {
			t.Errorf("class %q: ExecSync: %q, %d", handler, out, code)
		}
		if _, doc := k.status(id); (doc.Windows.HyperV != nil) != virtual {
			t.Errorf("class %q: the document is %+v", handler, doc.Windows)
		}
	}
	_, err := k.RunPodSandbox(k.d.ctx, &runtime.RunPodSandboxRequest{Config: k.pod("unknown"), RuntimeHandler: "gvisor"})
	k.refused(err, errdefs.IsNotFound, "gvisor")

	st, err := k.Status(k.d.ctx, &runtime.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range st.Status.Conditions {
		if !c.Status {
			t.Errorf("condition %v", c)
		}
	}
	for _, name := range []string{"", "runhcs-wcow-process", "runhcs-wcow-hypervisor"} {
		if !slices.ContainsFunc(st.RuntimeHandlers, func(h *runtime.RuntimeHandler) bool { return h.Name == name && !h.Features.UserNamespaces }) {
			t.Errorf("no class %q in %v", name, st.RuntimeHandlers)
		}
	}
	if c, err := k.RuntimeConfig(k.d.ctx, &runtime.RuntimeConfigRequest{}); err != nil || c.Linux != nil {
		t.Errorf("RuntimeConfig: %v, %v", c, err)
	}
}

// TestPodUsers: who a container runs as, by itself and by its pod.
func TestPodUsers(t *testing.T) {
	k := startCRI(t, natNetwork)
	image := k.hello()
	pod := k.pod("users")
	pod.Windows.SecurityContext.RunAsUsername = "ContainerUser"
	pod.Windows.SecurityContext.CredentialSpec = `{"CmsPlugins":["ActiveDirectory"],"DomainJoinConfig":{"DnsName":"example.com"}}`
	podID := k.run(pod, "")
	_, doc := k.status(k.begin(podID, pod, k.container("pods", image, sleeper...)))
	if doc.Process.User.Username != "ContainerUser" || doc.Windows.CredentialSpec == nil {
		t.Errorf("what the pod says: %+v", doc)
	}
	own := k.container("own", image, sleeper...)
	own.Windows.SecurityContext.RunAsUsername = "ContainerAdministrator"
	if _, doc = k.status(k.begin(podID, pod, own)); doc.Process.User.Username != "ContainerAdministrator" {
		t.Errorf("what the container says: %+v", doc.Process)
	}
	wrong := k.container("wrong", image, sleeper...)
	wrong.Windows.SecurityContext.CredentialSpec = "no JSON"
	_, err := k.create(podID, pod, wrong)
	k.refused(err, errdefs.IsInvalidArgument, "redential")
}

// TestPodsRefused: what cannot be is refused with words that name it, and leaves nothing.
func TestPodsRefused(t *testing.T) {
	k := startCRI(t, natNetwork)
	image := k.hello()
	for name, c := range map[string]struct {
		change func(*runtime.PodSandboxConfig)
		kind   func(error) bool
		words  string
	}{
		"host processes without runhcs": {
			func(p *runtime.PodSandboxConfig) { p.Windows.SecurityContext.HostProcess = true }, errdefs.IsFailedPrecondition, "containerd-shim-runhcs-v1.exe",
		},
		"the host's network": {
			func(p *runtime.PodSandboxConfig) {
				p.Linux.SecurityContext.NamespaceOptions.Network = runtime.NamespaceMode_NODE
			}, errdefs.IsInvalidArgument, "host_process",
		},
		"a port of SCTP": {
			func(p *runtime.PodSandboxConfig) {
				p.PortMappings = []*runtime.PortMapping{{Protocol: runtime.Protocol_SCTP, ContainerPort: 80, HostPort: 8492}}
			}, errdefs.IsInvalidArgument, "sctp",
		},
	} {
		pod := k.pod("refused")
		c.change(pod)
		_, err := k.RunPodSandbox(k.d.ctx, &runtime.RunPodSandboxRequest{Config: pod})
		t.Log(name)
		k.refused(err, c.kind, c.words)
	}
	pod := k.pod("refuses")
	podID := k.run(pod, "")
	for name, c := range map[string]struct {
		change func(*runtime.ContainerConfig)
		words  string
	}{
		"a limit of Linux": {func(c *runtime.ContainerConfig) {
			c.Linux = &runtime.LinuxContainerConfig{Resources: &runtime.LinuxContainerResources{CpuQuota: 1}}
		}, "linux.resources.cpu_quota"},
		"privileged": {func(c *runtime.ContainerConfig) {
			c.Linux = &runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{Privileged: true}}
		}, "linux.security_context.privileged"},
		"two limits of the processor": {func(c *runtime.ContainerConfig) {
			c.Windows.Resources = &runtime.WindowsContainerResources{CpuCount: 1, CpuMaximum: 100}
		}, "cpu_count"},
		"a host process in a pod of containers": {func(c *runtime.ContainerConfig) { c.Windows.SecurityContext.HostProcess = true }, "host_process"},
		"a mount that is propagated": {func(c *runtime.ContainerConfig) {
			c.Mounts = []*runtime.Mount{{HostPath: `C:\`, ContainerPath: `C:\x`, Propagation: runtime.MountPropagation_PROPAGATION_BIDIRECTIONAL}}
		}, "propagation"},
	} {
		refused := k.container("refused", image, sleeper...)
		c.change(refused)
		_, err := k.create(podID, pod, refused)
		t.Log(name)
		k.refused(err, errdefs.IsInvalidArgument, c.words)
	}
	missing := k.container("missing", image, sleeper...)
	missing.Mounts = []*runtime.Mount{{HostPath: `C:\no\such\folder`, ContainerPath: `C:\data`}}
	if id, err := k.create(podID, pod, missing); err == nil {
		_, err = k.StartContainer(k.d.ctx, &runtime.StartContainerRequest{ContainerId: id})
		if err == nil || !strings.Contains(err.Error(), `C:\no\such\folder`) {
			t.Errorf("a mount of what is not there: %v", err)
		}
	} else if !strings.Contains(err.Error(), `C:\no\such\folder`) {
		t.Error(err)
	}
}
