package image

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
	"github.com/slipwayd/slipway/storage/overlay"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	double "github.com/slipwayd/slipway/testsuite/registry"
)

// overlayLayers unpacks with a real driver and keeps its graph in memory.
type overlayLayers struct {
	driver *overlay.Driver
	next   *atomic.Int64
}

func (o overlayLayers) Driver() string                                   { return "overlay" }
func (o overlayLayers) Independent() bool                                { return true }
func (o overlayLayers) Has(context.Context, digest.Digest) (bool, error) { return false, nil }
func (o overlayLayers) Stage(ctx context.Context, _ Layer) (Staged, error) {
	l := storage.Layer{ID: "l" + string(rune('a'+o.next.Add(1))), Kind: storage.Active}
	return overlayStaged{o.driver, l}, o.driver.Create(ctx, l)
}

type overlayStaged struct {
	driver *overlay.Driver
	layer  storage.Layer
}

func (s overlayStaged) Apply(ctx context.Context, diff io.Reader) error {
	_, err := s.driver.Apply(ctx, s.layer, diff)
	return err
}
func (s overlayStaged) Commit(context.Context) error    { return nil }
func (s overlayStaged) Abort(ctx context.Context) error { return s.driver.Remove(ctx, s.layer.ID) }

// BenchmarkPull pulls and unpacks, durably, two layers of 32 MB, or the image that SLIPWAY_BENCH_IMAGE names, without and
// with the making of indexes.
func BenchmarkPull(b *testing.B) {
	ref := os.Getenv("SLIPWAY_BENCH_IMAGE")
	if ref == "" {
		r := double.Start(b)
		r.Push("bench:v1", ociimage.Image{Layers: []ociimage.Layer{layer("a", noise(1, 32<<20)), layer("b", noise(2, 32<<20))}})
		ref = r.Host() + "/bench:v1"
	}
	b.Run("plain", func(b *testing.B) { benchmarkPull(b, ref, nil) })
	b.Run("recorded", func(b *testing.B) { benchmarkPull(b, ref, &fakeRecorder{kept: map[digest.Digest]*index.Index{}}) })
}

func benchmarkPull(b *testing.B, ref string, recorder Recorder) {
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		blobs, err := content.Open(filepath.Join(dir, "content"))
		if err != nil {
			b.Fatal(err)
		}
		driver, err := overlay.New(filepath.Join(dir, "overlay"))
		if err != nil {
			b.Skipf("no overlay driver here: %v", err)
		}
		o := PullOptions{Ref: ref, Registry: registry.New(registry.Config{}), Store: storeOn(blobs), Layers: overlayLayers{driver, new(atomic.Int64)}, Recorder: recorder}
		b.StartTimer()
		if _, err := Pull(context.Background(), o); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := blobs.Close(); err != nil {
			b.Fatal(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
