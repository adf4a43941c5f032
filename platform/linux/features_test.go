//go:build linux

package linux_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/internal/mount"
	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/linux"
	"github.com/slipwayd/slipway/storage"
)

// runSpec runs a container to its end and answers what it wrote.
func runSpec(t *testing.T, e *linux.Executor, s platform.Spec) (string, platform.Exit) {
	t.Helper()
	var out bytes.Buffer
	s.IO.Stdout, s.IO.Stderr = &out, &out
	c, err := e.Create(t.Context(), s)
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	if err := c.Init().Start(t.Context()); err != nil {
		t.Fatalf("Start: %v", err)
	}
	exit, err := c.Init().Wait(t.Context())
	if err != nil {
		t.Fatalf("Wait: %v", err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	return out.String(), exit
}

// TestSpec is what a spec asks for, seen from inside.
func TestSpec(t *testing.T) {
	needContainers(t)
	e := newExecutor(t, t.TempDir())
	for _, test := range []struct {
		name, script, want string
		change             func(s *specs.Spec)
	}{
		{"namespaces", "hostname; echo $$", "box\n1\n", func(*specs.Spec) {}},
		{"user namespace", "cat /proc/self/uid_map; id -u", "         0     100000      65536\n0\n", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
			s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
		}},
		{"stdout can be opened again in a user namespace", "echo x > /proc/self/fd/1", "x\n", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
			s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
		}},
		{"user and groups", "id -u; id -g; id -G; pwd", "7\n8\n8 9\n/tmp\n", func(s *specs.Spec) {
			s.Process.User = specs.User{UID: 7, GID: 8, AdditionalGids: []uint32{9}}
			s.Process.Cwd = "/tmp"
		}},
		{"capabilities", "grep CapBnd /proc/self/status", "CapBnd:\t0000000000000400\n", func(s *specs.Spec) {
			caps := []string{"CAP_NET_BIND_SERVICE"}
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
		}},
		{"no new privileges", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n", func(s *specs.Spec) { s.Process.NoNewPrivileges = true }},
		{"rlimits", "ulimit -n; ulimit -Hn", "100\n200\n", func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}}
		}},
		{"environment", "echo $GREETING", "hi\n", func(s *specs.Spec) { s.Process.Env = append(s.Process.Env, "GREETING=hi") }},
		{"masked paths", "cat /etc/secret; echo $?", "0\n", func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"/etc/secret"} }},
		{"read-only paths", "touch /data/x 2>/dev/null; echo $?", "1\n", func(s *specs.Spec) { s.Linux.ReadonlyPaths = []string{"/data"} }},
		{"read-only root", "touch /x 2>/dev/null; echo $?", "1\n", func(s *specs.Spec) { s.Root.Readonly = true }},
		{"bind mount below the bundle, recursively read-only", "cat /data/hello; touch /data/x 2>/dev/null; echo $?", "hello\n1\n", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: "mine", Options: []string{"rbind", "rro"}})
		}},
		{"idmapped mount", "cat /proc/self/mountinfo | grep -c idmapped", "1\n", func(s *specs.Spec) {
			ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: "mine", Options: []string{"bind", "idmap"}, UIDMappings: ids, GIDMappings: ids})
		}},
		{"propagation", "grep -c master: /proc/self/mountinfo", "1\n", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: "shared", Options: []string{"rbind", "rslave"}})
		}},
		{"devices", "cat /dev/zip | head -c 3; cat /dev/null; echo $?", "\x00\x00\x000\n", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/zip", Type: "c", Major: 1, Minor: 5}}
			five, one := int64(5), int64(1)
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &one, Minor: &five, Access: "rwm"})
		}},
		{"devices not allowed", "head -c 1 /dev/mem 2>/dev/null; echo $?", "1\n", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/mem", Type: "c", Major: 1, Minor: 1}}
		}},
		{"sysctl", "cat /proc/sys/kernel/msgmax", "4096\n", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.msgmax": "4096"} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := ociSpec("spec", "sh", "-c", test.script)
			test.change(s)
			p := platformSpec(t, "spec", s)
			for _, d := range []string{"mine", "shared"} {
				if err := os.Mkdir(filepath.Join(p.Bundle, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(p.Bundle, "mine/hello"), []byte("hello\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			shared := filepath.Join(p.Bundle, "shared")
			if err := errors.Join(unix.Mount(shared, shared, "", unix.MS_BIND, ""), unix.Mount("", shared, "", unix.MS_SHARED, "")); err != nil {
				t.Fatal(err)
			}
			defer unix.Unmount(shared, unix.MNT_DETACH)
			openPath(t, p.Bundle)
			openPath(t, rootfs)
			if test.name == "idmapped mount" && !canIDMap(t, filepath.Join(p.Bundle, "mine")) {
				t.Skip("this kernel cannot map ids on the file system of the test")
			}
			if got, exit := runSpec(t, e, p); got != test.want {
				t.Errorf("wrote %q (exit %d), want %q", got, exit.Status, test.want)
			}
		})
	}
}

// openPath lets the root of a user namespace get to path.
func openPath(t *testing.T, path string) {
	for ; path != "/" && path != os.TempDir(); path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// canIDMap tries it with an own user namespace.
func canIDMap(t *testing.T, dir string) bool {
	t.Helper()
	mounts := []storage.Mount{{Type: "bind", Source: dir, Options: []string{"bind", "uidmap=0:100000:65536", "gidmap=0:100000:65536"}}}
	return mount.Temp(t.TempDir(), mounts, func(string) error { return nil }) == nil
}

func TestLimitsThatCannotBeRaised(t *testing.T) {
	needContainers(t)
	e := newExecutor(t, t.TempDir())
	s := ociSpec("limits", "sh", "-c", "ulimit -Hn; cat /proc/self/oom_score_adj")
	s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1 << 29, Hard: 1 << 29}}
	adj := -900
	s.Process.OOMScoreAdj = &adj
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	if lower := os.WriteFile("/proc/self/oom_score_adj", []byte("-900"), 0); lower == nil {
		if err := os.WriteFile("/proc/self/oom_score_adj", data, 0); err != nil {
			t.Fatal(err)
		}
		t.Skip("this process has CAP_SYS_RESOURCE: nothing is out of reach")
	}
	want := fmt.Sprintf("%d\n%s", have.Max, data)
	if got, _ := runSpec(t, e, platformSpec(t, "limits", s)); got != want {
		t.Errorf("the container has %q, want our own limits %q", got, want)
	}
}

