package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/internal/mount"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/storage/lazyfuse"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
	"github.com/slipwayd/slipway/storage/overlay"
	"github.com/slipwayd/slipway/testsuite"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// lazyDriver has Apply put the layer into a registry and serve it from there; with arrive it is brought here at once.
type lazyDriver struct {
	*lazyfuse.Driver
	from   *registry.Registry
	arrive bool
	lazy   *atomic.Int64 // layers that could be served
	layers *sync.Map     // of fill by id
}

func (d lazyDriver) Apply(ctx context.Context, l storage.Layer, diff io.Reader) (storage.Usage, error) {
	plain, err := io.ReadAll(diff)
	instead := func() (storage.Usage, error) {
		return d.Driver.Apply(ctx, l, io.MultiReader(bytes.NewReader(plain), failing{err}))
	}
	if tree := testsuite.NewTree(); err != nil || ctx.Err() != nil || tree.Apply(bytes.NewReader(plain)) != nil {
		return instead() // nobody records what cannot be unpacked
	}
	var blob bytes.Buffer
	z, err := gzip.NewWriterLevel(&blob, gzip.BestSpeed)
	if err != nil {
		return storage.Usage{}, err
	}
	if _, err := z.Write(plain); err != nil || z.Close() != nil {
		return storage.Usage{}, errors.New("cannot compress")
	}
	rec, err := index.NewRecorder(bytes.NewReader(blob.Bytes()), index.Limits{})
	if err != nil {
		return instead()
	}
	defer rec.Close()
	if _, err := io.Copy(rec, rec); err != nil {
		return instead()
	}
	x, indexErr := rec.Finish()
	if indexErr != nil {
		return instead()
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(blob.Bytes()), Size: int64(blob.Len())}
	d.from.PutBlob(desc.Digest, blob.Bytes())
	u, err := d.Attach(ctx, l, storage.LayerIndex{Document: x.Marshal(), Own: true}, storage.Source{Ref: d.from.Host() + "/test:latest", Descriptor: desc})
	if err != nil {
		err = nil
		return instead()
	}
	d.lazy.Add(1)
	d.layers.Store(l.ID, fill{l, plain})
	if !d.arrive {
		return u, nil
	}
	return d.fill(ctx, l, plain)
}

type fill struct {
	layer storage.Layer
	plain []byte
}

func (d lazyDriver) fill(ctx context.Context, l storage.Layer, plain []byte) (storage.Usage, error) {
	u, err := d.Fill(ctx, l, bytes.NewReader(plain))
	if err != nil {
		return u, err
	}
	return u, d.Arrive(ctx, l.ID)
}

// Create brings here what is to be seen under other ids.
func (d lazyDriver) Create(ctx context.Context, l storage.Layer) error {
	for i := len(l.Parents) - 1; i >= 0 && l.UIDMap != "" && !d.arrive; i-- {
		if f, ok := d.layers.LoadAndDelete(l.Parents[i]); ok {
			if _, err := d.fill(ctx, f.(fill).layer, f.(fill).plain); err != nil {
				return err
			}
		}
	}
	return d.Driver.Create(ctx, l)
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return 0, io.EOF
}

func openDriver(t *testing.T, dir string) *lazyfuse.Driver {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting FUSE with suid and dev needs root")
	}
	t.Setenv("SLIPWAY_FUSE_TEST", "main")
	d, err := newDriver(dir)
	check(t, err)
	return d
}

// newDriver is a driver whose server is this program, run with SLIPWAY_FUSE_TEST=main.
func newDriver(dir string) (*lazyfuse.Driver, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	layers, err := overlay.New(filepath.Join(dir, "overlay"))
	if err != nil {
		return nil, err
	}
	return lazyfuse.New(lazyfuse.Config{Layers: layers, State: filepath.Join(dir, "state"), Cache: filepath.Join(dir, "cache"),
		Program: self, Log: slog.New(slog.DiscardHandler)})
}

// memoryDir is a directory that syncs in no time.
func memoryDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "slipway-fuse-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	return dir
}

// TestDriver runs the suite of all drivers with layers that are read from a registry, and with such that have arrived.
func TestDriver(t *testing.T) {
	for name, arrive := range map[string]bool{"served": false, "arrived": true} {
		t.Run(name, func(t *testing.T) {
			lazy := new(atomic.Int64)
			testsuite.TestDriver(t, func(t *testing.T) storage.Driver {
				dir := memoryDir(t)
				d := openDriver(t, dir)
				t.Cleanup(func() {
					check(t, d.Close())
					endKeeper(t, filepath.Join(dir, "state"))
				})
				return lazyDriver{d, registry.Start(t), arrive, lazy, new(sync.Map)}
			})
			if lazy.Load() < 20 {
				t.Errorf("only %d layers were served", lazy.Load())
			}
		})
	}
}

