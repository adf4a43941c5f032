package engine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/image/convert"
	"github.com/slipwayd/slipway/metadata"
)

// ConvertOptions says which image to convert and how.
type ConvertOptions struct {
	Source, Target string // names of records; Target is made, or gets the new image
	Format         convert.Format
	Platforms      []ocispec.Platform // empty for all that are here whole
	First          []string           // files that starts need, in order
	FirstProfiled  bool               // as First, those that recorded starts of Source have read
	Progress       image.ProgressFunc
}

// Converted is the record of a converted image.
type Converted struct {
	Image metadata.Image
	Kept  map[digest.Digest]string // layers that stayed as they were, and why
}

// Convert makes an image whose layers can be read before they are here whole, and records it. One that was cut short is
// resumed by the next: layers that are done are found while the lease holds them.
func (e *Engine) Convert(ctx context.Context, sc Scope, o ConvertOptions) (Converted, error) {
	sc, release, err := e.transferScope(ctx, sc)
	if err != nil {
		return Converted{}, err
	}
	defer release()
	img, err := e.GetImage(ctx, sc.Namespace, o.Source)
	if err != nil {
		return Converted{}, err
	}
	if err := e.arrived(ctx, sc, img.Target); err != nil { // what was pulled lazily is all needed now
		return Converted{}, err
	}
	if o.FirstProfiled {
		if o.First, err = e.startFiles(ctx, sc.Namespace, o.Source); err != nil {
			return Converted{}, err
		}
	}
	temp := filepath.Join(e.root, "convert")
	if err := os.MkdirAll(temp, 0o700); err != nil {
		return Converted{}, fmt.Errorf("cannot make a directory to convert in: %w", err)
	}
	r, err := convert.Convert(ctx, convert.Options{
		Store: e.imageStore(sc), Target: img.Target, Format: o.Format, Platforms: o.Platforms, First: o.First, TempDir: temp, Progress: o.Progress,
	})
	if err != nil {
		return Converted{}, err
	}
	made, err := e.recordImages(ctx, sc, []metadata.Image{{Name: o.Target, Target: r.Target}})
	if err != nil {
		return Converted{}, err
	}
	return Converted{Image: made[0], Kept: r.Kept}, nil
}
