package lazyindex

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/storage/lazyfuse/index"
)

// Publisher is the repository of an image; *registry.Remote is one.
type Publisher interface {
	Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error)
	PushBlob(ctx context.Context, desc ocispec.Descriptor, open func() (io.ReadCloser, error)) error
	PushReferrer(ctx context.Context, desc ocispec.Descriptor, subject digest.Digest, data []byte) error
}

// Document is the index of one layer, in the form of index.Marshal.
type Document struct {
	Layer digest.Digest
	Index []byte
}

// Publish pushes indexes and start profiles of the image whose manifest is subject, as one artifact that refers to it, and
// answers that. With a key it is signed; without one only those use it who believe the registry. Publishing the same again
// changes nothing.
func Publish(ctx context.Context, to Publisher, subject ocispec.Descriptor, indexes []Document, profiles []Profile, key ed25519.PrivateKey) (ocispec.Descriptor, error) {
	none := ocispec.Descriptor{}
	s := statement{Subject: subject.Digest}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: ArtifactType,
		Subject: &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
	}
	add := func(mediaType string, data []byte, annotations map[string]string) (blob, error) {
		d := describe(mediaType, data)
		d.Annotations = annotations
		m.Layers = append(m.Layers, d)
		return blob{d.Digest, d.Size}, pushBlob(ctx, to, d, data)
	}
	for _, x := range indexes {
		b, err := add(index.MediaType, x.Index, map[string]string{layerAnnotation: x.Layer.String()})
		if err != nil {
			return none, err
		}
		s.Layers = append(s.Layers, publishedIndex{x.Layer, b})
	}
	for _, p := range profiles {
		b, err := add(ProfileType, p.Data, nil)
		if err != nil {
			return none, err
		}
		s.Profiles = append(s.Profiles, publishedProfile{p.Name, b})
	}
	payload, err := json.Marshal(s)
	if err != nil {
		return none, err
	}
	if _, err := parseStatement(payload, subject.Digest); err != nil {
		return none, fmt.Errorf("nobody could read what is to be published: %w", err)
	}
	sealed, err := seal(payload, key)
	if err != nil {
		return none, err
	}
	m.Config = describe(ArtifactType, sealed)
	m.Config.Data = sealed
	if err := pushBlob(ctx, to, m.Config, sealed); err != nil {
		return none, err
	}
	data, err := json.Marshal(m)
	if err != nil {
		return none, err
	}
	d := describe(m.MediaType, data)
	d.ArtifactType = ArtifactType
	return d, to.PushReferrer(ctx, d, subject.Digest, data)
}

func describe(mediaType string, data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func pushBlob(ctx context.Context, to Publisher, d ocispec.Descriptor, data []byte) error {
	if here, err := to.Exists(ctx, d); here || err != nil {
		return err
	}
	return to.PushBlob(ctx, d, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
}
