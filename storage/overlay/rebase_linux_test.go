package overlay

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/mount"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/testsuite"
)

// independent are the layers of one image, base first: the upper ones use directories that they do not describe, and
// delete both what is there and what is not.
func independent(t *testing.T) [][]byte {
	at := time.Unix(1_650_000_000, 5)
	return [][]byte{
		testsuite.Tarball(t,
			&tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o700, Uid: 4, ModTime: at, Format: tar.FormatPAX},
			&tar.Header{Typeflag: tar.TypeDir, Name: "d/e", Mode: 0o2750, Gid: 9, ModTime: at, Format: tar.FormatPAX},
			&tar.Header{Typeflag: tar.TypeReg, Name: "d/e/f", Mode: 0o600}, &tar.Header{Typeflag: tar.TypeReg, Name: ".wh.base"}),
		testsuite.Tarball(t,
			&tar.Header{Typeflag: tar.TypeReg, Name: "d/e/g", Mode: 0o600}, &tar.Header{Typeflag: tar.TypeReg, Name: "n/.wh.none"}),
		testsuite.Tarball(t,
			&tar.Header{Typeflag: tar.TypeReg, Name: "d/e/h", Mode: 0o600}, &tar.Header{Typeflag: tar.TypeReg, Name: "d/e/.wh.f"},
			&tar.Header{Typeflag: tar.TypeReg, Name: "d/.wh.none"}),
	}
}

// Layers of an image may be unpacked in any order, each without parents, and be put on each other afterwards.
func TestRebase(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}} {
		for _, seal := range []bool{false, true} {
			d := open(t)
			tars := independent(t)
			want := testsuite.NewTree()
			for _, i := range order {
				l := storage.Layer{ID: "l" + string(rune('0'+i)), Kind: storage.Active}
				if err := d.Create(t.Context(), l); err != nil {
					t.Fatal(err)
				}
				if _, err := d.Apply(t.Context(), l, bytes.NewReader(tars[i])); err != nil {
					t.Fatal(err)
				}
			}
			var parents []string
			for i, data := range tars {
				if err := want.Apply(bytes.NewReader(data)); err != nil {
					t.Fatal(err)
				}
				id := "l" + string(rune('0'+i))
				if seal {
					if _, err := d.Seal(t.Context(), storage.Layer{ID: id, Kind: storage.Active, Parents: parents}); err != nil {
						t.Fatal(err)
					}
				}
				parents = append([]string{id}, parents...)
			}
			checkOn(t, d, parents, want)
		}
	}
}

// checkOn makes a view on parents and compares what it shows.
func checkOn(t *testing.T, d *Driver, parents []string, want testsuite.Tree) {
	t.Helper()
	view := storage.Layer{ID: "view", Kind: storage.View, Parents: parents}
	if err := d.Create(t.Context(), view); err != nil {
		t.Fatal(err)
	}
	m, err := d.Mounts(t.Context(), view)
	if err != nil {
		t.Fatal(err)
	}
	err = mount.Temp(t.TempDir(), m, func(root string) error {
		got, err := testsuite.ReadTree(root)
		if err != nil {
			return err
		}
		got["."].MTime = want["."].MTime
		if a, b := got.Lines(), want.Lines(); !slices.Equal(a, b) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(d.root.Dir(), "*", pendingFile)); len(left) != 0 {
		t.Errorf("not settled: %v", left)
	}
}

func TestNewNamesTheReason(t *testing.T) {
	open(t)
	if _, err := New(filepath.Join(t.TempDir(), "a:b")); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "colon") {
		t.Errorf("colon: %v", err)
	}
	// An overlay cannot be the upper layer of another.
	dir := t.TempDir()
	for _, sub := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m := storage.Mount{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + dir + "/lower", "upperdir=" + dir + "/upper", "workdir=" + dir + "/work"}}
	if err := mount.All(dir+"/merged", []storage.Mount{m}); err != nil {
		t.Fatal(err)
	}
	defer mount.Unmount(dir + "/merged")
	if _, err := New(dir + "/merged/root"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("on overlay: %v", err)
	}
	if left, err := os.ReadDir(dir + "/merged/root/.new"); err != nil || len(left) != 0 {
		t.Errorf("the probe left %v, %v", left, err)
	}
}

// A second Apply would mix two archives.
func TestApplyNeedsEmptyLayer(t *testing.T) {
	d := open(t)
	l := storage.Layer{ID: "l", Kind: storage.Active}
	if err := d.Create(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	data := testsuite.Tarball(t, &tar.Header{Typeflag: tar.TypeReg, Name: "f"})
	if _, err := d.Apply(t.Context(), l, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	r := bytes.NewReader(data)
	if _, err := d.Apply(t.Context(), l, r); !errdefs.IsFailedPrecondition(err) || r.Len() != len(data) {
		t.Errorf("got %v after reading %d bytes, want FailedPrecondition after none", err, len(data)-r.Len())
	}
}

// The form is containerd's: its clients and BuildKit read it.
func TestMountOptions(t *testing.T) {
	d := open(t)
	d.options = []string{"index=off"}
	var parents []string
	for _, id := range []string{"a", "b"} {
		if err := d.Create(t.Context(), storage.Layer{ID: id, Kind: storage.Active, Parents: parents}); err != nil {
			t.Fatal(err)
		}
		parents = append([]string{id}, parents...)
	}
	for _, id := range []string{"rw", "ro"} {
		if err := d.Create(t.Context(), storage.Layer{ID: id, Kind: storage.Active, Parents: parents}); err != nil {
			t.Fatal(err)
		}
	}
	root := d.root.Dir()
	for _, c := range []struct {
		l    storage.Layer
		want string
	}{
		{storage.Layer{ID: "a", Kind: storage.Active}, "bind R/a/fs rw rbind"},
		{storage.Layer{ID: "a", Kind: storage.Committed}, "bind R/a/fs ro rbind"},
		{storage.Layer{ID: "b", Kind: storage.Committed, Parents: parents[1:]}, "overlay overlay index=off lowerdir=R/b/fs:R/a/fs"},
		{storage.Layer{ID: "ro", Kind: storage.View, Parents: parents[1:]}, "bind R/a/fs ro rbind"},
		{storage.Layer{ID: "ro", Kind: storage.View, Parents: parents}, "overlay overlay index=off lowerdir=R/b/fs:R/a/fs"},
		{storage.Layer{ID: "rw", Kind: storage.Active, Parents: parents, UIDMap: "0:1:2", GIDMap: "0:3:4"},
			"overlay overlay uidmap=0:1:2 gidmap=0:3:4 index=off workdir=R/rw/work upperdir=R/rw/fs lowerdir=R/b/fs:R/a/fs"},
	} {
		m, err := d.Mounts(t.Context(), c.l)
		if err != nil || len(m) != 1 {
			t.Fatal(m, err)
		}
		got := m[0].Type + " " + m[0].Source + " " + strings.Join(m[0].Options, " ")
		if got = strings.ReplaceAll(got, root, "R"); got != c.want {
			t.Errorf("%+v gives\n%s, want\n%s", c.l, got, c.want)
		}
	}
}
