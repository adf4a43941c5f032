package convert

import (
	"context"
	"runtime"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/testsuite/ociimage"
)

var formats = []Format{EStargz, ZstdChunked}

var amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"} // of samples, that digests be the same everywhere

func sample() ociimage.Image {
	return ociimage.Image{
		Platform: amd64,
		Layers: []ociimage.Layer{
			{Files: everything()},
			{Files: []ociimage.File{ociimage.Regular("top", 0o644, "top"), ociimage.Whiteout("last")}, Compression: ociimage.Zstd, Annotations: map[string]string{"note": "kept"}},
			{Files: nil, Compression: ociimage.None},
		},
		Format: ociimage.OCI, Annotations: map[string]string{"org.example": "x"},
	}
}

// withLarge is the sample with large files.
func withLarge() ociimage.Image {
	img := sample()
	img.Layers[0].Files = append(large(), img.Layers[0].Files...)
	return img
}

func TestConvert(t *testing.T) {
	built := build(t, withLarge())
	for _, f := range formats {
		t.Run(string(f), func(t *testing.T) {
			s := newStore(t, built)
			r, err := Convert(t.Context(), Options{Store: s, Target: built.Root, Format: f})
			if err != nil || len(r.Kept) > 0 {
				t.Fatalf("%v, kept %v", err, r.Kept)
			}
			layers, img := s.layersOf(t, r.Target)
			if len(layers) != 3 || layers[1].Annotations["note"] != "kept" {
				t.Fatalf("layers %+v", layers)
			}
			var before, after [][]byte
			for i, l := range layers {
				old := built.Blobs[built.Layers[i].Digest].Data
				blob := s.blob(t, l)
				plain := plainTar(t, blob)
				if got := digest.FromBytes(plain); got != img.RootFS.DiffIDs[i] {
					t.Errorf("layer %d has diff ID %s, the config says %s", i, got, img.RootFS.DiffIDs[i])
				}
				if f == ZstdChunked && img.RootFS.DiffIDs[i] != built.DiffIDs[i] {
					t.Errorf("layer %d: the archive has changed", i)
				}
				x := located(t, blob, l.Annotations)
				if string(x.Kind()) != string(f) {
					t.Errorf("layer %d is %s", i, x.Kind())
				}
				same(t, "layer", withoutMarks(described(t, x, blob)), described(t, recorded(t, old), old))
				before, after = append(before, plainTar(t, old)), append(after, plain)
			}
			same(t, "unpacked", applied(t, after...), applied(t, before...))
			if in := s.ingests(t); len(in) > 0 {
				t.Errorf("ingests are left: %v", in)
			}
		})
	}
}

// TestReproducible converts with and without company, and compares with digests that were written down.
func TestReproducible(t *testing.T) {
	want := map[Format]digest.Digest{
		EStargz:     "sha256:5f8000fcb0116a09dac621803b3ed7a22b52299527093221ab206d3e293a5c00",
		ZstdChunked: "sha256:65222d65175d960b9a9bbbe40f6299344a9f20371f0a59b71bd055019525c119",
	}
	built := build(t, withLarge())
	for _, f := range formats {
		for _, procs := range []int{1, 7} {
			before := runtime.GOMAXPROCS(procs)
			s := newStore(t, built)
			r, err := Convert(t.Context(), Options{Store: s, Target: built.Root, Format: f})
			runtime.GOMAXPROCS(before)
			if err != nil {
				t.Fatal(err)
			}
			if r.Target.Digest != want[f] {
				t.Errorf("%s with %d processors: %s, want %s", f, procs, r.Target.Digest, want[f])
			}
			if procs > 1 {
				continue
			}
			// What is converted already is not changed by it.
			again, err := Convert(t.Context(), Options{Store: s, Target: r.Target, Format: f})
			if err != nil || again.Target.Digest != r.Target.Digest {
				t.Errorf("%s converted again: %v, %s", f, err, again.Target.Digest)
			}
		}
	}
}

// TestResumed finds the layers that an earlier conversion made.
func TestResumed(t *testing.T) {
	built := build(t, sample())
	for _, f := range formats {
		s := newStore(t, built)
		first, err := Convert(t.Context(), Options{Store: s, Target: built.Root, Format: f})
		if err != nil {
			t.Fatal(err)
		}
		s.writes = 0
		var states []image.State
		second, err := Convert(t.Context(), Options{Store: s, Target: built.Root, Format: f, Progress: func(p image.Progress) { states = append(states, p.State) }})
		if err != nil || second.Target.Digest != first.Target.Digest || s.writes > 0 {
			t.Errorf("%v, %s after %s, %d ingests", err, second.Target.Digest, first.Target.Digest, s.writes)
		}
		if len(states) != 3 || states[0] != image.Exists {
			t.Errorf("states %v", states)
		}
	}
}

