package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/image/reference"
	"github.com/slipwayd/slipway/image/registry"
)

// Push uploads an image from the store. Blobs that the registry has are not sent, and those it has in another repository
// are mounted from there. Manifests follow their blobs, so that nobody finds an image in part.
//
// Without Platforms and AllPlatforms, an index of which some images are not here is pushed as the one image that is for the
// host, as docker does. NotFound when a blob that is to be pushed is not here.
func Push(ctx context.Context, o PushOptions) error {
	ref, err := reference.Parse(o.Ref)
	if err != nil {
		return err
	}
	remote, err := o.Registry.Remote(ref, o.Remote)
	if err != nil {
		return fmt.Errorf("cannot push %s: %w", ref, err)
	}
	p := &pusher{store: o.Store, remote: remote, limits: o.Limits.withDefaults(), report: NewReporter(o.Progress), name: ref.String()}
	target, err := p.target(ctx, o)
	if err == nil {
		err = p.push(ctx, target, ref.Tag)
	}
	if err != nil {
		return fmt.Errorf("cannot push %s: %w", ref, err)
	}
	return nil
}

type pusher struct {
	store  Store
	remote *registry.Remote
	limits Limits
	report *Reporter
	name   string
}

// target is what to push of the image: all of it, or one platform's manifest.
func (p *pusher) target(ctx context.Context, o PushOptions) (ocispec.Descriptor, error) {
	if isManifest(o.Target.MediaType) || o.AllPlatforms {
		return o.Target, nil
	}
	if len(o.Platforms) > 1 {
		return ocispec.Descriptor{}, fmt.Errorf("several platforms, but not all, cannot be pushed under one name: %w", errdefs.ErrInvalidArgument)
	}
	if len(o.Platforms) == 0 {
		whole, err := complete(ctx, p.store, o.Target, p.limits)
		if whole || err != nil {
			return o.Target, err
		}
	}
	want := hostPlatform()
	if len(o.Platforms) == 1 {
		want = platforms.Normalize(o.Platforms[0])
	}
	desc, _, err := Manifest(ctx, p.store, o.Target, &want)
	return desc, err
}

// complete reports whether everything that target leads to is here.
func complete(ctx context.Context, s Store, target ocispec.Descriptor, limits Limits) (bool, error) {
	missing := errors.New("missing")
	err := walk(ctx, s, target, limits, func(d ocispec.Descriptor, _ *document) error {
		_, err := s.Info(ctx, d.Digest)
		if errdefs.IsNotFound(err) {
			return missing
		}
		return err
	})
	if err == missing {
		return false, nil
	}
	return err == nil, err
}

func (p *pusher) push(ctx context.Context, target ocispec.Descriptor, tag string) error {
	top := p.report.Part(p.name, "", target)
	top.Enter(Uploading)
	var blobs, documents []ocispec.Descriptor
	err := walk(ctx, p.store, target, p.limits, func(d ocispec.Descriptor, doc *document) error {
		if doc != nil {
			documents = append(documents, d)
		} else if isIndex(d.MediaType) || isManifest(d.MediaType) {
			return fmt.Errorf("manifest %s is not here; pull it for all platforms, or push one platform: %w", d.Digest, errdefs.ErrNotFound)
		} else if !isForeign(d.MediaType) {
			blobs = append(blobs, d)
		}
		return nil
	})
	if err != nil {
		return err
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(p.limits.Parallel)
	for _, d := range blobs {
		group.Go(func() error { return p.blob(gctx, d, target) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i := len(documents) - 1; i >= 0; i-- { // walk has parents first
		d, name := documents[i], ""
		if i == 0 {
			name = tag
		}
		if err := p.remote.PushManifest(ctx, d, name, p.open(ctx, d, p.report.Part(refKey(d), "", d))); err != nil {
			return err
		}
	}
	top.Enter(Done)
	return nil
}

func (p *pusher) blob(ctx context.Context, d, parent ocispec.Descriptor) error {
	part := p.report.Part(refKey(d), parent.Digest, d)
	part.Enter(Waiting)
	here, err := p.remote.Exists(ctx, d)
	if err != nil {
		return err
	}
	if here {
		part.Enter(Exists)
		return nil
	}
	labels, err := p.store.Labels(ctx, d.Digest)
	if err != nil {
		return fmt.Errorf("cannot read the labels of blob %s: %w", d.Digest, err)
	}
	ref := p.remote.Ref()
	for from := range strings.SplitSeq(labels["containerd.io/distribution.source."+ref.Host], ",") {
		if from == "" || from == ref.Repository {
			continue
		}
		mounted, err := p.remote.Mount(ctx, d, from)
		if err != nil {
			return err
		}
		if mounted {
			part.Enter(Exists)
			return nil
		}
	}
	part.Enter(Uploading)
	if err := p.remote.PushBlob(ctx, d, p.open(ctx, d, part)); err != nil {
		return err
	}
	part.Enter(Done)
	return nil
}

// open yields a blob's bytes anew at each call.
func (p *pusher) open(ctx context.Context, d ocispec.Descriptor, part *Part) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		ra, err := p.store.ReaderAt(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("cannot open blob %s: %w", d.Digest, err)
		}
		return &blobReader{Reader: &counted{r: io.NewSectionReader(ra, 0, ra.Size()), ctx: ctx, progress: part}, ra: ra}, nil
	}
}

type blobReader struct {
	io.Reader
	ra content.ReaderAt
}

func (b *blobReader) Close() error { return b.ra.Close() }
