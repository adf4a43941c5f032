package image

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of Docker's image manifest version 2, schema 1 and 2 (distribution/docs/spec/manifest-v2-{1,2}.md).
const (
	dockerIndex       = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest    = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig      = "application/vnd.docker.container.image.v1+json"
	dockerLayer       = "application/vnd.docker.image.rootfs.diff.tar"
	dockerForeign     = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	dockerSchema1     = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSchema1Sign = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	ociForeign        = "application/vnd.oci.image.layer.nondistributable.v1.tar"
)

func isIndex(t string) bool    { return t == ocispec.MediaTypeImageIndex || t == dockerIndex }
func isManifest(t string) bool { return t == ocispec.MediaTypeImageManifest || t == dockerManifest }
func isSchema1(t string) bool  { return t == dockerSchema1 || t == dockerSchema1Sign }
func isConfig(t string) bool   { return t == ocispec.MediaTypeImageConfig || t == dockerConfig }
func isForeign(t string) bool {
	return strings.HasPrefix(t, dockerForeign) || strings.HasPrefix(t, ociForeign)
}
func isLayer(t string) bool {
	_, ok := compressions[t]
	return ok
}

type compression uint8

const (
	plain compression = iota
	gzipped
	zstded
)

// compressions of all layers we can unpack.
var compressions = map[string]compression{
	ocispec.MediaTypeImageLayer:     plain,
	ocispec.MediaTypeImageLayerGzip: gzipped,
	ocispec.MediaTypeImageLayerZstd: zstded,
	dockerLayer:                     plain,
	dockerLayer + ".gzip":           gzipped,
	dockerLayer + ".zstd":           zstded,
}

// checkLayer refuses what cannot be unpacked. Only images for Windows have a reason for foreign layers: Microsoft's base images, before 2023.
func checkLayer(d ocispec.Descriptor, os string) error {
	switch {
	case isForeign(d.MediaType) && os != "windows":
		return fmt.Errorf("layer %s is foreign (%s): it is not in the registry, and Slipway fetches nothing from elsewhere but for images of Windows; push the image with its layers included: %w",
			d.Digest, d.MediaType, errdefs.ErrNotImplemented)
	case !isLayer(d.MediaType) && !isLayer(distributable(d.MediaType)):
		return fmt.Errorf("layer %s has media type %.200q, which cannot be unpacked: %w", d.Digest, d.MediaType, errdefs.ErrNotImplemented)
	}
	return nil
}

// distributable is the media type that a foreign layer would have in a registry.
func distributable(t string) string {
	return strings.Replace(strings.Replace(t, dockerForeign, dockerLayer, 1), ociForeign, ocispec.MediaTypeImageLayer, 1)
}

func errSchema1(what string) error {
	return fmt.Errorf("%s is a Docker schema 1 manifest, which no current registry makes: push the image again with Docker 1.10 or later, or convert it with \"skopeo copy --format v2s2\": %w",
		what, errdefs.ErrNotImplemented)
}

// kind is what to call a blob in messages.
func kind(mediaType string) string {
	switch {
	case isIndex(mediaType):
		return "index"
	case isManifest(mediaType):
		return "manifest"
	case isConfig(mediaType):
		return "config"
	case isLayer(mediaType), isForeign(mediaType):
		return "layer"
	}
	return "blob"
}
