package image

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image/reference"
)

// savedImage is an entry of docker save's manifest.json (moby image/spec v1.2, "Combined Image JSON + Filesystem Changeset Format").
type savedImage struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"`
}

// dockerSave makes a manifest for each image of manifest.json; the archive has none of its own.
func (i *importer) dockerSave(ctx context.Context) ([]Imported, error) {
	var images []savedImage
	if err := json.Unmarshal(i.documents["manifest.json"], &images); err != nil {
		return nil, fmt.Errorf("manifest.json: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if len(images) > i.limits.Entries {
		return nil, fmt.Errorf("manifest.json names more than %d images: %w", i.limits.Entries, errdefs.ErrOutOfRange)
	}
	var found []Imported
	for _, img := range images {
		target, err := i.saved(ctx, img)
		if err != nil {
			return nil, fmt.Errorf("manifest.json: %w", err)
		}
		if len(img.RepoTags) == 0 {
			name, err := i.nameOf(target)
			if err != nil {
				return nil, err
			}
			found = append(found, Imported{Name: name, Target: target})
		}
		for _, tag := range img.RepoTags {
			ref, err := reference.Parse(tag)
			if err != nil {
				return nil, fmt.Errorf("manifest.json: %w", err)
			}
			found = append(found, Imported{Name: ref.String(), Target: target})
		}
	}
	return found, nil
}

func (i *importer) saved(ctx context.Context, img savedImage) (ocispec.Descriptor, error) {
	if len(img.Layers) > i.limits.Layers {
		return ocispec.Descriptor{}, fmt.Errorf("an image has %d layers, more than the %d allowed: %w", len(img.Layers), i.limits.Layers, errdefs.ErrOutOfRange)
	}
	config, err := i.file(img.Config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	config.MediaType = dockerConfig
	parsed, err := readConfig(ctx, i.store, config, i.limits.Config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	manifest := ocispec.Manifest{MediaType: dockerManifest, Config: config, Layers: []ocispec.Descriptor{}}
	manifest.SchemaVersion = 2
	for _, name := range img.Layers {
		layer, err := i.file(name)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		manifest.Layers = append(manifest.Layers, layer)
	}
	if len(parsed.RootFS.DiffIDs) != len(manifest.Layers) {
		return ocispec.Descriptor{}, fmt.Errorf("config %s has %d diff IDs for %d layers: %w", config.Digest, len(parsed.RootFS.DiffIDs), len(manifest.Layers), errdefs.ErrInvalidArgument)
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: dockerManifest, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := writeBlob(ctx, i.store, desc, data, ChildLabels(append([]ocispec.Descriptor{config}, manifest.Layers...))); err != nil {
		return ocispec.Descriptor{}, err
	}
	return desc, nil
}

// file finds a blob by its path, through links: older docker writes a layer that two images share once and links to it.
func (i *importer) file(name string) (ocispec.Descriptor, error) {
	at := name
	for range 8 {
		if d, ok := i.files[at]; ok {
			return d, nil
		}
		next, ok := i.links[at]
		if !ok {
			break
		}
		at = next
	}
	return ocispec.Descriptor{}, fmt.Errorf("the archive names %.200q but does not have it: %w", name, errdefs.ErrInvalidArgument)
}
