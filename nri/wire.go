package nri

import (
	"maps"
	"slices"
	"time"

	"github.com/containerd/nri/pkg/api"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Maps are cloned: the library changes what it is given.

func podToWire(p Pod) *api.PodSandbox {
	w := &api.PodSandbox{
		Id: p.ID, Name: p.Name, Uid: p.UID, Namespace: p.Namespace, RuntimeHandler: p.Handler, Pid: p.Pid, Ips: p.IPs,
		Labels: maps.Clone(p.Labels), Annotations: maps.Clone(p.Annotations),
		Linux: &api.LinuxPodSandbox{
			CgroupParent: p.CgroupParent, PodOverhead: resourcesToWire(p.Overhead), PodResources: resourcesToWire(p.Resources),
		},
	}
	if p.NetNS != "" {
		w.Linux.Namespaces = []*api.LinuxNamespace{{Type: string(specs.NetworkNamespace), Path: p.NetNS}}
	}
	return w
}

func resourcesToWire(r *specs.LinuxResources) *api.LinuxResources {
	return api.FromOCILinuxResources(r, nil)
}

// containerToWire says of a container what its document says.
func containerToWire(c Container) *api.Container {
	w := &api.Container{
		Id: c.ID, PodSandboxId: c.PodID, Name: c.Name, State: api.ContainerState(c.State), Labels: maps.Clone(c.Labels),
		Annotations: maps.Clone(c.Annotations), Pid: c.Pid, CreatedAt: nano(c.Created), StartedAt: nano(c.Started), FinishedAt: nano(c.Finished),
		ExitCode: c.ExitCode, StatusReason: c.Reason, StatusMessage: c.Message,
		Image: &api.Image{Name: c.Image, Digest: c.ImageDigest, ConfigDigest: c.ImageID},
	}
	for _, name := range c.CDIDevices {
		w.CDIDevices = append(w.CDIDevices, &api.CDIDevice{Name: name})
	}
	doc := c.Document
	if doc == nil {
		return w
	}
	w.Mounts, w.Hooks = api.FromOCIMounts(doc.Mounts), api.FromOCIHooks(doc.Hooks)
	if p := doc.Process; p != nil {
		w.Args, w.Env = slices.Clone(p.Args), slices.Clone(p.Env)
		w.User = &api.User{Uid: p.User.UID, Gid: p.User.GID, AdditionalGids: p.User.AdditionalGids}
		for _, l := range p.Rlimits {
			w.Rlimits = append(w.Rlimits, &api.POSIXRlimit{Type: l.Type, Hard: l.Hard, Soft: l.Soft})
		}
	}
	if l := doc.Linux; l != nil {
		w.Linux = &api.LinuxContainer{
			Namespaces: api.FromOCILinuxNamespaces(l.Namespaces), Devices: api.FromOCILinuxDevices(l.Devices), Resources: resourcesToWire(l.Resources),
			CgroupsPath: l.CgroupsPath, Sysctl: maps.Clone(l.Sysctl),
			NetDevices: api.FromOCILinuxNetDevices(l.NetDevices),
		}
		if l.Seccomp != nil {
			w.Linux.SeccompPolicy = api.FromOCILinuxSeccomp(l.Seccomp)
		}
		if p := doc.Process; p != nil {
			w.Linux.OomScoreAdj = api.Int(p.OOMScoreAdj)
			w.Linux.IoPriority = api.FromOCILinuxIOPriority(p.IOPriority)
			w.Linux.Scheduler = api.FromOCILinuxScheduler(p.Scheduler)
		}
	}
	return w
}

// nano is 0 for what has not happened.
func nano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// updatesFromWire leaves out what says nothing.
func updatesFromWire(updates []*api.ContainerUpdate) []Update {
	var list []Update
	for _, u := range updates {
		if r := u.GetLinux().GetResources(); r != nil {
			list = append(list, Update{ContainerID: u.ContainerId, Resources: r.ToOCI(), IgnoreFailure: u.IgnoreFailure})
		}
	}
	return list
}
