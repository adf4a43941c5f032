package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is a name in the daemon's image store.
type Image struct {
	Name      string
	Labels    map[string]string
	Target    ocispec.Descriptor
	CreatedAt time.Time
	UpdatedAt time.Time
}

// ImageDetail is an image resolved for one platform.
type ImageDetail struct {
	Image    Image
	Manifest ocispec.Descriptor
	Layers   []ocispec.Descriptor
	Config   ocispec.Image
	ConfigID digest.Digest
	ChainID  digest.Digest // names the snapshot of the topmost layer
	Size     int64         // bytes of config and layers as they are in the registry
}

// Image looks an image up by its full name; NotFound when there is none.
func (c *Client) Image(ctx context.Context, name string) (Image, error) {
	r, err := c.images.Get(ctx, &imagesapi.GetImageRequest{Name: name})
	if err != nil {
		return Image{}, err
	}
	return imageFromWire(r.Image), nil
}

// Images lists images that match any of the filters, in containerd's filter language; all without one.
func (c *Client) Images(ctx context.Context, filters ...string) ([]Image, error) {
	r, err := c.images.List(ctx, &imagesapi.ListImagesRequest{Filters: filters})
	if err != nil {
		return nil, err
	}
	out := make([]Image, len(r.Images))
	for i, img := range r.Images {
		out[i] = imageFromWire(img)
	}
	return out, nil
}

// DeleteImage removes the name. With sync it returns when what only this name held is gone from disk too.
func (c *Client) DeleteImage(ctx context.Context, name string, sync bool) error {
	_, err := c.images.Delete(ctx, &imagesapi.DeleteImageRequest{Name: name, Sync: sync})
	return err
}

// Detail reads an image's manifest and config for a platform (the host's when nil). NotFound when the image has none for it
// or its content is not here.
func (c *Client) Detail(ctx context.Context, img Image, platform platforms.MatchComparer) (ImageDetail, error) {
	if platform == nil {
		platform = platforms.Default()
	}
	desc, err := c.manifestFor(ctx, img.Target, platform)
	if err != nil {
		return ImageDetail{}, fmt.Errorf("cannot read image %s: %w", img.Name, err)
	}
	d := ImageDetail{Image: img, Manifest: desc}
	var m ocispec.Manifest
	if err := c.readJSON(ctx, desc, &m); err != nil {
		return d, fmt.Errorf("cannot read the manifest of image %s: %w", img.Name, err)
	}
	if err := c.readJSON(ctx, m.Config, &d.Config); err != nil {
		return d, fmt.Errorf("cannot read the config of image %s: %w", img.Name, err)
	}
	d.Layers, d.ConfigID, d.Size = m.Layers, m.Config.Digest, m.Config.Size
	for _, l := range m.Layers {
		d.Size += l.Size
	}
	if len(d.Config.RootFS.DiffIDs) > 0 {
		d.ChainID = identity.ChainID(d.Config.RootFS.DiffIDs)
	}
	return d, nil
}

// manifestFor follows an index to the best manifest that the platform takes.
func (c *Client) manifestFor(ctx context.Context, desc ocispec.Descriptor, platform platforms.MatchComparer) (ocispec.Descriptor, error) {
	switch desc.MediaType {
	case ocispec.MediaTypeImageIndex, "application/vnd.docker.distribution.manifest.list.v2+json":
	default:
		return desc, nil
	}
	var index ocispec.Index
	if err := c.readJSON(ctx, desc, &index); err != nil {
		return desc, err
	}
	best := ocispec.Descriptor{}
	for _, m := range index.Manifests {
		if m.Platform == nil || !platform.Match(*m.Platform) {
			continue
		}
		if best.Digest == "" || platform.Less(*m.Platform, *best.Platform) {
			best = m
		}
	}
	if best.Digest == "" {
		return desc, fmt.Errorf("it has no manifest for %s: %w", platforms.FormatAll(platforms.DefaultSpec()), errdefs.ErrNotFound)
	}
	return best, nil
}

// maxDocument bounds a manifest or config that is read into memory, in bytes.
const maxDocument = 8 << 20

func (c *Client) readJSON(ctx context.Context, desc ocispec.Descriptor, into any) error {
	if desc.Size > maxDocument {
		return fmt.Errorf("document %s has %d bytes, more than the %d allowed: %w", desc.Digest, desc.Size, maxDocument, errdefs.ErrInvalidArgument)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.content.Read(ctx, &contentapi.ReadContentRequest{Digest: desc.Digest.String(), Size: desc.Size})
	if err != nil {
		return err
	}
	var b []byte
	for int64(len(b)) <= desc.Size {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		b = append(b, r.Data...)
	}
	return json.Unmarshal(b, into)
}

func imageFromWire(i *imagesapi.Image) Image {
	return Image{
		Name: i.Name, Labels: i.Labels, Target: descriptorFromWire(i.Target),
		CreatedAt: i.CreatedAt.AsTime(), UpdatedAt: i.UpdatedAt.AsTime(),
	}
}

func descriptorFromWire(d *types.Descriptor) ocispec.Descriptor {
	if d == nil {
		return ocispec.Descriptor{}
	}
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: digest.Digest(d.Digest), Size: d.Size, Annotations: d.Annotations}
}
