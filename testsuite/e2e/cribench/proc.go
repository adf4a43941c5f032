package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// memory is the PSS in KB of a daemon and what is installed beside it, such as its shims, and of pause processes.
func memory(pid int) int64 {
	var sum int64
	daemon, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	rollups, _ := filepath.Glob("/proc/[0-9]*/smaps_rollup")
	for _, path := range rollups {
		exe, _ := os.Readlink(filepath.Join(filepath.Dir(path), "exe"))
		if filepath.Dir(exe) != filepath.Dir(daemon) && filepath.Base(exe) != "pause" {
			continue
		}
		data, _ := os.ReadFile(path)
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
				kb, _ := strconv.ParseInt(f[1], 10, 64)
				sum += kb
			}
		}
	}
	return sum
}

// cpu is the processor time that the threads of a process have used (first field of /proc/PID/task/TID/schedstat, in ns).
func cpu(pid int) time.Duration {
	var sum time.Duration
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, path := range threads {
		data, _ := os.ReadFile(path)
		if f := strings.Fields(string(data)); len(f) > 0 {
			ns, _ := strconv.ParseInt(f[0], 10, 64)
			sum += time.Duration(ns)
		}
	}
	return sum
}
