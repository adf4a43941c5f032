package nri

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/runtime-tools/generate"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// adjust changes a document as plugins want it. InvalidArgument for what this runtime cannot do.
func (c Config) adjust(doc *specs.Spec, a *api.ContainerAdjustment) error {
	if class := a.GetLinux().GetResources().GetRdtClass(); class != nil {
		return fmt.Errorf("there is no RDT class %.100q, and none can be configured; a plugin may set closid and schemata themselves: %w", class.GetValue(), errdefs.ErrInvalidArgument)
	}
	if err := checkCgroup(doc.Linux.CgroupsPath, a.GetLinux().GetCgroupsPath()); err != nil {
		return err
	}
	if doc.Linux.Resources == nil {
		doc.Linux.Resources = &specs.LinuxResources{}
	}
	if doc.Annotations == nil {
		doc.Annotations = map[string]string{}
	}
	// Of the library are the rules of what wins over what, and in which order.
	if err := generate.SpecGenerator(&document{doc}, generate.WithCDIDeviceInjector(c.InjectDevices), generate.WithBlockIOResolver(c.blockIO)).Adjust(a); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkCgroup refuses a cgroup that a container cannot have in place of its own: one of the other driver's, or one that its own is in, where
// others are too. That it is empty is seen to by the executor.
func checkCgroup(own, wanted string) error {
	systemd := !path.IsAbs(own)
	switch {
	case wanted == "" || own == "":
	case !systemd && (!path.IsAbs(wanted) || path.Clean(wanted) != wanted):
		return fmt.Errorf("cgroup %.300q is not an absolute path without detours: %w", wanted, errdefs.ErrInvalidArgument)
	case systemd && (strings.Count(wanted, ":") != 2 || strings.Contains(wanted, "/")):
		return fmt.Errorf("cgroup %.300q is not SLICE:PREFIX:NAME, as systemd needs it: %w", wanted, errdefs.ErrInvalidArgument)
	case strings.HasPrefix(own, strings.TrimSuffix(wanted, "/")+"/"):
		return fmt.Errorf("cgroup %.300q is not for one container: %w", wanted, errdefs.ErrInvalidArgument)
	}
	return nil
}

// document is a document that the library changes (generate.UnderlyingGenerator).
type document struct{ doc *specs.Spec }

func (d *document) Spec() *specs.Spec               { return d.doc }
func (d *document) AddAnnotation(key, value string) { d.doc.Annotations[key] = value }
func (d *document) RemoveAnnotation(key string)     { delete(d.doc.Annotations, key) }
func (d *document) SetProcessArgs(args []string)    { d.doc.Process.Args = args }
func (d *document) ClearProcessEnv()                { d.doc.Process.Env = nil }
func (d *document) AddProcessEnv(name, value string) {
	d.doc.Process.Env = append(d.doc.Process.Env, name+"="+value)
}
func (d *document) SetProcessOOMScoreAdj(adj int) { d.doc.Process.OOMScoreAdj = &adj }

func (d *document) hooks() *specs.Hooks {
	if d.doc.Hooks == nil {
		d.doc.Hooks = &specs.Hooks{}
	}
	return d.doc.Hooks
}

func (d *document) AddPreStartHook(h specs.Hook) {
	//lint:ignore SA1019 plugins may ask for it still
	d.hooks().Prestart = append(d.hooks().Prestart, h)
}
func (d *document) AddPostStartHook(h specs.Hook) {
	d.hooks().Poststart = append(d.hooks().Poststart, h)
}
func (d *document) AddPostStopHook(h specs.Hook) { d.hooks().Poststop = append(d.hooks().Poststop, h) }

func (d *document) Mounts() []specs.Mount    { return d.doc.Mounts }
func (d *document) ClearMounts()             { d.doc.Mounts = nil }
func (d *document) AddMount(mnt specs.Mount) { d.doc.Mounts = append(d.doc.Mounts, mnt) }
func (d *document) RemoveMount(dest string) {
	d.doc.Mounts = slices.DeleteFunc(slices.Clone(d.doc.Mounts), func(m specs.Mount) bool { return m.Destination == dest })
}

func (d *document) AddDevice(device specs.LinuxDevice) {
	d.RemoveDevice(device.Path)
	d.doc.Linux.Devices = append(d.doc.Linux.Devices, device)
}
func (d *document) RemoveDevice(path string) {
	d.doc.Linux.Devices = slices.DeleteFunc(slices.Clone(d.doc.Linux.Devices), func(v specs.LinuxDevice) bool { return v.Path == path })
}
func (d *document) AddLinuxResourcesDevice(allow bool, kind string, major, minor *int64, access string) {
	r := d.doc.Linux.Resources
	r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: major, Minor: minor, Access: access})
}

