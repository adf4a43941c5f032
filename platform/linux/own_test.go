//go:build linux

package linux_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/moby/profiles/seccomp"
	seccompBuilt "github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/linux"
	"github.com/slipwayd/slipway/testsuite"
)

// TestLibcontainer is the suite with containers that are set up by libcontainer though they are plain.
func TestLibcontainer(t *testing.T) {
	needContainers(t)
	testsuite.TestExecutor(t, func(t *testing.T) testsuite.ExecutorFixture {
		root := t.TempDir()
		open := func() *linux.Executor {
			e, err := linux.New(linux.Config{Root: root, Log: slog.New(slog.DiscardHandler), Libcontainer: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { e.Close() })
			return e
		}
		e := open()
		return testsuite.ExecutorFixture{
			Executor: e,
			Spec: func(t *testing.T, id string, args ...string) platform.Spec {
				return platformSpec(t, id, ociSpec(id, args...))
			},
			Restart: func(t *testing.T) platform.Executor {
				e.Close()
				return open()
			},
		}
	})
}

// TestHostileImage has images whose links lead the setting up astray. want is in the error, or in the output of a container that
// runs; whatever happens, it happens inside.
func TestHostileImage(t *testing.T) {
	needContainers(t)
	link := func(to, at string) func(string) error {
		return func(root string) error {
			at := filepath.Join(root, at)
			if err := os.RemoveAll(at); err != nil {
				return err
			}
			return os.Symlink(to, at)
		}
	}
	volume := func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: "tree", Options: []string{"rbind"}})
	}
	below := func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data/made/here", Type: "bind", Source: "tree", Options: []string{"rbind"}})
	}
	same := func(*specs.Spec) {}
	outside := t.TempDir()
	linkTo := func(to string) func(string) error { // which is in the image too
		return func(root string) error { return errors.Join(os.MkdirAll(root+outside, 0o755), link(to, "data")(root)) }
	}
	for _, test := range []struct {
		name   string
		image  func(root string) error
		spec   func(s *specs.Spec)
		script string
		want   string
	}{
		{"proc is a link", link("/etc", "proc"), same, "", "mount proc on /proc"},
		{"sys is a link", link("/etc", "sys"), func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs"})
		}, "", "mount sysfs on /sys"},
		{"dev is a link", link("../../../../../../etc", "dev"), same, "ls /etc/null", "/etc/null"},
		{"volume into proc", link("/proc", "data"), volume, "", "into /proc"},
		{"volume below proc", link("/proc/self", "data"), volume, "", "into /proc"},
		{"volume on the root", link("/", "data"), volume, "", "the root or"},
		{"volume on the root, by another way", link("/../tmp/..", "data"), volume, "", "the root or"},
		{"volume outside", linkTo(outside), volume, "ls " + outside, "leaf"},
		{"volume outside by dots", linkTo("../../../../../../../../.." + outside), below, "ls " + outside + "/made/here", "leaf"},
		{"volume on a link to nothing", link("/nowhere", "data"), volume, "", "mount BUNDLE/tree on /data"},
		{"a list of users that blocks", func(root string) error { return unix.Mkfifo(filepath.Join(root, "etc/passwd"), 0o666) }, same, "echo $HOME", "/\n"},
		{"a list of users outside", link("/proc/self/root/etc/passwd", "etc/passwd"), same, "echo $HOME", "/\n"},
		{"our own program", func(string) error { return nil }, func(s *specs.Spec) { s.Process.Args = []string{"/proc/self/exe"} }, "", `exec "/proc/self/exe"`},
		{"a working directory of the host's", func(string) error { return nil }, func(s *specs.Spec) { s.Process.Cwd = "/proc/self/fd/3" }, "", "working directory"},
		{"a working directory by a link", link("/proc/1/root/tmp", "data"), func(s *specs.Spec) { s.Process.Cwd = "/data" }, "", "working directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := newExecutor(t, t.TempDir())
			p := platformSpec(t, "hostile", ociSpec("hostile"))
			s := ociSpec("hostile", "sh", "-c", test.script)
			s.Root.Path = filepath.Join(p.Bundle, "root")
			for _, err := range []error{
				makeRootfs(s.Root.Path), os.Mkdir(filepath.Join(p.Bundle, "tree"), 0o755),
				os.WriteFile(filepath.Join(p.Bundle, "tree/leaf"), nil, 0o600), test.image(s.Root.Path),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			test.spec(s)
			var err error
			if p.OCI, err = json.Marshal(s); err != nil {
				t.Fatal(err)
			}
			if reason := linux.NotPlain(e, p); reason != "" {
				t.Fatal("libcontainer's to set up: ", reason)
			}
			var got string
			if test.script != "" {
				got, _ = runSpec(t, e, p)
			} else if _, err := e.Create(t.Context(), p); err != nil {
				got = strings.ReplaceAll(err.Error(), p.Bundle, "BUNDLE")
			}
			if !strings.Contains(got, test.want) {
				t.Errorf("got %q, want %q in it", got, test.want)
			}
			if made, err := os.ReadDir(outside); err != nil || len(made) != 0 {
				t.Errorf("outside of the image there are %v, %v", made, err)
			}
			mounts, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil || bytes.Contains(mounts, []byte(p.Bundle)) {
				t.Errorf("a mount is left on the host: %v", err)
			}
		})
	}
}

