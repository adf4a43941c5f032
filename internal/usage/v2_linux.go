package usage

import (
	"bytes"
	"strconv"
)

func (f *files) unified(dir string, u *Usage) {
	f.keyed(dir, "cpu.stat", func(key []byte, value uint64) {
		if string(key) == "usage_usec" {
			u.CPU = value * 1000
		}
	})
	u.Memory = f.must(dir, "memory.current")
	f.keyed(dir, "memory.stat", func(key []byte, value uint64) {
		switch string(key) {
		case "inactive_file":
			f.inactive = value
		case "anon":
			u.RSS = value
		case "pgfault":
			u.Faults = value
		case "pgmajfault":
			u.Majors = value
		}
	})
	u.Tasks = f.number(dir, "pids.current")
	u.Limit = f.number(dir, "memory.max")
	if swap := f.text(dir, "memory.swap.current"); swap != nil {
		n := atoi(bytes.TrimSpace(swap))
		u.Swap = &n
		u.SwapLimit = f.number(dir, "memory.swap.max")
	}
	var p Pressures
	any := f.pressure(dir, "cpu.pressure", &p.CPU)
	any = f.pressure(dir, "memory.pressure", &p.Memory) || any
	if f.pressure(dir, "io.pressure", &p.IO) || any {
		u.Pressure = &p
	}
}

// pressure reads lines "some avg10=0.00 avg60=0.00 avg300=0.00 total=0", the total in microseconds.
func (f *files) pressure(dir, name string, p *Pressure) bool {
	text := f.text(dir, name)
	for line := range bytes.Lines(text) {
		field := bytes.Fields(line)
		if len(field) == 0 {
			continue
		}
		s := &p.Some
		if string(field[0]) == "full" {
			s = &p.Full
		}
		for _, pair := range field[1:] {
			key, value, _ := bytes.Cut(pair, []byte("="))
			number, _ := strconv.ParseFloat(string(value), 64)
			switch string(key) {
			case "avg10":
				s.Avg10 = number
			case "avg60":
				s.Avg60 = number
			case "avg300":
				s.Avg300 = number
			case "total":
				s.Total = atoi(value) * 1000
			}
		}
	}
	return text != nil
}

func (f *files) unifiedMore(dir string, m *More) {
	f.keyed(dir, "cpu.stat", func(key []byte, value uint64) {
		switch string(key) {
		case "user_usec":
			m.User = value * 1000
		case "system_usec":
			m.System = value * 1000
		case "nr_periods":
			m.Periods = value
		case "nr_throttled":
			m.Throttled = value
		case "throttled_usec":
			m.ThrottledTime = value * 1000
		}
	})
	f.keyed(dir, "memory.stat", func(key []byte, value uint64) {
		switch string(key) {
		case "file":
			m.Cache = value
		case "file_mapped":
			m.MappedFile = value
		case "kernel":
			m.Kernel = value
		}
	})
	m.MaxMemory = f.number(dir, "memory.peak")
	f.keyed(dir, "memory.events", func(key []byte, value uint64) {
		switch string(key) {
		case "max":
			m.MemoryFailures = value
		case "oom_kill":
			m.OOMEvents = value
		}
	})
	m.MaxTasks = f.number(dir, "pids.max")
	m.Processes = f.lines(dir, "cgroup.procs")
	for line := range bytes.Lines(f.text(dir, "io.stat")) { // "MAJOR:MINOR rbytes=N wbytes=N rios=N wios=N ..."
		field := bytes.Fields(line)
		if len(field) < 2 {
			continue
		}
		d := m.device(field[0])
		for _, pair := range field[1:] {
			key, value, _ := bytes.Cut(pair, []byte("="))
			switch n := atoi(value); {
			case d == nil:
			case string(key) == "rbytes":
				d.ReadBytes = n
			case string(key) == "wbytes":
				d.WriteBytes = n
			case string(key) == "rios":
				d.Reads = n
			case string(key) == "wios":
				d.Writes = n
			}
		}
	}
}
