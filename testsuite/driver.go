package testsuite

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/mount"
	"github.com/slipwayd/slipway/storage"
)

// TestDriver checks that a storage.Driver keeps its contract. open answers a driver without layers. What layers show is
// compared with Tree, the model; where their mounts can be mounted, file by file.
func TestDriver(t *testing.T, open func(t *testing.T) storage.Driver) {
	for name, layers := range driverCases() {
		t.Run("Apply/"+name, func(t *testing.T) {
			var tars [][]byte
			for _, l := range layers {
				tars = append(tars, Tarball(t, l...))
			}
			driverStack(t, open(t), tars)
		})
	}
	for name, headers := range hostile() {
		t.Run("Hostile/"+name, func(t *testing.T) {
			out := t.TempDir()
			tarball := Tarball(t, headers...)
			tarball = replaceOut(t, tarball, out)
			driverHostile(t, open(t), tarball, out)
		})
	}
	for name, test := range map[string]func(*testing.T, storage.Driver){
		"WriteAndCommit":     driverCommit,
		"Lifecycle":          driverLifecycle,
		"Views":              driverViews,
		"Errors":             driverErrors,
		"CutArchives":        driverCut,
		"ReaderFails":        driverReaderFails,
		"Cancelled":          driverCancelled,
		"DiffIsReproducible": driverReproducible,
		"Usage":              driverUsage,
		"SideBySide":         driverSideBySide,
		"DeepStack":          driverDeep,
		"IDMaps":             driverIDMaps,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// replaceOut rebuilds tarball with out's path, without the leading slash, for OUT.
func replaceOut(t *testing.T, tarball []byte, out string) []byte {
	t.Helper()
	if err := os.WriteFile(filepath.Join(out, "sentinel"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	headers, err := readTar(bytes.NewReader(tarball))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		h.Name = strings.Replace(h.Name, "OUT", strings.TrimPrefix(out, "/"), 1)
		h.Linkname = strings.Replace(h.Linkname, "OUT", strings.TrimPrefix(out, "/"), 1)
	}
	return Tarball(t, headers...)
}

// id names layer i of a stack.
func id(i int) string { return fmt.Sprintf("l%d", i) }

// stack answers the description of layer i of a stack l0, l1, ….
func stack(i int, kind storage.Kind) storage.Layer {
	l := storage.Layer{ID: id(i), Kind: kind}
	for p := i - 1; p >= 0; p-- {
		l.Parents = append(l.Parents, id(p))
	}
	return l
}

// unpacked is layer i of a stack, to be filled by Apply.
func unpacked(i int) storage.Layer {
	l := stack(i, storage.Active)
	l.Unpack = true
	return l
}

// unpack makes layer i of a stack from a tar.
func unpack(t *testing.T, d storage.Driver, i int, tarball []byte) storage.Usage {
	t.Helper()
	l := unpacked(i)
	if err := d.Create(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	u, err := d.Apply(t.Context(), l, bytes.NewReader(tarball))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// canMount says whether m is of this world and we may mount it.
func canMount(m []storage.Mount) bool {
	return m[0].Type != "fake" && m[0].Type != "windows-layer" && os.Getuid() == 0
}

// mounted calls fn with where layer l is mounted; not at all when it cannot be.
func mounted(t *testing.T, d storage.Driver, l storage.Layer, fn func(root string)) {
	t.Helper()
	m, err := d.Mounts(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	if !canMount(m) {
		return
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil { // for other users
		t.Fatal(err)
	}
	if err := mount.Temp(dir, m, func(root string) error { fn(root); return nil }); err != nil {
		t.Fatal(err)
	}
}

// shows checks what layer l looks like, mounted. Of the root directory the time is left out: overlayfs and tars leave it open.
func shows(t *testing.T, d storage.Driver, l storage.Layer, want Tree) {
	t.Helper()
	mounted(t, d, l, func(root string) {
		got, err := ReadTree(root)
		if err != nil {
			t.Fatal(err)
		}
		sameTree(t, l.ID, got, want)
	})
}

func sameTree(t *testing.T, what string, got, want Tree) {
	t.Helper()
	got, want = got.Clone(), want.Clone()
	got["."].MTime = want["."].MTime
	a, b := got.Lines(), want.Lines()
	for _, line := range a {
		if !slices.Contains(b, line) {
			t.Errorf("%s: has %.400s", what, line)
		}
	}
	for _, line := range b {
		if !slices.Contains(a, line) {
			t.Errorf("%s: lacks %.400s", what, line)
		}
	}
}

// driverStack applies tars on each other, compares with the model, and then does the same with the driver's own diffs.
func driverStack(t *testing.T, d storage.Driver, tars [][]byte) {
	want := NewTree()
	var diffs [][]byte
	for i, tarball := range tars {
		if err := want.Apply(bytes.NewReader(tarball)); err != nil {
			t.Fatal(err)
		}
		unpack(t, d, i, tarball)
		shows(t, d, stack(i, storage.Committed), want)
		var diff bytes.Buffer
		if err := d.Diff(t.Context(), stack(i, storage.Committed), &diff); err != nil {
			t.Fatal(err)
		}
		diffs = append(diffs, diff.Bytes())
	}
	again := NewTree()
	for i, diff := range diffs {
		if err := again.Apply(bytes.NewReader(diff)); err != nil {
			t.Fatalf("diff of layer %d: %v", i, err)
		}
	}
	if s, ok := d.(simplifier); ok {
		again, want = s.simplify(again), s.simplify(want)
	}
	sameTree(t, "the model of all diffs", again, want)
	for i := len(tars) - 1; i >= 0; i-- {
		if err := d.Remove(t.Context(), id(i)); err != nil {
			t.Fatal(err)
		}
	}
	for i, diff := range diffs {
		unpack(t, d, i, diff)
	}
	shows(t, d, stack(len(tars)-1, storage.Committed), want)
}

func driverHostile(t *testing.T, d storage.Driver, tarball []byte, out string) {
	before, err := ReadTree(out)
	if errdefs.IsNotImplemented(err) {
		t.Skip("no way to look at files on this system")
	}
	if err != nil {
		t.Fatal(err)
	}
	unpack(t, d, 0, Tarball(t, folder("d"), file("d/f", "below"), file("g", "below")))
	l := unpacked(1)
	if err := d.Create(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Apply(t.Context(), l, bytes.NewReader(tarball)); err != nil && !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v, want success or InvalidArgument", err)
	}
	after, err := ReadTree(out)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := after.Lines(), before.Lines(); !slices.Equal(a, b) {
		t.Errorf("outside was\n%s\nand is\n%s", strings.Join(b, "\n"), strings.Join(a, "\n"))
	}
	want := NewTree()
	if err := want.Apply(bytes.NewReader(Tarball(t, folder("d"), file("d/f", "below"), file("g", "below")))); err != nil {
		t.Fatal(err)
	}
	shows(t, d, stack(0, storage.Committed), want)
	if err := d.Remove(t.Context(), l.ID); err != nil {
		t.Error(err)
	}
}

// driverCommit writes through a mount, as a container does, seals the layer and looks at it from a layer above.
func driverCommit(t *testing.T, d storage.Driver) {
	unpack(t, d, 0, Tarball(t, folder("d"), file("d/a", "a"), file("d/b", "b"), file("e/f/g", "g"), file("h", "h"), hard("i", "h")))
	l := stack(1, storage.Active)
	if err := d.Create(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	var want Tree
	mounted(t, d, l, func(root string) {
		for _, err := range []error{
			os.Remove(root + "/d/a"), os.RemoveAll(root + "/e"), os.Mkdir(root+"/e", 0o711),
			os.WriteFile(root+"/e/new", []byte("new"), 0o640), os.Chmod(root+"/d/b", 0o600), os.Rename(root+"/d/b", root+"/moved"),
			os.Link(root+"/h", root+"/j"), os.Symlink("/x", root+"/s"), os.WriteFile(root+"/i", []byte("changed"), 0o644),
		} {
			if err != nil {
				t.Error(err)
			}
		}
		var err error
		if want, err = ReadTree(root); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := d.Seal(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if want == nil {
		return
	}
	shows(t, d, stack(1, storage.Committed), want)
	var diff bytes.Buffer
	if err := d.Diff(t.Context(), stack(1, storage.Committed), &diff); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(t.Context(), l.ID); err != nil {
		t.Fatal(err)
	}
	unpack(t, d, 1, diff.Bytes())
	shows(t, d, stack(1, storage.Committed), want)
}

func driverLifecycle(t *testing.T, d storage.Driver) {
	list := func(want ...string) {
		t.Helper()
		ids, err := d.List(t.Context())
		slices.Sort(ids)
		if err != nil || !slices.Equal(ids, want) {
			t.Errorf("List = %v, %v; want %v", ids, err, want)
		}
	}
	list()
	unpack(t, d, 0, Tarball(t, file("f", "x")))
	if err := d.Create(t.Context(), stack(1, storage.Active)); err != nil {
		t.Fatal(err)
	}
	list("l0", "l1")
	if err := d.Create(t.Context(), stack(1, storage.Active)); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second Create: %v", err)
	}
	for range 2 {
		if err := d.Remove(t.Context(), "l1"); err != nil {
			t.Fatal(err)
		}
	}
	list("l0")
	if err := d.Create(t.Context(), stack(1, storage.Active)); err != nil {
		t.Errorf("Create after Remove: %v", err)
	}
}

func driverViews(t *testing.T, d storage.Driver) {
	want := NewTree()
	for i := range 3 {
		tarball := Tarball(t, file(fmt.Sprintf("f%d", i), "x"), folder("d"), file("d/same", id(i)))
		if err := want.Apply(bytes.NewReader(tarball)); err != nil {
			t.Fatal(err)
		}
		view := stack(i, storage.View)
		view.ID = fmt.Sprintf("view%d", i)
		if err := d.Create(t.Context(), view); err != nil {
			t.Fatal(err)
		}
		unpack(t, d, i, tarball)
	}
	view := stack(3, storage.View)
	if err := d.Create(t.Context(), view); err != nil {
		t.Fatal(err)
	}
	shows(t, d, view, want)
	for i := range 3 {
		view := stack(i, storage.View)
		view.ID = fmt.Sprintf("view%d", i)
		mounted(t, d, view, func(root string) {
			if err := os.WriteFile(root+"/x", nil, 0o600); err == nil {
				t.Errorf("a view of %d layers can be written", i)
			}
			names, err := os.ReadDir(root)
			if want := i + min(i, 1); err != nil || len(names) != want {
				t.Errorf("a view of %d layers has %d files, %v", i, len(names), err)
			}
		})
	}
	var diff bytes.Buffer
	if err := d.Diff(t.Context(), view, &diff); err != nil {
		t.Fatal(err)
	}
	if hs, err := readTar(&diff); err != nil || len(hs) != 0 {
		t.Errorf("a view's diff has %d entries, %v", len(hs), err)
	}
}

func driverErrors(t *testing.T, d storage.Driver) {
	ctx := t.Context()
	absent := storage.Layer{ID: "absent", Kind: storage.Active}
	orphan := storage.Layer{ID: "orphan", Kind: storage.Active, Parents: []string{"absent"}}
	_, mounts := d.Mounts(ctx, absent)
	_, apply := d.Apply(ctx, absent, bytes.NewReader(Tarball(t)))
	_, usage := d.Usage(ctx, "absent")
	_, seal := d.Seal(ctx, absent)
	for name, err := range map[string]error{
		"Mounts": mounts, "Apply": apply, "Usage": usage, "Seal": seal,
		"Diff": d.Diff(ctx, absent, io.Discard), "Create on a missing parent": d.Create(ctx, orphan),
	} {
		if !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v, want NotFound", name, err)
		}
	}
	for _, bad := range []string{"", "..", "a/b", "UPPER", "../../etc"} {
		if err := d.Create(ctx, storage.Layer{ID: bad, Kind: storage.Active}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Create(%q): %v, want InvalidArgument", bad, err)
		}
	}
	if ids, err := d.List(ctx); err != nil || len(ids) != 0 {
		t.Errorf("List = %v, %v after failures only", ids, err)
	}
}
