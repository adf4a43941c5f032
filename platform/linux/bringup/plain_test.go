//go:build linux

package bringup

import (
	"strings"
	"testing"

	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func plainOne() (*configs.Config, *libcontainer.Process) {
	return &configs.Config{
			Namespaces: configs.Namespaces{{Type: configs.NEWNS}, {Type: configs.NEWPID}, {Type: configs.NEWNET, Path: "/run/netns/x"}},
			Mounts: []*configs.Mount{
				{Device: "proc", Destination: "/proc"}, {Device: "tmpfs", Destination: "/dev"}, {Device: "bind", Destination: "/proc/meminfo", Flags: unix.MS_BIND},
				{Device: "cgroup", Destination: "/sys/fs/cgroup"}, {Device: "bind", Destination: "/var/../data", Flags: unix.MS_BIND},
			},
			Devices: []*devices.Device{{Path: "/dev/null", Rule: devices.Rule{Major: 1, Minor: 3}}, {Path: ""}},
		}, &libcontainer.Process{
			Args: []string{"true"}, Env: []string{"PATH=/bin"}, Capabilities: &configs.Capabilities{},
		}
}

// TestPlain changes one thing at a time, and wants it named.
func TestPlain(t *testing.T) {
	mount := func(m configs.Mount) func(*configs.Config, *libcontainer.Process) {
		return func(c *configs.Config, _ *libcontainer.Process) { c.Mounts = append(c.Mounts, &m) }
	}
	for _, test := range []struct {
		want   string
		change func(c *configs.Config, p *libcontainer.Process)
	}{
		{"", func(*configs.Config, *libcontainer.Process) {}},
		{"", func(_ *configs.Config, p *libcontainer.Process) {
			p.Args, p.Env = []string{"/bin/true"}, []string{"PATH=."}
		}},
		{"hooks", func(c *configs.Config, _ *libcontainer.Process) {
			c.Hooks = configs.Hooks{configs.Poststop: {configs.NewFunctionHook(nil)}}
		}},
		{"no pivot_root", func(c *configs.Config, _ *libcontainer.Process) { c.NoPivotRoot = true }},
		{"rootless", func(c *configs.Config, _ *libcontainer.Process) { c.RootlessCgroups = true }},
		{"rootless", func(c *configs.Config, _ *libcontainer.Process) { c.RootlessEUID = true }},
		{"SELinux", func(c *configs.Config, _ *libcontainer.Process) { c.MountLabel = "x" }},
		{"SELinux", func(c *configs.Config, _ *libcontainer.Process) { c.ProcessLabel = "x" }},
		{"SELinux", func(_ *configs.Config, p *libcontainer.Process) { p.Label = "x" }},
		{"", func(c *configs.Config, p *libcontainer.Process) { c.AppArmorProfile, p.AppArmorProfile = "x", "x" }},
		{"", func(c *configs.Config, p *libcontainer.Process) {
			p.Capabilities = &configs.Capabilities{Bounding: []string{"CAP_SYS_PTRACE"}} // nobody else sees it
			c.Namespaces[1].Path = "/proc/self/ns/pid"
		}},
		{"others in it", func(c *configs.Config, _ *libcontainer.Process) { c.Namespaces[1].Path = "/no/such" }},
		{"others in it", func(c *configs.Config, _ *libcontainer.Process) { c.Namespaces[1].Path = "/proc/self/ns/net" }},
		{"Intel RDT", func(c *configs.Config, _ *libcontainer.Process) { c.IntelRdt = &configs.IntelRdt{} }},
		{"memory policy", func(c *configs.Config, _ *libcontainer.Process) { c.MemoryPolicy = &configs.LinuxMemoryPolicy{} }},
		{"personality", func(c *configs.Config, _ *libcontainer.Process) { c.Personality = &configs.LinuxPersonality{} }},
		{"network devices", func(c *configs.Config, _ *libcontainer.Process) {
			c.NetDevices = map[string]*configs.LinuxNetDevice{"eth0": {}}
		}},
		{"network devices", func(c *configs.Config, _ *libcontainer.Process) { c.Networks = []*configs.Network{{Type: "veth"}} }},
		{"network devices", func(c *configs.Config, _ *libcontainer.Process) { c.Routes = []*configs.Route{{}} }},
		{"parent death", func(c *configs.Config, _ *libcontainer.Process) { c.ParentDeathSignal = 9 }},
		{"no mount namespace", func(c *configs.Config, _ *libcontainer.Process) { c.Namespaces = c.Namespaces[1:] }},
		{"no mount namespace", func(c *configs.Config, _ *libcontainer.Process) { c.Namespaces[0].Path = "/x" }},
		{"user or time", func(c *configs.Config, _ *libcontainer.Process) { c.Namespaces.Add(configs.NEWUSER, "") }},
		{"user or time", func(c *configs.Config, _ *libcontainer.Process) { c.Namespaces.Add(configs.NEWTIME, "") }},
		{"a cgroup namespace to join", func(c *configs.Config, _ *libcontainer.Process) { c.Namespaces.Add(configs.NEWCGROUP, "/x") }},
		{"no /proc or no /dev", func(c *configs.Config, _ *libcontainer.Process) { c.Mounts = c.Mounts[1:] }},
		{"no /proc or no /dev", func(c *configs.Config, _ *libcontainer.Process) { c.Mounts = c.Mounts[:1] }},
		{"on the root", mount(configs.Mount{Device: "bind", Destination: "/x/.."})},
		{"on the root", mount(configs.Mount{Device: "bind", Destination: "data"})},
		{"id-mapped", mount(configs.Mount{Device: "bind", Destination: "/data", IDMapping: &configs.MountIDMapping{}})},
		{"a tmpfs with a copy", mount(configs.Mount{Device: "tmpfs", Destination: "/data", Extensions: configs.EXT_COPYUP})},
		{"a remount", mount(configs.Mount{Device: "bind", Destination: "/data", Flags: unix.MS_REMOUNT})},
		{"over /dev", mount(configs.Mount{Device: "bind", Destination: "/dev/"})},
		{"over /dev", mount(configs.Mount{Device: "bind", Destination: "/dev/null"})},
		{"over /proc", mount(configs.Mount{Device: "bind", Destination: "/proc"})},
		{"over /proc", mount(configs.Mount{Device: "bind", Destination: "/proc/sys/kernel"})},
		{"an unusual place", mount(configs.Mount{Device: "cgroup", Destination: "/cgroup"})},
		{"a device", func(c *configs.Config, _ *libcontainer.Process) {
			c.Devices = []*devices.Device{{Path: "/etc/zero", Rule: devices.Rule{Major: 1, Minor: 5}}}
		}},
		{"another /dev/null", func(c *configs.Config, _ *libcontainer.Process) { c.Devices[0].Minor = 5 }},
		{"scheduler", func(_ *configs.Config, p *libcontainer.Process) { p.Scheduler = &configs.Scheduler{} }},
		{"scheduler", func(c *configs.Config, _ *libcontainer.Process) { c.IOPriority = &configs.IOPriority{} }},
		{"CPU affinity", func(_ *configs.Config, p *libcontainer.Process) { p.CPUAffinity = &configs.CPUAffinity{} }},
		{"capabilities", func(_ *configs.Config, p *libcontainer.Process) { p.Capabilities = nil }},
		{"relative path in PATH", func(_ *configs.Config, p *libcontainer.Process) { p.Env = []string{"PATH=/bin:bin"} }},
		{"relative path in PATH", func(_ *configs.Config, p *libcontainer.Process) { p.Env = []string{"PATH=/bin:"} }},
		{"with a listener", func(c *configs.Config, _ *libcontainer.Process) { c.Seccomp = &configs.Seccomp{ListenerPath: "/x"} }},
		{"with a listener", func(c *configs.Config, _ *libcontainer.Process) {
			c.Seccomp = &configs.Seccomp{Syscalls: []*configs.Syscall{{Name: "read", Action: configs.Notify}}}
		}},
		{"unusual flag", func(c *configs.Config, _ *libcontainer.Process) {
			c.Seccomp = &configs.Seccomp{Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"}}
		}},
	} {
		c, p := plainOne()
		test.change(c, p)
		if got := notPlain(c, p); (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

// TestPlainExec has what makes no difference to init.
func TestPlainExec(t *testing.T) {
	for _, test := range []struct {
		want   string
		change func(c *configs.Config, p *libcontainer.Process)
	}{
		{"", func(*configs.Config, *libcontainer.Process) {}},
		{"CAP_SYS_PTRACE", func(c *configs.Config, _ *libcontainer.Process) { c.Capabilities = nil }},
		{"CAP_SYS_PTRACE", func(c *configs.Config, _ *libcontainer.Process) {
			c.Capabilities.Bounding = []string{"CAP_KILL", "CAP_SYS_PTRACE"}
		}},
		{"", func(_ *configs.Config, p *libcontainer.Process) { p.Capabilities.Bounding = []string{"CAP_SYS_PTRACE"} }},
		{"others in it", func(c *configs.Config, _ *libcontainer.Process) { c.Namespaces[1].Path = "/proc/self/ns/net" }},
		{"", func(c *configs.Config, _ *libcontainer.Process) { c.Namespaces[1].Path = "/proc/self/ns/pid" }},
		{"scheduler", func(_ *configs.Config, p *libcontainer.Process) { p.Scheduler = &configs.Scheduler{} }},
	} {
		c, p := plainOne()
		c.Capabilities = &configs.Capabilities{}
		test.change(c, p)
		if got := notPlainExec(c, p); (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}
