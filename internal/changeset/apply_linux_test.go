package changeset

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/testsuite"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("unpacking owners and devices needs root")
	}
}

// Files made by GNU tar with each of its four ways to write holes.
func TestSparse(t *testing.T) {
	needRoot(t)
	files, err := filepath.Glob("testdata/sparse-*.tar.gz")
	if err != nil || len(files) != 4 {
		t.Fatal(files, err)
	}
	want := make([]byte, 3<<20)
	copy(want, "begin")
	copy(want[70000:], strings.Repeat("middle", 100))
	copy(want[1<<20:], strings.Repeat("X", 5000))
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		r, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := Apply(t.Context(), dir, r, Options{}); err != nil {
			t.Fatal(name, err)
		}
		got, err := os.ReadFile(dir + "/sparse")
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: wrong content, %d bytes, %v", name, len(got), err)
		}
		for file, most := range map[string]int64{"sparse": 64 << 10, "hole": 0} {
			var st unix.Stat_t
			if err := unix.Stat(dir+"/"+file, &st); err != nil || st.Blocks*512 > most {
				t.Errorf("%s: %s takes %d bytes, %v", name, file, st.Blocks*512, err)
			}
		}
	}
}

func TestBounds(t *testing.T) {
	needRoot(t)
	long := strings.Repeat("x/", maxPath)
	for name, h := range map[string]*tar.Header{
		"path":       {Typeflag: tar.TypeDir, Name: long, Format: tar.FormatPAX},
		"element":    {Typeflag: tar.TypeReg, Name: strings.Repeat("x", 256), Format: tar.FormatPAX},
		"link":       {Typeflag: tar.TypeSymlink, Name: "l", Linkname: long, Format: tar.FormatPAX},
		"empty link": {Typeflag: tar.TypeSymlink, Name: "l"},
		"owner":      {Typeflag: tar.TypeReg, Name: "f", Uid: 1<<32 - 1, Format: tar.FormatPAX},
		"major":      {Typeflag: tar.TypeChar, Name: "f", Devmajor: 1 << 12},
		"minor":      {Typeflag: tar.TypeBlock, Name: "f", Devminor: 1 << 20},
		"type":       {Typeflag: 'Z', Name: "f"},
		"xattr name": {Typeflag: tar.TypeReg, Name: "f", PAXRecords: map[string]string{xattrRecord + "user." + strings.Repeat("x", 255): ""}},
		"xattr size": {Typeflag: tar.TypeReg, Name: "f", PAXRecords: map[string]string{xattrRecord + "user.x": strings.Repeat("x", maxXattrSize+1)}},
	} {
		h.ModTime = time.Unix(1, 0)
		err := Apply(t.Context(), t.TempDir(), bytes.NewReader(testsuite.Tarball(t, h)), Options{})
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: got %v, want InvalidArgument", name, err)
		}
	}
}

// A file's pages that are zero must not make an ordinary file sparse, nor the disk's being full go unnoticed.
func TestDiskFull(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("cannot mount a tmpfs:", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	h := &tar.Header{Typeflag: tar.TypeReg, Name: "big", Uname: strings.Repeat("\x00", 4<<20)}
	err := Apply(t.Context(), dir, bytes.NewReader(testsuite.Tarball(t, h)), Options{})
	if !errdefs.IsResourceExhausted(err) || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v, want ResourceExhausted", err)
	}
}

// An id map turns the archive's owners into the host's.
func TestApplyMapped(t *testing.T) {
	needRoot(t)
	o := Options{UIDMap: "0:1000:10", GIDMap: "0:2000:10"}
	ok := &tar.Header{Typeflag: tar.TypeReg, Name: "d/f", Uid: 3, Gid: 4}
	dir := t.TempDir()
	if err := Apply(t.Context(), dir, bytes.NewReader(testsuite.Tarball(t, ok)), o); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][2]uint32{"d": {1000, 2000}, "d/f": {1003, 2004}} {
		var st unix.Stat_t
		if err := unix.Stat(dir+"/"+name, &st); err != nil || st.Uid != want[0] || st.Gid != want[1] {
			t.Errorf("%s belongs to %d:%d, %v", name, st.Uid, st.Gid, err)
		}
	}
	bad := &tar.Header{Typeflag: tar.TypeReg, Name: "f", Uid: 10}
	if err := Apply(t.Context(), dir, bytes.NewReader(testsuite.Tarball(t, bad)), o); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v, want InvalidArgument", err)
	}
}

