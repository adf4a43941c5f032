package ociimage_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/testsuite/ociimage"
)

func build(t *testing.T, img ociimage.Image) (*ociimage.Built, ocispec.Manifest, ocispec.Image) {
	t.Helper()
	built, err := img.Build()
	if err != nil {
		t.Fatal(err)
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(built.Bytes(built.Root), &manifest); err != nil {
		t.Fatal(err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(built.Bytes(manifest.Config), &config); err != nil {
		t.Fatal(err)
	}
	return built, manifest, config
}

func unpack(t *testing.T, data []byte, c ociimage.Compression) []byte {
	t.Helper()
	r := io.Reader(bytes.NewReader(data))
	var err error
	switch c {
	case ociimage.Gzip:
		r, err = gzip.NewReader(r)
	case ociimage.Zstd:
		r, err = zstd.NewReader(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestLayers(t *testing.T) {
	for _, c := range []struct {
		format      ociimage.Format
		compression ociimage.Compression
		mediaType   string
	}{
		{ociimage.OCI, ociimage.Gzip, ocispec.MediaTypeImageLayerGzip},
		{ociimage.OCI, ociimage.Zstd, ocispec.MediaTypeImageLayerZstd},
		{ociimage.OCI, ociimage.None, ocispec.MediaTypeImageLayer},
		{ociimage.Docker, ociimage.Gzip, "application/vnd.docker.image.rootfs.diff.tar.gzip"},
		{ociimage.Docker, ociimage.Zstd, "application/vnd.docker.image.rootfs.diff.tar.zstd"},
		{ociimage.Docker, ociimage.None, "application/vnd.docker.image.rootfs.diff.tar"},
	} {
		img := ociimage.Image{Format: c.format, Layers: []ociimage.Layer{{Compression: c.compression, Files: []ociimage.File{
			ociimage.Dir("d", 0o755), ociimage.Regular("d/f", 0o4755, "body"), ociimage.Whiteout("d/gone"), ociimage.Opaque("d"),
		}}}}
		built, manifest, config := build(t, img)
		again, _, _ := build(t, img)
		if built.Root.Digest != again.Root.Digest {
			t.Errorf("%s: two builds differ", c.mediaType)
		}
		if manifest.Layers[0].MediaType != c.mediaType {
			t.Errorf("media type %s, want %s", manifest.Layers[0].MediaType, c.mediaType)
		}
		raw := unpack(t, built.Bytes(manifest.Layers[0]), c.compression)
		if config.RootFS.DiffIDs[0] != digest.FromBytes(raw) {
			t.Errorf("%s: diff id is not that of the tar", c.mediaType)
		}
		var names []string
		tr := tar.NewReader(bytes.NewReader(raw))
		for h, err := tr.Next(); err != io.EOF; h, err = tr.Next() {
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, h.Name)
		}
		if want := []string{"d/", "d/f", "d/.wh.gone", "d/.wh..wh..opq"}; len(names) != 4 || names[2] != want[2] || names[3] != want[3] {
			t.Errorf("entries %q, want %q", names, want)
		}
	}
}

func TestLayout(t *testing.T) {
	built, _, _ := build(t, ociimage.Image{Layers: []ociimage.Layer{{Files: []ociimage.File{ociimage.Regular("f", 0o644, "x")}}}})
	var buf bytes.Buffer
	if err := built.WriteLayout(&buf, "localhost:5000/a/b:v1"); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	tr := tar.NewReader(&buf)
	for h, err := tr.Next(); err != io.EOF; h, err = tr.Next() {
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = data
	}
	var index ocispec.Index
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	if got := index.Manifests[0].Annotations[ocispec.AnnotationRefName]; got != "v1" {
		t.Errorf("tag %q", got)
	}
	for dgst, b := range built.Blobs {
		if !bytes.Equal(files["blobs/sha256/"+dgst.Encoded()], b.Data) {
			t.Errorf("blob %s is not in the layout", dgst)
		}
	}
}

func TestBusybox(t *testing.T) {
	img, err := ociimage.Busybox()
	if err != nil {
		t.Skip(err)
	}
	built, _, config := build(t, img)
	if config.Config.Cmd[0] != "sh" || config.OS != "linux" {
		t.Errorf("config %+v", config)
	}
	links := map[string]string{}
	tr := tar.NewReader(bytes.NewReader(unpack(t, built.Bytes(built.Layers[0]), ociimage.Gzip)))
	for h, err := tr.Next(); err == nil; h, err = tr.Next() {
		links[h.Name] = h.Linkname
	}
	for _, name := range []string{"bin/sh", "bin/true", "bin/echo"} {
		if links[name] != "bin/busybox" {
			t.Errorf("%s links to %q", name, links[name])
		}
	}
}

// TestSkopeoReads asks another reader about both kinds of archive.
func TestSkopeoReads(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("skopeo is not installed")
	}
	img := ociimage.Image{Layers: []ociimage.Layer{
		{Files: []ociimage.File{ociimage.Regular("f", 0o644, "x")}, Compression: ociimage.None},
		{Files: []ociimage.File{ociimage.Regular("g", 0o644, "y")}, Compression: ociimage.None},
	}}
	built, _, _ := build(t, img)
	for transport, write := range map[string]func(io.Writer, ...string) error{
		"oci-archive":    built.WriteLayout,
		"docker-archive": built.WriteDockerArchive,
	} {
		path := filepath.Join(t.TempDir(), "image.tar")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(write(f, "docker.io/library/x:v1"), f.Close()); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(skopeo, "copy", transport+":"+path, "dir:"+t.TempDir()).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", transport, err, out)
		}
	}
}

func TestEStargz(t *testing.T) {
	img := ociimage.Image{Layers: []ociimage.Layer{{Compression: ociimage.EStargz, Files: []ociimage.File{ociimage.Regular("hello", 0o644, "hello\n")}}}}
	built, manifest, _ := build(t, img)
	desc := manifest.Layers[0]
	r, err := estargz.Open(io.NewSectionReader(bytes.NewReader(built.Bytes(desc)), 0, desc.Size))
	if err != nil {
		t.Fatal(err)
	}
	if got := r.TOCDigest().String(); got != desc.Annotations[estargz.TOCJSONDigestAnnotation] {
		t.Errorf("the table of contents is %s, annotated %v", got, desc.Annotations)
	}
	f, err := r.OpenFile("hello")
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(f); err != nil || string(data) != "hello\n" {
		t.Errorf("%q, %v", data, err)
	}
	if raw := unpack(t, built.Bytes(desc), ociimage.Gzip); digest.FromBytes(raw) != built.DiffIDs[0] {
		t.Error("the diff ID is not that of the tar")
	}
	if again, _, _ := build(t, img); again.Root.Digest != built.Root.Digest {
		t.Error("built twice it is another")
	}
}
