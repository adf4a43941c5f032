//go:build linux

package linux_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/linux"
)

// probe prints all that a process can see of how it was set up.
const probe = `
cat /proc/self/status; echo; cat /proc/self/mountinfo; cat /proc/self/limits; cat /proc/self/cgroup; cat /proc/self/oom_score_adj
ls -l /dev /dev/; ls -l / ; ls -ln /data /tmp 2>&1; env; id; umask; pwd; hostname
busybox readlink /proc/self/fd/0; busybox readlink /proc/self/fd/1 | busybox cut -c 1-5; ls /proc/self/fd
cat /proc/self/sessionid /proc/self/setgroups /proc/self/personality 2>&1; busybox ifconfig lo; busybox cut -d' ' -f 5-8 /proc/self/stat
cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/kcore /etc/secret 2>&1
busybox readlink /proc/self/cwd; busybox taskset -p $$ | busybox cut -d: -f 2; stty -a 2>&1; busybox tty; ls -ln /dev/console /dev/pts 2>&1
`

// What differs between any two runs.
var noise = []struct {
	pattern *regexp.Regexp
	as      string
}{
	{regexp.MustCompile(`(?m)^(Vm|Rss|Hugetlb|voluntary|nonvoluntary|NS[a-z]+|Pid|PPid|Tgid|Ngid|Threads|Shd|Cpus|Mems|untag|x86|FDSize|SigQ|Core|THP).*\n`), ""},
	{regexp.MustCompile(`(?m)^\d+ (\d+ )\d+:\d+ `), "ID PARENT DEV "},
	{regexp.MustCompile(`(shared|master|propagate_from):\d+`), "$1:N"},
	{regexp.MustCompile(`[A-Z][a-z][a-z] +\d+ +(\d\d:\d\d|\d{4}) `), "DATE "},
	{regexp.MustCompile(`inode64,?|size=65536k`), ""},
	{regexp.MustCompile(`compare-(own|lc)`), "compare"},
	{regexp.MustCompile(`TestCompare[^ /]*/\d+|/tmp/TestCompare\S*/\d+`), "TMP"},
	{regexp.MustCompile(`(?m)^ +[RT]X (packets|bytes).*\n`), ""}, // on the host's network
	{regexp.MustCompile(`(?m)^Max locked memory.*\n`), ""},       // with libcontainer it depends on who loads BPF programs meanwhile
	{regexp.MustCompile(`(?m)^total \d+\n`), ""},
	{regexp.MustCompile(`(?m)^SigIgn:.*\n`), ""}, // with libcontainer, what whoever runs this test ignores; child.TestInherited looks at ours
	{regexp.MustCompile(`(?m)^\d+ \d+ 0 -1$`), "SESSION 0 -1"},
	{regexp.MustCompile(`(?m)^\d+ \d+ 348\d\d \d+$`), "SESSION TERMINAL"},
	{regexp.MustCompile(`(?m)^dr-xr-xr-x +\d+ (root .* proc)$`), "$1"},
}

func quiet(text string) string {
	for _, n := range noise {
		text = n.pattern.ReplaceAllString(text, n.as)
	}
	return text
}

