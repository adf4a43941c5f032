package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	double "github.com/slipwayd/slipway/testsuite/registry"
)

// mirrored are the options to pull reg.example/app:v1, which resolves at upstream and is fetched from the mirror first.
func mirrored(t *testing.T, mirror, upstream *double.Registry) (PullOptions, *fakeStore, *fakeLayers) {
	t.Helper()
	dir := t.TempDir()
	text := fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\ncapabilities = [\"pull\"]\n", upstream.Host(), mirror.Host())
	if err := os.Mkdir(filepath.Join(dir, "reg.example"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "reg.example", "hosts.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	o, store, layers := options(upstream, "app:v1")
	o.Ref, o.Remote = "reg.example/app:v1", registry.Options{HostsDirs: []string{dir}}
	return o, store, layers
}

// TestPullFromAnotherMirror has a mirror send wrong bytes of one blob: the registry is asked for that blob, in the same pull.
func TestPullFromAnotherMirror(t *testing.T) {
	built, err := builtThree[ociimage.OCI]()
	if err != nil {
		t.Fatal(err)
	}
	var config digest.Digest
	for d, b := range built.Blobs {
		if isConfig(b.MediaType) {
			config = d
		}
	}
	for name, c := range map[string]struct {
		blob  digest.Digest
		fault double.Fault
	}{
		"manifest":                {built.Root.Digest, double.Corrupt(20)},
		"config":                  {config, double.Corrupt(20)},
		"gzip layer, early":       {built.Layers[1].Digest, double.Corrupt(1000)},
		"gzip layer, late":        {built.Layers[1].Digest, double.Corrupt(3 << 20)},
		"gzip layer, at the end":  {built.Layers[1].Digest, double.Corrupt(1 << 30)},
		"zstd layer":              {built.Layers[0].Digest, double.Corrupt(30)},
		"uncompressed layer":      {built.Layers[2].Digest, double.Corrupt(2000)},
		"uncompressed, not a tar": {built.Layers[2].Digest, double.Corrupt(0)},
	} {
		for _, independent := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s independent=%v", name, independent), func(t *testing.T) {
				mirror, upstream := double.Start(t), double.Start(t)
				pushThree(mirror, ociimage.OCI)
				pushThree(upstream, ociimage.OCI)
				mirror.Fault(double.Match{Digest: c.blob}, c.fault)
				o, store, layers := mirrored(t, mirror, upstream)
				layers.independent = independent
				if _, err := Pull(context.Background(), o); err != nil {
					t.Fatal(err)
				}
				for d := range built.Blobs {
					if err := store.Verify(context.Background(), d); err != nil {
						t.Error(err)
					}
				}
				if len(layers.committed) != 3 || layers.staged != 0 {
					t.Errorf("%d committed, %d staged", len(layers.committed), layers.staged)
				}
				for d := range built.Blobs {
					want := 0
					if d == c.blob {
						want = 1
					}
					if n := upstream.Count(double.Match{Method: "GET", Digest: d}); n != want {
						t.Errorf("the registry was asked for %s %d times, want %d", d, n, want)
					}
				}
			})
		}
	}
}

// TestPullResumesWrongBytes finds what an earlier pull left of a blob to be wrong, and gets all of it again: the host that
// sent the rest is not to blame.
func TestPullResumesWrongBytes(t *testing.T) {
	mirror, upstream := double.Start(t), double.Start(t)
	built := pushThree(mirror, ociimage.OCI)
	pushThree(upstream, ociimage.OCI)
	o, store, layers := mirrored(t, mirror, upstream)
	desc := built.Layers[1]
	w, err := store.Writer(context.Background(), refKey(desc), desc, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Pull(context.Background(), o); err != nil || len(layers.committed) != 3 {
		t.Fatalf("%v, %d committed", err, len(layers.committed))
	}
	if n := upstream.Count(double.Match{Digest: desc.Digest}); n != 0 {
		t.Errorf("the registry was asked %d times", n)
	}
}

// TestPullWrongEverywhere gives up when all hosts have been asked.
func TestPullWrongEverywhere(t *testing.T) {
	mirror, upstream := double.Start(t), double.Start(t)
	built := pushThree(mirror, ociimage.OCI)
	pushThree(upstream, ociimage.OCI)
	for _, r := range []*double.Registry{mirror, upstream} {
		r.Fault(double.Match{Digest: built.Layers[2].Digest}, double.Corrupt(1<<30))
	}
	o, _, layers := mirrored(t, mirror, upstream)
	if _, err := Pull(context.Background(), o); !errdefs.IsFailedPrecondition(err) || layers.staged != 0 {
		t.Errorf("%v, %d staged", err, layers.staged)
	}
	for _, r := range []*double.Registry{mirror, upstream} {
		if n := r.Count(double.Match{Method: "GET", Digest: built.Layers[2].Digest}); n < 1 || n > 3 {
			t.Errorf("asked %d times", n)
		}
	}
}
