package image

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	double "github.com/slipwayd/slipway/testsuite/registry"
)

// noise is text that does not compress, n bytes long, the same for the same seed.
func noise(seed uint64, n int) string {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

func layer(name, body string) ociimage.Layer {
	return ociimage.Layer{Files: []ociimage.File{ociimage.Dir("d", 0o755), ociimage.Regular("d/"+name, 0o644, body)}}
}

// threeLayers is an image with a big layer in the middle, gzip, zstd and uncompressed.
func threeLayers(format ociimage.Format) ociimage.Image {
	img := ociimage.Image{Format: format, Layers: []ociimage.Layer{layer("one", "1"), layer("two", noise(2, 3<<20)), layer("three", noise(3, 100_000))}}
	img.Layers[1].Compression = ociimage.Gzip
	img.Layers[2].Compression = ociimage.None
	if format == ociimage.OCI {
		img.Layers[0].Compression = ociimage.Zstd
	}
	return img
}

// builtThree are the layers of threeLayers, compressed once: that is most of the time of a test under the race detector.
var builtThree = map[ociimage.Format]func() (*ociimage.Built, error){
	ociimage.OCI:    sync.OnceValues(func() (*ociimage.Built, error) { return threeLayers(ociimage.OCI).Build() }),
	ociimage.Docker: sync.OnceValues(func() (*ociimage.Built, error) { return threeLayers(ociimage.Docker).Build() }),
}

func pushThree(r *double.Registry, format ociimage.Format) *ociimage.Built {
	built, err := builtThree[format]()
	if err != nil {
		panic(err)
	}
	r.PushBuilt("app:v1", built)
	return built
}

// quick is a client that does not wait long.
func quick(c registry.Config) *registry.Client {
	c.MaxRetryAfter, c.Backoff = time.Millisecond, time.Millisecond
	return registry.New(c)
}

func options(r *double.Registry, name string) (PullOptions, *fakeStore, *fakeLayers) {
	store, layers := newStore(), newLayers()
	return PullOptions{Ref: r.Host() + "/" + name, Registry: quick(registry.Config{}), Store: store, Layers: layers}, store, layers
}

func TestPull(t *testing.T) {
	for name, format := range map[string]ociimage.Format{"oci": ociimage.OCI, "docker": ociimage.Docker} {
		for _, independent := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s independent=%v", name, independent), func(t *testing.T) {
				r := double.Start(t)
				built := pushThree(r, format)
				o, store, layers := options(r, "app:v1")
				layers.independent = independent
				last := map[string]Progress{}
				o.Progress = func(p Progress) { last[p.Name] = p }
				res, err := Pull(context.Background(), o)
				if err != nil {
					t.Fatal(err)
				}
				if want := r.Host() + "/app:v1"; res.Name != want || res.Target.Digest != built.Root.Digest || res.Manifest.Digest != built.Root.Digest {
					t.Errorf("result %+v", res)
				}
				chain := ChainIDs(built.DiffIDs)
				if res.ChainID != chain[2] || !slices.Equal(layers.order, []int{0, 1, 2}) || layers.staged != 0 {
					t.Errorf("chain %s, order %v, staged %d", res.ChainID, layers.order, layers.staged)
				}
				if got := layers.committed[chain[1]]; !slices.Equal(got, []string{"d/", "d/two"}) {
					t.Errorf("second layer has %q", got)
				}
				checkLabels(t, store, r, built, res)
				for d := range built.Blobs {
					if err := store.Verify(context.Background(), d); err != nil {
						t.Error(err)
					}
				}
				for name, p := range last {
					if p.State != Done || p.Offset != p.Desc.Size {
						t.Errorf("%s ended as %+v", name, p)
					}
				}
				if len(last) != 6 { // name, manifest, config, layers
					t.Errorf("progress of %d parts", len(last))
				}

				// Again: nothing but a HEAD goes over the wire.
				r.Forget()
				if _, err := Pull(context.Background(), o); err != nil {
					t.Fatal(err)
				}
				if n := r.Count(double.Match{Method: "GET"}); n != 0 {
					t.Errorf("%d GETs for an image that is here: %v", n, r.Requests())
				}
			})
		}
	}
}