// comparisons are specs as clients send them, bent in one way each.
var comparisons = []struct {
	name   string
	change func(t *testing.T, s *specs.Spec, bundle string)
}{
	{"as it is", func(*testing.T, *specs.Spec, string) {}},
	{"docker's masked and read-only paths", func(t *testing.T, s *specs.Spec, _ string) {
		s.Linux.MaskedPaths = []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/nothing", "/proc/scsi", "/sys/firmware", "/etc/secret", "/proc/kcore"}
		s.Linux.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/proc/nothing"}
	}},
	{"sysfs, cgroups, mqueue and shm", func(t *testing.T, s *specs.Spec, _ string) {
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
			specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}})
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}},
	{"cgroup namespace", func(t *testing.T, s *specs.Spec, _ string) {
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs"},
			specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"rw", "nosuid", "noexec", "nodev", "relatime"}})
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace}, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}},
	{"read-only root", func(t *testing.T, s *specs.Spec, _ string) { s.Root.Readonly = true }},
	{"privileged", func(t *testing.T, s *specs.Spec, _ string) {
		all := ownCapabilities(t)
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all, Inheritable: all}
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		s.Linux.RootfsPropagation = "slave"
	}},
	{"user, groups, umask and ambient capabilities", func(t *testing.T, s *specs.Spec, _ string) {
		umask := uint32(0o027)
		s.Process.User = specs.User{UID: 7, GID: 8, AdditionalGids: []uint32{9, 10}, Umask: &umask}
		some := []string{"CAP_CHOWN", "CAP_KILL", "CAP_NO_SUCH"}
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: some, Effective: some, Permitted: some, Inheritable: some, Ambient: some[1:2]}
		s.Process.Cwd = "/made/for it"
	}},
	{"limits and no new privileges", func(t *testing.T, s *specs.Spec, _ string) {
		adj := 500
		s.Process.OOMScoreAdj = &adj
		s.Process.NoNewPrivileges = true
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_CORE"}, {Type: "RLIMIT_NPROC", Soft: 50, Hard: 60}}
	}},
	{"sysctls, host name and domain", func(t *testing.T, s *specs.Spec, _ string) {
		s.Linux.Sysctl = map[string]string{"kernel.msgmax": "4096", "net.ipv4.ip_unprivileged_port_start": "80"}
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
		s.Domainname = "example"
	}},
	{"mounts of all kinds", func(t *testing.T, s *specs.Spec, bundle string) {
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/data", Type: "bind", Source: "tree", Options: []string{"rbind", "ro", "nosuid"}},
			specs.Mount{Destination: "/new/deep/one", Type: "bind", Source: "tree", Options: []string{"bind", "rprivate", "noatime"}},
			specs.Mount{Destination: "/new/file", Type: "bind", Source: "file", Options: []string{"bind", "rro", "rslave"}},
			specs.Mount{Destination: "/new/rro", Type: "bind", Source: "tree", Options: []string{"rbind", "rro", "rnoexec", "rshared"}},
			specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "ro", "nodiratime"}},
			specs.Mount{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"private", "mode=755"}},
			specs.Mount{Destination: "/run/below", Type: "bind", Source: "tree", Options: []string{"rbind"}},
			specs.Mount{Destination: "/linked/there", Type: "bind", Source: "tree", Options: []string{"bind", "rw"}})
	}},
	{"devices", func(t *testing.T, s *specs.Spec, _ string) {
		mode, uid, gid := os.FileMode(0o640), uint32(5), uint32(6)
		s.Linux.Devices = []specs.LinuxDevice{
			{Path: "/dev/zip", Type: "c", Major: 1, Minor: 5, FileMode: &mode, UID: &uid, GID: &gid}, {Path: "/dev/sub/loop", Type: "b", Major: 7, Minor: 0},
			{Path: "/dev/pipe", Type: "p"},
		}
	}},
	{"the host's namespaces", func(t *testing.T, s *specs.Spec, _ string) {
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
		s.Hostname = ""
	}},
	{"the root propagates", func(t *testing.T, s *specs.Spec, _ string) { s.Linux.RootfsPropagation = "rshared" }},
	{"terminal of a user, on a read-only root, with rules for devpts", func(t *testing.T, s *specs.Spec, _ string) {
		s.Process.Terminal = true
		s.Process.User = specs.User{UID: 7, GID: 8}
		s.Root.Readonly = true
		s.Mounts[2].Options = append(s.Mounts[2].Options, "gid=5", "nosuid", "noexec")
	}},
	{"no keyring, an environment with repetitions", func(t *testing.T, s *specs.Spec, _ string) {
		s.Process.Env = []string{"PATH=/nowhere:/bin", "A=1", "HOME=", "A=2", "PATH=/sbin:/bin"}
	}},
}

