package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/image/convert"
	client "github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// TestConvertedFromMirror converts an image, publishes it, and has another host pull it lazily from a mirror of a registry that
// does not answer.
func TestConvertedFromMirror(t *testing.T) {
	r, gone, first := registry.Start(t), registry.Start(t), newNode(t)
	plain := push(t, r, "test/plain:latest", plainImage)
	want := first.tree(t, first.pull(t, plain, engine.LazyNever))
	check(t, gone.Down())
	mirrors := t.TempDir()
	check(t, os.Mkdir(filepath.Join(mirrors, "reg.example"), 0o755))
	check(t, os.WriteFile(filepath.Join(mirrors, "reg.example/hosts.toml"),
		fmt.Appendf(nil, "server = \"http://%s\"\n[host.\"http://%s\"]\ncapabilities = [\"pull\", \"resolve\"]\n", gone.Host(), r.Host()), 0o644))
	second := newNode(t)
	for _, c := range []struct {
		format convert.Format
		name   string
	}{{convert.EStargz, "test/stargz:latest"}, {convert.ZstdChunked, "test/zstd:latest"}} {
		t.Run(string(c.format), func(t *testing.T) {
			_, err := first.Convert(t.Context(), inTest, engine.ConvertOptions{Source: plain, Target: c.name, Format: c.format})
			check(t, err)
			check(t, first.Push(t.Context(), inTest, engine.PushOptions{Image: c.name, Ref: r.Host() + "/" + c.name}))
			ref := "reg.example/" + c.name
			_, err = second.Pull(t.Context(), inTest, engine.PullOptions{Ref: ref, Unpacks: []engine.Unpack{{}}, Remote: client.Options{HostsDirs: []string{mirrors}},
				Records: func(res image.Result) ([]metadata.Image, error) {
					return []metadata.Image{{Name: ref, Target: res.Target}}, nil
				}})
			check(t, err)
			layers, err := second.ImageLayers(t.Context(), "test", ref)
			check(t, err)
			for _, l := range layers {
				if l.Mode != engine.ModeLazy || l.Index != string(c.format) {
					t.Errorf("layer %s is %s by %q: %s", l.Desc.Digest, l.Mode, l.Index, l.Reason)
				}
			}
			same(t, "lazy", converted(second.tree(t, layers)), want)
			check(t, second.WaitLazy(t.Context(), "test", ref))
			same(t, "arrived", converted(second.tree(t, layers)), want)
		})
	}
}
