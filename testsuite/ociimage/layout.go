package ociimage

import (
	"archive/tar"
	"encoding/json"
	"io"
	"maps"
	"slices"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// WriteLayout writes the image as a tar of an OCI image layout (image-spec image-layout.md), named as containerd and
// skopeo do: the full name in one annotation, its tag in another.
func (b *Built) WriteLayout(w io.Writer, names ...string) error {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, name := range names {
		desc := b.Root
		desc.Annotations = map[string]string{
			"io.containerd.image.name": name,
			ocispec.AnnotationRefName:  tagOf(name),
		}
		index.Manifests = append(index.Manifests, desc)
	}
	if len(names) == 0 {
		index.Manifests = []ocispec.Descriptor{b.Root}
	}
	indexJSON, err := json.Marshal(index)
	if err != nil {
		return err
	}
	layoutJSON, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	files := []File{
		Regular(ocispec.ImageLayoutFile, 0o644, string(layoutJSON)),
		Regular(ocispec.ImageIndexFile, 0o644, string(indexJSON)),
		Dir("blobs", 0o755),
		Dir("blobs/sha256", 0o755),
	}
	for _, dgst := range slices.Sorted(maps.Keys(b.Blobs)) {
		header := tar.Header{Typeflag: tar.TypeReg, Name: "blobs/sha256/" + dgst.Encoded(), Mode: 0o644}
		files = append(files, File{Header: header, Body: b.Blobs[dgst].Data})
	}
	data, err := TarBytes(files)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

func tagOf(name string) string {
	for i := len(name) - 1; i >= 0 && name[i] != '/'; i-- {
		if name[i] == ':' {
			return name[i+1:]
		}
	}
	return "latest"
}

// WriteDockerArchive writes the image as "docker save" does: a tar with manifest.json ("Image Tarball Format" of the Docker
// Image Specification v1.2), configs by their digest, and layers uncompressed or not, as they are.
func (b *Built) WriteDockerArchive(w io.Writer, names ...string) error {
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var manifest []entry
	var files []File
	have := map[string]bool{}
	add := func(name string, data []byte) string {
		if !have[name] {
			have[name] = true
			files = append(files, File{Header: tar.Header{Name: name, Mode: 0o644}, Body: data})
		}
		return name
	}
	for _, desc := range b.Manifests {
		var m ocispec.Manifest
		if err := json.Unmarshal(b.Blobs[desc.Digest].Data, &m); err != nil {
			return err
		}
		e := entry{Config: add(m.Config.Digest.Encoded()+".json", b.Blobs[m.Config.Digest].Data), RepoTags: names}
		for _, l := range m.Layers {
			e.Layers = append(e.Layers, add(l.Digest.Encoded()+"/layer.tar", b.Blobs[l.Digest].Data))
		}
		manifest = append(manifest, e)
	}
	manifestJSON, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	data, err := TarBytes(append(files, Regular("manifest.json", 0o644, string(manifestJSON))))
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}