// TestCancelled leaves no ingest, and what is done helps the next.
func TestCancelled(t *testing.T) {
	built := build(t, sample())
	s := newStore(t, built)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Convert(ctx, Options{Store: s, Target: built.Root, Format: EStargz, Progress: func(image.Progress) { cancel() }})
	if !errdefs.IsCanceled(err) {
		t.Errorf("got %v", err)
	}
	if in := s.ingests(t); len(in) > 0 {
		t.Errorf("ingests are left: %v", in)
	}
	if _, err := Convert(t.Context(), Options{Store: s, Target: built.Root, Format: EStargz}); err != nil {
		t.Error(err)
	}
}

func TestIndex(t *testing.T) {
	arm := ociimage.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "arm64"}, Layers: sample().Layers[1:]}
	amd := ociimage.Image{Platform: amd64, Layers: sample().Layers, Format: ociimage.OCI}
	built := build(t, ociimage.Index{Images: []ociimage.Image{amd, arm}})
	s := newStore(t, built)
	r, err := Convert(t.Context(), Options{Store: s, Target: built.Root, Format: EStargz})
	if err != nil {
		t.Fatal(err)
	}
	_, children, err := image.ReadDocument(t.Context(), s, r.Target)
	if err != nil || len(children) != 2 || children[1].Platform == nil || children[1].Platform.Architecture != "arm64" {
		t.Fatalf("%v, %+v", err, children)
	}
	if s.writes != 3+2+2+1 {
		t.Errorf("%d blobs were written: layers, configs, manifests, index; shared layers once", s.writes)
	}
	labels, _ := s.Labels(t.Context(), r.Target.Digest)
	if labels["containerd.io/gc.ref.content.m.1"] != children[1].Digest.String() {
		t.Errorf("labels %v", labels)
	}
	one, err := Convert(t.Context(), Options{Store: s, Target: built.Root, Format: EStargz, Platforms: []ocispec.Platform{arm.Platform}})
	if err != nil {
		t.Fatal(err)
	}
	if _, children, _ = image.ReadDocument(t.Context(), s, one.Target); len(children) != 1 {
		t.Errorf("of one platform: %+v", children)
	}
	// One whose blobs are not here is left out, and an error when it was asked for.
	if err := s.Delete(t.Context(), built.Layers[0].Digest); err != nil {
		t.Fatal(err)
	}
	rest, err := Convert(t.Context(), Options{Store: s, Target: built.Root, Format: EStargz})
	if err != nil || rest.Target.Digest != one.Target.Digest {
		t.Errorf("%v, %s", err, rest.Target.Digest)
	}
	for _, p := range []ocispec.Platform{amd.Platform, {OS: "linux", Architecture: "riscv64"}} {
		if _, err := Convert(t.Context(), Options{Store: s, Target: built.Root, Format: EStargz, Platforms: []ocispec.Platform{p}}); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", p.Architecture, err)
		}
	}
}

// TestDocker makes OCI's media types of Docker's, which has none for what layers become.
func TestDocker(t *testing.T) {
	img := sample()
	img.Format, img.Layers = ociimage.Docker, img.Layers[:1]
	built := build(t, img)
	s := newStore(t, built)
	for f, want := range map[Format]string{EStargz: ocispec.MediaTypeImageLayerGzip, ZstdChunked: ocispec.MediaTypeImageLayerZstd} {
		r, err := Convert(t.Context(), Options{Store: s, Target: built.Root, Format: f})
		if err != nil {
			t.Fatal(err)
		}
		_, m, err := image.Manifest(t.Context(), s, r.Target, &amd64)
		if err != nil || r.Target.MediaType != ocispec.MediaTypeImageManifest || m.Config.MediaType != ocispec.MediaTypeImageConfig || m.Layers[0].MediaType != want {
			t.Errorf("%v: %+v %+v", err, r.Target, m)
		}
	}
}

func TestWrongDiffID(t *testing.T) {
	img := sample()
	img.Layers[0].DiffID = digest.FromString("another")
	built := build(t, img)
	s := newStore(t, built)
	if _, err := Convert(t.Context(), Options{Store: s, Target: built.Root, Format: EStargz}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v", err)
	}
	if in := s.ingests(t); len(in) > 0 {
		t.Errorf("ingests are left: %v", in)
	}
}

func TestRefused(t *testing.T) {
	built := build(t, sample())
	s := newStore(t, built)
	for name, o := range map[string]Options{
		"format":    {Target: built.Root, Format: "tar"},
		"first":     {Target: built.Root, Format: ZstdChunked, First: []string{"/x"}},
		"no image":  {Target: built.Layers[0], Format: EStargz},
		"not image": {Target: ocispec.Descriptor{MediaType: "text/plain", Digest: built.Root.Digest, Size: 1}, Format: EStargz},
	} {
		o.Store = s
		if _, err := Convert(t.Context(), o); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
