package engine

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/storage"
)

// LazyLayer is a layer of an image that was pulled lazily, or could have been.
type LazyLayer struct {
	storage.LazyLayer
	Snapshotter, Snapshot string
	Namespace             string
	Err                   error // why it has not arrived, if that was tried
}

// LazyLayers lists the layers of a namespace that are served, or still are for containers that began before they arrived.
func (e *Engine) LazyLayers(ctx context.Context, namespace string) ([]LazyLayer, error) {
	var out []LazyLayer
	for name, driver := range e.drivers {
		lazy, ok := driver.(storage.Lazy)
		if !ok {
			continue
		}
		layers, err := lazy.Lazies(ctx, true)
		if err != nil {
			return nil, err
		}
		if len(layers) == 0 {
			continue
		}
		owners, err := view(ctx, e, func(tx *metadata.Tx) (map[string]metadata.Owner, error) { return tx.LayerIDs(name) })
		if err != nil {
			return nil, err
		}
		for _, l := range layers {
			if owner, ok := owners[l.ID]; ok && owner.Namespace == namespace {
				out = append(out, LazyLayer{l, name, owner.Name, owner.Namespace, e.filler.lastError(layerKey{name, l.ID})})
			}
		}
	}
	return out, nil
}

// WaitLazy hurries the layers of an image that are on their way, and waits for them. NotFound when there is no such image.
func (e *Engine) WaitLazy(ctx context.Context, namespace, name string) error {
	img, err := e.GetImage(ctx, namespace, name)
	if err != nil {
		return err
	}
	return e.arrived(ctx, Scope{Namespace: namespace}, img.Target)
}

// arrived hurries what is on its way of an image, and waits for it.
func (e *Engine) arrived(ctx context.Context, sc Scope, target ocispec.Descriptor) error {
	all, err := e.filler.list(ctx)
	if err != nil || len(all) == 0 {
		return err
	}
	wanted := map[digest.Digest]bool{}
	if err := e.collectBlobs(ctx, sc, target, wanted, maxIndexDepth); err != nil {
		return err
	}
	err = e.filler.hurryAll(ctx, func(l fillable) bool {
		return l.owner.Namespace == sc.Namespace && wanted[l.layer.Source.Descriptor.Digest]
	})
	if err != nil {
		return fmt.Errorf("cannot wait for what is still in its registry: %w", err)
	}
	return nil
}

// maxIndexDepth is how deep indexes may be nested.
const maxIndexDepth = 4

// collectBlobs adds the digests of all that an image names and whose names are here.
func (e *Engine) collectBlobs(ctx context.Context, sc Scope, d ocispec.Descriptor, to map[digest.Digest]bool, depth int) error {
	if to[d.Digest] || depth == 0 {
		return nil
	}
	to[d.Digest] = true
	children, err := image.Children(ctx, e.Content(sc), d)
	if errdefs.IsNotFound(err) {
		return nil // another platform's
	}
	if err != nil {
		return err
	}
	for _, c := range children {
		if err := e.collectBlobs(ctx, sc, c, to, depth-1); err != nil {
			return err
		}
	}
	return nil
}
