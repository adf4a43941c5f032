package windowsfilter

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/Microsoft/hcsshim/pkg/cimfs"
	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/testsuite/winimage"
)

// openCim needs a host with CimFS. What testsuite/hcssim puts in its place (dll/images.c) keeps a journal and a list for each image, which these
// tests read.
func openCim(t *testing.T) *Driver {
	t.Helper()
	if !cimfs.IsCimFSSupported() {
		t.Skip("this host has no CimFS")
	}
	d, err := NewCim(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// beside reads the files of that kind beside the image of a layer.
func beside(t *testing.T, d *Driver, kind string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(d.cims, kind+"_*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %q, %v", kind, files, err)
	}
	newest := slices.MaxFunc(files, func(a, b string) int {
		x, xerr := os.Stat(a)
		y, yerr := os.Stat(b)
		if xerr != nil || yerr != nil {
			t.Fatal(xerr, yerr)
		}
		return x.ModTime().Compare(y.ModTime())
	})
	text, err := os.ReadFile(newest)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestCim imports a base and a layer on it into images, makes a disk for a container, and removes all.
func TestCim(t *testing.T) {
	d, img := openCim(t), winimage.Image("10.0.20348.1")
	applyReal(t, d, storage.Layer{ID: "1", Kind: storage.Active, Unpack: true}, img.Layers[0])
	list := beside(t, d, "objectid")
	for _, want := range []string{"d Files\n", `f Files\gone.txt` + "\n", `f Files\link.txt` + "\n", `d Files\Users\ContainerUser` + "\n", `f Files\Windows\System32\config\SAM` + "\n", `f Hives\SAM_BASE` + "\n", "f layout\n"} {
		if !strings.Contains(list, want) {
			t.Errorf("the base has no %q: %s", want, list)
		}
	}
	if journal := beside(t, d, "region"); !strings.Contains(journal, `Files\hello.txt`+"\nhello from the base\r\n") {
		t.Errorf("hello.txt of the base: %q", journal)
	}
	child := winimage.Child(winimage.File("new.txt", "new"), winimage.Gone("gone.txt"), winimage.Hardlink("more.txt", "link.txt"))
	applyReal(t, d, storage.Layer{ID: "2", Kind: storage.Active, Unpack: true, Parents: []string{"1"}}, child)
	list = beside(t, d, "objectid")
	for want, there := range map[string]bool{`f Files\gone.txt`: false, `f Files\new.txt`: true, `f Files\more.txt`: true, `f Files\Windows\System32\config\SAM`: true} {
		if strings.Contains(list, want+"\n") != there {
			t.Errorf("%q in the layer on it: want %v: %s", want, there, list)
		}
	}
	orphan := filepath.Join(d.cims, "region_01234567-89ab-cdef-0123-456789abcdef_0") // of an import that was killed
	if err := os.WriteFile(orphan, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := all(t, d)
	d, err := NewCim(d.root.Dir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	after := all(t, d)
	if gone := slices.DeleteFunc(slices.Clone(before), func(name string) bool { return slices.Contains(after, name) }); !slices.Equal(gone, []string{filepath.Join("cims", filepath.Base(orphan))}) {
		t.Errorf("opening the driver again deleted %q", gone)
	}
	u, err := d.Usage(t.Context(), "2")
	if err != nil || u.Size < 1000 {
		t.Errorf("Usage = %+v, %v", u, err)
	}
	l := storage.Layer{ID: "3", Kind: storage.Active, Parents: []string{"2", "1"}}
	if err := d.Create(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	m, err := d.Mounts(t.Context(), l)
	if err != nil || m[0].Type != "CimFS" || !exists(filepath.Join(m[0].Source, scratchDisk)) {
		t.Fatalf("Mounts: %+v, %v", m, err)
	}
	if _, err := d.Seal(t.Context(), l); !errdefs.IsNotImplemented(err) {
		t.Errorf("Seal of a disk: %v", err)
	}
	if err := d.Diff(t.Context(), storage.Layer{ID: "2", Kind: storage.Committed, Parents: []string{"1"}}, &bytes.Buffer{}); !errdefs.IsNotImplemented(err) {
		t.Errorf("Diff: %v", err)
	}
	for _, id := range []string{"3", "2", "1"} {
		if err := d.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if left := all(t, d); !slices.Equal(left, []string{"cims"}) {
		t.Errorf("left: %q", left)
	}
}

// TestCimBad: of a layer that is refused in the middle nothing is left once it is removed.
func TestCimBad(t *testing.T) {
	d, img := openCim(t), winimage.Image("10.0.20348.1")
	applyReal(t, d, storage.Layer{ID: "1", Kind: storage.Active, Unpack: true}, img.Layers[0])
	before := all(t, d)
	l := storage.Layer{ID: "2", Kind: storage.Active, Unpack: true, Parents: []string{"1"}}
	for name, test := range map[string]struct {
		entries []*tar.Header
		kind    func(error) bool
	}{
		"a device": {[]*tar.Header{dir("Files"), reg("Files/good", "x"), reg("Files/CON", "x")}, errdefs.IsInvalidArgument},
		"a stream": {[]*tar.Header{dir("Files"), reg("Files/good", "x"), reg("Files/good:stream", "y")}, errdefs.IsNotImplemented},
	} {
		if err := d.Create(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Apply(t.Context(), l, bytes.NewReader(pack(t, test.entries...))); !test.kind(err) {
			t.Errorf("%s: %v", name, err)
		}
		if err := d.Remove(t.Context(), "2"); err != nil {
			t.Error(err)
		}
		if after := all(t, d); !slices.Equal(before, after) {
			t.Errorf("%s: left %q, was %q", name, after, before)
		}
	}
}
