package image

import (
	"context"
	"io"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
)

// What this package knows of documents and blobs, for package convert.

// IsIndex and IsManifest tell what a media type is of, OCI's or Docker's; IsForeign, whether a layer is one that registries
// do not have.
func IsIndex(mediaType string) bool    { return isIndex(mediaType) }
func IsManifest(mediaType string) bool { return isManifest(mediaType) }
func IsConfig(mediaType string) bool   { return isConfig(mediaType) }
func IsLayer(mediaType string) bool    { return isLayer(mediaType) }
func IsForeign(mediaType string) bool  { return isForeign(mediaType) }

// PlainLayer answers the OCI media type for a layer that is compressed as one of mediaType is.
func PlainLayer(mediaType string) string {
	switch compressions[mediaType] {
	case gzipped:
		return ocispec.MediaTypeImageLayerGzip
	case zstded:
		return ocispec.MediaTypeImageLayerZstd
	}
	return ocispec.MediaTypeImageLayer
}

// ReadDocument reads an index or manifest, checked, with what it names. NotFound when it is not here.
func ReadDocument(ctx context.Context, p content.Provider, desc ocispec.Descriptor) ([]byte, []ocispec.Descriptor, error) {
	data, err := readBlob(ctx, p, desc, defaultManifest)
	if err != nil {
		return nil, nil, err
	}
	doc, err := parseDocument(desc, data)
	return data, doc.children(), err
}

// ReadConfig reads an image's configuration, checked. NotFound when it is not here.
func ReadConfig(ctx context.Context, p content.Provider, desc ocispec.Descriptor) ([]byte, ocispec.Image, error) {
	data, err := readBlob(ctx, p, desc, defaultConfig)
	if err != nil {
		return nil, ocispec.Image{}, err
	}
	img, err := parseConfig(desc, data)
	return data, img, err
}

// WriteBlob stores bytes that are known to be desc's. A blob that is there already gets the labels too.
func WriteBlob(ctx context.Context, s Store, desc ocispec.Descriptor, data []byte, labels map[string]string) error {
	_, err := s.Info(ctx, desc.Digest)
	if err == nil {
		return s.SetLabels(ctx, desc.Digest, labels)
	}
	if !errdefs.IsNotFound(err) {
		return err
	}
	return writeBlob(ctx, s, desc, data, labels)
}

// Decompress undoes the compression that the first bytes of r tell of, none too. The caller closes it.
func Decompress(r io.Reader) (io.ReadCloser, error) { return decompressor(r) }
