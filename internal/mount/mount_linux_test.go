package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/storage"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
}

// dirs makes the named directories below a new one and answers their paths.
func dirs(t *testing.T, names ...string) []string {
	t.Helper()
	root := t.TempDir()
	for i, n := range names {
		names[i] = filepath.Join(root, n)
		if err := os.MkdirAll(names[i], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return names
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func mountsBelow(t *testing.T, dir string) int {
	t.Helper()
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		t.Fatal(err)
	}
	return len(infos)
}

func TestBindReadOnly(t *testing.T) {
	needRoot(t)
	d := dirs(t, "src", "dst")
	write(t, d[0]+"/f", "x")
	if err := All(d[1], []storage.Mount{{Type: "bind", Source: d[0], Options: []string{"rbind", "ro", "nosuid"}}}); err != nil {
		t.Fatal(err)
	}
	defer Unmount(d[1])
	if err := os.WriteFile(d[1]+"/g", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to a read-only bind: %v", err)
	}
	if err := Unmount(d[1]); err != nil {
		t.Fatal(err)
	}
	if n := mountsBelow(t, d[1]); n != 0 {
		t.Errorf("%d mounts left", n)
	}
}

func TestUnmountOfNothing(t *testing.T) {
	needRoot(t)
	d := dirs(t, "plain")
	for _, p := range []string{d[0], d[0] + "/absent", "/proc/self/status/x"} {
		if err := Unmount(p); err != nil {
			t.Errorf("Unmount(%s) = %v", p, err)
		}
	}
}

func TestUnmountTakesStackAndChildren(t *testing.T) {
	needRoot(t)
	d := dirs(t, "dst")
	tmp := storage.Mount{Type: "tmpfs", Source: "tmpfs"}
	for range 3 {
		if err := All(d[0], []storage.Mount{tmp}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(d[0]+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := All(d[0], []storage.Mount{{Type: "tmpfs", Source: "tmpfs", Target: "/sub"}}); err != nil {
		t.Fatal(err)
	}
	if n := mountsBelow(t, d[0]); n != 4 {
		t.Fatalf("%d mounts, want 4", n)
	}
	if err := Unmount(d[0]); err != nil {
		t.Fatal(err)
	}
	if n := mountsBelow(t, d[0]); n != 0 {
		t.Errorf("%d mounts left", n)
	}
}

func TestFailureUndoes(t *testing.T) {
	needRoot(t)
	d := dirs(t, "dst")
	err := All(d[0], []storage.Mount{
		{Type: "tmpfs", Source: "tmpfs"},
		{Type: "tmpfs", Source: "tmpfs"},
		{Type: "bind", Source: d[0] + "/absent", Options: []string{"bind"}},
	})
	if !errdefs.IsNotFound(err) || !errors.Is(err, unix.ENOENT) {
		t.Errorf("got %v, want not found", err)
	}
	if n := mountsBelow(t, d[0]); n != 0 {
		t.Errorf("%d mounts left", n)
	}
}

func TestTargetStaysInside(t *testing.T) {
	needRoot(t)
	d := dirs(t, "root/etc", "outside/etc", "src")
	root, outside := filepath.Dir(d[0]), filepath.Dir(d[1])
	for name, to := range map[string]string{"abs": outside, "rel": "../outside", "in": "/etc"} {
		if err := os.Symlink(to, root+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	for _, target := range []string{"abs/etc", "rel/etc", "../outside/etc"} {
		err := All(root, []storage.Mount{{Type: "bind", Source: d[2], Target: target, Options: []string{"bind"}}})
		if !errdefs.IsNotFound(err) {
			t.Errorf("%s: got %v, want not found", target, err)
		}
	}
	write(t, d[2]+"/f", "x")
	if err := All(root, []storage.Mount{{Type: "bind", Source: d[2], Target: "/in", Options: []string{"bind"}}}); err != nil {
		t.Fatal(err)
	}
	defer Unmount(d[0])
	if _, err := os.Stat(d[0] + "/f"); err != nil {
		t.Errorf("a link inside the root must be followed inside: %v", err)
	}
	if n := mountsBelow(t, outside); n != 0 {
		t.Errorf("%d mounts outside", n)
	}
}

func TestBadOptions(t *testing.T) {
	needRoot(t)
	d := dirs(t, "src", "dst")
	for name, m := range map[string]storage.Mount{
		"unknown type":       {Type: "nosuchfs", Source: "x"},
		"half a map":         {Type: "bind", Source: d[0], Options: []string{"bind", "uidmap=0:1:1"}},
		"garbled map":        {Type: "bind", Source: d[0], Options: []string{"bind", "uidmap=0:1", "gidmap=0:1:1"}},
		"map too large":      {Type: "bind", Source: d[0], Options: []string{"bind", "uidmap=0:4294967295:2", "gidmap=0:1:1"}},
		"overlay of nothing": {Type: "overlay", Source: "overlay"},
		"map on tmpfs":       {Type: "tmpfs", Source: "x", Options: []string{"uidmap=0:1:1", "gidmap=0:1:1"}},
	} {
		err := All(d[1], []storage.Mount{m})
		if !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if n := mountsBelow(t, d[1]); n != 0 {
		t.Errorf("%d mounts left", n)
	}
}

// layers makes n lower directories with one file each, named after its number, and answers an overlay over them.
func layers(t *testing.T, n int) (m storage.Mount, target, upper string) {
	t.Helper()
	root := t.TempDir()
	var lower []string
	for i := range n {
		dir := filepath.Join(root, fmt.Sprintf("a-rather-long-name-of-a-layer-%04d/fs", i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, fmt.Sprint(i)), fmt.Sprint(i))
		lower = append(lower, dir)
	}
	for _, d := range []string{"up", "work", "dst"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m = storage.Mount{Type: "overlay", Source: "overlay", Options: []string{
		"index=off", "nosuid", "upperdir=" + root + "/up", "workdir=" + root + "/work", "lowerdir=" + strings.Join(lower, ":"),
	}}
	return m, root + "/dst", root + "/up"
}

func TestOverlayManyLayers(t *testing.T) {
	needRoot(t)
	for _, n := range []int{1, 2, 130, 400} {
		m, target, upper := layers(t, n)
		if err := All(target, []storage.Mount{m}); err != nil {
			t.Fatalf("%d layers: %v", n, err)
		}
		defer Unmount(target)
		names, err := os.ReadDir(target)
		if err != nil || len(names) != n {
			t.Errorf("%d layers show %d files, %v", n, len(names), err)
		}
		write(t, target+"/new", "x")
		if _, err := os.Stat(upper + "/new"); err != nil {
			t.Error(err)
		}
	}
}

func TestOverlayByDescriptor(t *testing.T) {
	needRoot(t)
	m, target, _ := layers(t, 200)
	o, err := parse(m.Options)
	if err != nil {
		t.Fatal(err)
	}
	last := len(o.data) - 1
	lowers := splitLowers(strings.TrimPrefix(o.data[last], "lowerdir="))
	if err := overlayByDescriptor("overlay", target, o.flags, lowers, o.data[:last]); err != nil {
		t.Fatal(err)
	}
	defer Unmount(target)
	if names, err := os.ReadDir(target); err != nil || len(names) != 200 {
		t.Errorf("%d files, %v", len(names), err)
	}
}

func owner(t *testing.T, path string) (uid, gid uint32) {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	return st.Uid, st.Gid
}

func TestIDMapped(t *testing.T) {
	needRoot(t)
	maps := []string{"uidmap=0:100000:1000,1000:300000:10", "gidmap=0:200000:65536"}
	m, target, _ := layers(t, 140)
	m.Options = append(m.Options, maps...)
	if err := All(target, []storage.Mount{m}); err != nil {
		t.Fatal(err)
	}
	defer Unmount(target)
	if u, g := owner(t, target+"/7"); u != 100000 || g != 200000 {
		t.Errorf("overlay shows %d:%d", u, g)
	}

	d := dirs(t, "src", "dst")
	write(t, d[0]+"/f", "x")
	if err := os.Lchown(d[0]+"/f", 1003, 5); err != nil {
		t.Fatal(err)
	}
	if err := All(d[1], []storage.Mount{{Type: "bind", Source: d[0], Options: append(maps, "rbind", "ro")}}); err != nil {
		t.Fatal(err)
	}
	defer Unmount(d[1])
	if u, g := owner(t, d[1]+"/f"); u != 300003 || g != 200005 {
		t.Errorf("bind shows %d:%d", u, g)
	}
	if err := os.WriteFile(d[1]+"/g", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to a read-only id-mapped bind: %v", err)
	}
}

// Kernels before 6.15 need the id-mapped tree attached somewhere while overlayfs looks at it.
func TestIDMappedOnOldKernels(t *testing.T) {
	needRoot(t)
	t.Setenv("TMPDIR", t.TempDir())
	d := dirs(t, "lower", "dst")
	write(t, d[0]+"/f", "x")
	tree, err := idmappedTree(d[0], options{uidmap: "0:7000:10", gidmap: "0:8000:10"}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(tree)
	err = attachedTemporarily(tree, func(path string) error {
		return unix.Mount("overlay", d[1], "overlay", 0, "lowerdir="+path+":"+d[1])
	})
	if err != nil {
		t.Fatal(err)
	}
	defer Unmount(d[1])
	if u, g := owner(t, d[1]+"/f"); u != 7000 || g != 8000 {
		t.Errorf("overlay shows %d:%d", u, g)
	}
	if left, _ := os.ReadDir(os.Getenv("TMPDIR")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestTemp(t *testing.T) {
	needRoot(t)
	d := dirs(t, "src", "tmp")
	write(t, d[0]+"/f", "x")
	boom := errors.New("boom")
	err := Temp(d[1], []storage.Mount{{Type: "bind", Source: d[0], Options: []string{"bind"}}}, func(root string) error {
		if _, err := os.Stat(root + "/f"); err != nil {
			t.Error(err)
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(d[1]); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := os.Stat(d[0] + "/f"); err != nil {
		t.Error(err)
	}
}

func FuzzParseIDMap(f *testing.F) {
	f.Add("0:100000:65536")
	f.Add("0:1:1,1:5:7")
	f.Add("0:0:4294967296")
	f.Fuzz(func(t *testing.T, s string) {
		maps, err := parseIDMap(s)
		if err == nil && len(maps) == 0 {
			t.Error("no map and no error")
		}
		for _, m := range maps {
			if m.Size <= 0 || m.ContainerID+m.Size > 1<<32 || m.HostID+m.Size > 1<<32 {
				t.Errorf("%q gives %+v", s, m)
			}
		}
	})
}