// TestPullNew asks for what is not here without asking first what it is, by tag and by digest.
func TestPullNew(t *testing.T) {
	r := double.Start(t)
	built := pushThree(r, ociimage.OCI)
	for _, name := range []string{"app:v1", "app@" + built.Root.Digest.String()} {
		r.Forget()
		o, store, _ := options(r, name)
		o.New = true
		res, err := Pull(context.Background(), o)
		if err != nil || res.Target.Digest != built.Root.Digest || res.Target.Size != built.Root.Size || res.Target.MediaType != built.Root.MediaType {
			t.Fatalf("%+v, %v", res, err)
		}
		checkLabels(t, store, r, built, res)
		if head, get := r.Count(double.Match{Method: "HEAD"}), r.Count(double.Match{Path: "/manifests/"}); head != 0 || get != 1 {
			t.Errorf("%s: %d HEADs, %d requests for manifests: %v", name, head, get, r.Requests())
		}
	}
	o, _, _ := options(r, "app@"+built.Root.Digest.String())
	o.New = true
	r.Fault(double.Match{Path: "/manifests/"}, double.Replace([]byte("{}")))
	if _, err := Pull(context.Background(), o); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("pulled another manifest than its digest's: %v", err)
	}
}

func checkLabels(t *testing.T, store *fakeStore, r *double.Registry, built *ociimage.Built, res Result) {
	t.Helper()
	manifest, err := store.Labels(context.Background(), res.Manifest.Digest)
	if err != nil {
		t.Fatal(err)
	}
	source := "containerd.io/distribution.source." + r.Host()
	if manifest[source] != "app" {
		t.Errorf("manifest labels %v", manifest)
	}
	for i, l := range built.Layers {
		if got := manifest[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", i)]; got != l.Digest.String() {
			t.Errorf("label of layer %d is %q", i, got)
		}
		labels, err := store.Labels(context.Background(), l.Digest)
		if err != nil || labels[source] != "app" {
			t.Errorf("layer %d: labels %v, %v", i, labels, err)
		}
	}
	config, err := store.Labels(context.Background(), digest.Digest(manifest["containerd.io/gc.ref.content.config"]))
	if err != nil || config["containerd.io/gc.ref.snapshot.fake"] != res.ChainID.String() {
		t.Errorf("config labels %v, %v", config, err)
	}
}

func TestPullByDigest(t *testing.T) {
	r := double.Start(t)
	built := pushThree(r, ociimage.OCI)
	o, _, _ := options(r, "app@"+built.Root.Digest.String())
	res, err := Pull(context.Background(), o)
	if err != nil || res.Target.Digest != built.Root.Digest {
		t.Fatalf("%+v, %v", res, err)
	}
	// A registry that answers another manifest for a digest is not believed.
	other := ociimage.Image{Layers: []ociimage.Layer{layer("x", "y")}}
	wrong := r.Push("other:v1", other)
	r.PutManifest("app", built.Root.Digest.String(), wrong.Root.MediaType, wrong.Bytes(wrong.Root))
	o, _, _ = options(r, "app@"+built.Root.Digest.String())
	if _, err = Pull(context.Background(), o); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("other manifest for a digest: %v", err)
	}
}

func TestPullPlatforms(t *testing.T) {
	host := hostPlatform()
	image := func(os, arch, variant, osVersion string) ociimage.Image {
		return ociimage.Image{Layers: []ociimage.Layer{layer(os+arch+variant+osVersion, "x")}, Platform: ocispec.Platform{OS: os, Architecture: arch, Variant: variant, OSVersion: osVersion}}
	}
	index := ociimage.Index{Images: []ociimage.Image{image("linux", "arm", "v6", ""), image("linux", "s390x", "", ""), image(host.OS, host.Architecture, host.Variant, ""),
		image("linux", "arm", "v7", ""), image("windows", "amd64", "", "10.0.17763.1"), image("windows", "amd64", "", "10.0.20348.2")}}
	r := double.Start(t)
	built := r.Push("multi:v1", index)
	manifests := map[string]int{}
	for want, i := range map[string]int{"": 2, "linux/s390x": 1, "linux/arm/v7": 3, "linux/arm/v6": 0} {
		o, store, _ := options(r, "multi:v1")
		if want != "" {
			parts := append(strings.Split(want, "/"), "")
			o.Platforms = []ocispec.Platform{{OS: parts[0], Architecture: parts[1], Variant: parts[2]}}
		}
		res, err := Pull(context.Background(), o)
		if err != nil || res.Manifest.Digest != built.Manifests[i].Digest || res.Target.Digest != built.Root.Digest {
			t.Errorf("%q: manifest %s, %v; want number %d", want, res.Manifest.Digest, err, i)
		}
		manifests[want]++
		if n := store.count(t); n != 4 {
			t.Errorf("%q: %d blobs, want index, manifest, config and layer", want, n)
		}
	}
	o, _, _ := options(r, "multi:v1")
	o.Platforms = []ocispec.Platform{{OS: "linux", Architecture: "riscv64"}}
	if _, err := Pull(context.Background(), o); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "linux/s390x") {
		t.Errorf("no such platform: %v", err)
	}
	o, store, layers := options(r, "multi:v1")
	o.AllPlatforms = true
	res, err := Pull(context.Background(), o)
	if err != nil || store.count(t) != 19 || len(layers.committed) != 1 || res.Manifest.Digest != built.Manifests[2].Digest {
		t.Errorf("all platforms: %d blobs, %d snapshots, %+v, %v", store.count(t), len(layers.committed), res, err)
	}
	found, err := Platforms(context.Background(), store, res.Target)
	if err != nil || len(found) != 6 {
		t.Errorf("Platforms: %v, %v", found, err)
	}
	single := image("linux", "s390x", "", "")
	r.Push("single:v1", single)
	o, _, _ = options(r, "single:v1")
	if _, err := Pull(context.Background(), o); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "s390x") {
		t.Errorf("image for another platform: %v", err)
	}
}

