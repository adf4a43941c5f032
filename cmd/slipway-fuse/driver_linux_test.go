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
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/storage/lazyfuse"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
	"github.com/slipwayd/slipway/storage/overlay"
	"github.com/slipwayd/slipway/testsuite"
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
	z := gzip.NewWriter(&blob)
	if _, err := z.Write(plain); err != nil || z.Close() != nil {
		return storage.Usage{}, errors.New("cannot compress")
	}
	rec, err := index.NewRecorder(bytes.NewReader(blob.Bytes()), index.Limits{})
	if err != nil {
		return instead()
	}
	defer rec.Close()
	if _, err := io.Copy(io.Discard, rec); err != nil {
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
	self, err := os.Executable()
	check(t, err)
	layers, err := overlay.New(filepath.Join(dir, "overlay"))
	check(t, err)
	d, err := lazyfuse.New(lazyfuse.Config{Layers: layers, State: filepath.Join(dir, "state"), Cache: filepath.Join(dir, "cache"),
		Program: self, Log: slog.New(slog.DiscardHandler)})
	check(t, err)
	return d
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
