//go:build linux

package bringup

import (
	"os"
	"slices"
	"strings"
	"testing"

	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
)

// TestAppArmorOrder looks at the steps alone, for lack of a machine with AppArmor: the attribute is opened through the host's
// /proc, and written to before privileges are given up and before anybody is told that all went well.
func TestAppArmorOrder(t *testing.T) {
	defer func(f func() bool) { apparmorEnabled = f }(apparmorEnabled)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	build := func(exec bool) (*Program, error) {
		c, p := plainOne()
		c.Namespaces[2].Path = "/proc/self/ns/net"
		c.Devices[0].Type, c.Mounts, c.NoNewPrivileges, c.Rootfs = devices.CharDevice, c.Mounts[:2], true, "/"
		c.AppArmorProfile, p.AppArmorProfile, p.Cwd = "weak", "strong", "/"
		c.Capabilities = &configs.Capabilities{}
		made := Container{ID: "x", Config: c, Process: p, Stdio: [3]*os.File{null, null, null}}
		if exec {
			return Exec(made, Joined{Pid: os.Getpid(), Pidfd: null})
		}
		return Init(made)
	}
	if p, err := build(false); err == nil || !strings.Contains(err.Error(), "not enabled") {
		p.Close()
		t.Errorf("without AppArmor: %v", err)
	}
	apparmorEnabled = func() bool { return true }
	for _, test := range []struct {
		exec  bool
		order []string
	}{
		{false, []string{"open the AppArmor attribute of the process", "change the root", "use AppArmor profile strong", "set no_new_privs", "set the user", "tell the parent", "execute"}},
		{true, []string{"open the AppArmor attribute of the process", "join the namespaces of the container", "use AppArmor profile strong", "set no_new_privs", "set the user", "tell the parent", "execute"}},
	} {
		p, err := build(test.exec)
		if err != nil {
			t.Fatal(err)
		}
		steps, last := p.Outline(), -1
		p.Close()
		for _, what := range test.order {
			at := slices.Index(steps, what)
			if at <= last {
				t.Errorf("exec %v: %q is step %d, after %d", test.exec, what, at, last)
			}
			last = at
		}
	}
}
