package shim_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/shim"
	"github.com/slipwayd/slipway/storage"
)

// base holds the shim's binary and a root file system of busybox for all tests.
var base string

func TestMain(m *testing.M) {
	if os.Getenv(childState) != "" {
		managerChild()
		return
	}
	code := 1
	func() {
		var err error
		if base, err = os.MkdirTemp("", "slipway-shim-"); err != nil {
			panic(err)
		}
		defer os.RemoveAll(base)
		if os.Getuid() == 0 {
			if err := prepare(); err != nil {
				panic(err)
			}
		}
		code = m.Run()
		for _, pattern := range []string{"/sys/fs/cgroup/slipway-shim-test", "/sys/fs/cgroup/*/slipway-shim-test"} {
			left, _ := filepath.Glob(pattern)
			for _, cgroup := range left {
				os.Remove(cgroup) // the parent of those that were deleted; libcontainer leaves it
			}
		}
	}()
	os.Exit(code)
}

func prepare() error {
	build := exec.Command("go", "build", "-tags", "seccomp", "-o", filepath.Join(base, "slipway-shim"), "github.com/slipwayd/slipway/cmd/slipway-shim")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build slipway-shim: %w: %s", err, out)
	}
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(base, "rootfs", d), 0o755); err != nil {
			return err
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil // needRoot skips
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	for _, applet := range []string{"true", "echo", "cat", "sleep", "sh", "stty", "ls", "kill", "dd", "head", "seq"} {
		if err := os.Symlink("busybox", filepath.Join(base, "rootfs/bin", applet)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(base, "rootfs/bin/busybox"), data, 0o755)
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("containers need root")
	}
	if _, err := os.Stat(filepath.Join(base, "rootfs/bin/busybox")); err != nil {
		t.Skip("no busybox to put into a container")
	}
}

func specOf(id string, args ...string) *specs.Spec {
	return &specs.Spec{
		Version: specs.Version, Hostname: "box", Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/slipway-shim-test/" + id,
			Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}},
		},
	}
}

func asJSON(t testing.TB, v any) json.RawMessage {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// world is a Manager with the events it told and the directory it lives in.
type world struct {
	t     testing.TB
	state string
	m     *shim.Manager

	mu     sync.Mutex
	events []string
}

// newWorld makes a state directory whose shims end with the test.
func newWorld(t testing.TB, conf shim.Config) *world {
	t.Helper()
	needRoot(t)
	state, err := os.MkdirTemp("/run", "slipway-t-")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, state: state}
	t.Cleanup(func() { w.cleanUp() })
	w.open(conf)
	return w
}

