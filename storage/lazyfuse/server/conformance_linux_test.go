package server_test

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipwayd/slipway/testsuite"
	"github.com/slipwayd/slipway/testsuite/fuselayer"
	"golang.org/x/sys/unix"
)

// makeTree fills a directory with one of everything that a layer may hold.
func makeTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	big := make([]byte, 3<<20+17)
	_, _ = rand.Read(big)
	must(os.MkdirAll(at("a/b/c"), 0o750))
	must(os.WriteFile(at("empty"), nil, 0o600))
	must(os.WriteFile(at("a/big"), big, 0o644))
	must(os.WriteFile(at("a/exact"), big[:1<<20], 0o444))
	must(os.WriteFile(at("a/b/suid"), []byte("#!/bin/true\n"), 0o755))
	must(os.Chown(at("a/b/suid"), 1234, 5678))
	must(os.Chmod(at("a/b/suid"), 0o755|os.ModeSetuid|os.ModeSetgid))
	must(os.Mkdir(at("sticky"), 0o777))
	must(os.Chmod(at("sticky"), 0o777|os.ModeSticky))
	must(os.Link(at("a/big"), at("a/b/c/hardlink")))
	must(os.Symlink("../a/big", at("sticky/link")))
	must(os.Symlink(strings.Repeat("x", 4000), at("longlink")))
	must(os.Symlink("/nowhere", at(strings.Repeat("n", 255))))
	must(unix.Mknod(at("char"), unix.S_IFCHR|0o640, int(unix.Mkdev(4, 300))))
	must(unix.Mknod(at("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(300, 1<<19))))
	must(unix.Mknod(at("whiteout"), unix.S_IFCHR, 0))
	must(unix.Mkfifo(at("fifo"), 0o622))
	must(unix.Setxattr(at("a/big"), "user.long", []byte(strings.Repeat("v", 3000)), 0))
	must(unix.Setxattr(at("a/big"), "user.empty", nil, 0))
	must(unix.Setxattr(at("a/b/suid"), "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	must(unix.Setxattr(at("a/b"), "trusted.overlay.opaque", []byte("y"), 0))
	must(os.Mkdir(at("many"), 0o755))
	for i := range 3000 {
		must(os.WriteFile(at(fmt.Sprintf("many/file-%d-%s", i, strings.Repeat("p", i%200))), []byte(fmt.Sprint(i)), 0o644))
	}
	must(os.Chtimes(at("empty"), time.Unix(1, 999999999), time.Unix(1, 999999999)))
	must(os.Chtimes(at("a/exact"), time.Unix(-5, 5), time.Unix(-5, 5)))
	must(os.Chtimes(at("a"), time.Unix(1<<33, 0), time.Unix(1<<33, 0)))
	return dir
}

// lines describes a tree with its contents, whose sums they have.
func lines(t testing.TB, dir string) []string {
	t.Helper()
	tree, err := testsuite.ReadTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tree.Lines()
}

func sameLines(t *testing.T, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	for _, l := range got {
		if !slices.Contains(want, l) {
			t.Errorf("too much: %s", l)
		}
	}
	for _, l := range want {
		if !slices.Contains(got, l) {
			t.Errorf("missing: %s", l)
		}
	}
}

func TestTreeEqualsDirectory(t *testing.T) {
	dir := makeTree(t)
	m := mount(t, map[string]*fuselayer.Layer{"l1": openLayer(t, dir)}, nil)
	want := lines(t, dir)
	for _, pass := range []string{"cold", "warm"} {
		t.Run(pass, func(t *testing.T) { sameLines(t, lines(t, filepath.Join(m.dir, "l1")), want) })
	}
	t.Run("below an overlay", func(t *testing.T) {
		top := overlay(t, filepath.Join(m.dir, "l1"), t.TempDir())
		// The overlay does not show the whiteout, and its root is the upper directory's.
		other := func(l string) bool { return strings.HasPrefix(l, ".: ") || strings.HasPrefix(l, "whiteout: ") }
		sameLines(t, slices.DeleteFunc(lines(t, top), other), slices.DeleteFunc(slices.Clone(want), other))
	})
}

// TestStatEqualsDirectory compares what a Tree does not say: link counts, inode numbers, sizes, error numbers.
func TestStatEqualsDirectory(t *testing.T) {
	dir := makeTree(t)
	m := mount(t, map[string]*fuselayer.Layer{"l1": openLayer(t, dir)}, nil)
	l1 := filepath.Join(m.dir, "l1")
	inodes := map[uint64]string{}
	err := filepath.Walk(dir, func(p string, _ os.FileInfo, err error) error {
		rel, _ := filepath.Rel(dir, p)
		var want, got unix.Stat_t
		if err := unix.Lstat(p, &want); err != nil {
			return err
		}
		if err := unix.Lstat(filepath.Join(l1, rel), &got); err != nil {
			return err
		}
		if got.Mode != want.Mode || got.Nlink != want.Nlink || got.Rdev != want.Rdev || got.Mtim != want.Mtim {
			t.Errorf("%s: got %+v, want %+v", rel, got, want)
		}
		if got.Mode&unix.S_IFMT != unix.S_IFDIR && got.Size != want.Size {
			t.Errorf("%s: got %d bytes, want %d", rel, got.Size, want.Size)
		}
		if other, seen := inodes[got.Ino]; seen && want.Nlink < 2 {
			t.Errorf("%s and %s have inode %d", rel, other, got.Ino)
		}
		inodes[got.Ino] = rel
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(l1, &fs); err != nil || fs.Namelen != 255 || fs.Flags&unix.ST_RDONLY == 0 || fs.Flags&(unix.ST_NOSUID|unix.ST_NODEV) != 0 {
		t.Errorf("statfs: %+v, %v", fs, err)
	}
}

func TestErrors(t *testing.T) {
	m := mount(t, map[string]*fuselayer.Layer{"l1": layerOf(t, map[string]string{"file": "data", "dir/x": "y"})}, nil)
	at := func(name string) string { return filepath.Join(m.dir, name) }
	for name, c := range map[string]struct {
		call func() error
		want error
	}{
		"no layer":         {func() error { _, err := os.Stat(at("l2")); return err }, unix.ENOENT},
		"no file":          {func() error { _, err := os.Stat(at("l1/none")); return err }, unix.ENOENT},
		"below a file":     {func() error { _, err := os.Stat(at("l1/file/x")); return err }, unix.ENOTDIR},
		"name too long":    {func() error { _, err := os.Stat(at("l1/" + strings.Repeat("n", 256))); return err }, unix.ENAMETOOLONG},
		"write":            {func() error { return os.WriteFile(at("l1/file"), nil, 0o644) }, unix.EROFS},
		"create":           {func() error { return os.WriteFile(at("l1/new"), nil, 0o644) }, unix.EROFS},
		"make a directory": {func() error { return os.Mkdir(at("l1/new"), 0o755) }, unix.EROFS},
		"remove":           {func() error { return os.Remove(at("l1/file")) }, unix.EROFS},
		"change mode":      {func() error { return os.Chmod(at("l1/file"), 0) }, unix.EROFS},
		"set xattr":        {func() error { return unix.Setxattr(at("l1/file"), "user.x", nil, 0) }, unix.EROFS},
		"no xattr":         {func() error { _, err := unix.Getxattr(at("l1/file"), "user.x", nil); return err }, unix.ENODATA},
		"no link":          {func() error { _, err := os.Readlink(at("l1/file")); return err }, unix.EINVAL},
		"read a directory": {func() error { _, err := os.ReadFile(at("l1/dir")); return err }, unix.EISDIR},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.call(); !strings.Contains(fmt.Sprint(err), c.want.Error()) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// TestXattrSizes asks as getxattr(2) says: for the size, with too little room, with enough.
func TestXattrSizes(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(filepath.Join(dir, "f"), "user.name", []byte("value"), 0); err != nil {
		t.Fatal(err)
	}
	m := mount(t, map[string]*fuselayer.Layer{"l1": openLayer(t, dir)}, nil)
	p := filepath.Join(m.dir, "l1/f")
	if n, err := unix.Getxattr(p, "user.name", nil); n != 5 || err != nil {
		t.Errorf("size: %d, %v", n, err)
	}
	if _, err := unix.Getxattr(p, "user.name", make([]byte, 4)); err != unix.ERANGE {
		t.Errorf("too small: %v", err)
	}
	if n, err := unix.Getxattr(p, "user.name", make([]byte, 50)); n != 5 || err != nil {
		t.Errorf("value: %d, %v", n, err)
	}
	if n, err := unix.Listxattr(p, nil); n != len("user.name")+1 || err != nil {
		t.Errorf("list's size: %d, %v", n, err)
	}
}
