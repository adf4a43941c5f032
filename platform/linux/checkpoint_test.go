//go:build linux

package linux_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
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
	images := []string{checkpoint(t, c, platform.CheckpointOptions{})}
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

var _ = bytes.NewReader
var _ = errdefs.ErrNotFound
