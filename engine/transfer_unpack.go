package engine

import (
	"context"

	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/metadata"
)

// ImageDetail is what an image's documents say of the host's platform.
type ImageDetail struct {
	Image   metadata.Image
	Config  ocispec.Image
	ID      string // digest of the config, which CRI and docker call the image's ID
	ChainID string // name of the snapshot of its layers, once they are unpacked
	Size    int64  // bytes of its blobs that are here
}

// ImageDetail reads the documents of an image for the host's platform.
func (e *Engine) ImageDetail(ctx context.Context, sc Scope, img metadata.Image) (ImageDetail, error) {
	config, desc, err := image.Config(ctx, e.Content(sc), img.Target, nil)
	if err != nil {
		return ImageDetail{}, err
	}
	size, err := image.Usage(ctx, e.imageStore(sc), img.Target)
	return ImageDetail{
		Image: img, Config: config, ID: desc.Digest.String(), ChainID: identity.ChainID(config.RootFS.DiffIDs).String(), Size: size,
	}, err
}

// Unpack unpacks an image that is here into a storage driver ("" for the default); layers that are there already take no time.
func (e *Engine) Unpack(ctx context.Context, sc Scope, img metadata.Image, u Unpack) error {
	sc, release, err := e.transferScope(ctx, sc)
	if err != nil {
		return err
	}
	defer release()
	return e.unpack(ctx, sc, img.Name, img.Target, u, nil)
}
