package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// sociLayer is a plain layer, and the zTOC that SOCI's own tool made of it (testdata/soci).
type sociLayer struct {
	ociimage.Layer
	blob, ztoc []byte
	sums       string // as sha256sum prints them, of its regular files in order
}

func readSOCI(t *testing.T) *sociLayer {
	t.Helper()
	blob, err := os.ReadFile("testdata/soci/layer.tar.gz")
	ztoc, zerr := os.ReadFile("testdata/soci/layer.ztoc")
	if err := errors.Join(err, zerr); err != nil {
		t.Fatal(err)
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	l := &sociLayer{blob: blob, ztoc: ztoc}
	l.Layer = ociimage.Layer{Tar: blob, Compression: ociimage.None, MediaType: ocispec.MediaTypeImageLayerGzip, DiffID: digest.FromBytes(plain)}
	for r := tar.NewReader(bytes.NewReader(plain)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return l
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			sum := sha256.New()
			if _, err := io.Copy(sum, r); err != nil {
				t.Fatal(err)
			}
			l.sums += fmt.Sprintf("%x  /%s\n", sum.Sum(nil), h.Name)
		}
	}
}

// index is SOCI's index of one layer, as the tool writes it; version 1 has the image as its subject.
func (l *sociLayer) index(t *testing.T, version int, subject *ocispec.Descriptor) []byte {
	t.Helper()
	kind := fmt.Sprintf("application/vnd.amazon.soci.index.v%d+json", version)
	data, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Subject: subject,
		Config: ocispec.Descriptor{MediaType: kind, Digest: digest.FromString("{}"), Size: 2},
		Layers: []ocispec.Descriptor{{MediaType: "application/octet-stream", Digest: digest.FromBytes(l.ztoc), Size: int64(len(l.ztoc)), Annotations: map[string]string{
			"com.amazon.soci.image-layer-digest": digest.FromBytes(l.blob).String(), "com.amazon.soci.span-size": "196608"}}},
		Annotations: map[string]string{"com.amazon.soci.build-tool-identifier": "AWS SOCI CLI v0.2"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// pushSOCI pushes busybox with the layer and SOCI's index of it.
func pushSOCI(t *testing.T, r *registry.Registry, repo string, version int, l *sociLayer) {
	t.Helper()
	img, err := ociimage.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	img.Layers = append(slices.Clone(img.Layers), l.Layer)
	r.PutBlob(digest.FromBytes(l.ztoc), l.ztoc)
	r.PutBlob(digest.FromString("{}"), []byte("{}"))
	if version == 1 {
		built := r.Push(repo+":v1", img)
		data := l.index(t, 1, &built.Root)
		r.PutManifest(repo, digest.FromBytes(data).String(), ocispec.MediaTypeImageManifest, data)
		return
	}
	data := l.index(t, 2, nil) // an index of the image and it, that names it at the image
	named := map[string]string{"com.amazon.soci.index-digest": digest.FromBytes(data).String()}
	img.Annotations = named
	built := r.Push(repo+":image", img)
	image := built.Root
	image.Annotations, image.Platform = named, &ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	list, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{
		image, {MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(data), Size: int64(len(data)), Platform: image.Platform,
			ArtifactType: "application/vnd.amazon.soci.index.v2+json"}}})
	if err != nil {
		t.Fatal(err)
	}
	r.PutManifest(repo, digest.FromBytes(data).String(), ocispec.MediaTypeImageManifest, data)
	r.PutManifest(repo, "v1", ocispec.MediaTypeImageIndex, list)
}

// TestLazySOCI: version 2 is part of the image and is believed; version 1 is by whoever may push to the repository, and is with trust_registry
// only. What is served, and what arrives, is the layer.
func TestLazySOCI(t *testing.T) {
	l := readSOCI(t)
	for name, c := range map[string]struct {
		version int
		trust   bool
		want    string
		spoilt  bool // another's bytes in the zTOC's place
	}{
		"v1 of a trusted registry": {version: 1, trust: true, want: "full lazy"},
		"v1":                       {version: 1, want: "full full"},
		"v2":                       {version: 2, want: "full lazy"},
		"v2 with another zTOC":     {version: 2, spoilt: true, want: "full full"},
	} {
		t.Run(name, func(t *testing.T) {
			r := registry.Start(t)
			if _, err := os.Stat("/dev/fuse"); err != nil {
				t.Skip("there is no FUSE: ", err)
			}
			d := startDaemonWith(t, func(d *daemon) { d.config = lazyConfig + fmt.Sprintf("trust_registry = %v\n", c.trust) })
			pushSOCI(t, r, "soci/app", c.version, l)
			if c.spoilt {
				r.PutBlob(digest.FromBytes(l.ztoc), bytes.Repeat([]byte("x"), len(l.ztoc)))
			}
			ref := r.Host() + "/soci/app:v1"
			d.slipway(t, "pull", ref)
			if got := d.modes(t, "default", ref); got != c.want {
				t.Errorf("layers are %s, want %s", got, c.want)
			}
			check := func() {
				t.Helper()
				out := d.slipway(t, "run", "--rm", ref, "sh", "-c", `sha256sum /text/file0*; stat -c "%h %n" /text/twin; readlink /text/link`)
				// The layer's twin is a link to file01, which tar has as the regular file.
				if sums, rest, _ := strings.Cut(out, "2 /text/twin\n"); sums != l.sums || rest != "file02\n" {
					t.Errorf("in the container:\n%swant\n%s", out, l.sums)
				}
			}
			check()
			d.slipway(t, "image", "wait", ref)
			if err := r.Down(); err != nil {
				t.Fatal(err)
			}
			check()
		})
	}
}
