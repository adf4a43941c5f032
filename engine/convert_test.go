package engine

import (
	"context"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/image/convert"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// TestConvert makes a twin that collection leaves alone, and that stays when the original goes.
func TestConvert(t *testing.T) {
	b, hub := newBench(t), registry.Start(t)
	built := hub.Push("lib/two:v1", twoLayers("top"))
	ref := hub.Host() + "/lib/two:v1"
	if err := b.pull(t, ref, ref); err != nil {
		t.Fatal(err)
	}
	sc := Scope{Namespace: benchNS}
	for _, f := range []convert.Format{convert.EStargz, convert.ZstdChunked} {
		made, err := b.Convert(t.Context(), sc, ConvertOptions{Source: ref, Target: "twin-" + string(f), Format: f})
		if err != nil || len(made.Kept) > 0 {
			t.Fatalf("%v, kept %v", err, made.Kept)
		}
		if leases, err := b.ListLeases(t.Context(), benchNS); err != nil || len(leases) != 0 {
			t.Errorf("leases are left: %+v, %v", leases, err)
		}
	}
	if err := b.DeleteImage(t.Context(), benchNS, ref, nil, true); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Content(sc).Blob(t.Context(), built.Layers[0].Digest); !errdefs.IsNotFound(err) {
		t.Errorf("a layer of the original is still there: %v", err)
	}
	for _, name := range []string{"twin-estargz", "twin-zstd:chunked"} {
		img, err := b.GetImage(t.Context(), benchNS, name)
		if err != nil {
			t.Fatal(err)
		}
		_, m, err := image.Manifest(t.Context(), b.imageStore(sc), img.Target, nil)
		if err != nil || len(m.Layers) != 2 {
			t.Fatalf("%s: %v, %d layers", name, err, len(m.Layers))
		}
		held, release, err := b.transferScope(t.Context(), sc)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.unpack(t.Context(), held, name, img.Target, Unpack{}, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		release()
	}
}

// TestConvertCutShort leaves neither records nor blobs.
func TestConvertCutShort(t *testing.T) {
	b, hub := newBench(t), registry.Start(t)
	hub.Push("lib/two:v1", twoLayers("top"))
	ref := hub.Host() + "/lib/two:v1"
	if err := b.pull(t, ref, ref); err != nil {
		t.Fatal(err)
	}
	sc := Scope{Namespace: benchNS}
	blobs := func() (n int) {
		if err := b.Content(sc).Walk(t.Context(), func(content.Blob) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := blobs()
	ctx, cancel := context.WithCancel(t.Context())
	_, err := b.Convert(ctx, sc, ConvertOptions{Source: ref, Target: "twin", Format: convert.EStargz, Progress: func(image.Progress) { cancel() }})
	if !errdefs.IsCanceled(err) {
		t.Errorf("got %v", err)
	}
	if err := b.gc.scheduleOrWait(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if after := blobs(); after != before {
		t.Errorf("%d blobs after %d", after, before)
	}
	if _, err := b.GetImage(t.Context(), benchNS, "twin"); !errdefs.IsNotFound(err) {
		t.Errorf("there is a record: %v", err)
	}
	if _, err := b.Convert(t.Context(), sc, ConvertOptions{Source: "none", Target: "twin", Format: convert.EStargz}); !errdefs.IsNotFound(err) {
		t.Errorf("of no image: %v", err)
	}
}
