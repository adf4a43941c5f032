package slipway

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/metadata"

	slipwayv1 "github.com/slipwayd/slipway/api/slipway/v1"
	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/image"
	records "github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/testsuite"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// TestLazyOfImageInFull asks of an image that was pulled in full; cmd/slipway-fuse tests what is served.
func TestLazyOfImageInFull(t *testing.T) {
	dir, r := t.TempDir(), registry.Start(t)
	db, err := records.Open(filepath.Join(dir, "metadata.db"), records.Options{})
	if err != nil {
		t.Fatal(err)
	}
	eng, err := engine.New(engine.Parts{
		DB: db, Content: testsuite.NewMemoryContent(), Drivers: map[string]storage.Driver{"fake": testsuite.NewFakeDriver()}, DefaultDriver: "fake",
		Tasks: noTasks{}, Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := eng.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer eng.Close()
	built := r.Push("app:v1", ociimage.Image{Layers: []ociimage.Layer{{Files: []ociimage.File{ociimage.Regular("f", 0o644, "x")}}}})
	if _, err := eng.Pull(t.Context(), engine.Scope{Namespace: "default"}, engine.PullOptions{Ref: r.Host() + "/app:v1", Unpacks: []engine.Unpack{{}},
		Records: func(res image.Result) ([]records.Image, error) {
			return []records.Image{{Name: "app", Target: res.Target}}, nil
		}}); err != nil {
		t.Fatal(err)
	}
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("containerd-namespace", "default"))
	l := &lazy{engine: eng}
	resp, err := l.Layers(ctx, &slipwayv1.LazyLayersRequest{Image: "app"})
	if err != nil || len(resp.Layers) != 1 {
		t.Fatalf("%v, %v", resp, err)
	}
	if got := resp.Layers[0]; got.Mode != engine.ModeFull || got.Digest != built.Layers[0].Digest.String() || got.Size != built.Layers[0].Size {
		t.Errorf("%+v", got)
	}
	if _, err := l.Wait(ctx, &slipwayv1.LazyWaitRequest{Image: "app"}); err != nil {
		t.Error(err)
	}
	for name, ask := range map[string]func(context.Context, string) error{
		"Layers": func(ctx context.Context, image string) error {
			_, err := l.Layers(ctx, &slipwayv1.LazyLayersRequest{Image: image})
			return err
		},
		"Wait": func(ctx context.Context, image string) error {
			_, err := l.Wait(ctx, &slipwayv1.LazyWaitRequest{Image: image})
			return err
		},
	} {
		if err := ask(ctx, "none"); !errdefs.IsNotFound(err) {
			t.Errorf("%s of no image: %v", name, err)
		}
		if err := ask(t.Context(), "app"); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s without a namespace: %v", name, err)
		}
	}
}

func TestLayerToWire(t *testing.T) {
	got := layerToWire(engine.ImageLayer{
		Desc: ocispec.Descriptor{Digest: digest.FromString("blob"), Size: 7}, Chain: digest.FromString("chain"), Mode: engine.ModeLazy, Index: "estargz",
		Lazy: &storage.LazyLayer{Origin: "o", FileBytes: 1, CachedBytes: 2, DemandBytes: 3, ProfileBytes: 4, BackgroundBytes: 5, ReadBytes: 6, Reads: 8,
			WaitedReads: 9, ReadErrors: 10},
		Err: errors.New("gone"),
	})
	want := &slipwayv1.LazyLayer{Digest: digest.FromString("blob").String(), Size: 7, ChainId: digest.FromString("chain").String(), Mode: "lazy", Index: "estargz",
		Origin: "o", Error: "gone", FileBytes: 1, HereBytes: 2, DemandBytes: 3, ProfileBytes: 4, BackgroundBytes: 5, ReadBytes: 6, Reads: 8, WaitedReads: 9, ReadErrors: 10}
	if got.String() != want.String() {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}
