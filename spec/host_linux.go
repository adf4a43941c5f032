package spec

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/profiles/apparmor"
	"github.com/moby/profiles/seccomp"
	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"
)

// ThisHost looks at the kernel that this process runs on.
func ThisHost() (Host, error) {
	h := Host{SELinux: selinux.GetEnabled()}
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err == nil {
		h.CgroupV2 = st.Type == unix.CGROUP2_SUPER_MAGIC
	}
	if h.CgroupV2 {
		controllers, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		h.Hugetlb = strings.Contains(string(controllers), "hugetlb")
		// The file is in every cgroup but the root, and only where the kernel counts swap.
		found, _ := filepath.Glob("/sys/fs/cgroup/*/memory.swap.max")
		h.Swap = len(found) > 0
	} else {
		h.Hugetlb = exists("/sys/fs/cgroup/hugetlb/cgroup.procs")
		h.Swap = exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	}
	h.AppArmor = appArmorWorks()
	supported, err := capability.ListSupported()
	if err != nil {
		return h, fmt.Errorf("cannot learn the kernel's capabilities: %w", err)
	}
	own, err := capability.NewPid2(0)
	if err == nil {
		err = own.Load()
	}
	if err != nil {
		return h, fmt.Errorf("cannot learn the daemon's capabilities: %w", err)
	}
	for _, c := range supported {
		name := "CAP_" + strings.ToUpper(c.String())
		h.KnownCapabilities = append(h.KnownCapabilities, name)
		if own.Get(capability.EFFECTIVE, c) && own.Get(capability.BOUNDING, c) {
			h.Capabilities = append(h.Capabilities, name)
		}
	}
	h.LeastOOMScoreAdj = -1000
	if !own.Get(capability.EFFECTIVE, capability.CAP_SYS_RESOURCE) {
		text, err := os.ReadFile("/proc/self/oom_score_adj")
		if err != nil {
			return h, fmt.Errorf("cannot learn the daemon's oom_score_adj: %w", err)
		}
		if h.LeastOOMScoreAdj, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
			return h, fmt.Errorf("cannot learn the daemon's oom_score_adj: %w", err)
		}
	}
	return h, nil
}

// appArmorWorks tells whether the kernel has it on, shows its profiles, and there is a program to load one.
func appArmorWorks() bool {
	enabled, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	_, err := exec.LookPath("apparmor_parser")
	return strings.HasPrefix(string(enabled), "Y") && err == nil && exists("/sys/kernel/security/apparmor/profiles")
}

// LoadAppArmor loads the default profile into the kernel, anew if it is there.
func LoadAppArmor() error {
	if err := apparmor.InstallDefault(DefaultAppArmor); err != nil {
		return fmt.Errorf("cannot load AppArmor profile %s: %w", DefaultAppArmor, err)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// maxProfile bounds a seccomp profile in bytes.
const maxProfile = 4 << 20

// localSeccomp reads a profile in the format of Docker, which that of runtime-spec is a part of.
func localSeccomp(s *specs.Spec, path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("seccomp profile %.200q is not an absolute path: %w", path, errdefs.ErrInvalidArgument)
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot read seccomp profile: %w: %w", err, errdefs.ErrInvalidArgument)
	} else if err != nil {
		return fmt.Errorf("cannot read seccomp profile: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxProfile))
	if err != nil {
		return fmt.Errorf("cannot read seccomp profile: %w", err)
	}
	profile, err := seccomp.LoadProfile(string(text), s)
	if err != nil {
		return fmt.Errorf("seccomp profile %s is no profile: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	if profile.DefaultAction == "" {
		return fmt.Errorf("seccomp profile %s has no defaultAction: %w", path, errdefs.ErrInvalidArgument)
	}
	s.Linux.Seccomp = profile
	return nil
}

// appArmorLoaded looks in the kernel's list, whose lines are `NAME (MODE)` (apparmor(7)).
func appArmorLoaded(name string) bool {
	f, err := os.Open("/sys/kernel/security/apparmor/profiles")
	if err != nil {
		return false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if i := strings.LastIndex(lines.Text(), " ("); i >= 0 && lines.Text()[:i] == name {
			return true
		}
	}
	return false
}

func selinuxLabels(l SELinux) (process, mount string, err error) {
	var options []string
	for _, o := range []struct{ key, value string }{{"user", l.User}, {"role", l.Role}, {"type", l.Type}, {"level", l.Level}} {
		if o.value != "" {
			options = append(options, o.key+":"+o.value)
		}
	}
	return label.InitLabels(options)
}