func TestRootfsIsMountedAndUnmounted(t *testing.T) {
	needContainers(t)
	e := newExecutor(t, t.TempDir())
	s := ociSpec("rootfs", "cat", "/etc/secret")
	s.Root.Path = "rootfs"
	p := platformSpec(t, "rootfs", s)
	p.Rootfs = []storage.Mount{{Type: "bind", Source: rootfs, Options: []string{"rbind", "ro"}}}
	if got, _ := runSpec(t, e, p); got != "secret\n" {
		t.Errorf("wrote %q", got)
	}
	entries, err := os.ReadDir(filepath.Join(p.Bundle, "rootfs"))
	if err != nil || len(entries) != 0 {
		t.Errorf("Bundle/rootfs after Delete holds %v, %v", entries, err)
	}
	p.Rootfs[0].Source = "/there/is/no/such/directory"
	if _, err := e.Create(t.Context(), p); err == nil {
		t.Error("Create with a root file system that cannot be mounted succeeded")
	}
	if ids, _ := e.List(t.Context()); len(ids) != 0 {
		t.Errorf("a failed Create left %v", ids)
	}
}

func TestHooks(t *testing.T) {
	needContainers(t)
	e := newExecutor(t, t.TempDir())
	s := ociSpec("ns-hooked", "true")
	p := platformSpec(t, "ns-hooked", s)
	hook := func(name string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat > " + filepath.Join(p.Bundle, name)}}}
	}
	s.Annotations = map[string]string{"color": "blue"}
	s.Hooks = &specs.Hooks{CreateRuntime: hook("createRuntime"), Poststart: hook("poststart"), Poststop: hook("poststop")}
	p.OCI = platformSpec(t, "", s).OCI
	p.Name = "hooked"
	runSpec(t, e, p)
	for _, name := range []string{"createRuntime", "poststart", "poststop"} {
		data, err := os.ReadFile(filepath.Join(p.Bundle, name))
		var state specs.State
		if err == nil {
			err = json.Unmarshal(data, &state)
		}
		if err != nil || state.ID != "hooked" || state.Bundle != p.Bundle || state.Annotations["color"] != "blue" {
			t.Errorf("hook %s got %+v, %v", name, state, err)
		}
		if name != "poststop" && state.Pid == 0 {
			t.Errorf("hook %s was told no pid", name)
		}
	}
}

func TestSeccomp(t *testing.T) {
	needContainers(t)
	e := newExecutor(t, t.TempDir())
	s := ociSpec("seccomp", "sh", "-c", "mkdir /tmp/x 2>/dev/null; echo $?")
	s.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno}},
	}
	if !seccomp.Enabled {
		if _, err := e.Create(t.Context(), platformSpec(t, "seccomp", s)); !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("Create with a filter in a build without libseccomp: %v", err)
		}
		return
	}
	s.Process.Args[2] = "busybox mkdir /tmp/x 2>/dev/null; echo $?"
	if got, _ := runSpec(t, e, platformSpec(t, "seccomp", s)); got != "1\n" {
		t.Errorf("mkdir under a filter that forbids it: %q", got)
	}
}

