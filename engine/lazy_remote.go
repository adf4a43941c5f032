package engine

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/image/reference"
	"github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/storage"
)

// Labels by which clients offer a snapshotter to make a layer without its blob: those of containerd's
// pkg/snapshotters/annotations.go, and those that stargz-snapshotter's own clients send (source/source.go there).
const (
	labelRemoteCRI      = "containerd.io/snapshot/cri."
	labelRemote         = "containerd.io/snapshot/remote/"
	labelManifestDigest = labelRemoteCRI + "manifest-digest"
)

// remoteOffer is what the labels of Prepare offer.
type remoteOffer struct {
	chain    string
	ref      string
	layer    digest.Digest
	manifest digest.Digest // may be empty
}

// readOffer answers what labels offer, if they do.
func readOffer(labels map[string]string) (o remoteOffer, ok bool) {
	o.chain, o.manifest = labels[targetLabel], digest.Digest(labels[labelManifestDigest])
	o.ref, o.layer = labels[labelRemoteCRI+"image-ref"], digest.Digest(labels[labelRemoteCRI+"layer-digest"])
	for k, v := range labels { // remote/stargz.reference and the like
		name, remote := strings.CutPrefix(k, labelRemote)
		if remote && o.ref == "" && strings.HasSuffix(name, ".reference") {
			o.ref = v
		}
		if remote && o.layer == "" && strings.HasSuffix(name, ".digest") {
			o.layer = digest.Digest(v)
		}
	}
	return o, o.chain != "" && o.ref != "" && o.layer.Validate() == nil
}

// prepareRemote makes the snapshot that labels name without its blob, if it can; the client then need not fetch it. When it cannot
// the client does as ever, so errors are only told to the log.
func (s *Snapshots) prepareRemote(ctx context.Context, parent string, labels map[string]string) {
	offer, ok := readOffer(labels)
	if _, lazy := s.driver.(storage.Lazy); !ok || !lazy {
		return
	}
	if _, err := s.Stat(ctx, offer.chain); err == nil {
		return
	}
	mode, err := s.e.lazyMode(ctx, s.scope.Namespace, offer.ref, "")
	if err == nil && mode != LazyNever {
		err = s.attachRemote(ctx, offer, mode, parent, labels)
	}
	if err != nil {
		s.e.log.Info("a layer is pulled in full", "image", offer.ref, "layer", offer.layer, "reason", plainReason(offer.layer, err))
	}
}

func (s *Snapshots) attachRemote(ctx context.Context, offer remoteOffer, mode, parent string, labels map[string]string) error {
	ref, err := reference.Parse(offer.ref)
	if err != nil {
		return err
	}
	var o registry.Options
	pull := s.e.newLazyPull(mode, &o)
	defer pull.close()
	remote, err := s.e.registry.Remote(ref, o)
	if err != nil {
		return err
	}
	layer, err := s.offeredLayer(ctx, offer, ref, remote)
	if err != nil {
		return err
	}
	layers := imageLayers{s: s, lazy: pull}
	x, err := layers.index(ctx, layer, remote)
	if err != nil {
		return err
	}
	key := "remote-" + rand.Text() + " " + offer.chain
	if _, err := s.create(ctx, key, parent, storage.Active, nil); err != nil {
		return err
	}
	_, err = s.Attach(ctx, key, x, pull.source(layer))
	if err == nil {
		all := map[string]string{LabelLazyIndex: x.Kind}
		for k, v := range labels {
			all[k] = v
		}
		err = s.Commit(ctx, offer.chain, key, all, "")
	}
	if err != nil {
		if undo := s.Remove(context.WithoutCancel(ctx), key); undo != nil {
			s.e.log.Warn("cannot remove a snapshot that was begun", "snapshot", key, "err", undo)
		}
		if errdefs.IsAlreadyExists(err) {
			return nil // somebody else made it meanwhile, which serves as well
		}
		return err
	}
	s.tellAttached(layer, x.Kind)
	s.e.filler.poke()
	return nil
}

// offeredLayer finds the layer in the image's manifest, which clients fetch before they unpack.
func (s *Snapshots) offeredLayer(ctx context.Context, offer remoteOffer, ref reference.Ref, remote *registry.Remote) (image.Layer, error) {
	store := s.e.Content(s.scope)
	target := offer.manifest
	if target == "" {
		d, err := remote.Resolve(ctx)
		if err != nil {
			return image.Layer{}, err
		}
		target = d.Digest
	}
	desc, err := describe(ctx, store, target)
	if err != nil {
		return image.Layer{}, err
	}
	manifestDesc, manifest, err := image.Manifest(ctx, store, desc, nil)
	if err != nil {
		return image.Layer{}, err
	}
	at := slices.IndexFunc(manifest.Layers, func(d ocispec.Descriptor) bool { return d.Digest == offer.layer })
	if at < 0 {
		return image.Layer{}, fmt.Errorf("manifest %s has no layer %s: %w", manifestDesc.Digest, offer.layer, errdefs.ErrNotFound)
	}
	l := image.Layer{Desc: manifest.Layers[at], Chain: digest.Digest(offer.chain), Index: at, Image: ref.String(), Manifest: manifestDesc}
	// Without the config the chain ID tells whether the layer is right, once it is here.
	if _, config, err := image.ReadConfig(ctx, store, manifest.Config); err == nil && at < len(config.RootFS.DiffIDs) {
		l.DiffID = config.RootFS.DiffIDs[at]
	}
	return l, nil
}

// maxDocument is how large an index or manifest may be, in bytes.
const maxDocument = 4 << 20

// describe makes the descriptor of an index or manifest that only its digest is known of.
func describe(ctx context.Context, p content.Provider, dgst digest.Digest) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{Digest: dgst}
	r, err := p.ReaderAt(ctx, d)
	if err != nil {
		return d, err
	}
	defer r.Close()
	var doc struct {
		MediaType string            `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
	}
	if d.Size = r.Size(); d.Size > maxDocument {
		return d, fmt.Errorf("document %s has %d bytes: %w", dgst, d.Size, errdefs.ErrOutOfRange)
	}
	if err := json.NewDecoder(io.NewSectionReader(r, 0, d.Size)).Decode(&doc); err != nil {
		return d, fmt.Errorf("cannot read document %s: %v: %w", dgst, err, errdefs.ErrInvalidArgument)
	}
	switch d.MediaType = doc.MediaType; {
	case d.MediaType != "":
	case doc.Manifests != nil:
		d.MediaType = ocispec.MediaTypeImageIndex
	default:
		d.MediaType = ocispec.MediaTypeImageManifest
	}
	return d, nil
}