func (w *world) open(conf shim.Config) {
	w.t.Helper()
	conf.State, conf.Binary = w.state, filepath.Join(base, "slipway-shim")
	conf.Log = slog.New(slog.NewTextHandler(testWriter{w.t}, nil))
	conf.Events = w.note
	m, err := shim.New(conf)
	if err != nil {
		w.t.Fatal(err)
	}
	w.m = m
	if err := m.Restore(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	fmt.Fprintf(os.Stderr, "%s: %s", w.t.Name(), p)
	return len(p), nil
}

func (w *world) note(e shim.Event) {
	v, err := typeurl.UnmarshalByTypeURL(e.Payload.TypeURL, e.Payload.Value)
	if err != nil {
		w.t.Errorf("event %s: %v", e.Topic, err)
	}
	text := e.Namespace + " " + e.Topic
	switch v := v.(type) {
	case *events.TaskExit:
		text += fmt.Sprintf(" %s/%s %d", v.ContainerID, v.ID, v.ExitStatus)
	case interface{ GetContainerID() string }:
		text += " " + v.GetContainerID()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, text)
}

// await waits until the events told contain all of want, in that order.
func (w *world) await(want ...string) {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		w.mu.Lock()
		got := append([]string(nil), w.events...)
		w.mu.Unlock()
		rest := want
		for _, e := range got {
			if len(rest) > 0 && e == rest[0] {
				rest = rest[1:]
			}
		}
		if len(rest) == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("no event %q; there were:\n%s", rest[0], strings.Join(got, "\n"))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (w *world) count(event string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, e := range w.events {
		if e == event {
			n++
		}
	}
	return n
}

func (w *world) create(id string, s shim.Streams, args ...string) uint32 {
	w.t.Helper()
	pid, err := w.m.Create(w.t.Context(), w.options(id, s, args...))
	if err != nil {
		w.t.Fatal(err)
	}
	return pid
}

func (w *world) options(id string, s shim.Streams, args ...string) shim.CreateOptions {
	return shim.CreateOptions{
		Namespace: "default", ID: id, Spec: asJSON(w.t, specOf(id, args...)), Streams: s,
		Rootfs: []storage.Mount{{Type: "bind", Source: filepath.Join(base, "rootfs"), Options: []string{"rbind", "ro"}}},
	}
}

func (w *world) run(id string, s shim.Streams, args ...string) uint32 {
	w.t.Helper()
	pid := w.create(id, s, args...)
	if _, err := w.m.Start(w.t.Context(), "default", id, ""); err != nil {
		w.t.Fatal(err)
	}
	return pid
}

func (w *world) wait(id, execID string) shim.Exit {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	x, err := w.m.Wait(ctx, "default", id, execID)
	if err != nil {
		w.t.Fatalf("wait for %s: %v", id, err)
	}
	return x
}

// shimPid is the shim that runs, as soon as there is one.
func (w *world) shimPid() int {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if pids := w.shimPids(); len(pids) > 0 {
			return pids[0]
		}
		if time.Now().After(deadline) {
			w.t.Fatal("no shim runs")
		}
	}
}

func (w *world) shimPids() (pids []int) {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		line, _ := os.ReadFile(p)
		if args := strings.Split(string(line), "\x00"); len(args) > 3 && args[1] == "serve" && strings.HasPrefix(args[3], w.state+"/") {
			pid, _ := strconv.Atoi(strings.Split(p, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

func (w *world) cleanUp() {
	if w.m != nil {
		all, _ := w.m.List(context.Background(), "")
		for _, s := range all {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			if err := w.m.Kill(ctx, s.Namespace, s.ID, "", 9, true); err == nil {
				_, _ = w.m.Wait(ctx, s.Namespace, s.ID, "")
			}
			if _, err := w.m.Delete(ctx, s.Namespace, s.ID, ""); err != nil {
				w.t.Errorf("cannot delete %s: %v", s.ID, err)
			}
			cancel()
		}
	}
	w.nothingLeft()
	if err := w.m.Close(); err != nil {
		w.t.Error(err)
	}
	for _, pid := range w.shimPids() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		for syscall.Kill(pid, 0) == nil && !zombie(pid) {
			time.Sleep(time.Millisecond)
		}
	}
	if w.t.Failed() {
		log, _ := os.ReadFile(filepath.Join(w.state, "shims/host/log"))
		fmt.Fprintf(os.Stderr, "log of the shim:\n%s\n", log)
	}
	if err := os.RemoveAll(w.state); err != nil {
		w.t.Error(err)
	}
}

func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

// nothingLeft checks that deleted tasks left no bundle, record, mount or cgroup.
func (w *world) nothingLeft() {
	w.t.Helper()
	for _, pattern := range []string{"tasks/*/*", "shims/*/tasks/*", "shims/*/run/*"} {
		if left, _ := filepath.Glob(filepath.Join(w.state, pattern)); len(left) > 0 {
			w.t.Errorf("left behind: %v", left)
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(mounts), w.state+"/") {
		w.t.Errorf("mounts left behind below %s", w.state)
	}
}

func TestRunExecDelete(t *testing.T) {
	w := newWorld(t, shim.Config{})
	ctx := t.Context()
	out := filepath.Join(t.TempDir(), "out")
	pid := w.create("c1", shim.Streams{Stdout: "file://" + out}, "sh", "-c", "echo hello; sleep 1000; exit 4")
	if s, err := w.m.State(ctx, "default", "c1", ""); err != nil || s.Status != shim.Created || s.Pid != pid {
		t.Fatalf("state %+v, %v", s, err)
	}
	if _, err := w.m.Create(ctx, w.options("c1", shim.Streams{}, "true")); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Fatalf("second create: %v", err)
	}
	if _, err := w.m.Start(ctx, "default", "c1", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := w.m.Delete(ctx, "default", "c1", ""); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Fatalf("delete of a running task: %v", err)
	}
	execOut := filepath.Join(t.TempDir(), "exec")
	process := asJSON(t, specs.Process{Args: []string{"sh", "-c", "echo from exec; exit 7"}, Cwd: "/", Env: []string{"PATH=/bin"}})
	exec := shim.ExecOptions{ExecID: "e1", Spec: process, Streams: shim.Streams{Stdout: "file://" + execOut}}
	if err := w.m.Exec(ctx, "default", "c1", exec); err != nil {
		t.Fatal(err)
	}
	if err := w.m.Exec(ctx, "default", "c1", exec); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Fatalf("second exec: %v", err)
	}
	if _, err := w.m.Start(ctx, "default", "c1", "e1"); err != nil {
		t.Fatal(err)
	}
	if x := w.wait("c1", "e1"); x.Status != 7 {
		t.Fatalf("exec exit %+v", x)
	}
	if data, _ := os.ReadFile(execOut); string(data) != "from exec\n" {
		t.Fatalf("exec wrote %q", data)
	}
	if x, err := w.m.Delete(ctx, "default", "c1", "e1"); err != nil || x.Status != 7 {
		t.Fatalf("delete of exec: %+v, %v", x, err)
	}
	pids, err := w.m.Pids(ctx, "default", "c1")
	if err != nil || len(pids) == 0 {
		t.Fatalf("pids %v, %v", pids, err)
	}
	if stats, err := w.m.Stats(ctx, "default", "c1"); err != nil || stats.TypeURL == "" {
		t.Fatalf("stats %v, %v", stats, err)
	}
	if err := w.m.Kill(ctx, "default", "c1", "", 9, false); err != nil {
		t.Fatal(err)
	}
	if x := w.wait("c1", ""); x.Status != 137 {
		t.Fatalf("exit %+v", x)
	}
	if err := w.m.Kill(ctx, "default", "c1", "", 9, false); !errors.Is(err, errdefs.ErrNotFound) {
		t.Fatalf("kill of an ended task: %v", err)
	}
	if x, err := w.m.Delete(ctx, "default", "c1", ""); err != nil || x.Status != 137 || x.Pid != pid {
		t.Fatalf("delete: %+v, %v", x, err)
	}
	if data, _ := os.ReadFile(out); string(data) != "hello\n" {
		t.Fatalf("wrote %q", data)
	}
	w.await("default /tasks/create c1", "default /tasks/start c1", "default /tasks/exec-added c1", "default /tasks/exec-started c1",
		"default /tasks/exit c1/e1 7", "default /tasks/exit c1/c1 137", "default /tasks/delete c1")
	w.nothingLeft()
	if _, err := w.m.Wait(ctx, "default", "c1", ""); !errors.Is(err, errdefs.ErrNotFound) {
		t.Fatalf("wait after delete: %v", err)
	}
}

func TestFifos(t *testing.T) {
	w := newWorld(t, shim.Config{})
	dir := t.TempDir()
	s := shim.Streams{Stdin: filepath.Join(dir, "in"), Stdout: filepath.Join(dir, "out"), Stderr: filepath.Join(dir, "err")}
	for _, p := range []string{s.Stdin, s.Stdout, s.Stderr} {
		if err := unix.Mkfifo(p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(path string) <-chan string {
		got := make(chan string, 1)
		go func() { // as containerd's clients do: opened before Create, which waits for nobody else
			f, err := os.Open(path)
			if err != nil {
				got <- err.Error()
				return
			}
			defer f.Close()
			data, _ := io.ReadAll(f)
			got <- string(data)
		}()
		return got
	}
	stdout, stderr := read(s.Stdout), read(s.Stderr)
	w.create("fifo", s, "sh", "-c", "cat; echo oops >&2; exit 3")
	in, err := os.OpenFile(s.Stdin, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.m.Start(t.Context(), "default", "fifo", ""); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(in, "one\n")
	in.Close() // a client that leaves does not end the input; CloseIO does
	in, err = os.OpenFile(s.Stdin, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(in, "two\n")
	in.Close()
	if err := w.m.CloseIO(t.Context(), "default", "fifo", ""); err != nil {
		t.Fatal(err)
	}
	if x := w.wait("fifo", ""); x.Status != 3 {
		t.Fatalf("exit %+v", x)
	}
	if got := <-stdout; got != "one\ntwo\n" {
		t.Fatalf("stdout %q", got)
	}
	if got := <-stderr; got != "oops\n" {
		t.Fatalf("stderr %q", got)
	}
}

func TestManagerRestart(t *testing.T) {
	w := newWorld(t, shim.Config{})
	w.run("lives", shim.Streams{}, "sleep", "1000")
	w.run("ends", shim.Streams{}, "sh", "-c", "sleep 1000")
	ends, err := w.m.State(t.Context(), "default", "ends", "")
	if err != nil {
		t.Fatal(err)
	}
	pid := w.shimPid()
	if err := w.m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(int(ends.Pid), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.open(shim.Config{})
	if w.shimPid() != pid {
		t.Fatal("the shim was replaced")
	}
	if s, err := w.m.State(t.Context(), "default", "lives", ""); err != nil || s.Status != shim.Running {
		t.Fatalf("state %+v, %v", s, err)
	}
	if x := w.wait("ends", ""); x.Status != 137 {
		t.Fatalf("exit %+v", x)
	}
	w.await("default /tasks/exit ends/ends 137")
	if _, err := w.m.Delete(t.Context(), "default", "ends", ""); err != nil {
		t.Fatal(err)
	}
	if n := w.count("default /tasks/exit ends/ends 137"); n != 1 {
		t.Fatalf("the exit was told %d times", n)
	}
}

func TestGroupByContainer(t *testing.T) {
	w := newWorld(t, shim.Config{})
	if err := w.m.Close(); err != nil {
		t.Fatal(err)
	}
	w.open(shim.Config{Group: shim.GroupContainer})
	w.run("g1", shim.Streams{}, "sleep", "1000")
	w.run("g2", shim.Streams{}, "sleep", "1000")
	p1, err1 := w.m.ShimPid(t.Context(), "default", "g1")
	p2, err2 := w.m.ShimPid(t.Context(), "default", "g2")
	if err1 != nil || err2 != nil || p1 == p2 {
		t.Fatalf("shims %d and %d, %v, %v", p1, p2, err1, err2)
	}
	for _, id := range []string{"g1", "g2"} {
		if err := w.m.Kill(t.Context(), "default", id, "", 9, true); err != nil {
			t.Fatal(err)
		}
		w.wait(id, "")
		if _, err := w.m.Delete(t.Context(), "default", id, ""); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(w.state, "shims/container-*")); len(left) > 0 {
		t.Fatalf("directories of shims left: %v", left)
	}
}

// TestHooksAreToldTheClientsID is what nerdctl's hooks rely on.
func TestHooksAreToldTheClientsID(t *testing.T) {
	w := newWorld(t, shim.Config{})
	told := filepath.Join(t.TempDir(), "state")
	spec := specOf("hooked", "true")
	spec.Annotations = map[string]string{"color": "blue"}
	spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat > " + told}}}}
	o := w.options("hooked", shim.Streams{})
	o.Spec = asJSON(t, spec)
	pid, err := w.m.Create(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var state specs.State
	data, err := os.ReadFile(told)
	if err == nil {
		err = json.Unmarshal(data, &state)
	}
	if err != nil || state.ID != "hooked" || state.Pid != int(pid) || state.Annotations["color"] != "blue" {
		t.Errorf("the hook was told %+v, %v", state, err)
	}
	if _, err := os.Stat(filepath.Join(state.Bundle, "config.json")); err != nil {
		t.Errorf("the hook was told a bundle without its config: %v", err)
	}
}
