package engine

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/image/lazyindex"
	"github.com/slipwayd/slipway/image/reference"
	imageregistry "github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// largeLayer is an image with one layer worth indexing, and one that is not.
func largeLayer() ociimage.Image {
	noise := make([]byte, 600<<10)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise) // never fails
	img := twoLayers("top")
	img.Layers[0].Files = append(img.Layers[0].Files, ociimage.Regular("etc/large", 0o644, string(noise)))
	return img
}

func newFinder(t *testing.T, trust lazyindex.Trust) *lazyindex.Finder {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	own, err := lazyindex.Open(t.TempDir(), 0, log)
	if err != nil {
		t.Fatal(err)
	}
	return &lazyindex.Finder{Own: own, Trust: trust, Log: log}
}

// TestPushIndexes pulls on one host, publishes, and looks from another.
func TestPushIndexes(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	for name, before := range map[string]bool{"recorded by the pull": false, "pulled before indexes were recorded": true} {
		t.Run(name, func(t *testing.T) {
			b, hub := newBench(t), registry.Start(t)
			built := hub.Push("app:v1", largeLayer())
			ref := hub.Host() + "/app:v1"
			if !before {
				b.indexes = newFinder(t, lazyindex.Trust{})
			}
			if err := b.pull(t, ref, ref); err != nil {
				t.Fatal(err)
			}
			if before {
				b.indexes = newFinder(t, lazyindex.Trust{})
			}
			p, err := b.PushIndexes(t.Context(), Scope{Namespace: benchNS}, PushIndexesOptions{Image: ref, Key: key})
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Layers) != 1 || p.Layers[0] != built.Layers[0].Digest || len(p.Without) != 1 || p.Without[built.Layers[1].Digest] == "" {
				t.Errorf("published %+v", p)
			}
			parsed, err := reference.Parse(ref)
			if err != nil {
				t.Fatal(err)
			}
			remote, err := imageregistry.New(imageregistry.Config{}).Remote(parsed, imageregistry.Options{})
			if err != nil {
				t.Fatal(err)
			}
			l := newFinder(t, lazyindex.Trust{Keys: []ed25519.PublicKey{public}}).Begin(t.Context(), remote, built.Root)
			defer l.Close()
			x, err := l.Find(t.Context(), image.Layer{Desc: built.Layers[0], DiffID: built.DiffIDs[0]})
			if err != nil || x.Own || int64(len(x.Document)) != p.Size {
				t.Errorf("found %d bytes, own %v: %v", len(x.Document), x.Own, err)
			}
		})
	}
}

func TestPushIndexesRefuses(t *testing.T) {
	b, hub := newBench(t), registry.Start(t)
	built := hub.Push("small:v1", twoLayers("top"))
	ref := hub.Host() + "/small:v1"
	if err := b.pull(t, ref, ref); err != nil {
		t.Fatal(err)
	}
	push := func(o PushIndexesOptions) error {
		_, err := b.PushIndexes(t.Context(), Scope{Namespace: benchNS}, o)
		return err
	}
	if err := push(PushIndexesOptions{Image: ref}); !errdefs.IsNotImplemented(err) {
		t.Errorf("without a store of indexes: %v", err)
	}
	b.indexes = newFinder(t, lazyindex.Trust{})
	if err := push(PushIndexesOptions{Image: "other"}); !errdefs.IsNotFound(err) {
		t.Errorf("of no image: %v", err)
	}
	if err := push(PushIndexesOptions{Image: ref, Key: []byte("x")}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("with no key: %v", err)
	}
	if err := push(PushIndexesOptions{Image: ref}); !errdefs.IsNotFound(err) {
		t.Errorf("of small layers: %v", err)
	}
	hub.Fault(registry.Match{Method: "HEAD", Digest: built.Root.Digest}, registry.Status(404))
	if err := push(PushIndexesOptions{Image: ref}); !errdefs.IsNotFound(err) {
		t.Errorf("of an image that is not there: %v", err)
	}
	if n := hub.Count(registry.Match{Method: "PUT"}); n != 0 {
		t.Errorf("%d uploads", n)
	}
}

// TestScout looks for indexes while the manifest is fetched, and asks nothing when a pull is not lazy.
func TestScout(t *testing.T) {
	for mode, want := range map[string]int{LazyAuto: 1, LazyNever: 0} {
		b, hub := newBench(t), registry.Start(t)
		hub.Push("app:v1", largeLayer())
		b.indexes = newFinder(t, lazyindex.Trust{Registry: true})
		_, err := b.Pull(t.Context(), Scope{Namespace: benchNS}, PullOptions{Ref: hub.Host() + "/app:v1", Unpacks: []Unpack{{}}, Records: recorded("mine"), Lazy: mode})
		if err != nil {
			t.Fatal(err)
		}
		if n := hub.Count(registry.Match{Path: "/referrers/"}); n != want {
			t.Errorf("%s: asked %d times", mode, n)
		}
	}
}
