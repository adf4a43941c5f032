package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// orphanGrace is how long a dead child is left for whoever waits for it: os/exec for those that the daemon started, package
// shim for containers that lost their shim. After that nobody does. Meanwhile dead children are looked at every orphanSweep.
const (
	orphanGrace = 10 * time.Second
	orphanSweep = 100 * time.Millisecond
)

// reapOrphans reaps, until ctx ends, those of our children that nobody waits for: processes that a subreaper gets from
// elsewhere, such as what a hook or a logger left behind, and at once those that keep others from ending.
func reapOrphans(ctx context.Context, grace time.Duration) {
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	defer signal.Stop(died)
	sweep := time.After(orphanSweep) // nil while no child is known to have ended; some may have before we began
	seen := map[zombie]time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-died:
			if sweep == nil {
				sweep = time.After(orphanSweep)
			}
		case <-sweep:
			sweep = nil
			if seen = reap(seen, grace); len(seen) > 0 {
				sweep = time.After(orphanSweep)
			}
		}
	}
}

// zombie is one dead process: pids come again, with another start time they do not.
type zombie struct {
	pid   int
	start string
}

// reap reaps the zombies that have been there for grace or that an init waits for, and answers since when the others are there.
func reap(seen map[zombie]time.Time, grace time.Duration) map[zombie]time.Time {
	left := map[zombie]time.Time{}
	inits := sync.OnceValue(endingInits)
	for _, z := range zombies() {
		since, again := seen[z]
		if !again {
			since = time.Now()
		}
		if time.Since(since) < grace && !(again && z.elsewhere() && inits()[z.namespace()]) {
			left[z] = since
			continue
		}
		_, _ = syscall.Wait4(z.pid, nil, syscall.WNOHANG, nil)
	}
	return left
}

// elsewhere tells whether it is of another PID namespace than ours, and not its init.
func (z zombie) elsewhere() bool {
	pids := namespacedPids(strconv.Itoa(z.pid))
	return len(pids) > 1 && pids[len(pids)-1] != "1"
}

// namespace names its PID namespace.
func (z zombie) namespace() string {
	ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", z.pid))
	return ns
}

// endingInits are the PID namespaces whose init is ending, and is held up until all others in there are reaped: in a pod whose containers share
// one they are our children once their shim has died (pid_namespaces(7)).
func endingInits() map[string]bool {
	const exiting = 0x4 // PF_EXITING of the kernel's include/linux/sched.h
	ending := map[string]bool{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pids := namespacedPids(e.Name()); len(pids) < 2 || pids[len(pids)-1] != "1" {
			continue
		}
		fields := statFields(e.Name())
		if flags, err := strconv.ParseUint(fields[6], 10, 64); err != nil || flags&exiting == 0 {
			continue
		}
		if ns, err := os.Readlink(filepath.Join("/proc", e.Name(), "ns/pid")); err == nil {
			ending[ns] = true
		}
	}
	return ending
}

// namespacedPids are a process's ids from our PID namespace down to its own (proc_pid_status(5), NSpid); none for what is no process.
func namespacedPids(pid string) []string {
	status, _ := os.ReadFile(filepath.Join("/proc", pid, "status"))
	_, rest, _ := strings.Cut(string(status), "\nNSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.Fields(line)
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

// statFields are those of proc_pid_stat(5) after the name in parentheses: the state is 0, flags 6, the start time 19. They are empty for what is no process.
func statFields(pid string) [20]string {
	var fields [20]string
	stat, _ := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	copy(fields[:], strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])))
	return fields
}

func asZombie(pid int) (zombie, bool) {
	fields := statFields(strconv.Itoa(pid))
	return zombie{pid: pid, start: fields[19]}, fields[0] == "Z"
}
