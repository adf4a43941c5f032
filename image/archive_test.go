package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	double "github.com/slipwayd/slipway/testsuite/registry"
)

var ctx = context.Background()

// imported is a store with an image in it.
func imported(t *testing.T, img double.Buildable, name string) (*fakeStore, Imported) {
	t.Helper()
	built, err := img.Build()
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := built.WriteLayout(&archive, name); err != nil {
		t.Fatal(err)
	}
	store := newStore()
	found, err := Import(ctx, &archive, ImportOptions{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || found[0].Target.Digest != built.Root.Digest {
		t.Fatalf("imported %+v, want %s", found, built.Root.Digest)
	}
	return store, found[0]
}

func TestImportUnpackPush(t *testing.T) {
	store, img := imported(t, threeLayers(ociimage.OCI), "localhost/app:v1")
	if img.Name != "localhost/app:v1" {
		t.Errorf("name %q", img.Name)
	}
	layers := newLayers()
	res, err := Unpack(ctx, UnpackOptions{Name: img.Name, Target: img.Target, Store: store, Layers: layers})
	if err != nil || len(layers.committed) != 3 || layers.staged != 0 {
		t.Fatalf("%+v, %v, %d snapshots", res, err, len(layers.committed))
	}
	if usage, err := Usage(ctx, store, img.Target); err != nil || usage < 3<<20 {
		t.Errorf("usage %d, %v", usage, err)
	}

	r := double.Start(t)
	push := PushOptions{Ref: r.Host() + "/pushed:v1", Registry: quick(registry.Config{}), Store: store, Target: img.Target}
	r.Fault(double.Match{Method: "PUT", Path: "/blobs/", Times: 2}, double.Status(503))
	if err := Push(ctx, push); err != nil {
		t.Fatal(err)
	}
	o, _, layers := options(r, "pushed:v1")
	res, err = Pull(ctx, o)
	if err != nil || res.Target.Digest != img.Target.Digest || len(layers.committed) != 3 {
		t.Fatalf("pull of what was pushed: %+v, %v", res, err)
	}
	r.Forget()
	if err := Push(ctx, push); err != nil {
		t.Fatal(err)
	}
	if n := r.Count(double.Match{Method: "POST"}); n != 0 {
		t.Errorf("%d uploads for blobs that the registry has", n)
	}
}

func TestPushMounts(t *testing.T) {
	r := double.Start(t)
	pushThree(r, ociimage.OCI)
	o, store, _ := options(r, "app:v1")
	res, err := Pull(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	r.Forget()
	r.Fault(double.Match{Method: "HEAD", Path: "/v2/copy/blobs/"}, double.Status(404)) // the double keeps all blobs in one place
	if err := Push(ctx, PushOptions{Ref: r.Host() + "/copy:v1", Registry: o.Registry, Store: store, Target: res.Target}); err != nil {
		t.Fatal(err)
	}
	mounts := 0
	for _, req := range r.Requests() {
		if req.Method == "POST" && strings.Contains(req.Path, "from=app&mount=sha256") {
			mounts++
		}
	}
	if mounts != 4 {
		t.Errorf("asked to mount %d of 4 blobs", mounts) // the double mounts nothing, so that they are pushed after all
	}
	o, _, _ = options(r, "copy:v1")
	if _, err := Pull(ctx, o); err != nil {
		t.Error(err)
	}
}

func TestPushRefuses(t *testing.T) {
	host := hostPlatform()
	index := ociimage.Index{Images: []ociimage.Image{{Platform: host, Layers: []ociimage.Layer{layer("a", "1")}}, {Platform: ocispec.Platform{OS: "linux", Architecture: "s390x"}, Layers: []ociimage.Layer{layer("b", "2")}}}}
	r := double.Start(t)
	built := r.Push("multi:v1", index)
	o, store, _ := options(r, "multi:v1")
	res, err := Pull(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	push := PushOptions{Ref: r.Host() + "/part:v1", Registry: o.Registry, Store: store, Target: res.Target, AllPlatforms: true}
	if err := Push(ctx, push); !errdefs.IsNotFound(err) {
		t.Errorf("all platforms of which one is here: %v", err)
	}
	push.AllPlatforms = false
	if err := Push(ctx, push); err != nil {
		t.Fatal(err)
	}
	o, _, _ = options(r, "part:v1")
	if got, err := Pull(ctx, o); err != nil || got.Target.Digest != built.Manifests[0].Digest {
		t.Errorf("what is here was not pushed: %+v, %v", got, err)
	}
	r.Fault(double.Match{Method: "PUT", Path: "/v2/other/manifests/"}, double.Status(403))
	push.Ref = r.Host() + "/other:v1"
	if err := Push(ctx, push); !errdefs.IsPermissionDenied(err) {
		t.Errorf("403: %v", err)
	}
}

func TestExport(t *testing.T) {
	for name, img := range map[string]double.Buildable{
		"oci": threeLayers(ociimage.OCI), "docker": threeLayers(ociimage.Docker),
		"index": ociimage.Index{Images: []ociimage.Image{threeLayers(ociimage.OCI), {Platform: ocispec.Platform{OS: "linux", Architecture: "s390x"}, Layers: []ociimage.Layer{layer("b", "2")}}}},
	} {
		store, img := imported(t, img, "docker.io/library/app:latest")
		var first, second bytes.Buffer
		o := ExportOptions{Store: store, Images: []Imported{img}}
		if err := Export(ctx, &first, o); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		again := newStore()
		found, err := Import(ctx, bytes.NewReader(first.Bytes()), ImportOptions{Store: again})
		if err != nil || len(found) != 1 || found[0].Name != img.Name || found[0].Target.Digest != img.Target.Digest {
			t.Fatalf("%s: import of export: %+v, %v", name, found, err)
		}
		if err := Export(ctx, &second, o); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Errorf("%s: two exports differ: %v", name, err)
		}
		// As docker load before 25 reads it: manifest.json alone.
		old := newStore()
		found, err = Import(ctx, without(t, first.Bytes(), "index.json"), ImportOptions{Store: old})
		if err != nil || len(found) != 1 || found[0].Name != img.Name {
			t.Fatalf("%s: docker's view: %+v, %v", name, found, err)
		}
		layers := newLayers()
		if _, err := Unpack(ctx, UnpackOptions{Target: found[0].Target, Store: old, Layers: layers}); err != nil || len(layers.committed) != 3 {
			t.Errorf("%s: docker's view unpacked: %v, %d layers", name, err, len(layers.committed))
		}
	}
}

func TestExportMissing(t *testing.T) {
	store, img := imported(t, threeLayers(ociimage.OCI), "x:1")
	children, err := Children(ctx, store, img.Target)
	if err != nil || len(children) != 4 {
		t.Fatalf("%d children, %v", len(children), err)
	}
	if err := store.Delete(ctx, children[2].Digest); err != nil {
		t.Fatal(err)
	}
	if err := Export(ctx, io.Discard, ExportOptions{Store: store, Images: []Imported{img}}); !errdefs.IsNotFound(err) {
		t.Errorf("export without a layer: %v", err)
	}
	if _, err := Unpack(ctx, UnpackOptions{Target: img.Target, Store: store, Layers: newLayers()}); !errdefs.IsNotFound(err) {
		t.Errorf("unpack without a layer: %v", err)
	}
}

// without leaves one entry out of a tar.
func without(t *testing.T, archive []byte, name string) io.Reader {
	t.Helper()
	var files []ociimage.File
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Name != name {
			files = append(files, ociimage.File{Header: *h, Body: body})
		}
	}
	return bytes.NewReader(tarOf(t, files))
}

func tarOf(t testing.TB, files []ociimage.File) []byte {
	t.Helper()
	data, err := ociimage.TarBytes(files)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// oldSave is what docker save wrote from 1.10 to 24: two layers, the second a link to the first.
func oldSave(t testing.TB) []byte {
	t.Helper()
	diff := tarOf(t, []ociimage.File{ociimage.Regular("f", 0o644, "x")})
	config, err := json.Marshal(ocispec.Image{Platform: hostPlatform(), RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(diff), digest.FromBytes(diff)}}})
	if err != nil {
		t.Fatal(err)
	}
	configName := digest.FromBytes(config).Encoded() + ".json"
	return tarOf(t, []ociimage.File{
		ociimage.Dir("aaa/", 0o755), ociimage.Regular("aaa/VERSION", 0o644, "1.0"), ociimage.Regular("aaa/json", 0o644, "{}"),
		ociimage.Regular("aaa/layer.tar", 0o644, string(diff)), ociimage.Symlink("bbb/layer.tar", "../aaa/layer.tar"),
		ociimage.Regular(configName, 0o644, string(config)), ociimage.Regular("repositories", 0o644, "{}"),
		ociimage.Regular("manifest.json", 0o644, fmt.Sprintf(`[{"Config":%q,"RepoTags":["old:1","host.example/old:2"],"Layers":["aaa/layer.tar","bbb/layer.tar"]}]`, configName)),
	})
}

func TestImportDockerSave(t *testing.T) {
	plain := oldSave(t)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, archive := range map[string][]byte{"plain": plain, "gzip": packed.Bytes()} {
		store := newStore()
		found, err := Import(ctx, bytes.NewReader(archive), ImportOptions{Store: store})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(found) != 2 || found[0].Name != "docker.io/library/old:1" || found[1].Name != "host.example/old:2" {
			t.Errorf("%s: %+v", name, found)
		}
		layers := newLayers()
		if _, err := Unpack(ctx, UnpackOptions{Target: found[0].Target, Store: store, Layers: layers}); err != nil || !slices.Equal(layers.order, []int{0, 1}) {
			t.Errorf("%s: unpack: %v, %v", name, err, layers.order)
		}
	}
}

func TestImportNames(t *testing.T) {
	d := ocispec.Descriptor{Digest: digest.FromString("x")}
	for _, c := range []struct{ base, full, tag, want string }{
		{"", "docker.io/library/a:1", "1", "docker.io/library/a:1"},
		{"", "", "host.example/a:1", "host.example/a:1"},
		{"", "", "latest", ""},
		{"import", "", "latest", "docker.io/library/import:latest"},
		{"import", "", "", "docker.io/library/import@" + d.Digest.String()},
	} {
		d.Annotations = map[string]string{"io.containerd.image.name": c.full, ocispec.AnnotationRefName: c.tag}
		got, err := (&importer{name: c.base}).nameOf(d)
		if err != nil || got != c.want {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
}

func TestImportRefuses(t *testing.T) {
	file := func(name, body string) ociimage.File { return ociimage.Regular(name, 0o644, body) }
	layout := file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`)
	x := digest.FromString("x")
	for name, files := range map[string][]ociimage.File{
		"nothing":                {file("a", "b")},
		"wrong blob":             {layout, file("blobs/sha256/"+x.Encoded(), "y")},
		"bad blob name":          {layout, file("blobs/sha256/zz", "y")},
		"unknown algorithm":      {layout, file("blobs/md5/d41d8cd98f00b204e9800998ecf8427e", "")},
		"layout version":         {file("oci-layout", `{"imageLayoutVersion":"9"}`), file("index.json", `{}`)},
		"missing manifest":       {layout, file("index.json", fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":1}]}`, ocispec.MediaTypeImageManifest, x))},
		"bad digest":             {layout, file("index.json", `{"schemaVersion":2,"manifests":[{"digest":"sha256:../../etc/passwd"}]}`)},
		"manifest.json not JSON": {file("manifest.json", "[")},
		"missing config":         {file("manifest.json", `[{"Config":"../../etc/passwd"}]`)},
		"link loop":              {ociimage.Symlink("a", "b"), ociimage.Symlink("b", "a"), file("manifest.json", `[{"Config":"a"}]`)},
		"bad tag":                {file("c.json", `{}`), file("manifest.json", `[{"Config":"c.json","RepoTags":["UPPER:case"]}]`)},
	} {
		found, err := Import(ctx, bytes.NewReader(tarOf(t, files)), ImportOptions{Store: newStore()})
		if err == nil || !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: %+v, %v", name, found, err)
		}
	}
	for name, archive := range map[string]string{"empty": "", "text": strings.Repeat("x", 2000), "cut gzip": "\x1f\x8b\x08", "zeros": strings.Repeat("\x00", 4096)} {
		if found, err := Import(ctx, strings.NewReader(archive), ImportOptions{Store: newStore()}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %+v, %v", name, found, err)
		}
	}
	store := newStore()
	big := tarOf(t, []ociimage.File{file("x", strings.Repeat("a", 1000))})
	if _, err := Import(ctx, bytes.NewReader(big), ImportOptions{Store: store, Limits: Limits{Blob: 100}}); !errdefs.IsOutOfRange(err) || store.count(t) != 0 {
		t.Errorf("big blob: %v", err)
	}
}

