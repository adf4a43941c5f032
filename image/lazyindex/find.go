package lazyindex

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
)

const (
	maxArtifacts = 8 // of one image that are looked into
	patience     = 20 * time.Second
)

// Remote is the repository of an image; *registry.Remote is one.
type Remote interface {
	Referrers(ctx context.Context, subject digest.Digest, types ...string) ([]ocispec.Descriptor, error)
	Manifest(ctx context.Context, dgst digest.Digest) ([]byte, error)
	Fetch(ctx context.Context, desc ocispec.Descriptor, offset, length int64) (io.ReadCloser, error)
}

// Finder finds indexes of layers.
type Finder struct {
	Own   *Store
	Trust Trust
	Log   *slog.Logger
}

// Begin starts to look for indexes of an image's layers beside its manifest, so that the answer is there when the manifest and
// the config are. It asks nothing of the registry when nothing would be believed. manifest is of one platform, with its
// annotations as far as they are known. The caller closes the lookup, which ends what ctx has not.
func (f *Finder) Begin(ctx context.Context, remote Remote, manifest ocispec.Descriptor) *Lookup {
	ctx, cancel := context.WithTimeout(ctx, patience)
	l := &Lookup{finder: f, remote: remote, image: manifest.Digest, cancel: cancel, looked: make(chan struct{})}
	named := digest.Digest(manifest.Annotations[sociAnnotation])
	l.wait.Go(func() {
		defer close(l.looked)
		l.look(ctx, named)
	})
	return l
}

// Lookup is what was found for one image. It is safe for concurrent use.
type Lookup struct {
	finder     *Finder
	remote     Remote
	image      digest.Digest
	cancel     context.CancelFunc
	wait       sync.WaitGroup
	looked     chan struct{} // closed when what follows is written
	statements []found
	soci       []map[digest.Digest]ocispec.Descriptor // zTOCs by layer
}

// found is a statement that is believed.
type found struct {
	statement
	origin string
}

// Close gives up what is still under way.
func (l *Lookup) Close() {
	l.cancel()
	l.wait.Wait()
}

// look finds the artifacts. What is wrong with one is told to the log, and the others count.
func (l *Lookup) look(ctx context.Context, named digest.Digest) {
	var candidates []candidate
	if named != "" {
		candidates = append(candidates, candidate{named, sociV2})
	}
	if l.finder.Trust.asks() {
		types := []string{ArtifactType}
		if l.finder.Trust.Registry {
			types = append(types, sociV1)
		}
		list, err := l.remote.Referrers(ctx, l.image, types...)
		if err != nil {
			l.finder.Log.Info("cannot look for published indexes", "image", l.image, "err", err)
		}
		for _, d := range list[:min(len(list), maxArtifacts)] {
			candidates = append(candidates, candidate{d.Digest, d.ArtifactType})
		}
	}
	results := make([]func(), len(candidates))
	var wait sync.WaitGroup
	for i, c := range candidates {
		wait.Go(func() {
			use, err := l.examine(ctx, c)
			if err != nil {
				l.finder.Log.Info("a published index is not used", "image", l.image, "artifact", c.digest, "err", err)
				return
			}
			results[i] = use
		})
	}
	wait.Wait()
	for _, use := range results { // in the order of the list, whichever came first
		if use != nil {
			use()
		}
	}
}

// candidate is an artifact that may hold indexes.
type candidate struct {
	digest digest.Digest
	kind   string
}

// examine fetches an artifact and answers how to make use of it, if it is believed.
func (l *Lookup) examine(ctx context.Context, c candidate) (func(), error) {
	data, err := l.remote.Manifest(ctx, c.digest)
	if err != nil {
		return nil, err
	}
	if c.kind != ArtifactType {
		ztocs, err := parseSOCI(data, c.kind, l.image)
		return func() { l.soci = append(l.soci, ztocs) }, err
	}
	m, err := parseManifest(data, ArtifactType, l.image)
	if err != nil {
		return nil, err
	}
	sealed := m.inline()
	if sealed == nil {
		if sealed, err = l.fetch(ctx, ArtifactType, blob{m.Config.Digest, m.Config.Size}, maxEnvelope); err != nil {
			return nil, err
		}
	}
	payload, err := l.finder.Trust.open(sealed)
	if err != nil {
		return nil, err
	}
	s, err := parseStatement(payload, l.image)
	return func() { l.statements = append(l.statements, found{s, c.digest.String()}) }, err
}