// TestFilter loads docker's profile in both ways, takes the filters out of the processes, and has them judge all calls.
func TestFilter(t *testing.T) {
	needContainers(t)
	s := ociSpec("filter", "sleep", "1000")
	profile, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		t.Fatal(err)
	}
	if !seccompBuilt.Enabled {
		t.Skip("this build has no libseccomp")
	}
	s.Linux.Seccomp = profile
	for _, nnp := range []bool{false, true} {
		s.Process.NoNewPrivileges = nnp
		var filters [2]*bpf.VM
		for i, lc := range []bool{false, true} {
			filters[i] = filterOf(t, s, lc)
		}
		calls := 0
		for _, arch := range []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM, 0} {
			for number := range uint32(1024) {
				for _, bits := range []uint32{0, 1 << 30, 1 << 31} {
					data := make([]byte, 64) // struct seccomp_data (seccomp(2)), each word as the simulator reads it
					binary.BigEndian.PutUint32(data, number|bits)
					binary.BigEndian.PutUint32(data[4:], arch)
					binary.BigEndian.PutUint32(data[16:], 0x10000) // flags of clone, socket families and others
					own, err := filters[0].Run(data)
					if err != nil {
						t.Fatal(err)
					}
					theirs, err := filters[1].Run(data)
					if err != nil || own != theirs {
						t.Errorf("arch %#x call %d: own %#x, libcontainer's %#x, %v", arch, number|bits, own, theirs, err)
					}
					calls++
				}
			}
		}
		if calls == 0 {
			t.Error("nothing was compared")
		}
	}
}

