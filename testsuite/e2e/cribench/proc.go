package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// memory is the PSS of runtimes' processes on this host in KB: daemons, shims and pause processes.
func memory() int64 {
	var sum int64
	rollups, _ := filepath.Glob("/proc/[0-9]*/smaps_rollup")
	for _, path := range rollups {
		comm, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "comm"))
		name := strings.TrimSpace(string(comm))
		if !strings.HasPrefix(name, "slipway") && !strings.HasPrefix(name, "containerd") && name != "pause" {
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
