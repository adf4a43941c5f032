package main

import (
	"archive/tar"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/image/lazyindex"
	client "github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/internal/mount"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/testsuite"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// noTasks is a host where nothing runs.
type noTasks struct{ engine.Tasks }

func (noTasks) Restore(context.Context) error { return nil }
func (noTasks) Close() error                  { return nil }

// node is an engine with the indexes that it has recorded.
type node struct {
	*engine.Engine
	own *lazyindex.Store
}

// startNode begins an engine over what is in dir; its background does nothing by itself.
func startNode(t *testing.T, dir string, change ...func(*engine.Parts)) node {
	t.Helper()
	driver := openDriver(t, dir)
	db, err := metadata.Open(filepath.Join(dir, "metadata.db"), metadata.Options{})
	check(t, err)
	blobs, err := content.Open(filepath.Join(dir, "content"))
	check(t, err)
	own, err := lazyindex.Open(filepath.Join(dir, "lazyindex"), 0, slog.New(slog.DiscardHandler))
	check(t, err)
	parts := engine.Parts{
		DB: db, Content: blobs, Drivers: map[string]storage.Driver{"overlayfs": driver}, DefaultDriver: "overlayfs", Tasks: noTasks{},
		Registry: client.New(client.Config{Retries: -1}), Indexes: &lazyindex.Finder{Own: own, Log: slog.New(slog.DiscardHandler)},
		Lazy: engine.LazyOptions{Delay: -1, Minimum: 1}, Root: dir, State: filepath.Join(dir, "run"),
	}
	for _, fn := range change {
		fn(&parts)
	}
	eng, err := engine.New(parts)
	check(t, err)
	check(t, eng.Start(t.Context()))
	return node{eng, own}
}

// newNode is startNode in a new directory, which is cleaned up in the end.
func newNode(t *testing.T, change ...func(*engine.Parts)) node {
	t.Helper()
	dir := memoryDir(t)
	t.Cleanup(func() { endKeeper(t, filepath.Join(dir, "state")) })
	n := startNode(t, dir, change...)
	t.Cleanup(func() { check(t, n.Close()) })
	return n
}

var inTest = engine.Scope{Namespace: "test"}

// pull pulls ref and answers its layers.
func (n node) pull(t *testing.T, ref, lazy string) []engine.ImageLayer {
	t.Helper()
	layers, err := n.tryPull(t.Context(), ref, lazy)
	check(t, err)
	return layers
}

func (n node) tryPull(ctx context.Context, ref, lazy string) ([]engine.ImageLayer, error) {
	_, err := n.Pull(ctx, inTest, engine.PullOptions{Ref: ref, Unpacks: []engine.Unpack{{}}, Lazy: lazy,
		Records: func(r image.Result) ([]metadata.Image, error) {
			return []metadata.Image{{Name: ref, Target: r.Target}}, nil
		}})
	if err != nil {
		return nil, err
	}
	return n.ImageLayers(ctx, "test", ref)
}

// modes lists the modes of layers.
func modes(layers []engine.ImageLayer) string {
	var out []string
	for _, l := range layers {
		out = append(out, l.Mode)
	}
	return strings.Join(out, " ")
}

// tree reads what a new view of the image shows.
func (n node) tree(t *testing.T, layers []engine.ImageLayer) (lines []string) {
	t.Helper()
	n.mounted(t, layers, func(root string) {
		got, err := testsuite.ReadTree(root)
		check(t, err)
		lines = comparable(got)
	})
	return lines
}

// comparable leaves out the root, of which the archives say nothing.
func comparable(tree testsuite.Tree) []string {
	delete(tree, ".")
	return tree.Lines()
}

// converted leaves out the two files that eStargz adds to a layer.
func converted(lines []string) []string {
	return slices.DeleteFunc(lines, func(line string) bool {
		return strings.Contains(line, ".no.prefetch.landmark") || strings.Contains(line, "stargz.index.json")
	})
}

// noise cannot be compressed.
func noise(seed uint64, size int) string {
	r, data := rand.New(rand.NewPCG(seed, 0)), make([]byte, size)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	return string(data)
}

// mounted has fn look at a new view of the image.
func (n node) mounted(t *testing.T, layers []engine.ImageLayer, fn func(root string)) {
	t.Helper()
	s, err := n.Snapshots(inTest, "overlayfs")
	check(t, err)
	key := fmt.Sprint("view-", rand.Uint64())
	mounts, err := s.View(t.Context(), key, layers[len(layers)-1].Chain.String(), map[string]string{"containerd.io/gc.root": "test"})
	check(t, err)
	check(t, mount.Temp(t.TempDir(), mounts, func(root string) error {
		fn(root)
		return nil
	}))
	check(t, s.Remove(t.Context(), key))
}

// stackImage is an image whose layers change each other in every way that there is.
func stackImage(c ociimage.Compression) ociimage.Image {
	dir := func(name string, mode int64, uid int) ociimage.File {
		f := ociimage.Dir(name, mode)
		f.Uid, f.Gid = uid, uid+1
		return f
	}
	more := ociimage.File{Header: tar.Header{Name: "run/more", Typeflag: tar.TypeReg, Mode: 0o6711, Uid: 7, Gid: 8,
		PAXRecords: map[string]string{"SCHILY.xattr.user.k": "v", "SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}}, Body: []byte("more")}
	return ociimage.Image{Layers: []ociimage.Layer{
		{Compression: c, Files: append(sizedFiles(1<<20), dir("run", 0o1777, 3), dir("gone", 0o700, 0), ociimage.Regular("gone/file", 0o600, "x"),
			dir("dir", 0o750, 5), ociimage.Regular("dir/old", 0o644, "old"), ociimage.Regular("dir/kept", 0o644, "kept"))},
		{Compression: c, Files: []ociimage.File{ociimage.Whiteout("gone"), ociimage.Whiteout("nothing"), ociimage.Whiteout("dir/old"), more,
			ociimage.Opaque("data"), ociimage.Regular("data/new", 0o640, "new"), ociimage.Hardlink("data/new2", "data/new"),
			ociimage.Regular("data/noise", 0o644, noise(1, 700<<10))}},
		{Compression: c, Files: []ociimage.File{ociimage.Regular("dir/top", 0o644, noise(2, 700<<10)), ociimage.Symlink("dir/link", "top"),
			ociimage.Whiteout("data/new2"), {Header: tar.Header{Name: "dev", Typeflag: tar.TypeBlock, Mode: 0o660, Devmajor: 7, Devminor: 1}}}},
	}}
}

// The image is built once in each form: that takes longer than all that is done with it.
var (
	stargzImage = sync.OnceValues(func() (*ociimage.Built, error) { return stackImage(ociimage.EStargz).Build() })
	plainImage  = sync.OnceValues(func() (*ociimage.Built, error) { return stackImage(ociimage.Gzip).Build() })
)

// push gives an image to a registry and answers its name.
func push(t *testing.T, r *registry.Registry, name string, build func() (*ociimage.Built, error)) string {
	t.Helper()
	built, err := build()
	check(t, err)
	r.PushBuilt(name, built)
	return r.Host() + "/" + name
}

// TestPullLazily pulls an image lazily and in full and compares what they show, before its blobs are here and afterwards, with
// the registry and without.
func TestPullLazily(t *testing.T) {
	r := registry.Start(t)
	stargz, plain := push(t, r, "test/stargz:latest", stargzImage), push(t, r, "test/plain:latest", plainImage)
	n, full := newNode(t), newNode(t)
	unconverted := n.tree(t, n.pull(t, plain, engine.LazyNever))
	want := full.tree(t, full.pull(t, stargz, engine.LazyNever))
	same(t, "converted", converted(slices.Clone(want)), unconverted)
	layers := n.pull(t, stargz, "")
	if got := modes(layers); got != "lazy lazy lazy" {
		t.Fatalf("pulled %s: %v %v %v", got, layers[0].Reason, layers[1].Reason, layers[2].Reason)
	}
	if _, err := n.Content(inTest).Blob(t.Context(), layers[0].Desc.Digest); !errdefs.IsNotFound(err) {
		t.Errorf("the blob is here: %v", err)
	}
	same(t, "lazy", n.tree(t, layers), want)

	// A mount that is there when the layers arrive goes on as it is; a new one uses what has arrived.
	n.mounted(t, layers, func(root string) {
		check(t, n.WaitLazy(t.Context(), "test", stargz))
		check(t, r.Down())
		defer func() { check(t, r.Up()) }()
		layers, err := n.ImageLayers(t.Context(), "test", stargz)
		check(t, err)
		if got := modes(layers); got != "arrived arrived arrived" {
			t.Errorf("after it has arrived: %s", got)
		}
		same(t, "arrived", n.tree(t, layers), want)
		got, err := testsuite.ReadTree(root)
		check(t, err)
		same(t, "mounted before", comparable(got), want)
	})
	for _, l := range layers {
		if _, err := n.Content(inTest).Blob(t.Context(), l.Desc.Digest); err != nil {
			t.Errorf("after it has arrived: %v", err)
		}
	}

	// A plain image was recorded when it was pulled in full, and another host that has the index need not.
	second := newNode(t)
	for _, l := range n.pull(t, plain, "") {
		x, err := n.own.Get(l.Desc.Digest)
		check(t, err)
		check(t, second.own.Put(l.Desc.Digest, x))
	}
	layers = second.pull(t, plain, "")
	if got := modes(layers); got != "lazy lazy lazy" {
		t.Fatalf("pulled %s: %v %v %v", got, layers[0].Reason, layers[1].Reason, layers[2].Reason)
	}
	same(t, "by its recorded index", second.tree(t, layers), unconverted)
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	for _, l := range got {
		if !slices.Contains(want, l) {
			t.Errorf("%s: has %s", what, l)
		}
	}
	for _, l := range want {
		if !slices.Contains(got, l) {
			t.Errorf("%s: lacks %s", what, l)
		}
	}
}

// TestFallBack pulls images in full that cannot be served, and keeps the reason.
func TestFallBack(t *testing.T) {
	for name, c := range map[string]struct {
		image  func() (*ociimage.Built, error)
		fault  registry.Fault
		reason string
	}{
		"no index":       {plainImage, nil, "recorded"},
		"no ranges":      {stargzImage, registry.NoRanges(), "416"},
		"ignored ranges": {stargzImage, registry.IgnoreRange(), "the registry sends all"},
		"broken table": {stargzImage, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Header.Get("Range") != "" {
				w = corruptWriter{w}
			}
			next.ServeHTTP(w, r)
		}, "table of contents"},
	} {
		t.Run(name, func(t *testing.T) {
			n, r := newNode(t), registry.Start(t)
			ref := push(t, r, "test/image:latest", c.image)
			if c.fault != nil {
				r.Fault(registry.Match{Method: "GET", Path: "/blobs/"}, c.fault)
			}
			layers := n.pull(t, ref, "")
			if got := modes(layers); got != "full full full" {
				t.Errorf("pulled %s", got)
			}
			for _, l := range layers {
				if !strings.Contains(l.Reason, c.reason) {
					t.Errorf("in full because %q", l.Reason)
				}
			}
		})
	}
}

// TestRestart takes over what another daemon has left, while the registry is away.
func TestRestart(t *testing.T) {
	dir, r := memoryDir(t), registry.Start(t)
	t.Cleanup(func() { endKeeper(t, filepath.Join(dir, "state")) })
	ref := push(t, r, "test/stargz:latest", stargzImage)
	first := startNode(t, dir)
	layers := first.pull(t, ref, "")
	want := first.tree(t, layers) // all of it is in the cache now
	check(t, first.Close())
	check(t, r.Down())
	n := startNode(t, dir)
	t.Cleanup(func() { check(t, n.Close()) })
	same(t, "after a restart", n.tree(t, layers), want)
	if err := n.WaitLazy(t.Context(), "test", ref); err == nil {
		t.Error("layers arrive without a registry")
	}
	layers, err := n.ImageLayers(t.Context(), "test", ref)
	check(t, err)
	if modes(layers) != "lazy lazy lazy" || layers[0].Err == nil {
		t.Errorf("without a registry: %s, %v", modes(layers), layers[0].Err)
	}
	check(t, r.Up())
	check(t, n.WaitLazy(t.Context(), "test", ref))
	same(t, "arrived", n.tree(t, layers), want)
}

// TestRemoteLabels makes snapshots as clients of remote snapshotters ask for them.
func TestRemoteLabels(t *testing.T) {
	n, r := newNode(t), registry.Start(t)
	ref := push(t, r, "test/stargz:latest", stargzImage)
	// Such a client has manifest and config in the store before it begins to unpack.
	_, err := n.Pull(t.Context(), inTest, engine.PullOptions{Ref: ref, Unpacks: []engine.Unpack{{}}, Lazy: engine.LazyAlways,
		Records: func(res image.Result) ([]metadata.Image, error) {
			return []metadata.Image{{Name: ref, Target: res.Target}}, nil
		}})
	check(t, err)
	layers, err := n.ImageLayers(t.Context(), "test", ref)
	check(t, err)
	want := n.tree(t, layers)
	s, err := n.Snapshots(inTest, "overlayfs")
	check(t, err)
	for i := len(layers) - 1; i >= 0; i-- {
		check(t, s.Remove(t.Context(), layers[i].Chain.String()))
	}
	check(t, s.Cleanup(t.Context()))
	parent := ""
	for i, l := range layers {
		labels := map[string]string{
			"containerd.io/snapshot.ref":              l.Chain.String(),
			"containerd.io/snapshot/cri.image-ref":    ref,
			"containerd.io/snapshot/cri.layer-digest": l.Desc.Digest.String(),
		}
		_, err := s.Prepare(t.Context(), fmt.Sprint("extract-", i), parent, labels)
		if !errdefs.IsAlreadyExists(err) {
			t.Fatalf("layer %d: %v", i, err)
		}
		parent = l.Chain.String()
	}
	layers, err = n.ImageLayers(t.Context(), "test", ref)
	check(t, err)
	if got := modes(layers); got != "lazy lazy lazy" {
		t.Errorf("the layers are %s", got)
	}
	same(t, "prepared", n.tree(t, layers), want)
}
