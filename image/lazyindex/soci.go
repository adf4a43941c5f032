package lazyindex

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
)

// SOCI's index (soci-snapshotter, docs/glossary.md and docs/soci-index-manifest-v2.md) is an image manifest whose layers are
// zTOCs. Version 1 has the image as its subject, and anybody who may push to the repository may write one. Of version 2 the image's
// manifest names the digest, so it is as much the image as its layers are.
const (
	sociV1 = "application/vnd.amazon.soci.index.v1+json"
	sociV2 = "application/vnd.amazon.soci.index.v2+json"

	sociAnnotation      = "com.amazon.soci.index-digest"       // of an image's manifest
	sociLayerAnnotation = "com.amazon.soci.image-layer-digest" // of a zTOC
)

// parseSOCI answers the zTOCs in an index by the layers that they are of.
func parseSOCI(data []byte, kind string, subject digest.Digest) (map[digest.Digest]ocispec.Descriptor, error) {
	if kind == sociV2 {
		subject = "" // it has none
	}
	m, err := parseManifest(data, kind, subject)
	if err != nil {
		return nil, err
	}
	ztocs := map[digest.Digest]ocispec.Descriptor{}
	for _, d := range m.Layers {
		layer := digest.Digest(d.Annotations[sociLayerAnnotation])
		if _, twice := ztocs[layer]; twice || layer.Validate() != nil {
			return nil, invalid("the SOCI index has a bad entry for layer %.100q", layer)
		}
		ztocs[layer] = d
	}
	return ztocs, nil
}

func (l *Lookup) ztoc(ctx context.Context, d ocispec.Descriptor, layer image.Layer) (storage.LayerIndex, error) {
	data, err := l.fetch(ctx, "application/octet-stream", blob{d.Digest, d.Size}, maxIndex(layer.Desc.Size))
	if err != nil {
		return storage.LayerIndex{}, fmt.Errorf("cannot fetch the layer's zTOC: %w", err)
	}
	x, err := index.FromZTOC(data, layer.Desc.Size, index.Limits{})
	if err != nil {
		return storage.LayerIndex{}, fmt.Errorf("the layer's zTOC is of no use: %w", err)
	}
	return storage.LayerIndex{Document: x.Marshal(), Kind: string(x.Kind()), Origin: "SOCI, " + d.Digest.String()}, nil
}
