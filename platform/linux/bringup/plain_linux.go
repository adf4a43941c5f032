package bringup

import (
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/moby/sys/userns"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform/linux/child"
)

// unready says why no program can run on this machine, or in this process.
var unready = sync.OnceValue(func() string {
	switch {
	case !child.Sealed():
		return "this program does not run from a sealed copy"
	case userns.RunningInUserNS():
		return "this program runs in a user namespace"
	case unix.MountSetattr(-1, "", 0, &unix.MountAttr{}) == unix.ENOSYS:
		return "the kernel is older than Linux 5.12"
	}
	return ""
})

// Plain says why the container cannot be started by a program of this package and needs libcontainer; "" when it can.
func Plain(c *configs.Config, p *libcontainer.Process) (reason string) {
	if reason = unready(); reason != "" {
		return reason
	}
	return notPlain(c, p)
}

func notPlain(c *configs.Config, p *libcontainer.Process) (reason string) {
	for _, check := range []func() string{
		func() string { return plainNamespaces(c) },
		func() string { return plainMounts(c) },
		func() string { return plainDevices(c) },
		func() string { return plainProcess(c, p) },
	} {
		if reason = check(); reason != "" {
			return reason
		}
	}
	switch {
	case len(c.Hooks) > 0:
		return "hooks"
	case c.NoPivotRoot:
		return "no pivot_root"
	case c.RootlessEUID, c.RootlessCgroups:
		return "rootless"
	case c.MountLabel != "":
		return "SELinux"
	case c.IntelRdt != nil:
		return "Intel RDT"
	case c.MemoryPolicy != nil:
		return "memory policy"
	case c.Personality != nil:
		return "personality"
	case len(c.NetDevices) > 0, len(c.Routes) > 0, len(c.Networks) > 1, len(c.Networks) == 1 && c.Networks[0].Type != "loopback":
		return "network devices"
	case c.ParentDeathSignal != 0:
		return "parent death signal"
	}
	return ""
}

// PlainExec says the same of a further process in a container that was plain itself.
func PlainExec(c *configs.Config, p *libcontainer.Process) (reason string) {
	if reason = unready(); reason != "" {
		return reason
	}
	return notPlainExec(c, p)
}

// notPlainExec leaves out in particular what could look into the child, for until that execs it has this process's
// privileges, and at first its files. It is undumpable, so that takes CAP_SYS_PTRACE and to see it: as the
// container's own processes do that it joins, and those of others in their pid namespace. (One of the host's pid namespace can
// look into this process as well.)
func notPlainExec(c *configs.Config, p *libcontainer.Process) (reason string) {
	if MayTrace(c.Capabilities) {
		return "a container with CAP_SYS_PTRACE"
	}
	if joinsPids(c) {
		return "a pid namespace with others in it"
	}
	return plainProcess(c, p)
}

// MayTrace says whether a process with these capabilities, or one that it starts, can have CAP_SYS_PTRACE.
func MayTrace(c *configs.Capabilities) bool {
	if c == nil {
		return true // what this process has
	}
	for _, names := range [][]string{c.Bounding, c.Permitted, c.Inheritable} {
		if slices.Contains(names, "CAP_SYS_PTRACE") {
			return true
		}
	}
	return false
}

// joinsPids says whether the container's pid namespace is neither its own nor the host's.
func joinsPids(c *configs.Config) bool {
	for _, ns := range c.Namespaces {
		if ns.Type == configs.NEWPID && ns.Path != "" {
			theirs, err := os.Stat(ns.Path)
			ours, ourErr := os.Stat("/proc/self/ns/pid")
			return err != nil || ourErr != nil || !os.SameFile(theirs, ours)
		}
	}
	return false
}

func plainNamespaces(c *configs.Config) string {
	if !c.Namespaces.IsPrivate(configs.NEWNS) {
		return "no mount namespace of its own"
	}
	if joinsPids(c) {
		return "a pid namespace with others in it" // see notPlainExec
	}
	for _, ns := range c.Namespaces {
		switch ns.Type {
		case configs.NEWUSER, configs.NEWTIME:
			return "a user or time namespace"
		case configs.NEWCGROUP:
			if ns.Path != "" {
				return "a cgroup namespace to join"
			}
		}
	}
	return ""
}

func plainMounts(c *configs.Config) string {
	proc, dev := false, false
	for _, m := range c.Mounts {
		target := clean(m.Destination)
		switch {
		case !path.IsAbs(m.Destination) || target == "/":
			return "a mount on the root, or on a relative path"
		case m.IDMapping != nil:
			return "an id-mapped mount"
		case m.Extensions != 0:
			return "a tmpfs with a copy of what it covers"
		case m.Flags&unix.MS_REMOUNT != 0:
			return "a remount"
		case target == "/dev" && m.Device != "tmpfs", target == "/dev/null", target == "/dev/ptmx":
			return "a mount over /dev or /dev/null"
		case target == "/proc" && m.Device != "proc", strings.HasPrefix(target, "/proc/") && !emulated[target]:
			return "a mount over /proc"
		case m.Device == "cgroup" && target != "/sys/fs/cgroup":
			return "a cgroup mount at an unusual place"
		}
		proc = proc || target == "/proc"
		dev = dev || target == "/dev"
	}
	if !proc || !dev {
		return "no /proc or no /dev"
	}
	return ""
}

// emulated are the files that something like lxcfs may mount over; libcontainer refuses everything else below /proc.
var emulated = map[string]bool{
	"/proc/cpuinfo": true, "/proc/diskstats": true, "/proc/meminfo": true, "/proc/stat": true, "/proc/swaps": true,
	"/proc/uptime": true, "/proc/loadavg": true, "/proc/slabinfo": true, "/proc/sys/kernel/ns_last_pid": true,
	"/proc/sys/crypto/fips_enabled": true,
}

func plainDevices(c *configs.Config) string {
	for _, d := range c.Devices {
		if d.Path == "" {
			continue
		}
		if p := clean(d.Path); !strings.HasPrefix(p, "/dev/") || p == "/dev/null" && (d.Major != 1 || d.Minor != 3) {
			return "a device outside of /dev, or another /dev/null"
		}
	}
	return ""
}

func plainProcess(c *configs.Config, p *libcontainer.Process) string {
	switch {
	case p.Label != "" || c.ProcessLabel != "":
		return "SELinux"
	case p.Scheduler != nil || c.Scheduler != nil, p.IOPriority != nil || c.IOPriority != nil:
		return "scheduler or I/O priority"
	case p.CPUAffinity != nil || c.ExecCPUAffinity != nil:
		return "CPU affinity"
	case p.Capabilities == nil && c.Capabilities == nil:
		return "capabilities as they are"
	case c.Seccomp != nil:
		if reason := plainSeccomp(c.Seccomp); reason != "" {
			return reason
		}
	}
	if search, ok := variable(p.Env, "PATH"); ok && !strings.Contains(p.Args[0], "/") {
		for dir := range strings.SplitSeq(search, ":") {
			if !path.IsAbs(dir) {
				return "a relative path in PATH"
			}
		}
	}
	return ""
}

// variable is the value of the last that is called name.
func variable(env []string, name string) (value string, ok bool) {
	for _, e := range env {
		if v, is := strings.CutPrefix(e, name+"="); is {
			value, ok = v, true
		}
	}
	return value, ok
}

// clean is p as a path from the root, with nothing in it but names.
func clean(p string) string { return path.Clean("/" + p) }
