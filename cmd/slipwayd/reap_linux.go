package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// orphanGrace is how long a dead child is left for whoever waits for it: os/exec for those that the daemon started, package
// shim for containers that lost their shim. After that nobody does.
const orphanGrace = 10 * time.Second

// reapOrphans reaps, until ctx ends, those of our children that nobody waits for: processes that a subreaper gets from
// elsewhere, such as what a hook or a logger left behind.
func reapOrphans(ctx context.Context) {
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	defer signal.Stop(died)
	var sweep <-chan time.Time
	seen := map[zombie]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-died:
			if sweep == nil {
				sweep = time.After(orphanGrace)
			}
		case <-sweep:
			if seen = reapAgain(seen); len(seen) > 0 {
				sweep = time.After(orphanGrace)
			} else {
				sweep = nil
			}
		}
	}
}

// zombie is one dead process: pids come again, with another start time they do not.
type zombie struct {
	pid   int
	start string
}

// reapAgain reaps the zombies that were there at the last sweep and answers those that are new.
func reapAgain(seen map[zombie]bool) map[zombie]bool {
	left := map[zombie]bool{}
	for _, z := range zombies() {
		if !seen[z] {
			left[z] = true
			continue
		}
		_, _ = syscall.Wait4(z.pid, nil, syscall.WNOHANG, nil)
	}
	return left
}

// zombies lists our dead children.
func zombies() []zombie {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil
	}
	var all []zombie
	for _, t := range tasks {
		children, err := os.ReadFile("/proc/self/task/" + t.Name() + "/children")
		if err != nil {
			continue
		}
		for _, pid := range strings.Fields(string(children)) {
			if n, err := strconv.Atoi(pid); err == nil {
				if z, ok := asZombie(n); ok {
					all = append(all, z)
				}
			}
		}
	}
	return all
}

// asZombie reads proc_pid_stat(5): the fields after the name in parentheses, state first and start time twentieth.
func asZombie(pid int) (zombie, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return zombie{}, false
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 || fields[0] != "Z" {
		return zombie{}, false
	}
	return zombie{pid: pid, start: fields[19]}, true
}