// More directories than are kept open, in an order that comes back to each.
func TestManyDirectories(t *testing.T) {
	needRoot(t)
	var hs []*tar.Header
	for round := range 2 {
		for i := range maxOpen + 50 {
			dir := strings.Repeat("d", 1+i%40) + string(rune('a'+i/40))
			hs = append(hs, &tar.Header{Typeflag: tar.TypeReg, Name: dir + "/" + string(rune('0'+round)), Mode: 0o600, Uname: dir})
		}
	}
	want := testsuite.NewTree()
	data := testsuite.Tarball(t, hs...)
	if err := want.Apply(bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := Apply(t.Context(), dir, bytes.NewReader(data), Options{}); err != nil {
		t.Fatal(err)
	}
	got, err := testsuite.ReadTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	delete(got, ".")
	delete(want, ".")
	if !slices.Equal(got.Lines(), want.Lines()) {
		t.Errorf("got\n%s", strings.Join(got.Lines(), "\n"))
	}
}

func TestCapabilityLosesItsNamespace(t *testing.T) {
	v2 := "\x01\x00\x00\x02\x00\x20" + strings.Repeat("\x00", 14)
	v3 := "\x01\x00\x00\x03\x00\x20" + strings.Repeat("\x00", 14) + "\xa0\x86\x01\x00"
	for _, in := range []string{v2, v3} {
		if got := capability(in); got != v2 {
			t.Errorf("%x became %x", in, got)
		}
	}
	if got := capability("odd"); got != "odd" {
		t.Errorf("got %q", got)
	}
}

func TestPendingText(t *testing.T) {
	for _, p := range []Pending{{}, {dirs: []string{"a", "b\nc"}, whiteouts: []string{"w/x"}}, {whiteouts: []string{"d"}}} {
		text, err := p.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got Pending
		if err := got.UnmarshalText(text); err != nil || !slices.Equal(got.dirs, p.dirs) || !slices.Equal(got.whiteouts, p.whiteouts) {
			t.Errorf("%+v became %+v, %v", p, got, err)
		}
	}
	if err := new(Pending).UnmarshalText([]byte("x?\x00")); err == nil {
		t.Error("an unknown line is no error")
	}
}

// FuzzApply unpacks arbitrary bytes into one directory of a tree and checks that the rest of the tree stays as it is.
func FuzzApply(f *testing.F) {
	needRoot(f)
	for _, seed := range testsuite.HostileTars(f) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		root := t.TempDir()
		before := sentinels(t, root)
		for _, sub := range []string{"tree", "upper"} {
			if err := os.Mkdir(filepath.Join(root, sub), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		_ = Apply(t.Context(), filepath.Join(root, "tree"), bytes.NewReader(data), Options{})
		p, err := ApplyOverlay(t.Context(), filepath.Join(root, "upper"), bytes.NewReader(data), Options{})
		if err == nil {
			if err := Settle(filepath.Join(root, "upper"), p, Options{Lower: []string{filepath.Join(root, "tree")}}); err != nil {
				t.Errorf("Settle after a good ApplyOverlay: %v", err)
			}
		}
		for _, sub := range []string{"tree", "upper"} {
			if err := os.RemoveAll(filepath.Join(root, sub)); err != nil {
				t.Fatal(err)
			}
		}
		after, err := testsuite.ReadTree(root)
		if err != nil {
			t.Fatal(err)
		}
		delete(after, ".")
		if !slices.Equal(before, after.Lines()) {
			t.Errorf("outside was %v and is %v", before, after.Lines())
		}
	})
}

// sentinels puts files around the directories that are unpacked into, where escapes would land.
func sentinels(t *testing.T, root string) []string {
	t.Helper()
	for _, name := range []string{"OUT/sentinel", "OUT/d/f", "f", "d/f", "etc/passwd"} {
		p := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(name), fs.FileMode(0o600))); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := testsuite.ReadTree(root)
	if err != nil {
		t.Fatal(err)
	}
	delete(tree, ".")
	return tree.Lines()
}
