package testsuite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/mount"
	"github.com/slipwayd/slipway/storage"
)

// TestDriver checks that a storage.Driver keeps its contract. open answers a driver without layers. What layers show is
// compared with Tree, the model; where their mounts can be mounted, file by file.
func TestDriver(t *testing.T, open func(t *testing.T) storage.Driver) {
	for name, layers := range driverCases {
		t.Run("Apply/"+name, func(t *testing.T) {
			var tars [][]byte
			for _, l := range layers {
				tars = append(tars, Tarball(t, l...))
			}
			driverStack(t, open(t), tars)
		})
	}
	for name, headers := range hostile {
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

// unpack makes layer i of a stack from a tar.
func unpack(t *testing.T, d storage.Driver, i int, tarball []byte) storage.Usage {
	t.Helper()
	l := stack(i, storage.Active)
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
func canMount(m []storage.Mount) bool { return m[0].Type != "fake" && os.Getuid() == 0 }

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
	l := stack(1, storage.Active)
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

// driverCut cuts an archive everywhere: the driver must fail or, where nothing but padding is missing, succeed.
func driverCut(t *testing.T, d storage.Driver) {
	whole := Tarball(t, folder("d"), file("d/f", strings.Repeat("x", 1000)), hard("g", "d/f"))
	for n := 0; n <= len(whole); n += 256 {
		l := storage.Layer{ID: fmt.Sprintf("cut%d", n), Kind: storage.Active}
		if err := d.Create(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		_, err := d.Apply(t.Context(), l, bytes.NewReader(whole[:n]))
		if _, want := readTar(bytes.NewReader(whole[:n])); (err == nil) != (want == nil) || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

func driverReaderFails(t *testing.T, d storage.Driver) {
	boom := errors.New("boom")
	whole := Tarball(t, file("a", "x"), file("f", strings.Repeat("x", 1<<20)))
	for _, n := range []int{0, 600, 5000} {
		l := storage.Layer{ID: fmt.Sprintf("fail%d", n), Kind: storage.Active}
		if err := d.Create(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		r := io.MultiReader(bytes.NewReader(whole[:n]), failingReader{boom})
		if _, err := d.Apply(t.Context(), l, r); !errors.Is(err, boom) {
			t.Errorf("after %d bytes: got %v, want the reader's error", n, err)
		}
		if err := d.Remove(t.Context(), l.ID); err != nil {
			t.Error(err)
		}
	}
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

func driverCancelled(t *testing.T, d storage.Driver) {
	unpack(t, d, 0, Tarball(t, file("f", "x")))
	l := stack(1, storage.Active)
	if err := d.Create(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Apply(ctx, l, bytes.NewReader(Tarball(t, file("f", "x")))); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply: %v", err)
	}
	if err := d.Diff(ctx, stack(0, storage.Committed), io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("Diff: %v", err)
	}
}

func driverReproducible(t *testing.T, d storage.Driver) {
	tarball := Tarball(t, append(many(), hard("link", "a/a"), soft("s", "x"))...)
	unpack(t, d, 0, tarball)
	if err := d.Create(t.Context(), storage.Layer{ID: "other", Kind: storage.Active}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Apply(t.Context(), storage.Layer{ID: "other", Kind: storage.Active}, bytes.NewReader(tarball)); err != nil {
		t.Fatal(err)
	}
	var a, b bytes.Buffer
	if err := d.Diff(t.Context(), stack(0, storage.Committed), &a); err != nil {
		t.Fatal(err)
	}
	if err := d.Diff(t.Context(), storage.Layer{ID: "other", Kind: storage.Committed}, &b); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("two layers of the same tar have different diffs")
	}
}

func driverUsage(t *testing.T, d storage.Driver) {
	const size = 1 << 20
	applied := unpack(t, d, 0, Tarball(t, folder("d"), file("d/f", strings.Repeat("x", size)), hard("d/g", "d/f"), soft("s", "x")))
	if applied.Inodes != 4 || applied.Size < size || applied.Size > size+64<<10 {
		t.Errorf("Apply says %+v", applied)
	}
	if u, err := d.Usage(t.Context(), id(0)); err != nil || u.Inodes != applied.Inodes || u.Size < size {
		t.Errorf("Usage = %+v, %v; Apply said %+v", u, err, applied)
	}
}

func driverSideBySide(t *testing.T, d storage.Driver) {
	var wg sync.WaitGroup
	tarball := Tarball(t, many()...)
	for i := range 6 {
		wg.Go(func() {
			l := storage.Layer{ID: fmt.Sprintf("side%d", i), Kind: storage.Active}
			if err := d.Create(t.Context(), l); err != nil {
				t.Error(err)
				return
			}
			if _, err := d.Apply(t.Context(), l, bytes.NewReader(tarball)); err != nil {
				t.Error(err)
			}
			if _, err := d.List(t.Context()); err != nil {
				t.Error(err)
			}
			if i%2 == 0 {
				if err := d.Remove(t.Context(), l.ID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	want := NewTree()
	if err := want.Apply(bytes.NewReader(tarball)); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < 6; i += 2 {
		shows(t, d, storage.Layer{ID: fmt.Sprintf("side%d", i), Kind: storage.Committed}, want)
	}
}

// driverDeep has more layers than mount options fit a page.
func driverDeep(t *testing.T, d storage.Driver) {
	const depth = 130
	want := NewTree()
	for i := range depth {
		tarball := Tarball(t, file(fmt.Sprintf("f%d", i), "x"), file("last", id(i)))
		if err := want.Apply(bytes.NewReader(tarball)); err != nil {
			t.Fatal(err)
		}
		unpack(t, d, i, tarball)
	}
	l := stack(depth, storage.Active)
	if err := d.Create(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	shows(t, d, l, want)
}

// driverIDMaps writes in a mount with id maps and commits: the layer must have the container's ids.
func driverIDMaps(t *testing.T, d storage.Driver) {
	for i, parents := range []int{0, 1, 2} {
		base := i * 10
		name := func(n int) string { return id(base + n) }
		l := storage.Layer{ID: name(9), Kind: storage.Active, UIDMap: "0:100000:1000", GIDMap: "0:200000:1000"}
		for n := range parents {
			p := storage.Layer{ID: name(n), Kind: storage.Active, Parents: slices.Clone(l.Parents)}
			if err := d.Create(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			own := owned(file("owned", "x"), 3, 4)
			if _, err := d.Apply(t.Context(), p, bytes.NewReader(Tarball(t, file(name(n), "x"), own))); err != nil {
				t.Fatal(err)
			}
			l.Parents = append([]string{p.ID}, l.Parents...)
		}
		if err := d.Create(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		var host Tree
		mounted(t, d, l, func(root string) { host = writeMapped(t, root, parents > 0) })
		if host == nil {
			return
		}
		for _, kind := range []storage.Kind{storage.Active, storage.Committed} {
			var diff bytes.Buffer
			l.Kind = kind
			if err := d.Diff(t.Context(), l, &diff); err != nil {
				t.Fatal(err)
			}
			got := NewTree()
			if err := got.Apply(&diff); err != nil {
				t.Fatal(err)
			}
			if n := got["dir/new"]; n == nil || n.UID != 5 || n.GID != 6 || n.Mode != 0o4755 {
				t.Errorf("%d parents: the diff has %+v, want 5:6 and mode 4755", parents, n)
			}
			if kind == storage.Active {
				if _, err := d.Seal(t.Context(), l); err != nil {
					t.Fatal(err)
				}
			}
		}
		l.Kind, l.UIDMap, l.GIDMap = storage.Committed, "", ""
		for _, n := range host {
			n.UID, n.GID = n.UID-100000, n.GID-200000
		}
		shows(t, d, l, host)
	}
}

func writeMapped(t *testing.T, root string, onParents bool) Tree {
	t.Helper()
	as := func(uid, gid uint32, script string) {
		t.Helper()
		if out, err := runAs(root, uid, gid, script); err != nil {
			t.Errorf("%s: %v: %s", script, err, out)
		}
	}
	as(100000, 200000, "umask 022; mkdir dir; chmod 777 dir")
	as(100005, 200006, "echo x >dir/new; chmod 4755 dir/new")
	if onParents {
		as(100003, 200004, "chmod 600 owned")
	}
	tree, err := ReadTree(root)
	if err != nil {
		t.Fatal(err)
	}
	if n := tree["owned"]; onParents && (n == nil || n.UID != 100003 || n.GID != 200004) {
		t.Errorf("the mount shows %+v, want 100003:200004", n)
	}
	if n := tree["."]; n.UID != 100000 || n.GID != 200000 {
		t.Errorf("the mount's root is %d:%d", n.UID, n.GID)
	}
	return tree
}