func TestPullResumes(t *testing.T) {
	r := double.Start(t)
	built := pushThree(r, ociimage.OCI)
	o, store, layers := options(r, "app:v1")
	o.Registry = quick(registry.Config{Retries: -1})
	big := built.Layers[1]
	r.Fault(double.Match{Digest: big.Digest, Method: "GET", Times: 1}, double.Then(double.Cut(1_000_000)))
	r.Fault(double.Match{Digest: big.Digest, Method: "GET", Skip: 1}, double.Status(404))
	if _, err := Pull(context.Background(), o); err == nil {
		t.Fatal("pull of a cut layer succeeded")
	}
	if layers.staged != 0 {
		t.Errorf("%d layers left staged", layers.staged)
	}
	status, err := store.Status(context.Background(), "layer-"+big.Digest.String())
	if err != nil || status.Offset == 0 {
		t.Fatalf("ingest %+v, %v", status, err)
	}
	r.Heal()
	r.Forget()
	res, err := Pull(context.Background(), o)
	if err != nil || res.ChainID == "" || len(layers.committed) != 3 {
		t.Fatalf("%+v, %v", res, err)
	}
	for _, req := range r.Requests() {
		if req.Method == "GET" && req.Digest == big.Digest && req.Header.Get("Range") != fmt.Sprintf("bytes=%d-%d", status.Offset, big.Size-1) {
			t.Errorf("resumed with Range %q, want from %d", req.Header.Get("Range"), status.Offset)
		}
	}
}

