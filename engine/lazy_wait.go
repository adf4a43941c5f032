package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/storage"
)

// Modes of a layer.
const (
	ModeLazy    = "lazy"    // in its registry, and served
	ModeArrived = "arrived" // was pulled lazily and is here
	ModeFull    = "full"    // was pulled in full
	ModeAbsent  = "absent"  // not unpacked
)

// ImageLayer is how one layer of an image is here.
type ImageLayer struct {
	Desc        ocispec.Descriptor
	Chain       digest.Digest
	Snapshotter string
	Mode        string             // one of those above
	Reason      string             // why it is not lazy
	Index       string             // kind of its index, if it is or was lazy
	Lazy        *storage.LazyLayer // how it is read, while it is served
	Err         error              // why it has not arrived, if that was tried
}

// ImageLayers tells how the layers of an image, for the host's platform, are here, in the default snapshotter. NotFound when there is no such image.
func (e *Engine) ImageLayers(ctx context.Context, namespace, name string) ([]ImageLayer, error) {
	img, err := e.GetImage(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	sc := Scope{Namespace: namespace}
	_, manifest, err := image.Manifest(ctx, e.Content(sc), img.Target, nil)
	if err != nil {
		return nil, err
	}
	_, config, err := image.ReadConfig(ctx, e.Content(sc), manifest.Config)
	if err != nil {
		return nil, err
	}
	s, err := e.Snapshots(sc, e.defaultDriver)
	if err != nil {
		return nil, err
	}
	served := map[string]*storage.LazyLayer{}
	if lazy, ok := s.driver.(storage.Lazy); ok {
		all, err := lazy.Lazies(ctx, true)
		if err != nil {
			return nil, err
		}
		for i := range all {
			e.filler.counted(e.defaultDriver, &all[i])
			served[all[i].ID] = &all[i]
		}
	}
	var out []ImageLayer
	for i, chain := range image.ChainIDs(config.RootFS.DiffIDs) {
		if i < len(manifest.Layers) {
			l, err := s.imageLayer(ctx, manifest.Layers[i], chain, served)
			if err != nil {
				return nil, err
			}
			out = append(out, l)
		}
	}
	return out, nil
}

func (s *Snapshots) imageLayer(ctx context.Context, desc ocispec.Descriptor, chain digest.Digest, served map[string]*storage.LazyLayer) (ImageLayer, error) {
	l := ImageLayer{Desc: desc, Chain: chain, Snapshotter: s.name, Mode: ModeAbsent}
	snapshot, err := s.Stat(ctx, chain.String())
	if errdefs.IsNotFound(err) {
		return l, nil
	}
	if err != nil {
		return l, err
	}
	l.Index, l.Reason = snapshot.Labels[LabelLazyIndex], snapshot.Labels[LabelLazyReason]
	l.Lazy, l.Err = served[snapshot.LayerID], s.e.filler.lastError(layerKey{s.name, snapshot.LayerID})
	switch {
	case l.Lazy != nil && !l.Lazy.Filled:
		l.Mode = ModeLazy
	case l.Index != "":
		l.Mode = ModeArrived
	default:
		l.Mode = ModeFull
	}
	return l, nil
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

// arrivedBlob hurries the layer with that blob, if it is on its way, and waits for it.
func (e *Engine) arrivedBlob(ctx context.Context, namespace string, dgst digest.Digest) error {
	return e.filler.hurryAll(ctx, func(l fillable) bool {
		return l.owner.Namespace == namespace && l.layer.Source.Descriptor.Digest == dgst
	})
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

// here waits until all of a snapshot is here, for what layers that are served cannot do.
func (s *Snapshots) here(ctx context.Context, key string) error {
	layer, err := s.layer(ctx, key)
	if err != nil {
		return err
	}
	ids := append([]string{layer.ID}, layer.Parents...)
	err = s.e.filler.hurryAll(ctx, func(l fillable) bool { return l.key.driver == s.name && slices.Contains(ids, l.key.id) })
	if err != nil {
		return fmt.Errorf("cannot wait for what is still in its registry: %w", err)
	}
	return nil
}
