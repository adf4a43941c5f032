package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image/reference"
	"github.com/slipwayd/slipway/image/registry"
)

// LazyLayers are Layers that can show a layer whose blob is still in its registry. Pull asks for each layer that is missing;
// those that are shown are not fetched.
type LazyLayers interface {
	Layers
	// Offer answers how to show a layer, or with its error why it must be pulled in full. It is called for all layers side by side.
	Offer(ctx context.Context, l Layer, remote *registry.Remote) (Offer, error)
	// OnItsWay says whether the layer is committed and shown, so that whoever wants to use it need not fetch its blob.
	OnItsWay(ctx context.Context, l Layer) (bool, error)
}

// Scout is what LazyLayers have that look for something beside an image's manifest before they offer anything.
type Scout interface {
	// Scout begins to look, while manifest, config and all that follows are fetched. It must not block. manifest has its annotations if
	// an index names it. done, when the pull ends, gives up what is still under way.
	Scout(ctx context.Context, remote *registry.Remote, manifest ocispec.Descriptor) (done func())
	// Foresee names the layers that will be asked for, while their config is fetched. It must not block.
	Foresee(ctx context.Context, remote *registry.Remote, layers []ocispec.Descriptor)
}

// Offer makes a staged layer show its files, in the place of Staged.Apply. It asks no network.
type Offer func(ctx context.Context, s Staged) error

// offers asks for all layers side by side; those for which nothing is offered are pulled.
func (u *unpacker) offers(ctx context.Context, steps []Layer) []Offer {
	out := make([]Offer, len(steps))
	lazy, ok := u.layers.(LazyLayers)
	if !ok || u.remote == nil || !lazy.Independent() {
		return out
	}
	var group sync.WaitGroup
	for i, l := range steps {
		group.Go(func() {
			if offer, err := lazy.Offer(ctx, l, u.remote); err == nil {
				out[i] = offer
			}
		})
	}
	group.Wait()
	return out
}

// here fetches the blob of a layer that is committed, unless it is on its way.
func (u *unpacker) here(ctx context.Context, l Layer) error {
	if lazy, ok := u.layers.(LazyLayers); ok && u.remote != nil {
		coming, err := lazy.OnItsWay(ctx, l)
		if err != nil {
			return fmt.Errorf("cannot see whether layer %s is on its way: %w", l.Desc.Digest, err)
		}
		if coming {
			u.part(l.Desc).Enter(Served)
			return nil
		}
	}
	return u.fetch(ctx, l.Desc, nil)
}

// FillOptions say which layer that was shown by an Offer is to be brought here.
type FillOptions struct {
	Ref      string // the image
	Registry *registry.Client
	Remote   registry.Options
	Store    Store
	Layer    Layer  // without DiffID when Staged checks what it gets
	Staged   Staged // what to unpack into
	Recorder Recorder
	// Near, when it is not nil, is asked for the blob before the registry is. Its stream may end early, and what then is missing comes
	// from the registry, as all does if it has an error or the bytes turn out to be wrong.
	Near func(ctx context.Context, off int64) (io.ReadCloser, error)
	// Pace is called before each piece of the blob is fetched, with the bytes of the last one, and may wait; nil for as fast as can be.
	Pace     func(ctx context.Context, n int) error
	Progress ProgressFunc
	Limits   Limits
}

// Fill fetches the blob of a layer, or takes what is in the store of it, unpacks and commits it. What was fetched of a blob when it
// failed is resumed by the next call.
func Fill(ctx context.Context, o FillOptions) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("cannot fill layer %s: %w", o.Layer.Desc.Digest, err), o.Staged.Abort(context.WithoutCancel(ctx)))
		}
	}()
	ref, err := reference.Parse(o.Ref)
	if err != nil {
		return err
	}
	remote, err := o.Registry.Remote(ref, o.Remote)
	if err != nil {
		return err
	}
	limits := o.Limits.withDefaults()
	f := fetcher{store: o.Store, remote: remote, limits: limits, pace: o.Pace, near: o.Near}
	progress := NewReporter(o.Progress).Part(refKey(o.Layer.Desc), "", o.Layer.Desc)
	u := &unpacker{store: o.Store, recorder: o.Recorder, limits: limits, name: ref.String()}
	u.fetch = func(ctx context.Context, d ocispec.Descriptor, to *pipe) error { return f.blob(ctx, d, to, progress) }
	if err := u.apply(ctx, o.Layer, o.Staged); err != nil {
		return err
	}
	return o.Staged.Commit(ctx)
}

// open streams a blob from off on, of the source that is near for as long as it delivers.
func (f *fetcher) open(ctx context.Context, d ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	far := func(off int64) (io.ReadCloser, error) { return f.remote.Fetch(ctx, d, off, -1) }
	if f.near == nil {
		return far(off)
	}
	near, err := f.near(ctx, off)
	if err != nil {
		return far(off)
	}
	return &nearFirst{body: near, far: far, at: off, end: d.Size}, nil
}

// nearFirst is a blob's stream that changes to its registry where another one ends early.
type nearFirst struct {
	body    io.ReadCloser
	far     func(off int64) (io.ReadCloser, error) // nil when body is the registry's
	at, end int64
}

func (r *nearFirst) Read(p []byte) (int, error) {
	if r.far == nil {
		return r.body.Read(p)
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.end-r.at)])
	if r.at += int64(n); r.at == r.end {
		return n, io.EOF
	}
	if err == nil {
		return n, nil
	}
	far := r.far
	r.far = nil
	body, err := far(r.at)
	if err != nil {
		return n, err
	}
	_ = r.body.Close()
	r.body = body
	return n, nil
}

func (r *nearFirst) Close() error { return r.body.Close() }
