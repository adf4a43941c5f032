package linux

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"

	"github.com/slipwayd/slipway/platform"
)

// Stats answers containerd's cgroup1 or cgroup2 Metrics message, whichever hierarchy the host has.
func (c *container) Stats(ctx context.Context) (platform.Stats, error) {
	cg, err := c.cgroups()
	if err != nil {
		return platform.Stats{}, err
	}
	s, err := cg.GetStats()
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("its cgroup is gone: %w", errdefs.ErrNotFound)
		}
		return platform.Stats{}, fmt.Errorf("cannot read what container %q uses: %w", c.name(), err)
	}
	if cgroups.IsCgroup2UnifiedMode() {
		return platform.Stats{Metrics: metricsV2(s, keyedFile(filepath.Join(cg.Path(""), "memory.events")))}, nil
	}
	return platform.Stats{Metrics: metricsV1(s, keyedFile(filepath.Join(cg.Path("memory"), "memory.oom_control")))}, nil
}

// keyedFile reads a flat keyed cgroup file ("key number" lines); one that is not there is empty.
func keyedFile(path string) map[string]uint64 {
	values := map[string]uint64{}
	data, err := os.ReadFile(path)
	if err != nil {
		return values
	}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		values[key], _ = strconv.ParseUint(value, 10, 64)
	}
	return values
}

func metricsV1(s *cgroups.Stats, oom map[string]uint64) *v1.Metrics {
	cpu := s.CpuStats
	m := &v1.Metrics{
		Pids: &v1.PidsStat{Current: s.PidsStats.Current, Limit: s.PidsStats.Limit},
		CPU: &v1.CPUStat{
			Usage: &v1.CPUUsage{
				Total: cpu.CpuUsage.TotalUsage, Kernel: cpu.CpuUsage.UsageInKernelmode,
				User: cpu.CpuUsage.UsageInUsermode, PerCPU: cpu.CpuUsage.PercpuUsage,
			},
			Throttling: &v1.Throttle{
				Periods: cpu.ThrottlingData.Periods, ThrottledPeriods: cpu.ThrottlingData.ThrottledPeriods,
				ThrottledTime: cpu.ThrottlingData.ThrottledTime,
			},
		},
		Memory: memoryV1(&s.MemoryStats),
		Blkio:  blkioV1(&s.BlkioStats),
		MemoryOomControl: &v1.MemoryOomControl{
			OomKillDisable: oom["oom_kill_disable"], UnderOom: oom["under_oom"], OomKill: oom["oom_kill"],
		},
	}
	for _, size := range slices.Sorted(maps.Keys(s.HugetlbStats)) {
		h := s.HugetlbStats[size]
		m.Hugetlb = append(m.Hugetlb, &v1.HugetlbStat{Pagesize: size, Usage: h.Usage, Max: h.MaxUsage, Failcnt: h.Failcnt})
	}
	if len(s.RdmaStats.RdmaCurrent)+len(s.RdmaStats.RdmaLimit) > 0 {
		m.Rdma = &v1.RdmaStat{Current: rdmaV1(s.RdmaStats.RdmaCurrent), Limit: rdmaV1(s.RdmaStats.RdmaLimit)}
	}
	return m
}

