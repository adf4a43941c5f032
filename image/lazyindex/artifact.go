package lazyindex

import (
	"encoding/json"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/storage/lazyfuse/index"
)

// How indexes are published: one artifact for an image, an OCI image manifest whose subject is the manifest of the image. Its
// config is an envelope (see envelope) around a statement; it is in the manifest too, in the descriptor's data, so that it costs
// no request of its own. Its layers are the blobs that the statement names: indexes as index.Marshal writes them, and start
// profiles. Only the statement counts; the layers are there so that registries keep them.
const (
	// ArtifactType is the type of the artifact and of its config.
	ArtifactType = "application/vnd.slipway.index.v1+json"
	// ProfileType is the media type of a start profile's blob.
	ProfileType = "application/vnd.slipway.start-profile.v1"

	layerAnnotation = "dev.slipway.layer" // on an index's descriptor, for people
)

// Bounds of an artifact.
const (
	maxEnvelope = 1 << 20
	maxLayers   = 500
	maxProfiles = 64
	maxProfile  = 1 << 20
	maxName     = 1 << 10
)

// statement is what is signed.
type statement struct {
	Subject  digest.Digest      `json:"subject"` // the image's manifest
	Layers   []publishedIndex   `json:"layers"`
	Profiles []publishedProfile `json:"profiles,omitempty"`
	layers   map[digest.Digest]blob
}

// blob is what is told of one: enough to fetch it and no more.
type blob struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}

type publishedIndex struct {
	Layer digest.Digest `json:"layer"`
	Index blob          `json:"index"`
}

type publishedProfile struct {
	Name    string `json:"name"`
	Profile blob   `json:"profile"`
}

// artifactManifest is what of a foreign manifest is looked at.
type artifactManifest struct {
	Config  ocispec.Descriptor   `json:"config"`
	Layers  []ocispec.Descriptor `json:"layers"`
	Subject *ocispec.Descriptor  `json:"subject"`
}

// parseManifest reads the manifest of an artifact whose digest was checked. Its config has the type, and its subject, if it must
// have one, is the image.
func parseManifest(data []byte, configType string, subject digest.Digest) (artifactManifest, error) {
	var m artifactManifest
	if err := json.Unmarshal(data, &m); err != nil {
		return m, invalid("the artifact's manifest cannot be read: %v", err)
	}
	if m.Config.MediaType != configType {
		return m, invalid("the artifact's config is a %.100q", m.Config.MediaType)
	}
	if subject != "" && (m.Subject == nil || m.Subject.Digest != subject) {
		return m, invalid("the artifact is about another image")
	}
	if len(m.Layers) > maxLayers+maxProfiles {
		return m, invalid("the artifact has %d blobs", len(m.Layers))
	}
	return m, nil
}

// inline answers the config from the manifest, nil when it is not in there.
func (m artifactManifest) inline() []byte {
	d := m.Config
	if len(d.Data) == 0 || int64(len(d.Data)) != d.Size || d.Digest.Validate() != nil || d.Digest.Algorithm().FromBytes(d.Data) != d.Digest {
		return nil
	}
	return d.Data
}

// parseStatement reads what an envelope held, which must be about the image.
func parseStatement(data []byte, subject digest.Digest) (statement, error) {
	var s statement
	if err := json.Unmarshal(data, &s); err != nil {
		return s, invalid("the statement cannot be read: %v", err)
	}
	if s.Subject != subject {
		return s, invalid("the statement is about %.100q", s.Subject)
	}
	if len(s.Layers) > maxLayers || len(s.Profiles) > maxProfiles {
		return s, invalid("the statement names %d indexes and %d profiles", len(s.Layers), len(s.Profiles))
	}
	s.layers = make(map[digest.Digest]blob, len(s.Layers))
	for _, l := range s.Layers {
		if _, twice := s.layers[l.Layer]; twice || l.Layer.Validate() != nil || !l.Index.within(maxDocument) {
			return s, invalid("the statement has a bad entry for layer %.100q", l.Layer)
		}
		s.layers[l.Layer] = l.Index
	}
	for _, p := range s.Profiles {
		if len(p.Name) > maxName || !p.Profile.within(maxProfile) {
			return s, invalid("the statement has a bad entry for profile %.100q", p.Name)
		}
	}
	return s, nil
}

func (b blob) within(limit int64) bool {
	return b.Digest.Validate() == nil && b.Digest.Algorithm() == digest.SHA256 && b.Size > 0 && b.Size <= limit
}

// maxIndex is how large the index of a layer may be before it is not worth fetching, or meant to harm.
func maxIndex(layer int64) int64 { return min(maxDocument, max(1<<20, layer/8)) }

// check answers the index of a layer from a published document, when it is one.
func check(document []byte, layer ocispec.Descriptor, diffID digest.Digest) (*index.Index, error) {
	x, err := index.Parse(document, index.Limits{})
	if err != nil {
		return nil, err
	}
	if x.BlobSize() != layer.Size || x.DiffID() != "" && diffID != "" && x.DiffID() != diffID {
		return nil, invalid("it is the index of another layer")
	}
	return x, nil
}
