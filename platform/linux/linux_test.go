//go:build linux

package linux_test

import (
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	_ "github.com/opencontainers/cgroups/devices"
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/linux"
	"github.com/slipwayd/slipway/platform/linux/child"
	_ "github.com/slipwayd/slipway/platform/linux/reexec"
)

// rootfs is a root file system of busybox alone, shared by all tests: each has its own mounts and cgroup.
var rootfs string

const secret = "SLIPWAY_TEST_SECRET"

func TestMain(m *testing.M) {
	os.Setenv(secret, "for-nobody-else") // which from then on is in this program's memory for certain
	if err := child.Seal(); err != nil {
		slog.Warn("containers are set up by libcontainer alone", "error", err)
	}
	if os.Getenv(crashRoot) != "" {
		crashChild()
		return
	}
	dir, err := os.MkdirTemp("", "slipway-linux-")
	if err != nil {
		panic(err)
	}
	rootfs = filepath.Join(dir, "rootfs")
	if os.Getuid() == 0 {
		if err := makeRootfs(rootfs); err != nil {
			slog.Warn("no busybox here, tests that run containers are skipped", "error", err)
			rootfs = ""
		}
	}
	status := m.Run()
	os.RemoveAll(dir)
	for _, pattern := range []string{"/sys/fs/cgroup/slipway-test", "/sys/fs/cgroup/*/slipway-test"} {
		left, _ := filepath.Glob(pattern)
		for _, cgroup := range left {
			os.Remove(cgroup) // the parent of those that were deleted; libcontainer leaves it
		}
	}
	os.Exit(status)
}

// makeRootfs needs a static busybox.
func makeRootfs(dir string) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp", "etc", "data"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755); err != nil {
		return err
	}
	for _, applet := range []string{"true", "false", "echo", "cat", "sleep", "sh", "stty", "id", "mount", "grep", "ls", "touch", "hostname", "dd", "head", "kill", "pwd", "env", "test", "tail", "mknod"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", applet)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "etc/secret"), []byte("secret\n"), 0o644)
}

func needContainers(t testing.TB) {
	if os.Getuid() != 0 {
		t.Skip("containers need root")
	}
	if rootfs == "" {
		t.Skip("no busybox to put into a container")
	}
}

// ociSpec is what a client would send for args, small.
func ociSpec(id string, args ...string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"}
	return &specs.Spec{
		Version:  "1.0.2", // which old runtimes know
		Hostname: "box",
		Root:     &specs.Root{Path: rootfs},
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/slipway-test/" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			},
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
}

func platformSpec(t testing.TB, id string, s *specs.Spec) platform.Spec {
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return platform.Spec{ID: id, Bundle: t.TempDir(), OCI: data}
}

func newExecutor(t testing.TB, root string) *linux.Executor {
	e, err := linux.New(linux.Config{Root: root, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func BenchmarkRun(b *testing.B) {
	needContainers(b)
	e := newExecutor(b, b.TempDir())
	b.Run("alone", func(b *testing.B) {
		defer cpu(b)()
		for b.Loop() {
			run(b, e, "bench")
		}
	})
	b.Run("four", func(b *testing.B) {
		defer cpu(b)()
		b.SetParallelism(2)
		n := make(chan string, 8)
		for i := range 8 {
			n <- "bench" + string(rune('a'+i))
		}
		b.RunParallel(func(pb *testing.PB) {
			id := <-n
			for pb.Next() {
				run(b, e, id)
			}
		})
	})
}

func BenchmarkExec(b *testing.B) {
	needContainers(b)
	e := newExecutor(b, b.TempDir())
	c, err := e.Create(b.Context(), platformSpec(b, "bench", ociSpec("bench", "sleep", "1000")))
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Init().Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	end := cpu(b)
	for b.Loop() {
		p, err := c.Exec(b.Context(), platform.ProcessSpec{ID: "e", OCI: json.RawMessage(`{"args":["true"],"cwd":"/","env":["PATH=/bin"]}`)})
		if err != nil {
			b.Fatal(err)
		}
		if err := p.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		if exit, err := p.Wait(b.Context()); err != nil || exit.Status != 0 {
			b.Fatal(exit, err)
		}
		if err := p.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	end()
	_ = c.Init().Signal(b.Context(), 9, false)
	_, _ = c.Init().Wait(b.Context())
	if err := c.Delete(b.Context()); err != nil {
		b.Fatal(err)
	}
}

func run(b testing.TB, e *linux.Executor, id string) {
	s := ociSpec(id, "true")
	data, _ := json.Marshal(s)
	c, err := e.Create(b.Context(), platform.Spec{ID: id, Bundle: "/tmp", OCI: data})
	if err != nil {
		b.Fatal(err)
	}
	if err := c.(platform.OOMNotifier).OnOOM(func() {}); err != nil { // as a shim does
		b.Fatal(err)
	}
	if err := c.Init().Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	if exit, err := c.Init().Wait(b.Context()); err != nil || exit.Status != 0 {
		b.Fatal(exit, err)
	}
	if err := c.Delete(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// cpu adds what the machine worked for each container to a benchmark's result, which a busy machine changes less than time:
// in all, and in the container's own processes.
func cpu(b *testing.B) func() {
	used := func(who int) time.Duration {
		var r unix.Rusage
		if err := unix.Getrusage(who, &r); err != nil {
			b.Fatal(err)
		}
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	self, children := used(unix.RUSAGE_SELF), used(unix.RUSAGE_CHILDREN)
	return func() {
		self, children := used(unix.RUSAGE_SELF)-self, used(unix.RUSAGE_CHILDREN)-children
		b.ReportMetric(float64((self+children).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		b.ReportMetric(float64(children.Microseconds())/1000/float64(b.N), "child-ms/op")
	}
}