func memoryV1(s *cgroups.MemoryStats) *v1.MemoryStat {
	entry := func(d cgroups.MemoryData) *v1.MemoryEntry {
		return &v1.MemoryEntry{Limit: d.Limit, Usage: d.Usage, Max: d.MaxUsage, Failcnt: d.Failcnt}
	}
	k := s.Stats
	return &v1.MemoryStat{
		Cache: k["cache"], RSS: k["rss"], RSSHuge: k["rss_huge"], MappedFile: k["mapped_file"],
		Dirty: k["dirty"], Writeback: k["writeback"], PgPgIn: k["pgpgin"], PgPgOut: k["pgpgout"],
		PgFault: k["pgfault"], PgMajFault: k["pgmajfault"], InactiveAnon: k["inactive_anon"], ActiveAnon: k["active_anon"],
		InactiveFile: k["inactive_file"], ActiveFile: k["active_file"], Unevictable: k["unevictable"],
		HierarchicalMemoryLimit: k["hierarchical_memory_limit"], HierarchicalSwapLimit: k["hierarchical_memsw_limit"],
		TotalCache: k["total_cache"], TotalRSS: k["total_rss"], TotalRSSHuge: k["total_rss_huge"],
		TotalMappedFile: k["total_mapped_file"], TotalDirty: k["total_dirty"], TotalWriteback: k["total_writeback"],
		TotalPgPgIn: k["total_pgpgin"], TotalPgPgOut: k["total_pgpgout"], TotalPgFault: k["total_pgfault"],
		TotalPgMajFault: k["total_pgmajfault"], TotalInactiveAnon: k["total_inactive_anon"], TotalActiveAnon: k["total_active_anon"],
		TotalInactiveFile: k["total_inactive_file"], TotalActiveFile: k["total_active_file"], TotalUnevictable: k["total_unevictable"],
		Usage: entry(s.Usage), Swap: entry(s.SwapUsage), Kernel: entry(s.KernelUsage), KernelTCP: entry(s.KernelTCPUsage),
	}
}

func blkioV1(s *cgroups.BlkioStats) *v1.BlkIOStat {
	entries := func(from []cgroups.BlkioStatEntry) []*v1.BlkIOEntry {
		var to []*v1.BlkIOEntry
		for _, e := range from {
			to = append(to, &v1.BlkIOEntry{Op: e.Op, Major: e.Major, Minor: e.Minor, Value: e.Value})
		}
		return to
	}
	return &v1.BlkIOStat{
		IoServiceBytesRecursive: entries(s.IoServiceBytesRecursive),
		IoServicedRecursive:     entries(s.IoServicedRecursive),
		IoQueuedRecursive:       entries(s.IoQueuedRecursive),
		IoServiceTimeRecursive:  entries(s.IoServiceTimeRecursive),
		IoWaitTimeRecursive:     entries(s.IoWaitTimeRecursive),
		IoMergedRecursive:       entries(s.IoMergedRecursive),
		IoTimeRecursive:         entries(s.IoTimeRecursive),
		SectorsRecursive:        entries(s.SectorsRecursive),
	}
}

func rdmaV1(from []cgroups.RdmaEntry) []*v1.RdmaEntry {
	var to []*v1.RdmaEntry
	for _, e := range from {
		to = append(to, &v1.RdmaEntry{Device: e.Device, HcaHandles: e.HcaHandles, HcaObjects: e.HcaObjects})
	}
	return to
}

func metricsV2(s *cgroups.Stats, events map[string]uint64) *v2.Metrics {
	cpu := s.CpuStats
	m := &v2.Metrics{
		Pids: &v2.PidsStat{Current: s.PidsStats.Current, Limit: s.PidsStats.Limit},
		CPU: &v2.CPUStat{
			UsageUsec: cpu.CpuUsage.TotalUsage / 1000, UserUsec: cpu.CpuUsage.UsageInUsermode / 1000,
			SystemUsec: cpu.CpuUsage.UsageInKernelmode / 1000, NrPeriods: cpu.ThrottlingData.Periods,
			NrThrottled: cpu.ThrottlingData.ThrottledPeriods, ThrottledUsec: cpu.ThrottlingData.ThrottledTime / 1000,
			NrBursts: cpu.BurstData.BurstsPeriods, BurstUsec: cpu.BurstData.BurstTime / 1000, PSI: psiV2(cpu.PSI),
		},
		Memory: memoryV2(&s.MemoryStats),
		Io:     ioV2(&s.BlkioStats),
		MemoryEvents: &v2.MemoryEvents{
			Low: events["low"], High: events["high"], Max: events["max"],
			Oom: events["oom"], OomKill: events["oom_kill"], OomGroupKill: events["oom_group_kill"],
		},
	}
	for _, size := range slices.Sorted(maps.Keys(s.HugetlbStats)) {
		h := s.HugetlbStats[size]
		m.Hugetlb = append(m.Hugetlb, &v2.HugeTlbStat{Pagesize: size, Current: h.Usage, Max: h.MaxUsage, Failcnt: h.Failcnt})
	}
	if len(s.RdmaStats.RdmaCurrent)+len(s.RdmaStats.RdmaLimit) > 0 {
		m.Rdma = &v2.RdmaStat{Current: rdmaV2(s.RdmaStats.RdmaCurrent), Limit: rdmaV2(s.RdmaStats.RdmaLimit)}
	}
	return m
}