func FuzzImport(f *testing.F) {
	f.Add(oldSave(f))
	built, err := ociimage.Image{Layers: []ociimage.Layer{layer("a", "b")}}.Build()
	if err != nil {
		f.Fatal(err)
	}
	var archive bytes.Buffer
	if err := built.WriteLayout(&archive, "x:1"); err != nil {
		f.Fatal(err)
	}
	f.Add(archive.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		store := newStore()
		found, err := Import(ctx, bytes.NewReader(data), ImportOptions{Store: store, Limits: Limits{Blob: 1 << 20}})
		if err != nil {
			return
		}
		for _, img := range found {
			if _, err := store.Info(ctx, img.Target.Digest); err != nil {
				t.Fatalf("imported %+v, which is not there: %v", img, err)
			}
		}
		ingests, err := store.Ingests(ctx)
		if err != nil || len(ingests) != 0 {
			t.Fatalf("%d ingests left, %v", len(ingests), err)
		}
	})
}

// FuzzDocument: what is accepted has only valid descriptors and one meaning.
func FuzzDocument(f *testing.F) {
	built, err := ociimage.Index{Images: []ociimage.Image{{Layers: []ociimage.Layer{layer("a", "b")}}}}.Build()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(built.Bytes(built.Root))
	f.Add(built.Bytes(built.Manifests[0]))
	f.Add([]byte(`{"schemaVersion":1,"fsLayers":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, indexErr := parseDocument(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(data)}, data)
		doc, err := parseDocument(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(data)}, data)
		if err != nil {
			return
		}
		if indexErr == nil {
			t.Fatal("both an index and a manifest")
		}
		for _, c := range doc.children() {
			if c.Digest.Validate() != nil || c.Size < 0 {
				t.Fatalf("child %+v", c)
			}
		}
		for k, v := range ChildLabels(doc.children()) {
			if !strings.HasPrefix(k, "containerd.io/gc.ref.content.") || digest.Digest(v).Validate() != nil {
				t.Fatalf("label %q=%q", k, v)
			}
		}
	})
}
