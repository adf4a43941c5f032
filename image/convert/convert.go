// Package convert turns the layers of an image into eStargz or zstd:chunked, so that they can be read before they are here
// whole, by Slipway as by others.
//
// It owns both formats' writing: what goes into which piece, the tables of contents, and the documents of the image made
// anew around the layers. The same image gives the same digests on every machine and at every time. Of a layer nothing is
// held but a few pieces and the table. A layer that a table could not describe truly (sparse files, names that are not
// UTF-8, entries that replace what others depend on) stays as it is. It imports package image and content, and no driver;
// image records are the caller's.
//
// What a crash leaves: blobs that the caller's lease holds, which a repeated conversion finds by a label on the layers they
// were made of, and an ingest that it begins anew.
package convert

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipwayd/slipway/image"
)

// Format of layers.
type Format string

const (
	EStargz     Format = "estargz"      // gzip; a file is added to each layer, so diff IDs change
	ZstdChunked Format = "zstd:chunked" // zstd; diff IDs stay
)

// States of a layer besides those of package image.
const (
	Converting image.State = "converting"
	Kept       image.State = "kept" // as it was: it does not fit into the format
)

// Options says what to convert.
type Options struct {
	Store  image.Store // required; has all blobs of what is converted
	Target ocispec.Descriptor
	Format Format
	// Platforms to convert of an index, the others are left out; empty for all that are here whole.
	Platforms []ocispec.Platform
	// First are the files that a start of the image needs, in order: absolute paths in its root file system. They come first
	// in their layers, with a mark that readers fetch up to before they mount. EStargz only.
	First []string
	// TempDir is for the content of those files while a layer is converted; empty for the system's.
	TempDir  string
	Progress image.ProgressFunc // of layers; Offset is of the layer that is converted
}

// Result is what became of an image.
type Result struct {
	Target ocispec.Descriptor
	Kept   map[digest.Digest]string // layers that stayed as they are, and why
}

// Convert makes the image's converted twin in the store, where the store's lease holds it. NotFound when it has none of the
// platforms or blobs of it are not here, InvalidArgument when it is no image, Canceled when ctx ends; then nothing is left
// but blobs that only the lease holds.
func Convert(ctx context.Context, o Options) (Result, error) {
	c := &converter{Options: o, report: image.NewReporter(o.Progress), kept: map[digest.Digest]string{}}
	switch {
	case o.Format == ZstdChunked && len(o.First) > 0:
		return Result{}, fmt.Errorf("files can be put first in %s only: %w", EStargz, errdefs.ErrInvalidArgument)
	case o.Format == ZstdChunked:
		var err error
		if c.encoder, err = newEncoder(); err != nil {
			return Result{}, fmt.Errorf("cannot begin to compress: %w", err)
		}
		defer c.encoder.Close()
	case o.Format != EStargz:
		return Result{}, fmt.Errorf("unknown format %.100q: %w", o.Format, errdefs.ErrInvalidArgument)
	}
	target, err := c.run(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("cannot convert %s: %w", o.Target.Digest, err)
	}
	return Result{Target: target, Kept: c.kept}, nil
}

// converter is one conversion.
type converter struct {
	Options
	report  *image.Reporter
	encoder *zstd.Encoder // for ZstdChunked

	mu   sync.Mutex
	kept map[digest.Digest]string
}

func (c *converter) run(ctx context.Context) (ocispec.Descriptor, error) {
	root, err := c.read(ctx, c.Target, maxDepth)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if root == nil {
		return ocispec.Descriptor{}, fmt.Errorf("no image in it is here whole, or none for the platforms; pull it first: %w", errdefs.ErrNotFound)
	}
	jobs := map[string]*job{}
	if err := c.plan(ctx, root, jobs); err != nil {
		return ocispec.Descriptor{}, err
	}
	group, layersCtx := errgroup.WithContext(ctx)
	group.SetLimit(min(4, runtime.GOMAXPROCS(0)))
	for _, j := range jobs {
		group.Go(func() error {
			if err := c.convert(layersCtx, j); err != nil {
				return fmt.Errorf("layer %s: %w", j.desc.Digest, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return ocispec.Descriptor{}, err
	}
	return c.write(ctx, root)
}

func (c *converter) keep(d digest.Digest, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept[d] = why
}
