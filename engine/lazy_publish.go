package engine

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/image/lazyindex"
	"github.com/slipwayd/slipway/image/reference"
	"github.com/slipwayd/slipway/image/registry"
)

// Scout implements image.Scout: it looks for indexes beside the image while its manifest is fetched.
func (l imageLayers) Scout(ctx context.Context, remote *registry.Remote, manifest ocispec.Descriptor) (done func()) {
	if l.lazy != nil && l.lazy.mode != LazyNever && l.s.e.indexes != nil {
		l.lazy.scout(ctx, remote, manifest)
	}
	return func() {} // the lookup ends with the pull
}

// scout begins to look beside a manifest, in the place of one that was looked at before and not chosen.
func (p *lazyPull) scout(ctx context.Context, remote *registry.Remote, manifest ocispec.Descriptor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lookup != nil {
		p.lookup.Close()
	}
	p.lookup = p.e.indexes.Begin(context.WithoutCancel(ctx), remote, manifest)
}

// PushIndexesOptions says of which image to publish indexes.
type PushIndexesOptions struct {
	Image    string            // name of the record, which is also where it is in its registry
	Platform *ocispec.Platform // nil for the host's
	Remote   registry.Options
	Key      []byte // private key to sign with: PEM, PKCS #8, Ed25519; empty for no signature
}

// PushedIndexes is what was published.
type PushedIndexes struct {
	Artifact ocispec.Descriptor
	Size     int64 // bytes of the indexes and profiles
	Layers   []digest.Digest
	Profiles int                      // start profiles that are published too
	Without  map[digest.Digest]string // layers that have no index, and why
}

// PushIndexes publishes the indexes of an image's layers beside it in its registry. Of layers that were pulled before indexes were
// recorded, or that Slipway did not pull, it makes them if their blobs are here. NotFound when there is not one.
func (e *Engine) PushIndexes(ctx context.Context, sc Scope, o PushIndexesOptions) (PushedIndexes, error) {
	if e.indexes == nil {
		return PushedIndexes{}, fmt.Errorf("this daemon records no indexes: %w", errdefs.ErrNotImplemented)
	}
	var key ed25519.PrivateKey
	if len(o.Key) > 0 {
		var err error
		if key, err = lazyindex.ParsePrivateKey(o.Key); err != nil {
			return PushedIndexes{}, err
		}
	}
	img, err := e.GetImage(ctx, sc.Namespace, o.Image)
	if err != nil {
		return PushedIndexes{}, err
	}
	ref, err := reference.Parse(img.Name)
	if err != nil {
		return PushedIndexes{}, err
	}
	remote, err := e.registry.Remote(ref, o.Remote)
	if err != nil {
		return PushedIndexes{}, err
	}
	store := e.imageStore(sc)
	desc, m, err := image.Manifest(ctx, store, img.Target, o.Platform)
	if err != nil {
		return PushedIndexes{}, fmt.Errorf("cannot find the manifest of %s: %w", img.Name, err)
	}
	here, err := remote.Exists(ctx, desc)
	if err == nil && !here {
		err = fmt.Errorf("push the image first: %w", errdefs.ErrNotFound)
	}
	if err != nil {
		return PushedIndexes{}, fmt.Errorf("cannot publish beside manifest %s of %s: %w", desc.Digest, img.Name, err)
	}
	p := PushedIndexes{Without: map[digest.Digest]string{}}
	var documents []lazyindex.Document
	for _, d := range m.Layers {
		document, err := e.indexOf(ctx, store, d)
		if err != nil {
			p.Without[d.Digest] = err.Error()
			continue
		}
		documents = append(documents, lazyindex.Document{Layer: d.Digest, Index: document})
		p.Layers, p.Size = append(p.Layers, d.Digest), p.Size+int64(len(document))
	}
	profiles, err := e.publishedProfiles(desc.Digest)
	if err != nil {
		return p, err
	}
	for _, profile := range profiles {
		p.Profiles, p.Size = p.Profiles+1, p.Size+int64(len(profile.Data))
	}
	if len(documents)+len(profiles) == 0 {
		return p, fmt.Errorf("no layer of %s has an index to publish, and no start of it was recorded: %w", img.Name, errdefs.ErrNotFound)
	}
	if p.Artifact, err = lazyindex.Publish(ctx, remote, desc, documents, profiles, key); err != nil {
		return p, fmt.Errorf("cannot publish indexes of %s: %w", img.Name, err)
	}
	return p, nil
}

// indexOf answers the index of a layer, which it makes if need be and the blob is here.
func (e *Engine) indexOf(ctx context.Context, store image.Store, d ocispec.Descriptor) ([]byte, error) {
	own := e.indexes.Own
	document, err := own.Get(d.Digest)
	if layer := (image.Layer{Desc: d}); errdefs.IsNotFound(err) && own.Wants(layer) {
		blob, openErr := store.ReaderAt(ctx, d)
		if openErr != nil {
			return nil, fmt.Errorf("it has none, and its blob is not here to make one of: %w", openErr)
		}
		defer blob.Close()
		if err := own.Make(layer, io.NewSectionReader(blob, 0, blob.Size())); err != nil {
			return nil, err
		}
		return own.Get(d.Digest)
	}
	return document, err
}

// publishedProfiles answers the start profiles of an image as they are published.
func (e *Engine) publishedProfiles(img digest.Digest) ([]lazyindex.Profile, error) {
	if e.profiles == nil {
		return nil, nil
	}
	var out []lazyindex.Profile
	for _, p := range e.profiles.List(img) {
		p.Origin = ""
		data, err := p.Marshal()
		if err != nil {
			return nil, err
		}
		out = append(out, lazyindex.Profile{Name: p.Args, Data: data})
	}
	return out, nil
}