// TestCrashes opens a driver over what another one leaves at each step of a layer's life.
func TestCrashes(t *testing.T) {
	dir, r := memoryDir(t), registry.Start(t)
	t.Cleanup(func() { endKeeper(t, filepath.Join(dir, "state")) })
	plain, err := ociimage.TarBytes(sizedFiles(256 << 10))
	check(t, err)
	var d lazyDriver
	again := func() { // as a process ends: nothing is told to the driver
		if d.Driver != nil {
			check(t, d.Close())
		}
		d = lazyDriver{openDriver(t, dir), r, false, new(atomic.Int64), new(sync.Map)}
	}
	again()
	t.Cleanup(func() { check(t, d.Close()) })
	l := storage.Layer{ID: "l1", Kind: storage.Active}
	check(t, d.Create(t.Context(), l))
	_, err = d.Apply(t.Context(), l, bytes.NewReader(plain))
	check(t, err)
	l.Kind = storage.Committed
	own := func(name string) string { return filepath.Join(dir, "overlay/l1", name) }
	show := func(when string, lazy, filled bool) {
		t.Helper()
		again()
		mounts, err := d.Mounts(t.Context(), l)
		check(t, err)
		check(t, mount.Temp(t.TempDir(), mounts, func(root string) error { expect(t, root, sizedFiles(256<<10)); return nil }))
		all, err := d.Lazies(t.Context(), false)
		check(t, err)
		if len(all) == 0 && lazy || len(all) == 1 && (!lazy || all[0].Filled != filled) {
			t.Errorf("%s: %+v", when, all)
		}
		if _, err := os.Lstat(own("full")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: something is left of Fill: %v", when, err)
		}
	}
	show("attached", true, false)
	_, err = d.Fill(t.Context(), l, bytes.NewReader(plain))
	check(t, err)
	show("filled", true, false)
	_, err = d.Fill(t.Context(), l, bytes.NewReader(plain))
	check(t, err)
	check(t, unix.Renameat2(unix.AT_FDCWD, own("full"), unix.AT_FDCWD, own("fs"), unix.RENAME_EXCHANGE))
	show("exchanged", true, true)
	check(t, os.RemoveAll(own("lazy")))
	show("let go", false, false)

	// A layer that was begun and never settled goes like any other.
	check(t, d.Create(t.Context(), storage.Layer{ID: "l2", Kind: storage.Active}))
	_, err = d.Apply(t.Context(), storage.Layer{ID: "l2", Kind: storage.Active}, bytes.NewReader(plain))
	check(t, err)
	again()
	ids, err := d.List(t.Context())
	check(t, err)
	if !slices.Equal(ids, []string{"l1", "l2"}) {
		t.Errorf("List = %v", ids)
	}
	check(t, d.Remove(t.Context(), "l2"))
	check(t, d.Remove(t.Context(), "l1"))
}

// TestRemoveMounted keeps a layer that something is mounted on.
func TestRemoveMounted(t *testing.T) {
	dir, r := memoryDir(t), registry.Start(t)
	t.Cleanup(func() { endKeeper(t, filepath.Join(dir, "state")) })
	d := lazyDriver{openDriver(t, dir), r, false, new(atomic.Int64), new(sync.Map)}
	t.Cleanup(func() { check(t, d.Close()) })
	plain, err := ociimage.TarBytes(testFiles()[:4])
	check(t, err)
	for _, kind := range []storage.Kind{storage.Committed, storage.Active} {
		base := storage.Layer{ID: "base" + strconv.Itoa(int(kind)), Kind: storage.Active}
		check(t, d.Create(t.Context(), base))
		_, err = d.Apply(t.Context(), base, bytes.NewReader(plain))
		check(t, err)
		top := storage.Layer{ID: base.ID, Kind: storage.Committed} // a bind mount of the FUSE mount
		if kind == storage.Active {
			top = storage.Layer{ID: "top", Kind: kind, Parents: []string{base.ID}} // an overlay on it
			check(t, d.Create(t.Context(), top))
		}
		mounts, err := d.Mounts(t.Context(), top)
		check(t, err)
		check(t, mount.Temp(t.TempDir(), mounts, func(string) error {
			if err := d.Remove(t.Context(), base.ID); !errdefs.IsUnavailable(err) {
				t.Errorf("removed a layer that is mounted: %v", err)
			}
			return nil
		}))
		check(t, d.Remove(t.Context(), base.ID))
		check(t, d.Remove(t.Context(), base.ID))
	}
}
