package linux

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sys/unix"
)

// hierarchies remembers where cgroup v1 controllers are mounted, which the manager would read a dozen files of /proc for.
type hierarchies struct {
	mu    sync.Mutex
	roots map[string]string // by controller; nil until the first container
}

// newCgroup answers the manager of a container's cgroup.
func (h *hierarchies) newCgroup(config *cgroups.Cgroup) (cgroups.Manager, error) {
	if cgroups.IsCgroup2UnifiedMode() || config.Systemd || !filepath.IsAbs(config.Path) {
		return manager.New(config)
	}
	inner := filepath.Clean(config.Path)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.roots != nil {
		paths := map[string]string{}
		for controller, root := range h.roots {
			paths[controller] = root + inner
		}
		return manager.NewWithPaths(config, paths)
	}
	cg, err := manager.New(config)
	if err != nil {
		return nil, err
	}
	roots := map[string]string{}
	for controller, path := range cg.GetPaths() {
		root, ok := strings.CutSuffix(path, inner)
		if !ok {
			return cg, nil
		}
		roots[controller] = root
	}
	h.roots = roots
	return cg, nil
}

// makeCgroups1 is the manager's Apply without a process. That reads and writes a dozen files for cpuset, whose new cgroups have no
// processors, and looks for parents; nearly always these are there, and a copy of what the parent has will do.
func makeCgroups1(cg cgroups.Manager, r *cgroups.Resources) error {
	if !r.SkipDevices && r.CpusetCpus == "" && r.CpusetMems == "" && makeBelow(cg.GetPaths()) {
		return nil
	}
	return cg.Apply(-1)
}

// makeBelow makes cgroups below parents that are there. False when something is not as usual, or does not succeed.
func makeBelow(paths map[string]string) bool {
	for controller, dir := range paths {
		if err := os.Mkdir(dir, 0o755); err != nil && (controller != "" || !errors.Is(err, fs.ErrExist)) {
			return false
		}
	}
	dir := paths["cpuset"]
	if dir == "" {
		return true
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := cgroups.ReadFile(filepath.Dir(dir), file)
		if err != nil || strings.TrimSpace(have) == "" || cgroups.WriteFile(dir, file, have) != nil {
			return false
		}
	}
	return true
}

// setResources is the manager's Set. That takes long for the list of devices of cgroup v1, because it compares what is with what
// is to be. Here nothing runs in the cgroup yet.
func setResources(cg cgroups.Manager, r *cgroups.Resources) error {
	if cgroups.IsCgroup2UnifiedMode() || r.SkipDevices || !onlyListed(r.Devices) || cg.Path("devices") == "" {
		return cg.Set(r)
	}
	if err := allowDevices(cg.Path("devices"), r.Devices[1:]); err != nil {
		return fmt.Errorf("cannot set the devices of the cgroup: %w", err)
	}
	others := *r
	others.SkipDevices = true
	return cg.Set(&others)
}

// onlyListed says whether rules deny all devices and then allow some, as nearly all do.
func onlyListed(rules []*devices.Rule) bool {
	if len(rules) == 0 || rules[0].Allow || rules[0].Type != devices.WildcardDevice {
		return false
	}
	return !slices.ContainsFunc(rules[1:], func(r *devices.Rule) bool {
		return !r.Allow || r.Type != devices.CharDevice && r.Type != devices.BlockDevice || r.Permissions.IsEmpty()
	})
}

// allowDevices writes the rules one by one into an open file (cgroup-v1/devices.rst).
func allowDevices(dir string, rules []*devices.Rule) (err error) {
	if err := cgroups.WriteFile(dir, "devices.deny", "a"); err != nil {
		return err
	}
	allow, err := cgroups.OpenFile(dir, "devices.allow", os.O_WRONLY)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, allow.Close()) }()
	written := map[string]bool{}
	for _, rule := range rules {
		text := rule.CgroupString()
		if written[text] {
			continue
		}
		written[text] = true
		if _, err := unix.Write(int(allow.Fd()), []byte(text)); err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
	}
	return nil
}
