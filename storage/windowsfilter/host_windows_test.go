package windowsfilter

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/testsuite"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/winimage"
)

// These tests run on Windows as administrator, or over testsuite/hcssim under wine (ci/wine-exec).

func openReal(t *testing.T) *Driver {
	t.Helper()
	host, err := NewHost(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(t.TempDir(), host)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDriverOverHCS(t *testing.T) {
	testsuite.TestWindowsDriver(t, func(t *testing.T) storage.Driver { return openReal(t) })
}

func applyReal(t *testing.T, d *Driver, l storage.Layer, layer ociimage.Layer) {
	t.Helper()
	data, err := ociimage.TarBytes(layer.Files)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Create(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Apply(t.Context(), l, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
}

// realStack has the two layers of winimage.Image, as "1" and "2".
func realStack(t *testing.T) *Driver {
	t.Helper()
	d, img := openReal(t), winimage.Image("10.0.20348.1")
	applyReal(t, d, storage.Layer{ID: "1", Kind: storage.Active, Unpack: true}, img.Layers[0])
	applyReal(t, d, storage.Layer{ID: "2", Kind: storage.Active, Unpack: true, Parents: []string{"1"}}, img.Layers[1])
	return d
}

// names of the entries of a layer's diff below Files, without directories.
func diffNames(t *testing.T, d *Driver, l storage.Layer) []string {
	t.Helper()
	var b bytes.Buffer
	if err := d.Diff(t.Context(), l, &b); err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(describe(t, b.Bytes())) {
		kind, rest, _ := strings.Cut(line, " ")
		name, _, _ := strings.Cut(rest, " ")
		if kind != "5" && strings.HasPrefix(name, "Files/") {
			names = append(names, strings.TrimPrefix(name, "Files/"))
		}
	}
	slices.Sort(names)
	return names
}

func TestImportOverHCS(t *testing.T) {
	d := realStack(t)
	base := filepath.Join(d.root.Dir(), "layer1", "layer1")
	for _, name := range []string{templateDisk, `UtilityVM\SystemTemplate.vhdx`, `Files\link.txt`} {
		if !exists(filepath.Join(base, name)) {
			t.Errorf("the base has no %s", name)
		}
	}
	if got, want := diffNames(t, d, storage.Layer{ID: "2", Kind: storage.Committed, Parents: []string{"1"}}), []string{".wh.gone.txt", "hello.txt", "new.txt"}; !slices.Equal(got, want) {
		t.Errorf("the diff of the layer on it has %v, want %v", got, want)
	}
	if got := diffNames(t, d, storage.Layer{ID: "1", Kind: storage.Committed}); !slices.Contains(got, "gone.txt") {
		t.Errorf("the diff of the base has %v", got)
	}
}

// What a container wrote is made a layer, and what is on it goes on.
func TestScratchOverHCS(t *testing.T) {
	d := realStack(t)
	l := storage.Layer{ID: "3", Kind: storage.Active, Parents: []string{"2", "1"}, Labels: map[string]string{sizeLabel: "42949672960"}}
	if err := d.Create(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	m, err := d.Mounts(t.Context(), l)
	if err != nil || !exists(filepath.Join(m[0].Source, scratchDisk)) {
		t.Fatalf("Mounts: %+v, %v", m, err)
	}
	if _, err := d.Seal(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	l.Kind = storage.Committed
	if got := diffNames(t, d, l); len(got) > 0 {
		t.Errorf("nothing was written, but the diff has %v", got)
	}
	if err := d.Create(t.Context(), storage.Layer{ID: "4", Kind: storage.Active, Parents: []string{"3", "2", "1"}}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"4", "3", "2", "1"} {
		if err := d.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if left := all(t, d); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Without a template in the base, Windows makes the disk.
func TestScratchWithoutTemplateOverHCS(t *testing.T) {
	d := realStack(t)
	if err := os.Remove(filepath.Join(d.root.Dir(), "layer1", "layer1", templateDisk)); err != nil {
		t.Fatal(err)
	}
	l := storage.Layer{ID: "3", Kind: storage.Active, Parents: []string{"2", "1"}}
	if err := d.Create(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if m, err := d.Mounts(t.Context(), l); err != nil || !exists(filepath.Join(m[0].Source, scratchDisk)) {
		t.Fatalf("Mounts: %+v, %v", m, err)
	}
	if err := d.host.Detach(layerPaths(filepath.Join(d.root.Dir(), "layer3"), "3").scratch); err != nil {
		t.Logf("Detach of what is not attached: %v", err)
	}
}

func TestBadLayersLeaveNothingOverHCS(t *testing.T) {
	d := realStack(t)
	before := all(t, d)
	temp, err := os.ReadDir(os.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, headers := range badLayers() {
		data := pack(t, append([]*tar.Header{dir("Files"), reg("Files/good", "x")}, headers...)...)
		l := storage.Layer{ID: "9", Kind: storage.Active, Unpack: true, Parents: []string{"2", "1"}}
		if err := d.Create(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Apply(t.Context(), l, bytes.NewReader(data)); err == nil {
			t.Errorf("%s: it was taken", name)
		}
		if err := d.Remove(t.Context(), "9"); err != nil {
			t.Fatal(err)
		}
	}
	if after := all(t, d); !slices.Equal(before, after) {
		t.Errorf("left %v, was %v", after, before)
	}
	after, err := os.ReadDir(os.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range after {
		if strings.HasPrefix(e.Name(), "hcs") && !slices.ContainsFunc(temp, func(b fs.DirEntry) bool { return b.Name() == e.Name() }) {
			t.Errorf("left in the temporary directory: %s", e.Name())
		}
	}
}

// all lists what is in the driver's directory.
func all(t *testing.T, d *Driver) (names []string) {
	t.Helper()
	err := filepath.WalkDir(d.root.Dir(), func(path string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(d.root.Dir(), path)
		if err == nil && rel != "." && rel != ".new" && rel != ".trash" {
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
