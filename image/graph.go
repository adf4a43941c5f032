package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
)

// document is every field of an index or manifest that leads to other blobs.
type document struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	Config        *ocispec.Descriptor  `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
	FSLayers      json.RawMessage      `json:"fsLayers"` // of schema 1
}

// parseDocument reads an index or manifest whose digest has been checked, and checks that it is what desc says, so that no
// document is read in two ways (CVE-2021-41190), and that every descriptor in it is well-formed.
func parseDocument(desc ocispec.Descriptor, data []byte) (document, error) {
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return d, fmt.Errorf("cannot parse manifest %s: %w: %w", desc.Digest, err, errdefs.ErrInvalidArgument)
	}
	bad := func(format string, args ...any) (document, error) {
		return document{}, fmt.Errorf("manifest %s: %s: %w", desc.Digest, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	if isSchema1(desc.MediaType) || d.SchemaVersion == 1 || d.FSLayers != nil {
		return document{}, errSchema1(desc.Digest.String())
	}
	if d.MediaType != "" && d.MediaType != desc.MediaType {
		return bad("says it is %q but was announced as %q", d.MediaType, desc.MediaType)
	}
	if isIndex(desc.MediaType) {
		if d.Config != nil || d.Layers != nil {
			return bad("an index must not have config or layers")
		}
	} else {
		if d.Manifests != nil {
			return bad("an image manifest must not have manifests")
		}
		if d.Config == nil {
			return bad("has no config")
		}
	}
	for _, c := range d.children() {
		if err := checkDescriptor(c); err != nil {
			return bad("%v", err)
		}
	}
	return d, nil
}

func (d document) children() []ocispec.Descriptor {
	var all []ocispec.Descriptor
	if d.Config != nil {
		all = append(all, *d.Config)
	}
	all = append(all, d.Layers...)
	return append(all, d.Manifests...)
}

func checkDescriptor(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("descriptor with digest %.100q: %w", d.Digest, err)
	}
	if d.Size < 0 {
		return fmt.Errorf("descriptor %s has size %d", d.Digest, d.Size)
	}
	return nil
}

// readBlob reads a blob whole: OutOfRange when it is above limit, DataLoss when its bytes are not those of its digest.
func readBlob(ctx context.Context, p content.Provider, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	ra, err := p.ReaderAt(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("cannot open blob %s: %w", desc.Digest, err)
	}
	defer ra.Close()
	if ra.Size() > limit {
		return nil, fmt.Errorf("%s %s has %d bytes, more than the %d allowed: %w", kind(desc.MediaType), desc.Digest, ra.Size(), limit, errdefs.ErrOutOfRange)
	}
	data := make([]byte, ra.Size())
	if _, err := io.ReadFull(io.NewSectionReader(ra, 0, ra.Size()), data); err != nil {
		return nil, fmt.Errorf("cannot read blob %s: %w", desc.Digest, err)
	}
	if err := checkBytes(desc, data); err != nil {
		return nil, err
	}
	return data, nil
}

func checkBytes(desc ocispec.Descriptor, data []byte) error {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("%.100q: %w: %w", desc.Digest, err, errdefs.ErrInvalidArgument)
	}
	if got := desc.Digest.Algorithm().FromBytes(data); got != desc.Digest {
		return fmt.Errorf("blob %s has bytes of %s: %w", desc.Digest, got, errdefs.ErrDataLoss)
	}
	return nil
}

func readDocument(ctx context.Context, p content.Provider, desc ocispec.Descriptor, limit int64) (document, error) {
	data, err := readBlob(ctx, p, desc, limit)
	if err != nil {
		return document{}, err
	}
	return parseDocument(desc, data)
}

// Children are the blobs that an index or manifest names, in order (config before layers); none for anything else.
// NotFound when the blob is not here.
func Children(ctx context.Context, p content.Provider, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	if !isIndex(desc.MediaType) && !isManifest(desc.MediaType) && !isSchema1(desc.MediaType) {
		return nil, nil
	}
	d, err := readDocument(ctx, p, desc, defaultManifest)
	return d.children(), err
}

// ChildLabels are the labels by which a blob holds its children, as containerd names them: m.<i> for manifests, l.<i> for
// layers, config for the configuration.
func ChildLabels(children []ocispec.Descriptor) map[string]string {
	labels := map[string]string{}
	count := map[string]int{}
	for _, c := range children {
		key := "containerd.io/gc.ref.content."
		switch {
		case isIndex(c.MediaType), isManifest(c.MediaType):
			key += "m."
		case isLayer(c.MediaType), isForeign(c.MediaType):
			key += "l."
		case isConfig(c.MediaType):
			key += "config"
		}
		n := count[key]
		count[key]++
		if strings.HasSuffix(key, ".") || n > 0 {
			key = fmt.Sprintf("%s%d", key, n)
		}
		labels[key] = c.Digest.String()
	}
	return labels
}

// ChainIDs names the snapshot of each layer together with all below it (image-spec config.md, "Layer ChainID").
func ChainIDs(diffIDs []digest.Digest) []digest.Digest {
	chain := make([]digest.Digest, len(diffIDs))
	copy(chain, diffIDs)
	return identity.ChainIDs(chain)
}

// choose orders the manifests of an index that run on p, the best first.
func choose(manifests []ocispec.Descriptor, p ocispec.Platform) []ocispec.Descriptor {
	match := matcher(p)
	var fit []ocispec.Descriptor
	for _, m := range manifests {
		if m.Platform != nil && match.Match(*m.Platform) || m.Platform == nil && isManifest(m.MediaType) || isIndex(m.MediaType) {
			fit = append(fit, m)
		}
	}
	sortByPlatform(fit, match)
	return fit
}
