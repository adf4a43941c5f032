package lazyindex

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/image/reference"
	"github.com/slipwayd/slipway/image/registry"
	double "github.com/slipwayd/slipway/testsuite/registry"
)

var ctx = context.Background()

func remoteOf(t testing.TB, r *double.Registry) *registry.Remote {
	t.Helper()
	ref, err := reference.Parse(r.Host() + "/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	client := registry.New(registry.Config{Retries: -1, Backoff: time.Millisecond})
	t.Cleanup(func() { _ = client.Close() })
	remote, err := client.Remote(ref, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return remote
}

func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func public(n byte) ed25519.PublicKey { return key(n).Public().(ed25519.PublicKey) }

// world is a registry with an image of two layers, of which indexes can be published.
type world struct {
	*double.Registry
	remote  *registry.Remote
	image   ocispec.Descriptor
	layers  []image.Layer
	indexes []Document
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{Registry: double.Start(t)}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.DescriptorEmptyJSON}
	m.SchemaVersion = 2
	for n := range uint64(2) {
		blob, doc, diff := aLayer(t, n+1, 100_000)
		d := describe(ocispec.MediaTypeImageLayerGzip, blob)
		m.Layers = append(m.Layers, d)
		w.layers = append(w.layers, image.Layer{Desc: d, DiffID: diff, Index: int(n), Image: "app:v1"})
		w.indexes = append(w.indexes, Document{d.Digest, doc})
	}
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	w.image = describe(m.MediaType, data)
	w.PutManifest("app", w.image.Digest.String(), m.MediaType, data)
	w.remote = remoteOf(t, w.Registry)
	return w
}

func (w *world) publish(t *testing.T, by ed25519.PrivateKey) ocispec.Descriptor {
	t.Helper()
	d, err := Publish(ctx, w.remote, w.image, w.indexes, []Profile{{"nginx", []byte("profile")}}, by)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// lookup looks with an empty store.
func (w *world) lookup(t *testing.T, trust Trust) *Lookup {
	t.Helper()
	f := Finder{Own: openStore(t, t.TempDir(), 0), Trust: trust, Log: quiet}
	l := f.Begin(ctx, w.remote, w.image)
	t.Cleanup(l.Close)
	return l
}

// wantAll and wantNone say what a lookup must find.
func (w *world) wantAll(t *testing.T, l *Lookup) {
	t.Helper()
	for i, layer := range w.layers {
		x, err := l.Find(ctx, layer)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(x.Document, w.indexes[i].Index) || x.Own || x.Kind != "spans" || x.Origin == "" {
			t.Errorf("layer %d: found %s of %q, own %v", i, x.Kind, x.Origin, x.Own)
		}
	}
}

func (w *world) wantNone(t *testing.T, l *Lookup) {
	t.Helper()
	for i, layer := range w.layers {
		if x, err := l.Find(ctx, layer); !errdefs.IsNotFound(err) {
			t.Errorf("layer %d: found %q, %v", i, x.Origin, err)
		}
	}
}

func TestPublishAndFind(t *testing.T) {
	for name, old := range map[string]bool{"referrers API": false, "referrers tag": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if old {
				w.WithoutReferrers()
			}
			w.wantNone(t, w.lookup(t, Trust{Keys: []ed25519.PublicKey{public(1)}}))
			d := w.publish(t, key(1))
			if again := w.publish(t, key(1)); again.Digest != d.Digest {
				t.Error("publishing the same again made another artifact")
			}
			l := w.lookup(t, Trust{Keys: []ed25519.PublicKey{public(2), public(1)}})
			w.wantAll(t, l)
			got, err := l.Profiles(ctx)
			if err != nil || len(got) != 1 || got[0].Name != "nginx" || string(got[0].Data) != "profile" {
				t.Errorf("profiles %v, %v", got, err)
			}
			w.wantAll(t, w.lookup(t, Trust{Registry: true}))
			// What is forged is not used: signed by another key, or by none.
			w.wantNone(t, w.lookup(t, Trust{Keys: []ed25519.PublicKey{public(2)}}))
			w.Forget()
			w.wantNone(t, w.lookup(t, Trust{}))
			if n := len(w.Requests()); n != 0 {
				t.Errorf("%d requests for what would not be believed", n)
			}
		})
	}
}

