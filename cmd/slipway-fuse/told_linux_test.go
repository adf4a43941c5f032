package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/image"
	client "github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// TestTold follows layers by what the engine tells of them: events and numbers.
func TestTold(t *testing.T) {
	r := registry.Start(t)
	stargz, plain := push(t, r, "test/stargz:latest", stargzImage), push(t, r, "test/plain:latest", plainImage)
	n := newNode(t)
	sub, err := n.Subscribe(t.Context(), `topic~="^/lazy/"`)
	check(t, err)
	defer sub.Close()
	next := func(topic string) engine.Payload {
		t.Helper()
		ev, err := sub.Next(t.Context())
		check(t, err)
		if ev.Topic != topic || ev.Namespace != "test" {
			t.Fatalf("got %s in %s, want %s", ev.Topic, ev.Namespace, topic)
		}
		return ev.Payload
	}

	layers := n.pull(t, stargz, "")
	for range layers {
		if p := next("/lazy/attach").(engine.LazyAttach); p.Image != stargz || p.Index != "estargz" || p.Layer == "" || p.Snapshot == "" {
			t.Errorf("%+v", p)
		}
	}
	n.mounted(t, layers, func(root string) {
		data, err := os.ReadFile(filepath.Join(root, "dir/top"))
		check(t, err)
		layers, err := n.ImageLayers(t.Context(), "test", stargz)
		check(t, err)
		top, base := layers[2].Lazy, layers[0].Lazy
		if top.CachedBytes != int64(len(data)) || top.FileBytes < top.CachedBytes || top.WaitedReads == 0 || top.Reads < top.WaitedReads ||
			top.DemandBytes == 0 || top.DemandBytes > layers[2].Desc.Size || top.BackgroundBytes != 0 {
			t.Errorf("the layer that was read: %+v", top)
		}
		if base.CachedBytes != 0 || base.DemandBytes != 0 || base.FileBytes < 1<<20 {
			t.Errorf("the layer that was not read: %+v", base)
		}
		check(t, n.WaitLazy(t.Context(), "test", stargz))
		layers, err = n.ImageLayers(t.Context(), "test", stargz)
		check(t, err)
		if l := layers[2]; l.Lazy == nil || l.Lazy.BackgroundBytes != l.Desc.Size {
			t.Errorf("after it has arrived: %+v", l.Lazy)
		}
	})
	for range layers {
		if p := next("/lazy/complete").(engine.LazyComplete); p.Image != stargz || p.Layer == "" || p.Snapshot == "" {
			t.Errorf("%+v", p)
		}
	}

	n.pull(t, plain, "")
	for range layers {
		if p := next("/lazy/fallback").(engine.LazyFallback); p.Image != plain || !strings.Contains(p.Reason, "recorded") {
			t.Errorf("%+v", p)
		}
	}
}

// TestNewCredentials pulls again when the secret of the first pull is good no more: readers and the background use the new one.
func TestNewCredentials(t *testing.T) {
	n, r := newNode(t), registry.Start(t)
	ref := push(t, r, "test/stargz:latest", stargzImage)
	pull := func(secret string) []engine.ImageLayer {
		t.Helper()
		r.RequireBasic(registry.Basic{Username: "me", Password: secret})
		_, err := n.Pull(t.Context(), inTest, engine.PullOptions{Ref: ref, Unpacks: []engine.Unpack{{}},
			Remote: client.Options{Credentials: func(context.Context, string) (client.Credential, error) {
				return client.Credential{Username: "me", Password: secret}, nil
			}},
			Records: func(res image.Result) ([]metadata.Image, error) {
				return []metadata.Image{{Name: ref, Target: res.Target}}, nil
			}})
		check(t, err)
		layers, err := n.ImageLayers(t.Context(), "test", ref)
		check(t, err)
		return layers
	}
	layers := pull("first")
	n.mounted(t, layers, func(root string) {
		if _, err := os.ReadFile(filepath.Join(root, "dir/top")); err != nil {
			t.Errorf("with the first secret: %v", err)
		}
		layers = pull("second")
		if got := modes(layers); got != "lazy lazy lazy" {
			t.Errorf("pulled %s", got)
		}
		if _, err := os.ReadFile(filepath.Join(root, "data/noise")); err != nil {
			t.Errorf("with the second secret: %v", err)
		}
	})
	check(t, n.WaitLazy(t.Context(), "test", ref))
}
