//go:build linux

package linux_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups/systemd"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/platform"
)

// needSystemd skips where systemd is not the first process; `make systemd` runs these tests where it is.
func needSystemd(t *testing.T) {
	t.Helper()
	needContainers(t)
	if !systemd.IsRunningSystemd() {
		t.Skip("systemd does not run here")
	}
}

// inScope has systemd make the container's cgroup.
func inScope(s *platform.Spec) {
	var spec specs.Spec
	if json.Unmarshal(s.OCI, &spec) != nil || spec.Linux == nil {
		return // one of the suite's bad specs
	}
	s.Options.SystemdCgroup = true
	spec.Linux.CgroupsPath = "system.slice:slipway-test:" + s.ID
	s.OCI, _ = json.Marshal(spec)
}

// TestSystemd is the suite with the systemd cgroup driver.
func TestSystemd(t *testing.T) {
	needSystemd(t)
	testExecutor(t, inScope)
}

// property asks systemd.
func property(t *testing.T, unit, name string) string {
	t.Helper()
	out, err := exec.Command("systemctl", "show", "--property", name, "--value", unit).CombinedOutput()
	if err != nil {
		t.Fatalf("systemctl show %s: %v: %s", unit, err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestScope looks at a container as systemd does: a scope in the slice that was asked for, with the limits that were asked for, which
// outlive a reload of systemd's configuration.
func TestScope(t *testing.T) {
	needSystemd(t)
	root := t.TempDir()
	e := newExecutor(t, root)
	limit, pids := int64(64<<20), int64(50)
	spec := ociSpec("scoped", "sleep", "1000")
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
	s := platformSpec(t, "scoped", spec)
	inScope(&s)
	c, err := e.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	const unit = "slipway-test-scoped.scope"
	at, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Init().Pid()))
	if err != nil || !strings.HasSuffix(strings.TrimSpace(string(at)), "/system.slice/"+unit) {
		t.Errorf("the container is in %q, %v", at, err)
	}
	for name, want := range map[string]string{"ActiveState": "active", "MemoryMax": "67108864", "TasksMax": "50", "Delegate": "yes"} {
		if got := property(t, unit, name); got != want {
			t.Errorf("%s of the scope is %q, want %q", name, got, want)
		}
	}
	if err := c.(platform.Updater).Update(t.Context(), json.RawMessage(`{"memory":{"limit":134217728}}`), nil); err != nil {
		t.Error(err)
	}
	file := filepath.Join("/sys/fs/cgroup/system.slice", unit, "memory.max")
	for _, when := range []string{"an update", "a reload"} {
		if got := property(t, unit, "MemoryMax"); got != "134217728" {
			t.Errorf("MemoryMax after %s is %q", when, got)
		}
		if got, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(got)) != "134217728" {
			t.Errorf("memory.max after %s is %q, %v", when, got, err)
		}
		if out, err := exec.Command("systemctl", "daemon-reload").CombinedOutput(); err != nil {
			t.Errorf("daemon-reload: %v: %s", err, out)
		}
	}
	e.Close() // a shim that dies, and its successor
	e = newExecutor(t, root)
	if c, err = e.Adopt(t.Context(), "scoped"); err != nil {
		t.Fatal(err)
	}
	if err := c.Init().Signal(t.Context(), 9, false); err != nil {
		t.Error(err)
	}
	if exit, err := c.Init().Wait(t.Context()); err != nil || exit.Status != 137 {
		t.Errorf("exit %+v, %v", exit, err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if got := property(t, unit, "LoadState"); got != "not-found" {
		t.Errorf("the scope is left: %s, %s", got, property(t, unit, "ActiveState"))
	}
	if _, err := os.Stat(filepath.Dir(file)); !os.IsNotExist(err) {
		t.Errorf("the cgroup is left: %v", err)
	}
}

// TestScopeByDefault: a spec that names no cgroup, and an id with a character that systemd has no units of.
func TestScopeByDefault(t *testing.T) {
	needSystemd(t)
	spec := ociSpec("ns+id", "true")
	spec.Linux.CgroupsPath = ""
	s := platformSpec(t, "ns+id", spec)
	s.Options.SystemdCgroup = true
	if out, exit := runSpec(t, newExecutor(t, t.TempDir()), s); exit.Status != 0 {
		t.Errorf("exit %+v, output %q", exit, out)
	}
}
