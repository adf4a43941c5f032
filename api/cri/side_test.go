package cri

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/spec"
)

func podOf(l *runtime.LinuxPodSandboxConfig, w *runtime.WindowsPodSandboxConfig) *runtime.PodSandboxConfig {
	return &runtime.PodSandboxConfig{Metadata: &runtime.PodSandboxMetadata{Name: "p", Uid: "u", Namespace: "n"}, Linux: l, Windows: w}
}

func containerOf(l *runtime.LinuxContainerConfig, w *runtime.WindowsContainerConfig) *runtime.ContainerConfig {
	return &runtime.ContainerConfig{Metadata: &runtime.ContainerMetadata{Name: "c"}, Linux: l, Windows: w}
}

// What is for the other system is refused by its name; sections that say nothing pass, as clients send them.
func TestOtherSystem(t *testing.T) {
	for name, c := range map[string]struct {
		side      side
		pod       *runtime.PodSandboxConfig
		container *runtime.ContainerConfig
		update    *runtime.UpdateContainerResourcesRequest
		updatePod *runtime.UpdatePodSandboxResourcesRequest
		field     string // "" when it passes
	}{
		"empty sections of Windows": {
			side: linuxSide{}, pod: podOf(nil, &runtime.WindowsPodSandboxConfig{SecurityContext: &runtime.WindowsSandboxSecurityContext{}}),
			container: containerOf(nil, &runtime.WindowsContainerConfig{Resources: &runtime.WindowsContainerResources{}}),
			update:    &runtime.UpdateContainerResourcesRequest{Windows: &runtime.WindowsContainerResources{}},
		},
		"pod of host processes on Linux": {
			side: linuxSide{}, pod: podOf(nil, &runtime.WindowsPodSandboxConfig{SecurityContext: &runtime.WindowsSandboxSecurityContext{HostProcess: true}}),
			field: "windows.security_context.host_process",
		},
		"limit of Windows on Linux": {
			side: linuxSide{}, container: containerOf(nil, &runtime.WindowsContainerConfig{Resources: &runtime.WindowsContainerResources{MemoryLimitInBytes: 1 << 20}}),
			field: "windows.resources.memory_limit_in_bytes",
		},
		"user of Windows on Linux": {
			side: linuxSide{}, container: containerOf(nil, &runtime.WindowsContainerConfig{SecurityContext: &runtime.WindowsContainerSecurityContext{RunAsUsername: "x"}}),
			field: "windows.security_context.run_as_username",
		},
		"update for Windows on Linux": {
			side: linuxSide{}, update: &runtime.UpdateContainerResourcesRequest{Windows: &runtime.WindowsContainerResources{AffinityCpus: []*runtime.WindowsCpuGroupAffinity{{CpuMask: 1}}}},
			field: "windows.affinity_cpus",
		},
		"what critest sends everywhere": {
			side: windowsSide{}, pod: podOf(&runtime.LinuxPodSandboxConfig{CgroupParent: "/x", SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{}}}, nil),
			container: containerOf(&runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{NamespaceOptions: &runtime.NamespaceOption{}}}, nil),
			update:    &runtime.UpdateContainerResourcesRequest{Linux: &runtime.LinuxContainerResources{}},
			updatePod: &runtime.UpdatePodSandboxResourcesRequest{Resources: &runtime.LinuxContainerResources{}},
		},
		"what kubelet sends for pods of Windows": {
			side: windowsSide{}, pod: podOf(&runtime.LinuxPodSandboxConfig{
				CgroupParent: "kubepods", Sysctls: map[string]string{},
				SecurityContext: &runtime.LinuxSandboxSecurityContext{
					Privileged: true, Seccomp: &runtime.SecurityProfile{}, NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER}, SupplementalGroups: []int64{1},
				},
			}, &runtime.WindowsPodSandboxConfig{SecurityContext: &runtime.WindowsSandboxSecurityContext{}}),
		},
		"limit of Linux on Windows": {
			side: windowsSide{}, container: containerOf(&runtime.LinuxContainerConfig{Resources: &runtime.LinuxContainerResources{CpuShares: 2}}, nil),
			field: "linux.resources.cpu_shares",
		},
		"capabilities on Windows": {
			side: windowsSide{}, container: containerOf(&runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{
				Capabilities: &runtime.Capability{DropCapabilities: []string{"ALL"}}, ReadonlyRootfs: true,
			}}, nil),
			field: "linux.security_context.capabilities.drop_capabilities",
		},
		"user 0 of Linux on Windows": { // a message that is there, though its value is the zero one
			side: windowsSide{}, container: containerOf(&runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{RunAsUser: &runtime.Int64Value{}}}, nil),
			field: "linux.security_context.run_as_user",
		},
		"update for Linux on Windows": {
			side: windowsSide{}, update: &runtime.UpdateContainerResourcesRequest{Linux: &runtime.LinuxContainerResources{CpusetCpus: "0"}},
			field: "linux.cpuset_cpus",
		},
		"resources of a pod on Windows": {
			side: windowsSide{}, updatePod: &runtime.UpdatePodSandboxResourcesRequest{Overhead: &runtime.LinuxContainerResources{MemoryLimitInBytes: 1}},
			field: "overhead.memory_limit_in_bytes",
		},
	} {
		t.Run(name, func(t *testing.T) {
			for what, err := range translated(c.side, c.pod, c.container, c.update, c.updatePod) {
				switch {
				case c.field == "" && err != nil:
					t.Errorf("%s: %v", what, err)
				case c.field != "" && (!errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), c.field+" is ")):
					t.Errorf("%s: %v, want %s refused", what, err, c.field)
				}
			}
		})
	}
}

// translated says what became of each message that is there.
func translated(s side, p *runtime.PodSandboxConfig, c *runtime.ContainerConfig, u *runtime.UpdateContainerResourcesRequest, up *runtime.UpdatePodSandboxResourcesRequest) map[string]error {
	all := map[string]error{}
	if p != nil {
		_, all["pod"] = podFromWire(p, "", s)
	}
	if c != nil {
		_, all["container"] = containerFromWire(c, s)
	}
	if u != nil {
		_, all["update"] = s.update(u)
	}
	if up != nil {
		_, _, all["update of the pod"] = s.updatePod(up)
	}
	return all
}

func TestBothSystems(t *testing.T) {
	for name, s := range map[string]side{"linux": linuxSide{}, "windows": windowsSide{}} {
		p, err := podFromWire(podOf(nil, nil), "class", s)
		if err != nil || p.Name != "p" || p.Handler != "class" || p.Security.Namespaces != (spec.Namespaces{}) {
			t.Errorf("%s: pod %+v, %v", name, p, err)
		}
		c, err := containerFromWire(containerOf(nil, nil), s)
		if err != nil || c.Name != "c" || c.Resources != nil {
			t.Errorf("%s: container %+v, %v", name, c, err)
		}
		if r := s.resources(nil); r == nil || r.Linux != nil || r.Windows != nil {
			t.Errorf("%s: resources of none are %v", name, r)
		}
		for what, from := range map[string]error{"pod": second(podFromWire(nil, "", s)), "container": second(containerFromWire(nil, s))} {
			if !errdefs.IsInvalidArgument(from) {
				t.Errorf("%s: a %s without metadata: %v", name, what, from)
			}
		}
	}
}

func second[T any](_ T, err error) error { return err }
