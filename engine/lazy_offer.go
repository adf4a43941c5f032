package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/storage"
)

var _ image.Scout = imageLayers{}

// offerTime is how long may be looked for an index before a layer is pulled in full.
const offerTime = 15 * time.Second

// Offer implements image.LazyLayers.
func (l imageLayers) Offer(ctx context.Context, layer image.Layer, remote *registry.Remote) (image.Offer, error) {
	if l.lazy == nil {
		return nil, errNotLazy
	}
	ctx, cancel := context.WithTimeout(ctx, offerTime)
	defer cancel()
	x, err := l.index(ctx, layer, remote)
	if err != nil && l.streams(ctx, layer, remote, err) {
		x, err = storage.LayerIndex{Kind: storage.Stream, Origin: "nothing, it is read as it comes"}, nil
	}
	if err != nil {
		why := plainReason(layer.Desc.Digest, err)
		l.lazy.refuse(layer.Chain, why)
		if !errors.Is(err, errNotLazy) {
			l.s.e.publish(l.s.scope.Namespace, "/lazy/fallback", LazyFallback{Image: layer.Image, Layer: layer.Desc.Digest.String(),
				Snapshot: layer.Chain.String(), Reason: why})
		}
		return nil, err
	}
	return func(ctx context.Context, s image.Staged) error {
		return s.(*stagedLayer).attach(ctx, x, l.lazy.source(layer))
	}, nil
}

// streams says whether a layer without an index is served while it comes. The registry must serve ranges, which a byte shows: other
// readers than the first begin elsewhere.
func (l imageLayers) streams(ctx context.Context, layer image.Layer, remote *registry.Remote, why error) bool {
	if !l.s.e.lazy.Stream || !errdefs.IsNotFound(why) {
		return false
	}
	r, err := remote.WithRanges().Fetch(ctx, layer.Desc, layer.Desc.Size-1, 1)
	if err != nil {
		return false
	}
	n, err := io.Copy(io.Discard, r)
	return errors.Join(err, r.Close()) == nil && n == 1
}

var errNotLazy = errors.New("layers are pulled in full, as asked")

// plainReason is why a layer is not pulled lazily as people read it beside the layer's name: without that name, and without the kinds by
// which programs tell errors apart.
func plainReason(layer digest.Digest, err error) string {
	s := strings.NewReplacer(" of layer "+layer.String(), "", "layer "+layer.String(), "it", "\n", "; ").Replace(err.Error())
	for _, kind := range []error{errdefs.ErrNotFound, errdefs.ErrNotImplemented, errdefs.ErrInvalidArgument, errdefs.ErrOutOfRange, errdefs.ErrUnavailable,
		errdefs.ErrDataLoss, errdefs.ErrFailedPrecondition} {
		s = strings.NewReplacer("; "+kind.Error()+"; ", "; ", ": "+kind.Error()+"; ", "; ").Replace(s)
		s = strings.TrimSuffix(strings.TrimSuffix(s, "; "+kind.Error()), ": "+kind.Error())
	}
	return fmt.Sprintf("%.1000s", s)
}

// Foresee implements image.Scout.
func (l imageLayers) Foresee(ctx context.Context, remote *registry.Remote, layers []ocispec.Descriptor) {
	if l.serves() {
		for _, d := range layers {
			l.locate(ctx, d, remote)
		}
	}
}

// serves says whether this pull leaves any layers where they are.
func (l imageLayers) serves() bool {
	_, ok := l.s.driver.(storage.Lazy)
	return ok && l.lazy != nil && l.lazy.mode != LazyNever
}

// located is what a layer's blob says of itself.
type located struct {
	done chan struct{} // closed when the rest is valid
	x    storage.LayerIndex
	err  error
}

// locate begins to look into a layer's blob, once.
func (l imageLayers) locate(ctx context.Context, d ocispec.Descriptor, remote *registry.Remote) *located {
	p := l.lazy
	p.mu.Lock()
	defer p.mu.Unlock()
	z := p.located[d.Digest]
	if z == nil {
		z = &located{done: make(chan struct{})}
		p.located[d.Digest] = z
		p.under.Go(func() {
			defer close(z.done)
			ctx, cancel := context.WithTimeout(ctx, offerTime)
			defer cancel()
			z.x, z.err = l.own(ctx, d, remote)
		})
	}
	return z
}

// index finds out what is where in a layer, or why that cannot be had.
func (l imageLayers) index(ctx context.Context, layer image.Layer, remote *registry.Remote) (storage.LayerIndex, error) {
	z := l.locate(ctx, layer.Desc, remote)
	select {
	case <-z.done:
	case <-ctx.Done():
		return storage.LayerIndex{}, ctx.Err()
	}
	if z.err == nil || !errdefs.IsNotFound(z.err) || l.s.e.indexes == nil {
		return z.x, z.err
	}
	x, err := l.lazy.begin(ctx, remote, layer.Manifest).Find(ctx, layer)
	if err != nil {
		err = fmt.Errorf("%w; %w", z.err, err)
	}
	return x, err
}

// own answers the table of contents of a layer's blob. NotFound when it has none.
func (l imageLayers) own(ctx context.Context, d ocispec.Descriptor, remote *registry.Remote) (x storage.LayerIndex, err error) {
	driver, ok := l.s.driver.(storage.Lazy)
	if !ok {
		return x, fmt.Errorf("snapshotter %s serves no layers that are not here", l.s.name)
	}
	if l.lazy.mode == LazyNever {
		return x, errNotLazy
	}
	if l.lazy.mode == LazyAuto && d.Size < l.s.e.lazy.Minimum {
		return x, fmt.Errorf("it is small: its %d bytes are here as soon as its index would be", d.Size)
	}
	if _, err := l.s.e.imageStore(l.s.scope).Info(ctx, d.Digest); err == nil {
		return x, errors.New("its blob was here before")
	}
	if err := driver.Available(ctx); err != nil {
		return x, err
	}
	return driver.Locate(ctx, d, remote.WithRanges())
}

// OnItsWay implements image.LazyLayers. A pull that is not to be lazy fetches what is on its way too.
func (l imageLayers) OnItsWay(ctx context.Context, layer image.Layer) (bool, error) {
	driver, ok := l.s.driver.(storage.Lazy)
	if !ok || l.lazy == nil || l.lazy.mode == LazyNever {
		return false, nil
	}
	snapshot, err := l.s.Stat(ctx, layer.Chain.String())
	if err != nil {
		return false, err
	}
	lazies, err := driver.Lazies(ctx, false)
	if err != nil {
		return false, err
	}
	for _, z := range lazies {
		if z.ID == snapshot.LayerID && !z.Filled {
			l.renew(ctx, driver, z, layer)
			return true, nil
		}
	}
	return false, nil
}

// renew has a layer that is on its way use the credentials of this pull: those of the one before may be good no more.
func (l imageLayers) renew(ctx context.Context, driver storage.Lazy, z storage.LazyLayer, layer image.Layer) {
	now := l.lazy.source(layer).Credentials
	if len(now) == 0 || maps.Equal(now, z.Source.Credentials) {
		return
	}
	if err := driver.Renew(ctx, z.ID, now); err != nil {
		l.s.e.log.Warn("a layer keeps its old credentials", "layer", layer.Desc.Digest, "err", err)
		return
	}
	l.s.e.filler.retry(layerKey{l.s.name, z.ID})
}
