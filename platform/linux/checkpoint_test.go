//go:build linux

package linux_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/linux"
)

// needCriu skips where CRIU is missing or says itself that it cannot work on this kernel.
func needCriu(t *testing.T) {
	needContainers(t)
	if _, err := exec.LookPath("criu"); err != nil {
		t.Skip("checkpoints need CRIU: ", err)
	}
	if out, err := exec.Command("criu", "check").CombinedOutput(); err != nil {
		t.Skipf("CRIU does not work on this kernel: %v\n%s", err, out)
	}
}

// remembers is a program that shows at its end what it knew before a checkpoint and what it was told after.
var remembers = []string{"sh", "-c", "x=before; echo ready; read y; echo $x $y; exit 7"}

func checkpoint(t *testing.T, c platform.Container, o platform.CheckpointOptions) string {
	t.Helper()
	o.Images = filepath.Join(t.TempDir(), "images")
	if err := os.Mkdir(o.Images, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := c.(platform.Checkpointer).Checkpoint(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	return o.Images
}

// fifo answers a named one as a shim opens it, and what reads from it and writes to it.
func fifo(t *testing.T) *os.File {
	name := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// await reads until text has come.
func await(t *testing.T, r io.Reader, text string) {
	t.Helper()
	var all []byte
	for buf := make([]byte, 256); !strings.Contains(string(all), text); {
		n, err := r.Read(buf)
		if err != nil {
			t.Fatalf("read %q and then %v, want %q", all, err, text)
		}
		all = append(all, buf[:n]...)
	}
}

func TestCheckpoint(t *testing.T) {
	needCriu(t)
	for name, streams := range map[string]func(t *testing.T) (io platform.IO, in io.Writer, out io.Reader){
		"pipes": func(t *testing.T) (platform.IO, io.Writer, io.Reader) {
			in, feed := io.Pipe()
			out, show := io.Pipe()
			t.Cleanup(func() { in.Close(); out.Close() })
			return platform.IO{Stdin: in, Stdout: show, Stderr: show}, feed, out
		},
		"fifos": func(t *testing.T) (platform.IO, io.Writer, io.Reader) {
			in, out := fifo(t), fifo(t)
			return platform.IO{Stdin: in, Stdout: out, Stderr: out}, in, out
		},
		"terminal": func(t *testing.T) (platform.IO, io.Writer, io.Reader) {
			in, feed := io.Pipe()
			out, show := io.Pipe()
			t.Cleanup(func() { in.Close(); out.Close() })
			return platform.IO{Stdin: in, Stdout: show, Terminal: true}, feed, out
		},
	} {
		for _, libcontainer := range []bool{false, true} {
			if libcontainer {
				name += " libcontainer"
			}
			t.Run(name, func(t *testing.T) {
				e, err := linux.New(linux.Config{Root: t.TempDir(), Libcontainer: libcontainer})
				if err != nil {
					t.Fatal(err)
				}
				defer e.Close()
				testCheckpoint(t, e, streams)
			})
		}
	}
}

// testCheckpoint writes a container twice, the second time to end it, and goes on from both.
func testCheckpoint(t *testing.T, e *linux.Executor, streams func(t *testing.T) (platform.IO, io.Writer, io.Reader)) {
	s := platformSpec(t, "before", ociSpec("before", remembers...))
	stdio, _, out := streams(t)
	s.IO = stdio
	c, err := e.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, out, "ready")
	var images []string
	if !testing.Short() { // which is where code runs ten times slower
		images = append(images, checkpoint(t, c, platform.CheckpointOptions{}))
	}
	if pid := c.Init().Pid(); unix.Kill(pid, 0) != nil {
		t.Fatal("a checkpoint ended the container")
	}
	images = append(images, checkpoint(t, c, platform.CheckpointOptions{Exit: true}))
	if exit, err := c.Init().Wait(t.Context()); err != nil || exit.Status != 137 {
		t.Fatalf("a container that a checkpoint is to end ends with %+v, %v", exit, err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, dir := range images {
		s := platformSpec(t, "after", ociSpec("after", "never-executed"))
		stdio, in, out := streams(t)
		s.IO, s.Checkpoint = stdio, dir
		c, err := e.Create(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Init().Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(in, "after\n"); err != nil {
			t.Fatal(err)
		}
		await(t, out, "before after")
		if exit, err := c.Init().Wait(t.Context()); err != nil || exit.Status != 7 {
			t.Errorf("the restored program ends with %+v, %v", exit, err)
		}
		if err := c.Delete(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if left, err := e.List(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestCheckpointAtOnce comes before the program does.
func TestCheckpointAtOnce(t *testing.T) {
	needCriu(t)
	for _, libcontainer := range []bool{false, true} {
		e, err := linux.New(linux.Config{Root: t.TempDir(), Libcontainer: libcontainer})
		if err != nil {
			t.Fatal(err)
		}
		c := started(t, e, platformSpec(t, "once", ociSpec("once", "sleep", "1000")))
		checkpoint(t, c, platform.CheckpointOptions{})
		ended(t, c)
		e.Close()
	}
}

func TestCheckpointOfPaused(t *testing.T) {
	needCriu(t)
	e := newExecutor(t, t.TempDir())
	s, out := platformSpec(t, "paused", ociSpec("paused", "sh", "-c", "echo ready; sleep 1000")), fifo(t)
	s.IO.Stdout = out
	c := started(t, e, s)
	await(t, out, "ready")
	if err := c.(platform.Pauser).Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkpoint(t, c, platform.CheckpointOptions{})
	if code, err := execute(t, c, "true"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("after its checkpoint a paused container executes: %d, %v", code, err)
	}
	if err := c.(platform.Pauser).Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code, err := execute(t, c, "sh", "-c", "exit 3"); code != 3 || err != nil {
		t.Errorf("after it is resumed: %d, %v", code, err)
	}
	if err := c.(platform.Pauser).Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkpoint(t, c, platform.CheckpointOptions{Exit: true})
	if exit, err := c.Init().Wait(t.Context()); err != nil || exit.Status != 137 {
		t.Errorf("a paused container that a checkpoint is to end ends with %+v, %v", exit, err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCheckpointOfDeadExecutor is about a container at which the CRIU of an executor works that has died: it freezes and thaws when it likes, and last
// of all puts back what it found.
func TestCheckpointOfDeadExecutor(t *testing.T) {
	needContainers(t)
	busybox, err := os.ReadFile(filepath.Join(rootfs, "bin/busybox"))
	if err != nil {
		t.Fatal(err)
	}
	criu := filepath.Join(t.TempDir(), "criu")
	if err := os.WriteFile(criu, busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ libcontainer, paused bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		root, work := t.TempDir(), t.TempDir()
		e, err := linux.New(linux.Config{Root: root, Libcontainer: test.libcontainer})
		if err != nil {
			t.Fatal(err)
		}
		started(t, e, platformSpec(t, "frozen", ociSpec("frozen", "sleep", "1000")))
		note := fmt.Sprintf(`{"Work":%q,"Paused":%v}`, work, test.paused)
		if err := os.WriteFile(filepath.Join(root, "frozen", linux.NoteFile), []byte(note), 0o600); err != nil {
			t.Fatal(err)
		}
		orphan := exec.Cmd{Path: criu, Args: []string{"sleep", "1000"}, Dir: work}
		if err := orphan.Start(); err != nil {
			t.Fatal(err)
		}
		e.Close()
		e = newExecutor(t, root)
		c, err := e.Adopt(t.Context(), "frozen")
		if err != nil {
			t.Fatal(err)
		}
		if test.paused { // and thawed by CRIU for the moment
			if err := c.(platform.Pauser).Resume(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		freeze(t, "frozen")
		if err := orphan.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = orphan.Wait()
		if code, err := execute(t, c, "sh", "-c", "exit 3"); code != 3 || err != nil {
			t.Errorf("%+v: executed in it: %d, %v", test, code, err)
		}
		ended(t, c)
		e.Close()
	}
}

// freeze freezes a test's container behind the executor's back.
func freeze(t *testing.T, id string) {
	t.Helper()
	file, text := "/sys/fs/cgroup/freezer/slipway-test/"+id+"/freezer.state", "FROZEN"
	if cgroups.IsCgroup2UnifiedMode() {
		file, text = "/sys/fs/cgroup/slipway-test/"+id+"/cgroup.freeze", "1"
	}
	if err := os.WriteFile(file, []byte(text), 0); err != nil {
		t.Fatal(err)
	}
}

func TestCheckpointRefused(t *testing.T) {
	needContainers(t)
	e := newExecutor(t, t.TempDir())
	c, err := e.Create(t.Context(), platformSpec(t, "c", ociSpec("c", "sleep", "1000")))
	if err != nil {
		t.Fatal(err)
	}
	try := func(o platform.CheckpointOptions) error { return c.(platform.Checkpointer).Checkpoint(t.Context(), o) }
	if err := try(platform.CheckpointOptions{Images: t.TempDir()}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("of a container that is not started: %v", err)
	}
	if err := c.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := try(platform.CheckpointOptions{Images: "relative"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("to a relative path: %v", err)
	}
	if err := try(platform.CheckpointOptions{Images: t.TempDir(), EmptyNamespaces: []string{"user"}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("with an empty user namespace: %v", err)
	}
	path := os.Getenv("PATH")
	t.Setenv("PATH", t.TempDir())
	if err := try(platform.CheckpointOptions{Images: t.TempDir()}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "install") {
		t.Errorf("without CRIU: %v", err)
	}
	t.Setenv("PATH", path)
	s := platformSpec(t, "restored", ociSpec("restored", "true"))
	for _, dir := range []string{t.TempDir(), "relative", "/no/such/directory"} {
		s.Checkpoint = dir
		if _, err := e.Create(t.Context(), s); !errdefs.IsInvalidArgument(err) {
			t.Errorf("restore from %s: %v", dir, err)
		}
	}
	ended(t, c)
	if left, err := e.List(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func execute(t *testing.T, c platform.Container, args ...string) (uint32, error) {
	t.Helper()
	spec, err := json.Marshal(map[string]any{"args": args, "cwd": "/", "env": []string{"PATH=/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Exec(t.Context(), platform.ProcessSpec{ID: "e", OCI: spec})
	if err != nil {
		return 0, err
	}
	err = p.Start(t.Context())
	var exit platform.Exit
	if err == nil {
		exit, err = p.Wait(t.Context())
	}
	return exit.Status, errors.Join(err, p.Delete(t.Context()))
}
