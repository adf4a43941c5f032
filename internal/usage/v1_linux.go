package usage

import "bytes"

// noLimit is from where on a limit of version 1 is none: the kernel's largest number of pages, in bytes.
const noLimit = 1 << 62

func limit(n uint64) uint64 {
	if n >= noLimit {
		return 0
	}
	return n
}

func (f *files) v1(dirs map[string]string, u *Usage) {
	u.CPU = f.must(dirs["cpuacct"], "cpuacct.usage")
	dir := dirs["memory"]
	u.Memory = f.number(dir, "memory.usage_in_bytes")
	var swap uint64
	counted := false
	f.keyed(dir, "memory.stat", func(key []byte, value uint64) {
		switch string(key) {
		case "total_inactive_file":
			f.inactive = value
		case "total_rss":
			u.RSS = value
		case "total_pgfault":
			u.Faults = value
		case "total_pgmajfault":
			u.Majors = value
		case "hierarchical_memory_limit":
			u.Limit = limit(value)
		case "hierarchical_memsw_limit":
			u.SwapLimit = limit(value) // with memory, until below
		case "total_swap":
			swap, counted = value, true
		}
	})
	u.Tasks = f.number(dirs["pids"], "pids.current")
	if u.SwapLimit > 0 {
		u.SwapLimit -= min(u.SwapLimit, u.Limit)
	}
	if counted {
		u.Swap = &swap
	}
}

func (f *files) v1More(dirs map[string]string, m *More) {
	const tick = 1e9 / 100 // USER_HZ, in which cpuacct.stat counts
	f.keyed(dirs["cpuacct"], "cpuacct.stat", func(key []byte, value uint64) {
		switch string(key) {
		case "user":
			m.User = value * tick
		case "system":
			m.System = value * tick
		}
	})
	f.keyed(dirs["cpu"], "cpu.stat", func(key []byte, value uint64) {
		switch string(key) {
		case "nr_periods":
			m.Periods = value
		case "nr_throttled":
			m.Throttled = value
		case "throttled_time":
			m.ThrottledTime = value
		}
	})
	dir := dirs["memory"]
	f.keyed(dir, "memory.stat", func(key []byte, value uint64) {
		switch string(key) {
		case "total_cache":
			m.Cache = value
		case "total_mapped_file":
			m.MappedFile = value
		}
	})
	m.Kernel = f.number(dir, "memory.kmem.usage_in_bytes")
	m.MaxMemory = f.number(dir, "memory.max_usage_in_bytes")
	m.MemoryFailures = f.number(dir, "memory.failcnt")
	f.keyed(dir, "memory.oom_control", func(key []byte, value uint64) {
		if string(key) == "oom_kill" {
			m.OOMEvents = value
		}
	})
	m.MaxTasks = f.number(dirs["pids"], "pids.max")
	m.Processes = f.lines(dirs["pids"], "cgroup.procs")
	f.blkio(dirs["blkio"], "blkio.throttle.io_service_bytes_recursive", m, func(d *Device) (r, w *uint64) { return &d.ReadBytes, &d.WriteBytes })
	f.blkio(dirs["blkio"], "blkio.throttle.io_serviced_recursive", m, func(d *Device) (r, w *uint64) { return &d.Reads, &d.Writes })
}

// lines counts them, as far as the buffer goes.
func (f *files) lines(dir, name string) uint64 {
	return uint64(bytes.Count(f.text(dir, name), []byte("\n")))
}

// blkio reads lines "MAJOR:MINOR Read|Write|... NUMBER".
func (f *files) blkio(dir, name string, m *More, of func(*Device) (r, w *uint64)) {
	for line := range bytes.Lines(f.text(dir, name)) {
		field := bytes.Fields(line)
		if len(field) != 3 {
			continue
		}
		d := m.device(field[0])
		if d == nil {
			continue
		}
		r, w := of(d)
		switch string(field[1]) {
		case "Read":
			*r = atoi(field[2])
		case "Write":
			*w = atoi(field[2])
		}
	}
}

// device finds or adds MAJOR:MINOR.
func (m *More) device(number []byte) *Device {
	major, minor, ok := bytes.Cut(number, []byte(":"))
	if !ok {
		return nil
	}
	a, b := atoi(major), atoi(minor)
	for i := range m.Devices {
		if m.Devices[i].Major == a && m.Devices[i].Minor == b {
			return &m.Devices[i]
		}
	}
	m.Devices = append(m.Devices, Device{Major: a, Minor: b})
	return &m.Devices[len(m.Devices)-1]
}
