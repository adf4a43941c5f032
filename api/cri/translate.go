package cri

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/spec"
)

func podFromWire(c *runtime.PodSandboxConfig, handler string, s side) (*spec.Pod, error) {
	if c.GetMetadata() == nil {
		return nil, fmt.Errorf("the pod has no metadata: %w", errdefs.ErrInvalidArgument)
	}
	p := &spec.Pod{
		Name: c.Metadata.Name, UID: c.Metadata.Uid, Namespace: c.Metadata.Namespace, Attempt: c.Metadata.Attempt, Handler: handler,
		Hostname: c.Hostname, LogDirectory: c.LogDirectory, Labels: c.Labels, Annotations: c.Annotations,
	}
	if d := c.DnsConfig; d != nil {
		p.DNS = &spec.DNS{Servers: d.Servers, Searches: d.Searches, Options: d.Options}
	}
	for _, m := range c.PortMappings {
		p.Ports = append(p.Ports, spec.PortMapping{
			Protocol: strings.ToLower(m.Protocol.String()), ContainerPort: m.ContainerPort, HostPort: m.HostPort, HostIP: m.HostIp,
		})
	}
	return p, s.pod(c, p)
}

func idFromWire(v *runtime.Int64Value) *int64 {
	if v == nil {
		return nil
	}
	n := v.Value
	return &n
}

func namespacesFromWire(o *runtime.NamespaceOption) spec.Namespaces {
	n := spec.Namespaces{
		Network: spec.Mode(o.GetNetwork()), PID: spec.Mode(o.GetPid()), IPC: spec.Mode(o.GetIpc()), Target: o.GetTargetId(),
	}
	if u := o.GetUsernsOptions(); u != nil {
		n.User = &spec.UserNamespace{Mode: spec.Mode(u.Mode), UIDs: mapsFromWire(u.Uids), GIDs: mapsFromWire(u.Gids)}
	}
	return n
}

func namespacesToWire(n spec.Namespaces) *runtime.NamespaceOption {
	o := &runtime.NamespaceOption{
		Network: runtime.NamespaceMode(n.Network), Pid: runtime.NamespaceMode(n.PID), Ipc: runtime.NamespaceMode(n.IPC), TargetId: n.Target,
	}
	if u := n.User; u != nil {
		o.UsernsOptions = &runtime.UserNamespace{Mode: runtime.NamespaceMode(u.Mode), Uids: mapsToWire(u.UIDs), Gids: mapsToWire(u.GIDs)}
	}
	return o
}

func mapsFromWire(maps []*runtime.IDMapping) []spec.IDMap {
	var list []spec.IDMap
	for _, m := range maps {
		list = append(list, spec.IDMap{Container: m.GetContainerId(), Host: m.GetHostId(), Size: m.GetLength()})
	}
	return list
}

func mapsToWire(maps []spec.IDMap) []*runtime.IDMapping {
	var list []*runtime.IDMapping
	for _, m := range maps {
		list = append(list, &runtime.IDMapping{ContainerId: m.Container, HostId: m.Host, Length: m.Size})
	}
	return list
}

func selinuxFromWire(o *runtime.SELinuxOption) *spec.SELinux {
	if o == nil {
		return nil
	}
	return &spec.SELinux{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

func profileFromWire(p *runtime.SecurityProfile) *spec.Profile {
	if p == nil {
		return nil
	}
	return &spec.Profile{Kind: spec.ProfileKind(p.ProfileType), Ref: p.LocalhostRef}
}

// namedProfile reads what clients sent before there was SecurityProfile: runtime/default, unconfined, localhost/NAME.
func namedProfile(name string) (*spec.Profile, error) {
	ref, local := strings.CutPrefix(name, "localhost/")
	switch {
	case name == "":
		return nil, nil
	case name == "runtime/default", name == "docker/default":
		return &spec.Profile{Kind: spec.ProfileDefault}, nil
	case name == "unconfined":
		return &spec.Profile{Kind: spec.ProfileUnconfined}, nil
	case local:
		return &spec.Profile{Kind: spec.ProfileLocalhost, Ref: ref}, nil
	}
	return nil, fmt.Errorf("security profile %.100q is not runtime/default, unconfined or localhost/NAME: %w", name, errdefs.ErrInvalidArgument)
}

func resourcesFromWire(r *runtime.LinuxContainerResources) *spec.Resources {
	if r == nil {
		return nil
	}
	out := &spec.Resources{
		CPUPeriod: r.CpuPeriod, CPUQuota: r.CpuQuota, CPUShares: r.CpuShares, Memory: r.MemoryLimitInBytes, Swap: r.MemorySwapLimitInBytes,
		OOMScoreAdj: r.OomScoreAdj, CPUs: r.CpusetCpus, MemoryNodes: r.CpusetMems, Unified: r.Unified,
	}
	for _, h := range r.HugepageLimits {
		out.Hugepages = append(out.Hugepages, spec.HugepageLimit{PageSize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	return out
}

func resourcesToWire(r *spec.Resources) *runtime.LinuxContainerResources {
	if r == nil {
		return nil
	}
	out := &runtime.LinuxContainerResources{
		CpuPeriod: r.CPUPeriod, CpuQuota: r.CPUQuota, CpuShares: r.CPUShares, MemoryLimitInBytes: r.Memory, MemorySwapLimitInBytes: r.Swap,
		OomScoreAdj: r.OOMScoreAdj, CpusetCpus: r.CPUs, CpusetMems: r.MemoryNodes, Unified: r.Unified,
	}
	for _, h := range r.Hugepages {
		out.HugepageLimits = append(out.HugepageLimits, &runtime.HugepageLimit{PageSize: h.PageSize, Limit: h.Limit})
	}
	return out
}
