package spec

import (
	"fmt"
	"maps"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Host is what this host can do, as far as documents depend on it. See ThisHost.
type Host struct {
	CgroupV2, Hugetlb, Swap, AppArmor, SELinux bool
	Capabilities                               []string // that the daemon has and may give
	KnownCapabilities                          []string // of the kernel
	LeastOOMScoreAdj                           int      // that the daemon may set: its own, without CAP_SYS_RESOURCE
}

// Linux answers the limits as runtime-spec has them. Limits on huge pages are left out where the kernel cannot set any;
// on swap too, which then there is none of.
func (r *Resources) Linux(h Host) (*specs.LinuxResources, error) {
	out := &specs.LinuxResources{}
	if r == nil {
		return out, nil
	}
	for name, v := range map[string]int64{"cpu_period": r.CPUPeriod, "cpu_shares": r.CPUShares, "memory_limit_in_bytes": r.Memory} {
		if v < 0 {
			return nil, fmt.Errorf("%s cannot be %d: %w", name, v, errdefs.ErrInvalidArgument)
		}
	}
	cpu := &specs.LinuxCPU{Cpus: r.CPUs, Mems: r.MemoryNodes}
	if r.CPUPeriod != 0 {
		period := uint64(r.CPUPeriod)
		cpu.Period = &period
	}
	if r.CPUQuota != 0 {
		cpu.Quota = &r.CPUQuota
	}
	if r.CPUShares != 0 {
		shares := uint64(r.CPUShares)
		cpu.Shares = &shares
	}
	if *cpu != (specs.LinuxCPU{}) {
		out.CPU = cpu
	}
	r.memory(out, h)
	if h.Hugetlb {
		for _, l := range r.Hugepages {
			out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: l.PageSize, Limit: l.Limit})
		}
	}
	if h.CgroupV2 {
		out.Unified = maps.Clone(r.Unified)
	} else if len(r.Unified) > 0 {
		return nil, fmt.Errorf("unified resources need cgroup v2, and this host has v1: %w", errdefs.ErrInvalidArgument)
	}
	return out, nil
}

// memory keeps a container with a limit from swapping unless it is told to.
func (r *Resources) memory(out *specs.LinuxResources, h Host) {
	if r.Memory == 0 && r.Swap == 0 {
		return
	}
	m := &specs.LinuxMemory{}
	if r.Memory != 0 {
		m.Limit = &r.Memory
	}
	switch {
	case !h.Swap:
	case r.Swap != 0:
		m.Swap = &r.Swap
	case r.Memory != 0:
		m.Swap = &r.Memory
	}
	if m.Limit != nil || m.Swap != nil {
		out.Memory = m
	}
}

// ResourcesOf answers the limits that a document has, as far as CRI has words for them. It is nil for nil.
func ResourcesOf(l *specs.LinuxResources) *Resources {
	if l == nil {
		return nil
	}
	r := &Resources{Unified: maps.Clone(l.Unified)}
	if c := l.CPU; c != nil {
		r.CPUPeriod, r.CPUQuota, r.CPUShares = int64(value(c.Period)), value(c.Quota), int64(value(c.Shares))
		r.CPUs, r.MemoryNodes = c.Cpus, c.Mems
	}
	if m := l.Memory; m != nil {
		r.Memory, r.Swap = value(m.Limit), value(m.Swap)
	}
	for _, h := range l.HugepageLimits {
		r.Hugepages = append(r.Hugepages, HugepageLimit{PageSize: h.Pagesize, Limit: h.Limit})
	}
	return r
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func (d *PodDocument) resources(s *specs.Spec) error {
	r, err := d.Container.Resources.Linux(d.Host)
	if err != nil {
		return err
	}
	r.Devices = s.Linux.Resources.Devices
	s.Linux.Resources = r
	if res := d.Container.Resources; res != nil {
		if res.OOMScoreAdj < -1000 || res.OOMScoreAdj > 1000 {
			return fmt.Errorf("oom_score_adj must be from -1000 to 1000, not %d: %w", res.OOMScoreAdj, errdefs.ErrInvalidArgument)
		}
		adj := max(int(res.OOMScoreAdj), d.Host.LeastOOMScoreAdj) // runtimes fail to start what they may not set
		s.Process.OOMScoreAdj = &adj
	}
	return nil
}

// Update answers r with what change sets.
func (r *Resources) Update(change *Resources) *Resources {
	next := Resources{}
	if r != nil {
		next = *r
	}
	if change == nil {
		return &next
	}
	for _, f := range []struct{ to, from *int64 }{
		{&next.CPUPeriod, &change.CPUPeriod}, {&next.CPUQuota, &change.CPUQuota}, {&next.CPUShares, &change.CPUShares},
		{&next.Memory, &change.Memory}, {&next.Swap, &change.Swap}, {&next.OOMScoreAdj, &change.OOMScoreAdj},
	} {
		if *f.from != 0 {
			*f.to = *f.from
		}
	}
	if change.CPUs != "" {
		next.CPUs = change.CPUs
	}
	if change.MemoryNodes != "" {
		next.MemoryNodes = change.MemoryNodes
	}
	if len(change.Hugepages) > 0 {
		next.Hugepages = change.Hugepages
	}
	if len(change.Unified) > 0 {
		merged := maps.Clone(next.Unified)
		if merged == nil {
			merged = map[string]string{}
		}
		maps.Copy(merged, change.Unified)
		next.Unified = merged
	}
	next.Windows = next.Windows.update(change.Windows)
	return &next
}