// ownCapabilities are those that this process can give away.
func ownCapabilities(t *testing.T) (names []string) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	for n, name := range map[int]string{
		unix.CAP_CHOWN: "CAP_CHOWN", unix.CAP_SYS_ADMIN: "CAP_SYS_ADMIN", unix.CAP_NET_ADMIN: "CAP_NET_ADMIN", unix.CAP_SYS_PTRACE: "CAP_SYS_PTRACE",
		unix.CAP_BPF: "CAP_BPF", unix.CAP_SYS_RESOURCE: "CAP_SYS_RESOURCE", unix.CAP_DAC_OVERRIDE: "CAP_DAC_OVERRIDE",
	} {
		if data[n/32].Permitted>>(n%32)&1 != 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// compareRoot is a root file system of this test's own, with what an image may have.
func compareRoot(t *testing.T, dir string) string {
	root := filepath.Join(dir, "root")
	if err := makeRootfs(root); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.Mkdir(filepath.Join(root, "elsewhere"), 0o755), os.Symlink("/elsewhere", filepath.Join(root, "linked")),
		os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nseven:x:7:8::/home/seven:/bin/sh\n"), 0o644),
		os.Mkdir(filepath.Join(dir, "tree"), 0o755), os.WriteFile(filepath.Join(dir, "tree/leaf"), nil, 0o600), os.WriteFile(filepath.Join(dir, "file"), nil, 0o600),
		os.Chmod(root, 0o755), os.Chmod(filepath.Join(root, "tmp"), 0o1777),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	openPath(t, dir)
	return root
}

// TestCompare has each container set up by libcontainer and by this package's own way, looks from inside, from init and from a
// process executed later, and wants no difference.
func TestCompare(t *testing.T) {
	needContainers(t)
	for _, test := range comparisons {
		t.Run(test.name, func(t *testing.T) {
			var seen [2]string
			for i, kind := range []string{"own", "lc"} {
				seen[i] = look(t, kind, test.change)
			}
			if seen[0] != seen[1] {
				t.Errorf("different:\n%s", difference(seen[0], seen[1]))
			}
		})
	}
}

func look(t *testing.T, kind string, change func(*testing.T, *specs.Spec, string)) string {
	t.Helper()
	e, err := linux.New(linux.Config{Root: t.TempDir(), Log: slog.New(slog.DiscardHandler), Libcontainer: kind == "lc"})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	id := "compare-" + kind
	p := platformSpec(t, id, ociSpec(id))
	s := ociSpec(id, "sh", "-c", probe+"exec sleep 1000")
	s.Root.Path = compareRoot(t, p.Bundle)
	change(t, s, p.Bundle)
	var out [2]bytes.Buffer
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.Process.Args[2] = probe + "echo END; exec sleep 1000"
	p.OCI, _ = json.Marshal(s)
	p.IO = streams(s, w)
	c, err := e.Create(t.Context(), p)
	if s.Process.Terminal {
		defer w.Close() // it is copied to
	} else {
		w.Close()
	}
	if err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
	if (linux.OwnInit(c)) != (kind == "own") {
		t.Fatalf("%s: set up by another way: %s", kind, linux.NotPlain(e, p))
	}
	if err := c.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	for !bytes.HasSuffix(out[0].Bytes(), []byte("END\n")) && !bytes.HasSuffix(out[0].Bytes(), []byte("END\r\n")) {
		n, err := r.Read(buf)
		if err != nil {
			t.Fatalf("%s: %v after %s", kind, err, out[0].String())
		}
		out[0].Write(buf[:n])
	}
	s.Process.Args[2] = probe
	process, err := json.Marshal(s.Process)
	if err != nil {
		t.Fatal(err)
	}
	x, err := c.Exec(t.Context(), platform.ProcessSpec{ID: "x", OCI: process, IO: streams(s, &out[1])})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Start(t.Context()); err != nil {
		t.Fatalf("%s: exec: %v", kind, err)
	}
	if _, err := x.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Init().Signal(t.Context(), 9, false); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Init().Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(out[0].String()+"--- exec ---\n"+out[1].String(), p.Bundle, "BUNDLE")
	return quiet(strings.ReplaceAll(text, "\r\n", "\n"))
}

func streams(s *specs.Spec, to io.Writer) platform.IO {
	if s.Process.Terminal {
		return platform.IO{Terminal: true, Stdout: to, Width: 101, Height: 31}
	}
	return platform.IO{Stdout: to, Stderr: to}
}

// difference lists the lines that only one has.
func difference(own, lc string) string {
	a, b := strings.Split(own, "\n"), strings.Split(lc, "\n")
	var lines []string
	for i := range max(len(a), len(b)) {
		var x, y string
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			lines = append(lines, fmt.Sprintf("%d own          %s\n%d libcontainer %s", i, x, i, y))
		}
	}
	return strings.Join(lines[:min(len(lines), 30)], "\n")
}
