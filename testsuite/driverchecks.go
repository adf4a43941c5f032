package testsuite

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/storage"
)

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
	l := unpacked(1)
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
	tarball := Tarball(t, append(many(300), hard("link", "a/a"), soft("s", "x"))...)
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

func driverSideBySide(t *testing.T, d storage.Driver) { driverSideBySideOf(t, d, many(300)) }

func driverSideBySideOf(t *testing.T, d storage.Driver, files []*tar.Header) {
	var wg sync.WaitGroup
	tarball := Tarball(t, files...)
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
func driverDeep(t *testing.T, d storage.Driver) { driverDeepOf(t, d, 130) }

func driverDeepOf(t *testing.T, d storage.Driver, depth int) {
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
