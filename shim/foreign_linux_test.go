package shim_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/shim"
)

// foreignBinaries are the third parties' shims of this machine: containerd's own, of whichever versions are here.
func foreignBinaries(t *testing.T) []string {
	needRoot(t)
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip("containerd's shim needs runc")
	}
	var all []string
	if path, err := exec.LookPath("containerd-shim-runc-v2"); err == nil {
		all = append(all, path)
	}
	if peers := os.Getenv("PEERS"); peers != "" {
		if path := filepath.Join(peers, "containerd-shim-runc-v2"); exists(path) {
			all = append(all, path)
		}
	}
	if len(all) == 0 {
		t.Skip("no containerd-shim-runc-v2 on PATH or in $PEERS")
	}
	return all
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestForeignShim(t *testing.T) {
	for _, binary := range foreignBinaries(t) {
		t.Run(binary, func(t *testing.T) {
			conf := shim.Config{Runtimes: map[string]shim.RuntimeConfig{"io.containerd.runc.v2": {Path: binary}}}
			w := newWorld(t, conf)
			ctx := t.Context()
			out := filepath.Join(t.TempDir(), "out")
			create := func(id string, args ...string) {
				t.Helper()
				o := w.options(id, shim.Streams{Stdout: "file://" + out, Stderr: "file://" + out}, args...)
				o.Runtime = "io.containerd.runc.v2"
				if _, err := w.m.Create(ctx, o); err != nil {
					t.Fatal(err)
				}
				if _, err := w.m.Start(ctx, "default", id, ""); err != nil {
					t.Fatal(err)
				}
			}
			create("f1", "sh", "-c", "echo hello; exit 3")
			if x := w.wait("f1", ""); x.Status != 3 {
				t.Fatalf("exit %+v", x)
			}
			if x, err := w.m.Delete(ctx, "default", "f1", ""); err != nil || x.Status != 3 {
				t.Fatalf("delete: %+v, %v", x, err)
			}
			if data, _ := os.ReadFile(out); string(data) != "hello\n" {
				t.Fatalf("wrote %q", data)
			}
			w.await("default /tasks/create f1", "default /tasks/start f1", "default /tasks/exit f1/f1 3", "default /tasks/delete f1")
			w.nothingLeft()

			// The daemon comes back and finds the shim.
			create("f2", "sleep", "1000")
			if err := w.m.Close(); err != nil {
				t.Fatal(err)
			}
			w.open(conf)
			if s, err := w.m.State(ctx, "default", "f2", ""); err != nil || s.Status != shim.Running {
				t.Fatalf("state %+v, %v", s, err)
			}
			if err := w.m.Kill(ctx, "default", "f2", "", 9, true); err != nil {
				t.Fatal(err)
			}
			if x := w.wait("f2", ""); x.Status != 137 {
				t.Fatalf("exit %+v", x)
			}

			// The shim dies: its container is lost, which is told.
			create("f3", "sleep", "1000")
			pid, err := w.m.ShimPid(ctx, "default", "f3")
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(int(pid), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if x := w.wait("f3", ""); x.Status != 255 {
				t.Fatalf("exit %+v", x)
			}
			w.await("default /tasks/exit f3/f3 255")
			if info, err := w.m.Info(ctx, "io.containerd.runc.v2", nil); err != nil && filepath.Dir(binary) != "/usr/bin" {
				t.Errorf("info %+v, %v", info, err)
			}
		})
	}
}

func TestUnknownRuntime(t *testing.T) {
	w := newWorld(t, shim.Config{})
	for runtime, want := range map[string]error{
		"io.containerd.nothing.v9": errdefs.ErrNotFound, "nonsense": errdefs.ErrInvalidArgument, "/nonexistent/shim": errdefs.ErrInvalidArgument,
		"io.containerd.../../etc.v1": errdefs.ErrInvalidArgument,
	} {
		o := w.options("c", shim.Streams{}, "true")
		o.Runtime = runtime
		if _, err := w.m.Create(t.Context(), o); !errors.Is(err, want) {
			t.Errorf("%s: %v", runtime, err)
		}
	}
	if info, err := w.m.Info(t.Context(), "io.containerd.slipway.v1", nil); err != nil || info.Features == nil {
		t.Errorf("info %+v, %v", info, err)
	}
}