func TestPullFaults(t *testing.T) {
	sum := func(err error) bool { return errdefs.IsFailedPrecondition(err) }
	for name, c := range map[string]struct {
		path  string // what is faulty: "big" for the middle layer, else a regular expression
		times int
		do    double.Fault
		kind  func(error) bool // nil for success
	}{
		"cut in the middle":            {"big", 2, double.Cut(500_000), nil},
		"dropped connections":          {"", 2, double.Drop(), nil},
		"429 with Retry-After":         {"/blobs/", 2, double.TooManyRequests(3600), nil},
		"429 for ever":                 {"/manifests/", 0, double.TooManyRequests(1), errdefs.IsResourceExhausted},
		"500 twice":                    {"/manifests/", 2, double.Status(500), nil},
		"503 for ever":                 {"/blobs/", 0, double.Status(503), errdefs.IsUnavailable},
		"404 manifest":                 {"/manifests/", 0, double.Status(404), errdefs.IsNotFound},
		"404 layer":                    {"big", 0, double.Status(404), errdefs.IsNotFound},
		"401":                          {"/manifests/", 0, double.Status(401), errdefs.IsUnauthorized},
		"403":                          {"/blobs/", 0, double.Status(403), errdefs.IsPermissionDenied},
		"wrong bytes in a layer":       {"big", 0, double.Corrupt(1_000_000), nil2(nil)},
		"wrong bytes at a layer's end": {"big", 0, double.Corrupt(1 << 30), nil2(nil)},
		"wrong bytes in a manifest":    {"/manifests/", 0, double.Corrupt(20), nil2(nil)},
		"endless layer":                {"big", 0, double.Endless(), sum},
		"layer too long":               {"big", 0, double.Pad(10), sum},
		"layer too short":              {"big", 0, double.Shorten(10), sum},
		"no Content-Length":            {"big", 0, double.NoLength(), nil},
		"manifest without a digest":    {"/manifests/", 0, double.SetHeader("Docker-Content-Digest", ""), nil},
		"manifest with a wrong digest": {"/manifests/", 0, double.SetHeader("Docker-Content-Digest", digest.FromString("x").String()), nil2(nil)},
		"cut, then no ranges":          {"big", 1, double.Cut(500_000), nil},
		"HTML instead of a manifest":   {"/manifests/", 0, double.Replace([]byte("<html>")), nil2(nil)},
		"wrong media type":             {"/manifests/", 0, double.SetHeader("Content-Type", "text/html"), errdefs.IsInvalidArgument},
		"endless manifest":             {"/manifests/", 0, double.Endless(), nil2(nil)},
	} {
		for _, isNew := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s new=%v", name, isNew), func(t *testing.T) {
				r := double.Start(t)
				built := pushThree(r, ociimage.OCI)
				m := double.Match{Path: c.path, Times: c.times}
				if c.path == "big" {
					m = double.Match{Digest: built.Layers[1].Digest, Times: c.times}
				}
				if name == "cut, then no ranges" {
					m.Times = 0
					r.Fault(m, double.Then(c.do, double.IgnoreRange()))
				} else {
					if name == "endless manifest" {
						m.Method = "GET" // HEAD has no body to be endless
					}
					r.Fault(m, c.do)
				}
				o, store, layers := options(r, "app:v1")
				o.New = isNew
				_, err := Pull(context.Background(), o)
				if c.kind == nil && err != nil || c.kind != nil && (err == nil || !c.kind(err)) {
					t.Errorf("error: %v", err)
				}
				if layers.staged != 0 || err != nil && len(layers.committed) == 3 {
					t.Errorf("%d staged, %d committed", layers.staged, len(layers.committed))
				}
				if _, infoErr := store.Info(context.Background(), built.Layers[1].Digest); infoErr == nil {
					if err := store.Verify(context.Background(), built.Layers[1].Digest); err != nil {
						t.Error(err)
					}
				}
				if err == nil {
					return
				}
				t.Logf("%v", err)
				// Once the registry is well, so is a repeated pull.
				r.Heal()
				if _, err := Pull(context.Background(), o); err != nil {
					t.Errorf("after healing: %v", err)
				}
			})
		}
	}
}

// nil2 accepts any error.
func nil2(error) func(error) bool { return func(err error) bool { return err != nil } }

func TestPullRefuses(t *testing.T) {
	truth := layer("a", "b")
	for name, c := range map[string]struct {
		change func(*ociimage.Layer)
		kind   func(error) bool
	}{
		"wrong diff ID":      {func(l *ociimage.Layer) { l.DiffID = digest.FromString("other") }, errdefs.IsFailedPrecondition},
		"unknown media type": {func(l *ociimage.Layer) { l.MediaType = "application/vnd.example.layer" }, errdefs.IsNotImplemented},
		"encrypted":          {func(l *ociimage.Layer) { l.MediaType = ocispec.MediaTypeImageLayerGzip + "+encrypted" }, errdefs.IsNotImplemented},
		"foreign":            {func(l *ociimage.Layer) { l.MediaType = dockerForeign + ".gzip" }, errdefs.IsNotImplemented},
		"not a tar":          {func(l *ociimage.Layer) { l.Tar = []byte(noise(1, 5000)) }, func(err error) bool { return err != nil }},
	} {
		t.Run(name, func(t *testing.T) {
			l := truth
			c.change(&l)
			r := double.Start(t)
			r.Push("app:v1", ociimage.Image{Layers: []ociimage.Layer{truth, l}})
			o, _, layers := options(r, "app:v1")
			_, err := Pull(context.Background(), o)
			if !c.kind(err) {
				t.Errorf("error %v", err)
			}
			if layers.staged != 0 || len(layers.committed) > 1 {
				t.Errorf("%d staged, %d committed", layers.staged, len(layers.committed))
			}
		})
	}
	r := double.Start(t)
	r.PutManifest("old", "v1", dockerSchema1Sign, []byte(`{"schemaVersion":1,"fsLayers":[]}`))
	o, _, _ := options(r, "old:v1")
	if _, err := Pull(context.Background(), o); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "skopeo copy") {
		t.Errorf("schema 1: %v", err)
	}
}

