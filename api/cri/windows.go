package cri

import (
	"cmp"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/engine/pods"
	"github.com/slipwayd/slipway/internal/usage"
	"github.com/slipwayd/slipway/spec"
)

// windowsSide is CRI on Windows.
type windowsSide struct{}

const onWindows = "Windows"

// pod takes of the section "linux" only which network the pod has, and ignores the rest: kubelet fills it in on Windows too (cgroups, seccomp, groups).
// It makes a pod anew for ever whose status tells another network than it asked for there.
func (windowsSide) pod(c *runtime.PodSandboxConfig, p *spec.Pod) error {
	sec := c.GetWindows().GetSecurityContext()
	if sec != nil {
		p.Security.Windows = &spec.WindowsSecurity{Username: sec.RunAsUsername, CredentialSpec: sec.CredentialSpec, HostProcess: sec.HostProcess}
	}
	network := cmp.Or(sec.GetNamespaceOptions().GetNetwork(), c.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork())
	p.Security.Namespaces.Network = spec.Mode(network)
	return nil
}

func (windowsSide) container(c *runtime.ContainerConfig, to *spec.PodContainer) error {
	if err := refuse("linux", c.Linux, onWindows); err != nil {
		return err
	}
	to.Resources = windowsResourcesFromWire(c.GetWindows().GetResources())
	if sec := c.GetWindows().GetSecurityContext(); sec != nil {
		to.Security.Windows = &spec.WindowsSecurity{Username: sec.RunAsUsername, CredentialSpec: sec.CredentialSpec, HostProcess: sec.HostProcess}
	}
	return nil
}

func (windowsSide) update(r *runtime.UpdateContainerResourcesRequest) (*spec.Resources, error) {
	return windowsResourcesFromWire(r.Windows), refuse("linux", r.Linux, onWindows)
}

// updatePod has nothing to say: CRI has no resources of pods of Windows, and kubelet never calls it there.
func (windowsSide) updatePod(r *runtime.UpdatePodSandboxResourcesRequest) (overhead, resources *spec.Resources, err error) {
	if err := refuse("overhead", r.Overhead, onWindows); err != nil {
		return nil, nil, err
	}
	return nil, nil, refuse("resources", r.Resources, onWindows)
}

func windowsResourcesFromWire(r *runtime.WindowsContainerResources) *spec.Resources {
	if r == nil {
		return nil
	}
	w := &spec.WindowsResources{
		CPUShares: r.CpuShares, CPUCount: r.CpuCount, CPUMaximum: r.CpuMaximum, Memory: r.MemoryLimitInBytes, RootfsSize: r.RootfsSizeInBytes,
	}
	for _, a := range r.AffinityCpus {
		w.Affinity = append(w.Affinity, spec.CPUAffinity{Mask: a.GetCpuMask(), Group: a.GetCpuGroup()})
	}
	return &spec.Resources{Windows: w}
}

func (windowsSide) resources(r *spec.Resources) *runtime.ContainerResources {
	if r == nil || r.Windows == nil {
		return &runtime.ContainerResources{}
	}
	w := r.Windows
	out := &runtime.WindowsContainerResources{
		CpuShares: w.CPUShares, CpuCount: w.CPUCount, CpuMaximum: w.CPUMaximum, MemoryLimitInBytes: w.Memory, RootfsSizeInBytes: w.RootfsSize,
	}
	for _, a := range w.Affinity {
		out.AffinityCpus = append(out.AffinityCpus, &runtime.WindowsCpuGroupAffinity{CpuMask: a.Mask, CpuGroup: a.Group})
	}
	return &runtime.ContainerResources{Windows: out}
}

// user is nil: CRI has no word yet for users of Windows.
func (windowsSide) user(pods.Container) *runtime.ContainerUser { return nil }

func (windowsSide) stats(st pods.PodStats, out *runtime.PodSandboxStats) {
	w := &runtime.WindowsPodSandboxStats{
		Cpu: windowsCPU(st.Use, st.NanoCores), Memory: windowsMemory(st.Use), Network: windowsNetwork(st.At.UnixNano(), st.Network),
		Process: &runtime.WindowsProcessUsage{Timestamp: st.At.UnixNano(), ProcessCount: count(tasks(st))},
	}
	for _, c := range st.Containers {
		one := &runtime.WindowsContainerStats{Attributes: containerAttributes(c.Container), Cpu: windowsCPU(c.Use, c.NanoCores), Memory: windowsMemory(c.Use)}
		if l := c.Layer; l != nil {
			one.WritableLayer = &runtime.WindowsFilesystemUsage{
				Timestamp: l.At.UnixNano(), FsId: &runtime.FilesystemIdentifier{Mountpoint: l.Path}, UsedBytes: count(uint64(l.Bytes)),
			}
		}
		w.Containers = append(w.Containers, one)
	}
	out.Windows = w
}

func windowsCPU(u *usage.Usage, cores *uint64) *runtime.WindowsCpuUsage {
	if u == nil {
		return nil
	}
	out := &runtime.WindowsCpuUsage{Timestamp: u.At.UnixNano(), UsageCoreNanoSeconds: count(u.CPU)}
	if cores != nil {
		out.UsageNanoCores = count(*cores)
	}
	return out
}

// windowsMemory: what is available counts from what is committed, which is what the limit bounds.
func windowsMemory(u *usage.Usage) *runtime.WindowsMemoryUsage {
	if u == nil {
		return nil
	}
	out := &runtime.WindowsMemoryUsage{Timestamp: u.At.UnixNano(), WorkingSetBytes: count(u.WorkingSet), CommitMemoryBytes: count(u.Commit)}
	if u.Limit > 0 {
		out.AvailableBytes = count(u.Limit - min(u.Limit, u.Commit))
	}
	return out
}

// windowsNetwork takes the first for the default interface: endpoints have no names that say so.
func windowsNetwork(at int64, all []pods.Interface) *runtime.WindowsNetworkUsage {
	if len(all) == 0 {
		return nil
	}
	out := &runtime.WindowsNetworkUsage{Timestamp: at}
	for n, i := range all {
		one := &runtime.WindowsNetworkInterfaceUsage{
			Name: i.Name, RxBytes: count(i.RxBytes), RxPacketsDropped: count(i.RxDropped), TxBytes: count(i.TxBytes), TxPacketsDropped: count(i.TxDropped),
		}
		if n == 0 {
			out.DefaultInterface = one
		} else {
			out.Interfaces = append(out.Interfaces, one)
		}
	}
	return out
}

func (windowsSide) features() (*runtime.RuntimeFeatures, *runtime.RuntimeHandlerFeatures) {
	return &runtime.RuntimeFeatures{}, &runtime.RuntimeHandlerFeatures{}
}

// config is empty: there are no cgroups.
func (windowsSide) config(pods.Config) *runtime.RuntimeConfigResponse {
	return &runtime.RuntimeConfigResponse{}
}
