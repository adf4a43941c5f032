package cri

import (
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/engine/pods"
	"github.com/slipwayd/slipway/spec"
)

// linuxSide is CRI on Linux.
type linuxSide struct{}

const onLinux = "Linux"

func (linuxSide) pod(c *runtime.PodSandboxConfig, p *spec.Pod) error {
	if err := refuse("windows", c.Windows, onLinux); err != nil {
		return err
	}
	l := c.GetLinux()
	p.CgroupParent, p.Sysctls = l.GetCgroupParent(), l.GetSysctls()
	p.Overhead, p.Resources = resourcesFromWire(l.GetOverhead()), resourcesFromWire(l.GetResources())
	sec := l.GetSecurityContext()
	p.Security = spec.PodSecurity{
		Namespaces: namespacesFromWire(sec.GetNamespaceOptions()), Privileged: sec.GetPrivileged(),
		SELinux: selinuxFromWire(sec.GetSelinuxOptions()), Seccomp: profileFromWire(sec.GetSeccomp()), AppArmor: profileFromWire(sec.GetApparmor()),
		User: idFromWire(sec.GetRunAsUser()), Group: idFromWire(sec.GetRunAsGroup()), Groups: sec.GetSupplementalGroups(),
		StrictGroups:   sec.GetSupplementalGroupsPolicy() == runtime.SupplementalGroupsPolicy_Strict,
		ReadonlyRootfs: sec.GetReadonlyRootfs(),
	}
	return nil
}

func (linuxSide) container(c *runtime.ContainerConfig, to *spec.PodContainer) (err error) {
	if err := refuse("windows", c.Windows, onLinux); err != nil {
		return err
	}
	to.Resources = resourcesFromWire(c.GetLinux().GetResources())
	to.Security, err = securityFromWire(c.GetLinux().GetSecurityContext())
	return err
}

func (linuxSide) update(r *runtime.UpdateContainerResourcesRequest) (*spec.Resources, error) {
	return resourcesFromWire(r.Linux), refuse("windows", r.Windows, onLinux)
}

func (linuxSide) updatePod(r *runtime.UpdatePodSandboxResourcesRequest) (overhead, resources *spec.Resources, err error) {
	return resourcesFromWire(r.Overhead), resourcesFromWire(r.Resources), nil
}

func (linuxSide) resources(r *spec.Resources) *runtime.ContainerResources {
	return &runtime.ContainerResources{Linux: resourcesToWire(r)}
}

func (linuxSide) user(c pods.Container) *runtime.ContainerUser {
	u := &runtime.LinuxContainerUser{Uid: int64(c.UID), Gid: int64(c.GID)}
	for _, g := range c.Groups {
		u.SupplementalGroups = append(u.SupplementalGroups, int64(g))
	}
	return &runtime.ContainerUser{Linux: u}
}

func (linuxSide) stats(st pods.PodStats, out *runtime.PodSandboxStats) {
	linux := &runtime.LinuxPodSandboxStats{
		Cpu: cpuUsage(st.Use, st.NanoCores), Memory: memoryUsage(st.Use), Io: ioUsage(st.Use), Network: networkUsage(st.At.UnixNano(), st.Network),
		Process: &runtime.ProcessUsage{Timestamp: st.At.UnixNano(), ProcessCount: count(tasks(st))},
	}
	for _, c := range st.Containers {
		linux.Containers = append(linux.Containers, containerStats(c))
	}
	out.Linux = linux
}

func (linuxSide) features() (*runtime.RuntimeFeatures, *runtime.RuntimeHandlerFeatures) {
	return &runtime.RuntimeFeatures{SupplementalGroupsPolicy: true, UserNamespacesHostNetwork: true, MountOptions: true},
		&runtime.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: true, UserNamespaces: true}
}

// config tells kubelet how cgroups are made, which its own must match.
func (linuxSide) config(c pods.Config) *runtime.RuntimeConfigResponse {
	driver := runtime.CgroupDriver_CGROUPFS
	if c.SystemdCgroup {
		driver = runtime.CgroupDriver_SYSTEMD
	}
	return &runtime.RuntimeConfigResponse{Linux: &runtime.LinuxRuntimeConfiguration{CgroupDriver: driver}}
}