func TestUnsigned(t *testing.T) {
	w := newWorld(t)
	w.publish(t, nil)
	w.wantNone(t, w.lookup(t, Trust{Keys: []ed25519.PublicKey{public(1)}}))
	w.wantAll(t, w.lookup(t, Trust{Registry: true}))
}

// TestManyForged has one artifact that is trusted among others that are not.
func TestManyForged(t *testing.T) {
	w := newWorld(t)
	for n := range byte(3) {
		w.publish(t, key(n+10))
	}
	w.publish(t, key(1))
	w.wantAll(t, w.lookup(t, Trust{Keys: []ed25519.PublicKey{public(1)}}))
}

// TestOwnFirst asks no registry for an index that is here, and remembers why there is none.
func TestOwnFirst(t *testing.T) {
	w := newWorld(t)
	f := Finder{Own: openStore(t, t.TempDir(), 0), Trust: Trust{}, Log: quiet}
	if err := f.Own.Put(w.layers[0].Desc.Digest, w.indexes[0].Index); err != nil {
		t.Fatal(err)
	}
	if err := f.Own.Refuse(w.layers[1].Desc.Digest, fmt.Errorf("sparse")); err != nil {
		t.Fatal(err)
	}
	l := f.Begin(ctx, w.remote, w.image)
	defer l.Close()
	if x, err := l.Find(ctx, w.layers[0]); err != nil || !x.Own || !bytes.Equal(x.Document, w.indexes[0].Index) {
		t.Errorf("own index: %v, own %v", err, x.Own)
	}
	if _, err := l.Find(ctx, w.layers[1]); !errdefs.IsNotImplemented(err) {
		t.Errorf("refused layer: %v", err)
	}
	if n := len(w.Requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// TestRoundTrips counts what a lookup asks: the list, then the manifest with the statement in it, then one blob for each layer.
func TestRoundTrips(t *testing.T) {
	w := newWorld(t)
	w.publish(t, key(1))
	w.Forget()
	w.wantAll(t, w.lookup(t, Trust{Keys: []ed25519.PublicKey{public(1)}}))
	if n := len(w.Requests()); n != 4 {
		t.Errorf("%d requests: %v", n, w.Requests())
	}
	// A registry without the API is asked for it once.
	w = newWorld(t)
	w.WithoutReferrers()
	for range 2 {
		w.wantNone(t, w.lookup(t, Trust{Registry: true}))
	}
	if api, tag := w.Count(double.Match{Path: "/referrers/"}), w.Count(double.Match{Path: "/manifests/sha256-"}); api != 1 || tag != 2 {
		t.Errorf("asked %d times for referrers, %d times for the tag", api, tag)
	}
}

// TestHostile changes what the registry serves, after an artifact with a good signature was published.
func TestHostile(t *testing.T) {
	other, _, _ := aLayer(t, 9, 1000)
	for name, spoil := range map[string]func(w *world, artifact ocispec.Descriptor){
		"the artifact is gone":    func(w *world, a ocispec.Descriptor) { w.Fault(double.Match{Digest: a.Digest}, double.Status(404)) },
		"the artifact is endless": func(w *world, a ocispec.Descriptor) { w.Fault(double.Match{Digest: a.Digest}, double.Endless()) },
		"the artifact is changed": func(w *world, a ocispec.Descriptor) { w.Fault(double.Match{Digest: a.Digest}, double.Corrupt(40)) },
		"the list is endless":     func(w *world, _ ocispec.Descriptor) { w.Fault(double.Match{Path: "/referrers/"}, double.Endless()) },
		"the list is no index": func(w *world, _ ocispec.Descriptor) {
			w.Fault(double.Match{Path: "/referrers/"}, double.Replace([]byte(`{"manifests":7}`)))
		},
		"the list hangs up": func(w *world, _ ocispec.Descriptor) { w.Fault(double.Match{Path: "/referrers/"}, double.Drop()) },
		"the registry fails": func(w *world, _ ocispec.Descriptor) {
			w.Fault(double.Match{Path: "/referrers/"}, double.Status(http.StatusInternalServerError))
		},
		"indexes are other bytes": func(w *world, _ ocispec.Descriptor) {
			for _, x := range w.indexes {
				w.PutBlob(digest.FromBytes(x.Index), noise(3, len(x.Index)))
			}
		},
		"indexes are gone": func(w *world, _ ocispec.Descriptor) {
			for _, x := range w.indexes {
				w.RemoveBlob(digest.FromBytes(x.Index))
			}
		},
		"indexes are longer": func(w *world, _ ocispec.Descriptor) {
			for _, x := range w.indexes {
				w.PutBlob(digest.FromBytes(x.Index), append(slices.Clone(x.Index), 0))
			}
		},
		"layers are others": func(w *world, _ ocispec.Descriptor) {
			for i := range w.layers {
				w.layers[i].Desc = describe(ocispec.MediaTypeImageLayerGzip, append(slices.Clone(other), byte(i)))
			}
		},
		"layers are of other sizes": func(w *world, _ ocispec.Descriptor) {
			for i := range w.layers {
				w.layers[i].Desc.Size++
			}
		},
		"diff IDs are others": func(w *world, _ ocispec.Descriptor) {
			for i := range w.layers {
				w.layers[i].DiffID = digest.FromString("other")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			spoil(w, w.publish(t, key(1)))
			w.wantNone(t, w.lookup(t, Trust{Keys: []ed25519.PublicKey{public(1)}}))
		})
	}
}

// TestForged takes a good signature to what it is not for.
func TestForged(t *testing.T) {
	trust := Trust{Keys: []ed25519.PublicKey{public(1)}}
	w := newWorld(t)
	s := statement{Subject: w.image.Digest}
	payload, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := seal(payload, key(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.open(sealed); err != nil {
		t.Fatal(err)
	}
	change := func(f func(e *envelope)) []byte {
		var e envelope
		if err := json.Unmarshal(sealed, &e); err != nil {
			t.Fatal(err)
		}
		f(&e)
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for name, data := range map[string][]byte{
		"payload":             change(func(e *envelope) { e.Payload[3] ^= 1 }),
		"type":                change(func(e *envelope) { e.PayloadType = "application/vnd.in-toto+json" }),
		"signature":           change(func(e *envelope) { e.Signatures[0].Sig[5] ^= 1 }),
		"short signature":     change(func(e *envelope) { e.Signatures[0].Sig = e.Signatures[0].Sig[:10] }),
		"no signature":        change(func(e *envelope) { e.Signatures = nil }),
		"many signatures":     change(func(e *envelope) { e.Signatures = slices.Repeat(e.Signatures, maxSignatures+1) }),
		"of the bare payload": change(func(e *envelope) { e.Signatures[0].Sig = ed25519.Sign(key(1), e.Payload) }),
		"nothing":             nil,
	} {
		if _, err := trust.open(data); err == nil {
			t.Errorf("%s: believed", name)
		}
	}
	// A statement about another image, in an artifact that is about this one.
	if _, err := parseStatement(payload, digest.FromString("other image")); err == nil {
		t.Error("believes a statement about another image")
	}
	m, err := json.Marshal(ocispec.Manifest{Config: ocispec.Descriptor{MediaType: ArtifactType}, Subject: &ocispec.Descriptor{Digest: digest.FromString("other")}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseManifest(m, ArtifactType, w.image.Digest); err == nil {
		t.Error("takes an artifact about another image")
	}
}