// memoryV2 takes swap alone, as the kernel counts it here, where libcontainer adds memory and swap up.
func memoryV2(s *cgroups.MemoryStats) *v2.MemoryStat {
	k := s.Stats
	return &v2.MemoryStat{
		Anon: k["anon"], File: k["file"], KernelStack: k["kernel_stack"], Slab: k["slab"], Sock: k["sock"], Shmem: k["shmem"],
		FileMapped: k["file_mapped"], FileDirty: k["file_dirty"], FileWriteback: k["file_writeback"], AnonThp: k["anon_thp"],
		InactiveAnon: k["inactive_anon"], ActiveAnon: k["active_anon"], InactiveFile: k["inactive_file"], ActiveFile: k["active_file"],
		Unevictable: k["unevictable"], SlabReclaimable: k["slab_reclaimable"], SlabUnreclaimable: k["slab_unreclaimable"],
		Pgfault: k["pgfault"], Pgmajfault: k["pgmajfault"],
		WorkingsetRefault:     k["workingset_refault_anon"] + k["workingset_refault_file"],
		WorkingsetActivate:    k["workingset_activate_anon"] + k["workingset_activate_file"],
		WorkingsetNodereclaim: k["workingset_nodereclaim"],
		Pgrefill:              k["pgrefill"], Pgscan: k["pgscan"], Pgsteal: k["pgsteal"], Pgactivate: k["pgactivate"],
		Pgdeactivate: k["pgdeactivate"], Pglazyfree: k["pglazyfree"], Pglazyfreed: k["pglazyfreed"],
		ThpFaultAlloc: k["thp_fault_alloc"], ThpCollapseAlloc: k["thp_collapse_alloc"],
		Usage: s.Usage.Usage, UsageLimit: s.Usage.Limit, MaxUsage: s.Usage.MaxUsage,
		SwapUsage: s.SwapOnlyUsage.Usage, SwapLimit: s.SwapOnlyUsage.Limit, SwapMaxUsage: s.SwapOnlyUsage.MaxUsage,
		PSI: psiV2(s.PSI),
	}
}

func psiV2(s *cgroups.PSIStats) *v2.PSIStats {
	if s == nil {
		return nil
	}
	data := func(d cgroups.PSIData) *v2.PSIData {
		return &v2.PSIData{Avg10: d.Avg10, Avg60: d.Avg60, Avg300: d.Avg300, Total: d.Total}
	}
	return &v2.PSIStats{Some: data(s.Some), Full: data(s.Full)}
}

// ioV2 gathers libcontainer's entries, one for each operation, by device again.
func ioV2(s *cgroups.BlkioStats) *v2.IOStat {
	type device struct{ major, minor uint64 }
	devices := map[device]*v2.IOEntry{}
	out := &v2.IOStat{PSI: psiV2(s.PSI)}
	entry := func(e cgroups.BlkioStatEntry) *v2.IOEntry {
		d := device{e.Major, e.Minor}
		if devices[d] == nil {
			devices[d] = &v2.IOEntry{Major: e.Major, Minor: e.Minor}
			out.Usage = append(out.Usage, devices[d])
		}
		return devices[d]
	}
	for _, e := range s.IoServiceBytesRecursive {
		switch e.Op {
		case "Read":
			entry(e).Rbytes = e.Value
		case "Write":
			entry(e).Wbytes = e.Value
		}
	}
	for _, e := range s.IoServicedRecursive {
		switch e.Op {
		case "Read":
			entry(e).Rios = e.Value
		case "Write":
			entry(e).Wios = e.Value
		}
	}
	return out
}

func rdmaV2(from []cgroups.RdmaEntry) []*v2.RdmaEntry {
	var to []*v2.RdmaEntry
	for _, e := range from {
		to = append(to, &v2.RdmaEntry{Device: e.Device, HcaHandles: e.HcaHandles, HcaObjects: e.HcaObjects})
	}
	return to
}
