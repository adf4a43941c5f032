package image

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipwayd/slipway/image/reference"
)

// Pull brings an image into the store and, when Layers is given, unpacks it. What is here already is not fetched again, and
// an interrupted pull goes on where it was. It writes no image record: the caller does, with Result.
//
// InvalidArgument for a bad reference or image, NotFound when there is no such image or nothing for the platform,
// Unauthenticated or PermissionDenied when the registry wants another login, Unavailable when it cannot be reached,
// FailedPrecondition when it sends other bytes than it promised, NotImplemented for images that cannot be unpacked.
func Pull(ctx context.Context, o PullOptions) (Result, error) {
	ref, err := reference.Parse(o.Ref)
	if err != nil {
		return Result{}, err
	}
	remote, err := o.Registry.Remote(ref, o.Remote)
	if err != nil {
		return Result{}, fmt.Errorf("cannot pull %s: %w", ref, err)
	}
	limits := o.Limits.withDefaults()
	p := &puller{
		fetcher:  fetcher{store: o.Store, remote: remote, limits: limits},
		report:   NewReporter(o.Progress),
		layers:   o.Layers,
		recorder: o.Recorder,
		name:     ref.String(),
		all:      o.AllPlatforms,
		wanted:   o.Platforms,
		isNew:    o.New,
		seen:     map[digest.Digest]bool{},
		chosen:   map[digest.Digest]int{},
	}
	if len(p.wanted) == 0 {
		p.wanted = []ocispec.Platform{hostPlatform()}
	}
	defer func() {
		for _, done := range p.scouts {
			done()
		}
	}()
	r, err := p.pull(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("cannot pull %s: %w", ref, err)
	}
	return r, nil
}

type puller struct {
	fetcher
	report   *Reporter
	layers   Layers
	recorder Recorder
	name     string
	all      bool
	wanted   []ocispec.Platform
	isNew    bool

	seen     map[digest.Digest]bool // documents followed so far
	chosen   map[digest.Digest]int  // index in images
	images   []found
	unpacked int // which of images is unpacked
	scouts   []func()
}

// found is a manifest whose blobs are to be fetched.
type found struct {
	desc   ocispec.Descriptor
	doc    document
	config ocispec.Image // zero when the config is not an image's
}

func (p *puller) pull(ctx context.Context) (Result, error) {
	top := p.report.Part(p.name, "", ocispec.Descriptor{})
	top.Enter(Resolving)
	target, err := p.resolve(ctx)
	if err != nil {
		return Result{}, err
	}
	if isSchema1(target.MediaType) {
		return Result{}, errSchema1(p.name)
	}
	if !isIndex(target.MediaType) && !isManifest(target.MediaType) {
		return Result{}, fmt.Errorf("it has media type %.200q, which is not an image's: %w", target.MediaType, errdefs.ErrInvalidArgument)
	}
	top.now.Desc = target
	top.Enter(Downloading)
	if err := p.choose(ctx, target); err != nil {
		return Result{}, err
	}
	result := Result{Name: p.name, Target: target}
	if p.layers != nil {
		f := p.images[p.unpacked]
		result.Manifest = f.desc
		if result.ChainID, err = p.unpack(ctx, f); err != nil {
			return Result{}, err
		}
	}
	if err := p.fetchRest(ctx); err != nil {
		return Result{}, err
	}
	top.Enter(Done)
	return result, nil
}

// resolve finds what the name stands for; of a new one the manifest comes with it.
func (p *puller) resolve(ctx context.Context) (target ocispec.Descriptor, err error) {
	if !p.isNew {
		return p.remote.Resolve(ctx)
	}
	target, data, err := p.remote.ResolveAndFetch(ctx)
	p.sent, p.sentFor = data, target.Digest
	return target, err
}

// fetchRest fetches the blobs of all images that were chosen; those that were unpacked are here by now.
func (p *puller) fetchRest(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.limits.Parallel)
	fetched := map[digest.Digest]bool{}
	for i, f := range p.images {
		for _, d := range append([]ocispec.Descriptor{*f.doc.Config}, f.doc.Layers...) {
			if isForeign(d.MediaType) && f.config.OS != "windows" {
				group.Go(func() error { return checkLayer(d, f.config.OS) })
			} else if !fetched[d.Digest] && !(i == p.unpacked && p.layers != nil) {
				group.Go(func() error { return p.blob(ctx, d, nil, p.report.Part(refKey(d), f.desc.Digest, d)) })
			}
			fetched[d.Digest] = true
		}
	}
	return group.Wait()
}

func (p *puller) unpack(ctx context.Context, f found) (digest.Digest, error) {
	if !isConfig(f.doc.Config.MediaType) {
		return "", fmt.Errorf("manifest %s has a config of type %.200q, so it is not a container image: %w", f.desc.Digest, f.doc.Config.MediaType, errdefs.ErrInvalidArgument)
	}
	u := &unpacker{store: p.store, layers: p.layers, recorder: p.recorder, limits: p.limits, name: p.name, remote: p.remote, manifest: f.desc}
	u.part = func(d ocispec.Descriptor) *Part { return p.report.Part(refKey(d), f.desc.Digest, d) }
	u.fetch = func(ctx context.Context, d ocispec.Descriptor, to *pipe) error { return p.blob(ctx, d, to, u.part(d)) }
	u.elsewhere = func(ctx context.Context, d ocispec.Descriptor, err error) bool {
		return p.elsewhere(ctx, d, u.part(d), err)
	}
	return u.unpack(ctx, *f.doc.Config, f.config, f.doc.Layers)
}

