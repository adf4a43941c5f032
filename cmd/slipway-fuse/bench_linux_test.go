package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/slipwayd/slipway/testsuite/measure"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// BenchmarkHundredLayers attaches a hundred layers of ten thousand files each, and looks at a part of each: how long one takes, and what
// keeper and server take in memory with all of them.
func BenchmarkHundredLayers(b *testing.B) {
	const layers, dirs, files = 100, 100, 100
	var all []ociimage.File
	for d := range dirs {
		all = append(all, ociimage.Dir(fmt.Sprint("d", d), 0o755))
		for i := range files {
			all = append(all, ociimage.Regular(fmt.Sprintf("d%d/file-%d", d, i), 0o644, fmt.Sprint(d, i)))
		}
	}
	h, r := startHost(b), registry.Start(b)
	_, dir := h.state(b, r, all)
	for b.Loop() {
		for i := range layers {
			id := fmt.Sprint("copy", i)
			b.StopTimer()
			check(b, os.CopyFS(h.path(id), os.DirFS(dir)))
			b.StartTimer()
			check(b, h.Attach(context.Background(), id, h.path(id)))
			names, err := os.ReadDir(filepath.Join(h.path("mnt"), id, "d0"))
			check(b, err)
			if len(names) != files {
				b.Fatalf("%d names", len(names))
			}
		}
		b.StopTimer()
		mb, err := measure.PSS(measure.Processes(h.dir))
		check(b, err)
		b.ReportMetric(mb, "MB")
		for i := range layers {
			check(b, h.Detach(context.Background(), fmt.Sprint("copy", i)))
			check(b, os.RemoveAll(h.path(fmt.Sprint("copy", i))))
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N*layers), "ms/layer")
}
