package cri

import (
	"github.com/slipwayd/slipway/engine/pods"
	"github.com/slipwayd/slipway/internal/usage"
)

// nanos in a second.
const nanos = 1e9

var families = []family{
	used(counter, "container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", func(u *usage.Usage) uint64 { return u.CPU / nanos }),
	used(counter, "container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", func(u *usage.Usage) uint64 { return u.More.User / nanos }),
	used(counter, "container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", func(u *usage.Usage) uint64 { return u.More.System / nanos }),
	used(counter, "container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", func(u *usage.Usage) uint64 { return u.More.Periods }),
	used(counter, "container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", func(u *usage.Usage) uint64 { return u.More.Throttled }),
	used(counter, "container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", func(u *usage.Usage) uint64 { return u.More.ThrottledTime / nanos }),

	used(gauge, "container_memory_usage_bytes", "Current memory usage in bytes, with what the kernel could drop.", func(u *usage.Usage) uint64 { return u.Memory }),
	used(gauge, "container_memory_working_set_bytes", "Current working set in bytes.", func(u *usage.Usage) uint64 { return u.WorkingSet }),
	used(gauge, "container_memory_rss", "Size of RSS in bytes.", func(u *usage.Usage) uint64 { return u.RSS }),
	used(gauge, "container_memory_cache", "Number of bytes of page cache memory.", func(u *usage.Usage) uint64 { return u.More.Cache }),
	used(gauge, "container_memory_mapped_file", "Size of memory mapped files in bytes.", func(u *usage.Usage) uint64 { return u.More.MappedFile }),
	used(gauge, "container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", func(u *usage.Usage) uint64 { return u.More.Kernel }),
	used(gauge, "container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes.", func(u *usage.Usage) uint64 { return u.More.MaxMemory }),
	used(counter, "container_memory_failcnt", "Number of memory usage hits limits.", func(u *usage.Usage) uint64 { return u.More.MemoryFailures }),
	used(counter, "container_oom_events_total", "Count of out of memory events observed for the container.", func(u *usage.Usage) uint64 { return u.More.OOMEvents }),
	used(gauge, "container_spec_memory_limit_bytes", "Memory limit for the container; 0 for none.", func(u *usage.Usage) uint64 { return u.Limit }),
	used(gauge, "container_spec_memory_swap_limit_bytes", "Memory swap limit for the container; 0 for none.", func(u *usage.Usage) uint64 { return u.SwapLimit }),
	{name: "container_memory_swap", help: "Container swap usage in bytes.", kind: gauge, container: func(s pods.Stats) []value {
		if s.Use == nil || s.Use.Swap == nil {
			return nil
		}
		return []value{{n: *s.Use.Swap}}
	}},
	{name: "container_memory_failures_total", help: "Cumulative count of memory allocation failures.", kind: counter, labels: []string{"failure_type", "scope"},
		container: func(s pods.Stats) []value {
			if s.Use == nil {
				return nil
			}
			return []value{{s.Use.Faults, []string{"pgfault", "hierarchy"}}, {s.Use.Majors, []string{"pgmajfault", "hierarchy"}}}
		}},

	used(gauge, "container_processes", "Number of processes running inside the container.", func(u *usage.Usage) uint64 { return u.More.Processes }),
	used(gauge, "container_threads", "Number of threads running inside the container.", func(u *usage.Usage) uint64 { return u.Tasks }),
	used(gauge, "container_threads_max", "Maximum number of threads allowed inside the container; 0 for no limit.", func(u *usage.Usage) uint64 { return u.More.MaxTasks }),
	{name: "container_last_seen", help: "Last time a container was seen, in seconds since 1970.", kind: gauge, container: func(s pods.Stats) []value {
		if s.Use == nil {
			return nil
		}
		return []value{{n: uint64(s.Use.At.Unix())}}
	}},
	{name: "container_start_time_seconds", help: "Start time of the container in seconds since 1970.", kind: gauge, container: func(s pods.Stats) []value {
		if s.Container.Started.IsZero() {
			return nil
		}
		return []value{{n: uint64(s.Container.Started.Unix())}}
	}},
	{name: "container_spec_cpu_period", help: "CPU period of the container.", kind: gauge, container: func(s pods.Stats) []value {
		if r := s.Container.Resources; r != nil && r.CPUPeriod > 0 {
			return []value{{n: uint64(r.CPUPeriod)}}
		}
		return nil
	}},
	{name: "container_spec_cpu_quota", help: "CPU quota of the container.", kind: gauge, container: func(s pods.Stats) []value {
		if r := s.Container.Resources; r != nil && r.CPUQuota > 0 {
			return []value{{n: uint64(r.CPUQuota)}}
		}
		return nil
	}},
	{name: "container_spec_cpu_shares", help: "CPU share of the container.", kind: gauge, container: func(s pods.Stats) []value {
		if r := s.Container.Resources; r != nil && r.CPUShares > 0 {
			return []value{{n: uint64(r.CPUShares)}}
		}
		return nil
	}},

	pressed("container_pressure_cpu_waiting_seconds_total", "Total time duration tasks in the container have waited due to CPU congestion.", func(p *usage.Pressures) uint64 { return p.CPU.Some.Total }),
	pressed("container_pressure_cpu_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to CPU congestion.", func(p *usage.Pressures) uint64 { return p.CPU.Full.Total }),
	pressed("container_pressure_memory_waiting_seconds_total", "Total time duration tasks in the container have waited due to memory congestion.", func(p *usage.Pressures) uint64 { return p.Memory.Some.Total }),
	pressed("container_pressure_memory_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to memory congestion.", func(p *usage.Pressures) uint64 { return p.Memory.Full.Total }),
	pressed("container_pressure_io_waiting_seconds_total", "Total time duration tasks in the container have waited due to IO congestion.", func(p *usage.Pressures) uint64 { return p.IO.Some.Total }),
	pressed("container_pressure_io_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to IO congestion.", func(p *usage.Pressures) uint64 { return p.IO.Full.Total }),

	disk("container_fs_reads_bytes_total", "Cumulative count of bytes read.", func(d usage.Device) uint64 { return d.ReadBytes }),
	disk("container_fs_writes_bytes_total", "Cumulative count of bytes written.", func(d usage.Device) uint64 { return d.WriteBytes }),
	disk("container_fs_reads_total", "Cumulative count of reads completed.", func(d usage.Device) uint64 { return d.Reads }),
	disk("container_fs_writes_total", "Cumulative count of writes completed.", func(d usage.Device) uint64 { return d.Writes }),
	layer("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", func(u *pods.FilesystemUsage) int64 { return u.Bytes }),
	layer("container_fs_inodes_used", "Number of Inodes that are consumed by the container on this filesystem.", func(u *pods.FilesystemUsage) int64 { return u.Inodes }),

	traffic("container_network_receive_bytes_total", "Cumulative count of bytes received.", func(i pods.Interface) uint64 { return i.RxBytes }),
	traffic("container_network_receive_packets_total", "Cumulative count of packets received.", func(i pods.Interface) uint64 { return i.RxPackets }),
	traffic("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving.", func(i pods.Interface) uint64 { return i.RxDropped }),
	traffic("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving.", func(i pods.Interface) uint64 { return i.RxErrors }),
	traffic("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted.", func(i pods.Interface) uint64 { return i.TxBytes }),
	traffic("container_network_transmit_packets_total", "Cumulative count of packets transmitted.", func(i pods.Interface) uint64 { return i.TxPackets }),
	traffic("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting.", func(i pods.Interface) uint64 { return i.TxDropped }),
	traffic("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting.", func(i pods.Interface) uint64 { return i.TxErrors }),
}