func (d *document) RemoveLinuxNamespace(kind string) error {
	d.doc.Linux.Namespaces = slices.DeleteFunc(slices.Clone(d.doc.Linux.Namespaces), func(n specs.LinuxNamespace) bool { return string(n.Type) == kind })
	return nil
}
func (d *document) AddOrReplaceLinuxNamespace(kind, path string) error {
	if err := d.RemoveLinuxNamespace(kind); err != nil {
		return err
	}
	d.doc.Linux.Namespaces = append(d.doc.Linux.Namespaces, specs.LinuxNamespace{Type: specs.LinuxNamespaceType(kind), Path: path})
	return nil
}

func (d *document) AddLinuxSysctl(key, value string) {
	if d.doc.Linux.Sysctl == nil {
		d.doc.Linux.Sysctl = map[string]string{}
	}
	d.doc.Linux.Sysctl[key] = value
}
func (d *document) RemoveLinuxSysctl(key string)    { delete(d.doc.Linux.Sysctl, key) }
func (d *document) SetLinuxCgroupsPath(path string) { d.doc.Linux.CgroupsPath = path }
func (d *document) SetLinuxRootPropagation(kind string) error {
	d.doc.Linux.RootfsPropagation = kind
	return nil
}

func (d *document) cpu() *specs.LinuxCPU {
	if d.doc.Linux.Resources.CPU == nil {
		d.doc.Linux.Resources.CPU = &specs.LinuxCPU{}
	}
	return d.doc.Linux.Resources.CPU
}

func (d *document) SetLinuxResourcesCPUCpus(cpus string)     { d.cpu().Cpus = cpus }
func (d *document) SetLinuxResourcesCPUMems(mems string)     { d.cpu().Mems = mems }
func (d *document) SetLinuxResourcesCPUPeriod(period uint64) { d.cpu().Period = &period }
func (d *document) SetLinuxResourcesCPUQuota(quota int64)    { d.cpu().Quota = &quota }
func (d *document) SetLinuxResourcesCPURealtimePeriod(period uint64) {
	d.cpu().RealtimePeriod = &period
}
func (d *document) SetLinuxResourcesCPURealtimeRuntime(time int64) { d.cpu().RealtimeRuntime = &time }
func (d *document) SetLinuxResourcesCPUShares(shares uint64)       { d.cpu().Shares = &shares }

func (d *document) memory() *specs.LinuxMemory {
	if d.doc.Linux.Resources.Memory == nil {
		d.doc.Linux.Resources.Memory = &specs.LinuxMemory{}
	}
	return d.doc.Linux.Resources.Memory
}

func (d *document) SetLinuxResourcesMemoryLimit(limit int64) { d.memory().Limit = &limit }

// SetLinuxResourcesMemorySwap is called with the limit on memory, so that nothing is swapped: where there is no swap nothing need be set, and
// often cannot.
func (d *document) SetLinuxResourcesMemorySwap(swap int64) {
	if d.memory().Swap != nil {
		d.memory().Swap = &swap
	}
}

func (d *document) AddLinuxResourcesHugepageLimit(size string, limit uint64) {
	r := d.doc.Linux.Resources
	r.HugepageLimits = slices.DeleteFunc(slices.Clone(r.HugepageLimits), func(l specs.LinuxHugepageLimit) bool { return l.Pagesize == size })
	r.HugepageLimits = append(r.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: size, Limit: limit})
}

func (d *document) AddLinuxResourcesUnified(key, value string) {
	r := d.doc.Linux.Resources
	if r.Unified == nil {
		r.Unified = map[string]string{}
	}
	r.Unified[key] = value
}
