// Package ociimage builds small images in memory, for tests, demo and benchmarks: layers out of tar entries, compressed or
// not, in OCI's or Docker's manifests, alone or in an index of platforms. The same input gives the same digests.
//
//	img := ociimage.Image{Layers: []ociimage.Layer{{Files: []ociimage.File{
//		ociimage.Dir("etc", 0o755),
//		ociimage.Regular("etc/motd", 0o644, "hello\n"),
//		ociimage.Symlink("etc/issue", "motd"),
//	}}}}
//	built, err := img.Build()      // blobs by digest, and the descriptor of the manifest
//	err = built.WriteLayout(w, "docker.io/library/motd:latest") // a tar for import
//
// It touches no disk (but for Busybox, which reads the host's) and imports nothing of the product.
package ociimage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Format is the family of media types of an image.
type Format int

const (
	OCI    Format = iota // image-spec 1.1
	Docker               // "Image Manifest V 2, Schema 2"
)

// Docker's media types, from distribution's "Image Manifest V 2, Schema 2".
const (
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig   = "application/vnd.docker.container.image.v1+json"
	DockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
)

// Image is what an image is built from. The zero value is an image without layers for this host.
type Image struct {
	Layers      []Layer // the base first
	Config      ocispec.ImageConfig
	Platform    ocispec.Platform // linux and this host's architecture when empty
	Format      Format
	Annotations map[string]string // of the manifest
}

// Index is several images in one, told apart by their platform. Its images must be of its format.
type Index struct {
	Images      []Image
	Format      Format
	Annotations map[string]string
}

// Blob is a manifest, config or layer.
type Blob struct {
	MediaType string
	Data      []byte
}

// Built is a finished image or index.
type Built struct {
	Root  ocispec.Descriptor // of the manifest or index
	Blobs map[digest.Digest]Blob
	// Manifests holds those of an index, in order; of an image alone, its own.
	Manifests []ocispec.Descriptor
	// Layers holds the layers of all images, in order; DiffIDs the digests of their uncompressed forms.
	Layers  []ocispec.Descriptor
	DiffIDs []digest.Digest
}

func (b *Built) add(mediaType string, data []byte) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	b.Blobs[desc.Digest] = Blob{MediaType: mediaType, Data: data}
	return desc
}

func (b *Built) addJSON(mediaType string, v any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	return b.add(mediaType, data), err
}

// Build makes the image's layers, config and manifest.
func (i Image) Build() (*Built, error) {
	b := &Built{Blobs: make(map[digest.Digest]Blob)}
	root, err := i.build(b)
	if err != nil {
		return nil, fmt.Errorf("cannot build image: %w", err)
	}
	b.Root, b.Manifests = root, []ocispec.Descriptor{root}
	return b, nil
}

func (i Image) platform() ocispec.Platform {
	p := i.Platform
	if p.OS == "" {
		p.OS = "linux"
	}
	if p.Architecture == "" {
		p.Architecture = runtime.GOARCH
	}
	return p
}

func (i Image) build(b *Built) (ocispec.Descriptor, error) {
	manifestType, configType := ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig
	if i.Format == Docker {
		manifestType, configType = DockerManifest, DockerConfig
	}
	config := ocispec.Image{
		Platform: i.platform(),
		Created:  &Epoch,
		Config:   i.Config,
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}},
	}
	manifest := ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   manifestType,
		Layers:      []ocispec.Descriptor{},
		Annotations: i.Annotations,
	}
	for n, l := range i.Layers {
		raw, packed, mediaType, err := l.build(i.Format)
		if err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("layer %d: %w", n, err)
		}
		desc := b.add(mediaType, packed)
		desc.Annotations, desc.URLs = l.Annotations, l.URLs
		diffID := digest.FromBytes(raw)
		if l.DiffID != "" {
			diffID = l.DiffID
		}
		manifest.Layers = append(manifest.Layers, desc)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
		config.History = append(config.History, ocispec.History{CreatedBy: "ociimage"})
	}
	b.Layers = append(b.Layers, manifest.Layers...)
	b.DiffIDs = append(b.DiffIDs, config.RootFS.DiffIDs...)
	var err error
	if manifest.Config, err = b.addJSON(configType, config); err != nil {
		return ocispec.Descriptor{}, err
	}
	return b.addJSON(manifestType, manifest)
}

// Build makes the index and its images.
func (x Index) Build() (*Built, error) {
	b := &Built{Blobs: make(map[digest.Digest]Blob)}
	indexType := ocispec.MediaTypeImageIndex
	if x.Format == Docker {
		indexType = DockerList
	}
	for _, img := range x.Images {
		if img.Format != x.Format {
			return nil, fmt.Errorf("cannot build index: the image for %s is of another format", img.platform().OS)
		}
		desc, err := img.build(b)
		if err != nil {
			return nil, fmt.Errorf("cannot build image of index: %w", err)
		}
		platform := img.platform()
		desc.Platform = &platform
		b.Manifests = append(b.Manifests, desc)
	}
	var err error
	b.Root, err = b.addJSON(indexType, ocispec.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   indexType,
		Manifests:   b.Manifests,
		Annotations: x.Annotations,
	})
	return b, err
}

// Bytes is the blob that desc names; nil when it is none of this image.
func (b *Built) Bytes(desc ocispec.Descriptor) []byte {
	return bytes.Clone(b.Blobs[desc.Digest].Data)
}