func TestSystemdDriverWithoutSystemd(t *testing.T) {
	needContainers(t)
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		t.Skip("systemd runs here")
	}
	p := platformSpec(t, "systemd", ociSpec("systemd", "true"))
	p.Options.SystemdCgroup = true
	if _, err := newExecutor(t, t.TempDir()).Create(t.Context(), p); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("Create: %v, want FailedPrecondition", err)
	}
}

func TestOOM(t *testing.T) {
	needContainers(t)
	e := newExecutor(t, t.TempDir())
	s := ociSpec("oom", "sh", "-c", "tail /dev/zero")
	limit, noSwap := int64(64<<20), int64(64<<20)
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &noSwap}
	c, err := e.Create(t.Context(), platformSpec(t, "oom", s))
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan struct{}, 16)
	if err := c.(platform.OOMNotifier).OnOOM(func() { told <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	if err := c.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Init().Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-told
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestSharedPidNamespace ends what init leaves behind: here no kernel does.
func TestSharedPidNamespace(t *testing.T) {
	needContainers(t)
	e := newExecutor(t, t.TempDir())
	s := ociSpec("shared", "sh", "-c", "sleep 1000 >/dev/null 2>&1 & sleep 1000 >/dev/null 2>&1 & echo $!")
	var kept []specs.LinuxNamespace
	for _, ns := range s.Linux.Namespaces {
		if ns.Type != specs.PIDNamespace {
			kept = append(kept, ns)
		}
	}
	s.Linux.Namespaces = kept
	out, _ := runSpec(t, e, platformSpec(t, "shared", s))
	pid := strings.TrimSpace(out)
	if status, err := os.ReadFile("/proc/" + pid + "/status"); err == nil && !strings.Contains(string(status), "Z (zombie)") {
		t.Errorf("process %s outlived its container: %s", pid, status)
	}
}

func TestJoinNamespace(t *testing.T) {
	needContainers(t)
	e := newExecutor(t, t.TempDir())
	first, err := e.Create(t.Context(), platformSpec(t, "first", ociSpec("first", "sleep", "1000")))
	if err != nil {
		t.Fatal(err)
	}
	s := ociSpec("second", "hostname")
	s.Hostname = ""
	for i := range s.Linux.Namespaces {
		if s.Linux.Namespaces[i].Type == specs.UTSNamespace {
			s.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/uts", first.Init().Pid())
		}
	}
	if got, _ := runSpec(t, e, platformSpec(t, "second", s)); got != "box\n" {
		t.Errorf("hostname in the joined namespace is %q", got)
	}
	if err := first.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestNoLeaks counts what containers leave in the executor's process.
func TestNoLeaks(t *testing.T) {
	needContainers(t)
	e := newExecutor(t, t.TempDir())
	count := func() (files, goroutines int) {
		for range 10 { // handles of processes are closed by finalizers
			runtime.GC()
			runtime.Gosched()
		}
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries), runtime.NumGoroutine()
	}
	run(t, e, "leak")
	files, goroutines := count()
	for range 10 {
		run(t, e, "leak")
	}
	if f, g := count(); f > files+3 || g > goroutines+3 {
		t.Errorf("ten containers left %d files and %d goroutines", f-files, g-goroutines)
	}
}

// TestOverlayAgain deletes a container and runs another on the same layer at once, while the first mount may be ending.
func TestOverlayAgain(t *testing.T) {
	needContainers(t)
	e := newExecutor(t, t.TempDir())
	layer := t.TempDir()
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(layer, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		s := ociSpec("again", "sh", "-c", "echo x >>/data/lines")
		s.Root.Path = "rootfs"
		p := platformSpec(t, "again", s)
		p.Rootfs = []storage.Mount{{Type: "overlay", Source: "overlay", Options: []string{
			"index=off", "lowerdir=" + rootfs, "upperdir=" + filepath.Join(layer, "upper"), "workdir=" + filepath.Join(layer, "work"),
		}}}
		runSpec(t, e, p)
		lines, err := os.ReadFile(filepath.Join(layer, "upper/data/lines"))
		if err != nil || strings.Count(string(lines), "x") != i+1 {
			t.Fatalf("after run %d the layer has %q, %v", i+1, lines, err)
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(mounts), layer) {
			t.Fatalf("after run %d there are mounts of the layer %s, %v:\n%s", i+1, layer, err, mounts)
		}
	}
}

// TestMainThread looks where the thread is that /proc/self is about: see package reexec.
func TestMainThread(t *testing.T) {
	needContainers(t)
	e := newExecutor(t, t.TempDir())
	before, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		runSpec(t, e, platformSpec(t, "main", ociSpec("main", "true")))
		if after, err := os.Readlink("/proc/self/ns/mnt"); err != nil || after != before {
			t.Fatalf("after %d containers this program is in mount namespace %s, %v; was in %s", i+1, after, err, before)
		}
	}
}