func TestPullLimits(t *testing.T) {
	r := double.Start(t)
	pushThree(r, ociimage.OCI)
	for name, l := range map[string]Limits{
		"manifest": {Manifest: 100}, "config": {Config: 100}, "blob": {Blob: 1 << 20}, "diff": {Diff: 1 << 20}, "layers": {Layers: 2},
	} {
		o, _, layers := options(r, "app:v1")
		o.Limits = l
		if _, err := Pull(context.Background(), o); !errdefs.IsOutOfRange(err) || layers.staged != 0 {
			t.Errorf("%s: %v, %d staged", name, err, layers.staged)
		}
	}
}

func TestPullCancelled(t *testing.T) {
	r := double.Start(t)
	built := pushThree(r, ociimage.OCI)
	r.Fault(double.Match{Digest: built.Layers[1].Digest}, double.Hang(600_000, nil))
	o, store, layers := options(r, "app:v1")
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("enough")
	o.Progress = func(p Progress) {
		if p.Desc.Digest == built.Layers[1].Digest && p.State == Downloading {
			cancel(stop)
		}
	}
	if _, err := Pull(ctx, o); !errors.Is(err, stop) && !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled pull: %v", err)
	}
	if layers.staged != 0 {
		t.Errorf("%d staged", layers.staged)
	}
	r.Heal()
	o.Progress = nil
	if _, err := Pull(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	if err := store.Verify(context.Background(), built.Layers[1].Digest); err != nil {
		t.Error(err)
	}
}

// TestPullSideBySide proves that layers are unpacked at the same time: the first does not go on before the second is there.
func TestPullSideBySide(t *testing.T) {
	r := double.Start(t)
	r.Push("app:v1", ociimage.Image{Layers: []ociimage.Layer{layer("a", "1"), layer("b", "2")}})
	o, _, layers := options(r, "app:v1")
	layers.applying = make(chan int)
	both := make(chan error, 1)
	go func() { // both layers wait here before either goes on
		first, second := <-layers.applying, <-layers.applying
		if first == second {
			both <- fmt.Errorf("layer %d was applied twice", first)
		}
		both <- nil
	}()
	if _, err := Pull(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	if err := <-both; err != nil {
		t.Error(err)
	}
}

// TestPullsOfTheSame run two pulls of one image into one store: no blob is fetched twice.
func TestPullsOfTheSame(t *testing.T) {
	r := double.Start(t)
	built := pushThree(r, ociimage.OCI)
	o, _, _ := options(r, "app:v1")
	errs := make(chan error, 2)
	for range 2 {
		go func() { _, err := Pull(context.Background(), o); errs <- err }()
	}
	if err := errors.Join(<-errs, <-errs); err != nil {
		t.Fatal(err)
	}
	if n := r.Count(double.Match{Method: "GET", Digest: built.Layers[1].Digest}); n != 1 {
		t.Errorf("the big layer was fetched %d times", n)
	}
}

// TestUnpackCancelledBetweenLayers: when the context ends while a layer waits for its turn, that is an error even though no
// layer failed.
func TestUnpackCancelledBetweenLayers(t *testing.T) {
	built, err := ociimage.Image{Layers: []ociimage.Layer{layer("a", "1"), layer("b", "2")}}.Build()
	if err != nil {
		t.Fatal(err)
	}
	cctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("enough")
	report := NewReporter(nil)
	u := &unpacker{layers: newLayers(), limits: Limits{Parallel: 1}.withDefaults(), part: func(d ocispec.Descriptor) *Part { return report.Part("", "", d) }}
	u.fetch = func(ctx context.Context, d ocispec.Descriptor, to *pipe) error {
		cancel(stop) // and yet all of the first layer comes
		return to.readFrom(strings.NewReader(string(built.Bytes(d))))
	}
	var steps []Layer
	for i, chain := range ChainIDs(built.DiffIDs) {
		l := Layer{Desc: built.Layers[i], DiffID: built.DiffIDs[i], Chain: chain, Index: i}
		if i > 0 {
			l.Parent = steps[i-1].Chain
		}
		steps = append(steps, l)
	}
	if err := u.run(cctx, steps, 0); !errors.Is(err, stop) {
		t.Errorf("error %v", err)
	}
}
