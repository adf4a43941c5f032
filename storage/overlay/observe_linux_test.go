package overlay

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/mount"
	"github.com/slipwayd/slipway/storage"
)

// TestObserve has a process whose root is a layer open files of two layers below, and look beside them. It needs root.
func TestObserve(t *testing.T) {
	d := open(t)
	put := func(id string, files map[string]int64) {
		t.Helper()
		for name, size := range files {
			path := filepath.Join(d.Files(id), name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, size); err != nil {
				t.Fatal(err)
			}
		}
	}
	base := storage.Layer{ID: "1", Kind: storage.Committed}
	top := storage.Layer{ID: "2", Parents: []string{"1"}, Kind: storage.Committed}
	own := storage.Layer{ID: "3", Parents: []string{"2", "1"}, Kind: storage.Active}
	for _, l := range []storage.Layer{base, top, own} {
		if err := d.Create(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	put("1", map[string]int64{"dir/base": 10, "both": 20, "large": 8 << 20, "unread": 1})
	put("2", map[string]int64{"both": 30, "empty": 0})
	// A name that is a directory in the container and leads out of the layer where it is looked for.
	if err := os.Symlink("/", filepath.Join(d.Files("2"), "out")); err != nil {
		t.Fatal(err)
	}
	mounts, err := d.Mounts(t.Context(), own)
	if err != nil {
		t.Fatal(err)
	}
	if err := mount.Temp(t.TempDir(), mounts, func(root string) error { observeRoot(t, d, own, root); return nil }); err != nil {
		t.Fatal(err)
	}
}

// observeRoot runs busybox with its root there.
func observeRoot(t *testing.T, d *Driver, own storage.Layer, root string) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs Debian's busybox-static: ", err)
	}
	if err := os.WriteFile(filepath.Join(root, "busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/busybox", "sh", "-c", `echo ready; read go; for f; do /busybox head -c 1 $f; done; echo read; read end`,
		"sh", "/empty", "/dir/base", "/out/etc/passwd", "/both", "/large")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	lines := bufio.NewScanner(out)
	lines.Scan() // it is ready
	if _, err := d.Observe(t.Context(), storage.Layer{ID: "1"}, cmd.Process.Pid); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a process on another layer is observed: %v", err)
	}
	if _, err := d.Observe(t.Context(), own, os.Getpid()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a process of the host is observed: %v", err)
	}
	o, err := d.Observe(t.Context(), own, cmd.Process.Pid)
	if errdefs.IsNotImplemented(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(in, "read")
	lines.Scan() // it has
	got := map[string][]string{}
	for deadline := time.Now().Add(time.Minute); len(got["1"])+len(got["2"]) < 3 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		all, err := o.Opened(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		clear(got)
		for id, list := range all {
			for _, f := range list {
				got[id] = append(got[id], fmt.Sprint(f.Path, f.Ranges))
			}
		}
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	if want := []string{"dir/base[[0 10]]", "large[[0 1048576] [8323072 8388608]]"}; !slices.Equal(got["1"], want) {
		t.Errorf("of the base were opened %q, want %q", got["1"], want)
	}
	if want := []string{"both[[0 30]]"}; !slices.Equal(got["2"], want) {
		t.Errorf("of the layer above were opened %q, want %q", got["2"], want)
	}
}
