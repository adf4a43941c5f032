package engine

import (
	"context"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/metadata"
)

// PushOptions says which image to push and where to.
type PushOptions struct {
	Image     string // name of the record
	Ref       string // where to
	Remote    registry.Options
	Platforms []ocispec.Platform // empty for all that is here
	Progress  image.ProgressFunc
}

// Push sends a recorded image to a registry.
func (e *Engine) Push(ctx context.Context, sc Scope, o PushOptions) error {
	sc, release, err := e.transferScope(ctx, sc)
	if err != nil {
		return err
	}
	defer release()
	img, err := e.GetImage(ctx, sc.Namespace, o.Image)
	if err != nil {
		return err
	}
	if err := e.arrived(ctx, sc, img.Target); err != nil {
		return err
	}
	return image.Push(ctx, image.PushOptions{
		Ref: o.Ref, Registry: e.registry, Remote: o.Remote, Store: e.imageStore(sc), Target: img.Target,
		Platforms: o.Platforms, Progress: o.Progress,
	})
}

// ImportOptions says how to read an archive and how to record what it holds.
type ImportOptions struct {
	Platforms []ocispec.Platform // recorded images must have one of them; empty for any
	Unpacks   []Unpack
	// Records answers the image records for the images of the archive.
	Records  func([]image.Imported) ([]metadata.Image, error)
	Progress image.ProgressFunc
}

// Import reads an archive (OCI layout or docker save), unpacks its images as asked and records them.
func (e *Engine) Import(ctx context.Context, sc Scope, archive io.Reader, o ImportOptions) ([]metadata.Image, error) {
	sc, release, err := e.transferScope(ctx, sc)
	if err != nil {
		return nil, err
	}
	defer release()
	found, err := image.Import(ctx, archive, image.ImportOptions{Store: e.imageStore(sc), Progress: o.Progress})
	if err != nil {
		return nil, err
	}
	records, err := o.Records(found)
	if err != nil {
		return nil, err
	}
	for _, img := range records {
		for _, u := range o.Unpacks {
			if err := e.unpack(ctx, sc, img.Name, img.Target, u, o.Progress); err != nil {
				return nil, err
			}
		}
	}
	return e.recordImages(ctx, sc, records)
}

// ExportOptions says which images go into an archive.
type ExportOptions struct {
	Images           []string // names of records
	Platforms        []ocispec.Platform
	NoDockerManifest bool
}

// Export writes recorded images into an OCI archive.
func (e *Engine) Export(ctx context.Context, sc Scope, w io.Writer, o ExportOptions) error {
	sc, release, err := e.transferScope(ctx, sc)
	if err != nil {
		return err
	}
	defer release()
	var images []image.Imported
	for _, name := range o.Images {
		img, err := e.GetImage(ctx, sc.Namespace, name)
		if err != nil {
			return err
		}
		if err := e.arrived(ctx, sc, img.Target); err != nil {
			return err
		}
		images = append(images, image.Imported{Name: img.Name, Target: img.Target})
	}
	return image.Export(ctx, w, image.ExportOptions{
		Store: e.imageStore(sc), Images: images, Platforms: o.Platforms, NoDockerManifest: o.NoDockerManifest,
	})
}
