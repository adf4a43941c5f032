package image

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image/reference"
	"github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	double "github.com/slipwayd/slipway/testsuite/registry"
)

// fakeRecorder is a real recorder that keeps its indexes in memory.
type fakeRecorder struct {
	mu   sync.Mutex
	kept map[digest.Digest]*index.Index
	open int // recordings not closed
}

func (f *fakeRecorder) Wants(Layer) bool { return true }

func (f *fakeRecorder) Record(l Layer, blob io.Reader) (Recording, error) {
	r, err := index.NewRecorder(blob, index.Limits{})
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open++
	return &fakeRecording{r, f, l}, nil
}

type fakeRecording struct {
	*index.Recorder
	to    *fakeRecorder
	layer Layer
}

func (r *fakeRecording) Keep() {
	x, err := r.Finish()
	if err != nil {
		return
	}
	r.to.mu.Lock()
	defer r.to.mu.Unlock()
	r.to.kept[r.layer.Desc.Digest] = x
}

func (r *fakeRecording) Close() error {
	r.to.mu.Lock()
	r.to.open--
	r.to.mu.Unlock()
	return r.Recorder.Close()
}

func TestPullRecords(t *testing.T) {
	for name, format := range map[string]ociimage.Format{"oci": ociimage.OCI, "docker": ociimage.Docker} {
		t.Run(name, func(t *testing.T) {
			r := double.Start(t)
			built := pushThree(r, format)
			o, _, layers := options(r, "app:v1")
			recorder := &fakeRecorder{kept: map[digest.Digest]*index.Index{}}
			o.Recorder = recorder
			if _, err := Pull(context.Background(), o); err != nil {
				t.Fatal(err)
			}
			if len(layers.order) != 3 || recorder.open != 0 {
				t.Errorf("unpacked %v, %d recordings left open", layers.order, recorder.open)
			}
			for i, d := range built.Layers {
				x := recorder.kept[d.Digest]
				if x == nil || x.DiffID() != built.DiffIDs[i] || x.BlobSize() != d.Size {
					t.Errorf("layer %d: index %+v", i, x)
				}
			}
		})
	}
}

// TestRecordsNothingWrong pulls layers whose blob or diff ID is not what it should be: they fail as without a recorder, and no
// index of them is kept.
func TestRecordsNothingWrong(t *testing.T) {
	for name, spoil := range map[string]func(*double.Registry, *ociimage.Built){
		"blob": func(r *double.Registry, built *ociimage.Built) {
			other := ociimage.Image{Layers: []ociimage.Layer{layer("one", "2")}}
			wrong, err := other.Build()
			if err != nil {
				t.Fatal(err)
			}
			r.PutBlob(built.Layers[0].Digest, wrong.Blobs[wrong.Layers[0].Digest].Data)
		},
		"cut": func(r *double.Registry, built *ociimage.Built) {
			r.Fault(double.Match{Digest: built.Layers[0].Digest}, double.Cut(0))
		},
		"diff ID": nil,
	} {
		t.Run(name, func(t *testing.T) {
			r := double.Start(t)
			built := r.Push("app:v1", ociimage.Image{Layers: []ociimage.Layer{layer("one", "1")}})
			o, store, layers := options(r, "app:v1")
			recorder := &fakeRecorder{kept: map[digest.Digest]*index.Index{}}
			o.Recorder = recorder
			var err error
			if spoil != nil {
				spoil(r, built)
				_, err = Pull(context.Background(), o)
			} else {
				u := &unpacker{store: store, layers: layers, recorder: recorder, limits: Limits{}.withDefaults()}
				u.part = func(ocispec.Descriptor) *Part { return NewReporter(nil).Part("", "", ocispec.Descriptor{}) }
				f := fetcher{store: store, limits: u.limits}
				ref, badRef := reference.Parse(o.Ref)
				if badRef != nil {
					t.Fatal(badRef)
				}
				if f.remote, err = o.Registry.Remote(ref, o.Remote); err != nil {
					t.Fatal(err)
				}
				u.fetch = func(ctx context.Context, d ocispec.Descriptor, to *pipe) error { return f.blob(ctx, d, to, u.part(d)) }
				wrong := ocispec.Image{RootFS: ocispec.RootFS{DiffIDs: []digest.Digest{digest.FromString("other")}}}
				_, err = u.unpack(context.Background(), ocispec.Descriptor{}, wrong, built.Layers)
			}
			if err == nil || name != "cut" && !errdefs.IsFailedPrecondition(err) {
				t.Errorf("pulled with %v", err)
			}
			if len(recorder.kept) != 0 || recorder.open != 0 || layers.staged != 0 || len(layers.order) != 0 {
				t.Errorf("keeps %d indexes, %d recordings open, %d layers staged, %v committed", len(recorder.kept), recorder.open, layers.staged, layers.order)
			}
		})
	}
}

// scoutLayers note when they are asked to look around.
type scoutLayers struct {
	*fakeLayers
	r    *double.Registry
	seen []string
}

func (s *scoutLayers) Foresee(context.Context, *registry.Remote, []ocispec.Descriptor) {}

func (s *scoutLayers) Scout(_ context.Context, _ *registry.Remote, manifest ocispec.Descriptor) func() {
	fetched := s.r.Count(double.Match{Method: "GET", Digest: manifest.Digest})
	s.seen = append(s.seen, fmt.Sprint(manifest.Digest, manifest.Platform != nil, fetched))
	return func() { s.seen = append(s.seen, "done") }
}

// TestScout looks beside the one manifest that is chosen, and before it is fetched.
func TestScout(t *testing.T) {
	r := double.Start(t)
	built := pushThree(r, ociimage.OCI)
	o, _, layers := options(r, "app:v1")
	scouts := &scoutLayers{fakeLayers: layers, r: r}
	o.Layers = scouts
	if _, err := Pull(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	if want := []string{fmt.Sprint(built.Root.Digest, false, 0), "done"}; !slices.Equal(scouts.seen, want) {
		t.Errorf("looked %q, want %q", scouts.seen, want)
	}
}