// Find answers an index of a layer of the image: this host's own, or one that is published and believed. NotFound, with what was
// wrong with those that there were, when there is none; NotImplemented when this host knows that the layer cannot be indexed.
func (l *Lookup) Find(ctx context.Context, layer image.Layer) (storage.LayerIndex, error) {
	own, refused := l.finder.Own.Get(layer.Desc.Digest)
	if refused == nil {
		return storage.LayerIndex{Document: own, Kind: string(index.Spans), Own: true, Origin: "recorded by this host"}, nil
	}
	if err := l.done(ctx); err != nil {
		return storage.LayerIndex{}, err
	}
	errs := []error{refused}
	for _, s := range l.statements {
		if b, ok := s.layers[layer.Desc.Digest]; ok {
			x, err := l.published(ctx, b, layer)
			if err == nil {
				x.Origin = "published with the image, " + s.origin
				return x, nil
			}
			errs = append(errs, err)
		}
	}
	for _, ztocs := range l.soci {
		if d, ok := ztocs[layer.Desc.Digest]; ok {
			x, err := l.ztoc(ctx, d, layer)
			if err == nil {
				return x, nil
			}
			errs = append(errs, err)
		}
	}
	if len(errs) == 1 {
		return storage.LayerIndex{}, refused
	}
	return storage.LayerIndex{}, fmt.Errorf("no index of layer %s is of use: %w", layer.Desc.Digest, errors.Join(append(errs, errdefs.ErrNotFound)...))
}

func (l *Lookup) published(ctx context.Context, b blob, layer image.Layer) (storage.LayerIndex, error) {
	document, err := l.fetch(ctx, index.MediaType, b, maxIndex(layer.Desc.Size))
	if err != nil {
		return storage.LayerIndex{}, fmt.Errorf("cannot fetch the published index: %w", err)
	}
	x, err := check(document, layer.Desc, layer.DiffID)
	if err != nil {
		return storage.LayerIndex{}, fmt.Errorf("the published index is wrong: %w", err)
	}
	return storage.LayerIndex{Document: document, Kind: string(x.Kind())}, nil
}

// Profile is a start profile, which says what of an image a start reads. What is in it, and its name, is whose made it.
type Profile struct {
	Name string
	Data []byte
}

// Profiles answers the start profiles that are published with the image, none when there are none.
func (l *Lookup) Profiles(ctx context.Context) ([]Profile, error) {
	if err := l.done(ctx); err != nil {
		return nil, err
	}
	var all []Profile
	for _, s := range l.statements {
		for _, p := range s.Profiles {
			if slices.ContainsFunc(all, func(other Profile) bool { return other.Name == p.Name }) {
				continue
			}
			data, err := l.fetch(ctx, ProfileType, p.Profile, maxProfile)
			if err != nil {
				return all, fmt.Errorf("cannot fetch start profile %.100q: %w", p.Name, err)
			}
			all = append(all, Profile{p.Name, data})
		}
	}
	return all, nil
}

// done waits for look.
func (l *Lookup) done(ctx context.Context) error {
	select {
	case <-l.looked:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// fetch reads a blob of at most limit bytes, checked.
func (l *Lookup) fetch(ctx context.Context, mediaType string, b blob, limit int64) ([]byte, error) {
	if !b.within(limit) {
		return nil, invalid("%.100q has %d bytes, of at most %d", b.Digest, b.Size, limit)
	}
	r, err := l.remote.Fetch(ctx, ocispec.Descriptor{MediaType: mediaType, Digest: b.Digest, Size: b.Size}, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, b.Size+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != b.Size || digest.FromBytes(data) != b.Digest {
		return nil, fmt.Errorf("the registry sends other bytes for %s: %w", b.Digest, errdefs.ErrDataLoss)
	}
	return data, nil
}