func filterOf(t *testing.T, s *specs.Spec, lc bool) *bpf.VM {
	t.Helper()
	e, err := linux.New(linux.Config{Root: t.TempDir(), Log: slog.New(slog.DiscardHandler), Libcontainer: lc})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	c, err := e.Create(t.Context(), platformSpec(t, "filter", s))
	if err != nil {
		t.Fatal(err)
	}
	if linux.OwnInit(c) == lc {
		t.Fatal("set up by another way")
	}
	if err := c.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid := c.Init().Pid()
	const getFilter = 0x420c // PTRACE_SECCOMP_GET_FILTER of ptrace(2)
	if err := unix.PtraceSeize(pid); err != nil {
		t.Fatal(err)
	}
	if err := unix.PtraceInterrupt(pid); err != nil {
		t.Fatal(err)
	}
	// Until it has stopped, ptrace says ESRCH. wait4 would be told by the kernel, if the executor's own did not take the news.
	n, _, errno := unix.Syscall6(unix.SYS_PTRACE, getFilter, uintptr(pid), 0, 0, 0, 0)
	for errno == unix.ESRCH && unix.Kill(pid, 0) == nil {
		runtime.Gosched()
		n, _, errno = unix.Syscall6(unix.SYS_PTRACE, getFilter, uintptr(pid), 0, 0, 0, 0)
	}
	if errno != 0 {
		t.Skip("this kernel does not show filters: ", errno)
	}
	code := make([]unix.SockFilter, n)
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, getFilter, uintptr(pid), 0, uintptr(unsafe.Pointer(&code[0])), 0, 0); errno != 0 {
		t.Fatal(errno)
	}
	raw := make([]bpf.RawInstruction, n)
	for i, c := range code {
		raw[i] = bpf.RawInstruction{Op: c.Code, Jt: c.Jt, Jf: c.Jf, K: c.K}
	}
	program, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the filter has instructions that are none")
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
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
	return vm
}

// TestJoinPod has a container live in another's namespaces, its processes beside the other's, as those of a pod do.
func TestJoinPod(t *testing.T) {
	needContainers(t)
	e := newExecutor(t, t.TempDir())
	pod := ociSpec("pod", "sleep", "1000")
	pod.Linux.Namespaces = append(pod.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	first, err := e.Create(t.Context(), platformSpec(t, "pod", pod))
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ns := func(name string) string { return nsOf(first, name) }
	s := ociSpec("member", "sh", "-c", "hostname; echo; cat /proc/1/cmdline; echo; test $$ -gt 1 && echo beside; busybox readlink /proc/self/ns/net; busybox readlink /proc/self/ns/pid; busybox readlink /proc/self/ns/ipc")
	s.Hostname = ""
	s.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace, Path: ns("net")}, {Type: specs.IPCNamespace, Path: ns("ipc")},
		{Type: specs.UTSNamespace, Path: ns("uts")}, {Type: specs.PIDNamespace, Path: ns("pid")},
	}
	p := platformSpec(t, "member", s)
	if reason := linux.NotPlain(e, p); reason != "a pid namespace with others in it" {
		t.Fatalf("%q speaks against our own way", reason)
	}
	if linux.Traced(first) {
		t.Error("a pid namespace is taken for another's before anybody joins it")
	}
	want := "box\n\nsleep\x001000\x00\nbeside\n"
	for _, name := range []string{"net", "pid", "ipc"} {
		link, err := os.Readlink(ns(name))
		if err != nil {
			t.Fatal(err)
		}
		want += link + "\n"
	}
	if got, _ := runSpec(t, e, p); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !linux.Traced(first) {
		t.Error("that another container lives in a pid namespace is not noticed")
	}
	s.Process.Args[2] = "hostname; echo $$; busybox readlink /proc/self/ns/net; busybox readlink /proc/self/ns/ipc"
	s.Linux.Namespaces[4].Path = ""
	p = platformSpec(t, "member", s)
	if reason := linux.NotPlain(e, p); reason != "" {
		t.Fatal("libcontainer's to set up: ", reason)
	}
	lines := strings.Split(want, "\n")
	want = strings.Join([]string{"box", "1", lines[4], lines[6], ""}, "\n")
	if got, _ := runSpec(t, e, p); got != want {
		t.Errorf("with processes of its own: got %q, want %q", got, want)
	}
	own, err := os.Readlink("/proc/self/ns/pid_for_children")
	if outer, err2 := os.Readlink("/proc/self/ns/pid"); err != nil || err2 != nil || own != outer {
		t.Errorf("this process's children are born in %s, %v; it is in %s, %v", own, err, outer, err2)
	}
	if err := first.Init().Signal(t.Context(), 9, false); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Init().Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := first.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func nsOf(c platform.Container, name string) string {
	return fmt.Sprintf("/proc/%d/ns/%s", c.Init().Pid(), name)
}
