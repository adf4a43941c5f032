package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// TestRoundTrips pulls an image of twenty layers and mounts it: that is a round trip for the manifest and one for all the rest, config
// and tables of contents, and nothing more is asked for.
func TestRoundTrips(t *testing.T) {
	const layers = 20
	var img ociimage.Image
	for i := range layers {
		img.Layers = append(img.Layers, ociimage.Layer{Compression: ociimage.EStargz, Files: []ociimage.File{
			ociimage.Regular(fmt.Sprint("file", i), 0o644, noise(uint64(i), 600<<10))}})
	}
	r := registry.Start(t)
	ref := push(t, r, "test/many:latest", img.Build)
	n := newNode(t)
	rounds := registry.NewRounds(1, 1+layers)
	r.Fault(registry.Match{}, rounds.Fault)
	defer rounds.Release()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // that it gets stuck shows by this
	defer cancel()
	got, err := n.tryPull(ctx, ref, engine.LazyAlways)
	if left, waiting := rounds.Left(); err != nil || left > 0 {
		t.Fatalf("%d rounds left, these wait: %q: %v", left, waiting, err)
	}
	n.mounted(t, got, func(root string) {
		for i := range layers {
			if fi, err := os.Stat(filepath.Join(root, fmt.Sprint("file", i))); err != nil || fi.Size() != 600<<10 {
				t.Errorf("file%d: %v, %v", i, fi, err)
			}
		}
	})
	if _, waiting := rounds.Left(); len(waiting) > 0 {
		t.Errorf("asked for besides: %q", waiting)
	}
}