// choose finds the manifests to fetch, into p.images, and which of them to unpack.
func (p *puller) choose(ctx context.Context, target ocispec.Descriptor) error {
	if p.all {
		if err := p.everything(ctx, target, "", 4); err != nil {
			return err
		}
	}
	for i, want := range p.wanted {
		if p.all && p.layers == nil {
			break
		}
		at, err := p.best(ctx, target, "", want, 4)
		if err != nil {
			return err
		}
		if i == 0 {
			p.unpacked = at
		}
	}
	return nil
}

// everything follows all manifests.
func (p *puller) everything(ctx context.Context, d ocispec.Descriptor, parent digest.Digest, depth int) error {
	if !isIndex(d.MediaType) {
		_, err := p.manifest(ctx, d, parent)
		return err
	}
	doc, err := p.document(ctx, d, parent)
	if err != nil {
		return err
	}
	if depth == 0 {
		return fmt.Errorf("index %s is nested too deeply: %w", d.Digest, errdefs.ErrInvalidArgument)
	}
	for _, m := range doc.Manifests {
		if isIndex(m.MediaType) || isManifest(m.MediaType) {
			err = p.everything(ctx, m, d.Digest, depth-1)
		} else {
			err = p.blob(ctx, m, nil, p.report.Part(refKey(m), d.Digest, m))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// best follows the manifest that suits a platform best; NotFound when there is none.
func (p *puller) best(ctx context.Context, d ocispec.Descriptor, parent digest.Digest, want ocispec.Platform, depth int) (int, error) {
	if !isIndex(d.MediaType) {
		at, err := p.manifest(ctx, d, parent)
		if err == nil && !saysBuild(d.Platform) {
			err = matchConfig(p.images[at].config, d, want)
		}
		return at, err
	}
	doc, err := p.document(ctx, d, parent)
	if err != nil {
		return 0, err
	}
	if depth == 0 {
		return 0, fmt.Errorf("index %s is nested too deeply: %w", d.Digest, errdefs.ErrInvalidArgument)
	}
	missing := errNoPlatform(d, doc, want)
	for _, m := range choose(doc.Manifests, want) {
		at, err := p.best(ctx, m, d.Digest, want, depth-1)
		if !errdefs.IsNotFound(err) {
			return at, err
		}
		missing = err
	}
	return 0, missing
}

// document fetches an index or manifest and labels it with its children.
func (p *puller) document(ctx context.Context, d ocispec.Descriptor, parent digest.Digest) (document, error) {
	p.seen[d.Digest] = true
	if len(p.seen) > p.limits.Entries {
		return document{}, fmt.Errorf("the image has more than %d manifests: %w", p.limits.Entries, errdefs.ErrOutOfRange)
	}
	var doc document
	_, err := p.bytes(ctx, d, p.limits.Manifest, p.report.Part(refKey(d), parent, d), func(data []byte) (map[string]string, error) {
		var err error
		doc, err = parseDocument(d, data)
		return ChildLabels(doc.children()), err
	})
	return doc, err
}

// manifest fetches a manifest with its config and notes it in p.images.
func (p *puller) manifest(ctx context.Context, d ocispec.Descriptor, parent digest.Digest) (int, error) {
	if at, ok := p.chosen[d.Digest]; ok {
		return at, nil
	}
	scout, _ := p.layers.(Scout)
	if p.all {
		scout = nil // most of what is followed is not unpacked
	}
	if scout != nil {
		p.scouts = append(p.scouts, scout.Scout(ctx, p.remote, d))
	}
	doc, err := p.document(ctx, d, parent)
	if err != nil {
		return 0, err
	}
	if len(doc.Layers) > p.limits.Layers {
		return 0, fmt.Errorf("manifest %s has %d layers, more than the %d allowed: %w", d.Digest, len(doc.Layers), p.limits.Layers, errdefs.ErrOutOfRange)
	}
	f := found{desc: d, doc: doc}
	if scout != nil {
		scout.Foresee(ctx, p.remote, doc.Layers)
	}
	if isConfig(doc.Config.MediaType) {
		_, err := p.bytes(ctx, *doc.Config, p.limits.Config, p.report.Part(refKey(*doc.Config), d.Digest, *doc.Config), func(data []byte) (map[string]string, error) {
			var err error
			f.config, err = parseConfig(*doc.Config, data)
			return map[string]string{}, err
		})
		if err != nil {
			return 0, err
		}
	}
	p.images = append(p.images, f)
	p.chosen[d.Digest] = len(p.images) - 1
	return len(p.images) - 1, nil
}
