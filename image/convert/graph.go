package convert

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
)

const maxDepth = 4 // of indexes in indexes

// document is an index or a manifest that is converted.
type document struct {
	desc ocispec.Descriptor
	data []byte

	parts []*document // of an index

	config     ocispec.Descriptor // of a manifest
	configData []byte
	layers     []*job
}

// read loads what is converted of d. It is nil for what is left out: artifacts such as attestations, which are about the image
// as it was, other platforms, and images that are not here whole when no platform was asked for.
func (c *converter) read(ctx context.Context, d ocispec.Descriptor, depth int) (*document, error) {
	switch {
	case depth < 0:
		return nil, fmt.Errorf("index %s is nested too deeply: %w", d.Digest, errdefs.ErrInvalidArgument)
	case !image.IsIndex(d.MediaType) && !image.IsManifest(d.MediaType):
		return nil, fmt.Errorf("%s has media type %.200q, which is not an image's: %w", d.Digest, d.MediaType, errdefs.ErrInvalidArgument)
	}
	data, children, err := image.ReadDocument(ctx, c.Store, d)
	if err != nil {
		return nil, err
	}
	doc := &document{desc: d, data: data}
	if !image.IsIndex(d.MediaType) {
		return doc, c.readManifest(ctx, doc, children)
	}
	for _, child := range children {
		part, err := c.readPart(ctx, child, depth-1)
		if err != nil {
			return nil, err
		}
		if part != nil {
			doc.parts = append(doc.parts, part)
		}
	}
	if len(doc.parts) == 0 {
		return nil, nil
	}
	return doc, nil
}

func (c *converter) readPart(ctx context.Context, d ocispec.Descriptor, depth int) (*document, error) {
	if !image.IsIndex(d.MediaType) && !image.IsManifest(d.MediaType) || d.Annotations["vnd.docker.reference.type"] != "" || !c.wanted(d) {
		return nil, nil
	}
	doc, err := c.read(ctx, d, depth)
	if errdefs.IsNotFound(err) && len(c.Platforms) == 0 {
		return nil, nil
	}
	if doc != nil && !image.IsIndex(d.MediaType) && !image.IsConfig(doc.config.MediaType) {
		return nil, nil
	}
	return doc, err
}

func (c *converter) wanted(d ocispec.Descriptor) bool {
	if len(c.Platforms) == 0 || d.Platform == nil {
		return true
	}
	for _, p := range c.Platforms {
		if platforms.OnlyStrict(p).Match(*d.Platform) {
			return true
		}
	}
	return false
}

// readManifest finds configuration and layers, which must all be here.
func (c *converter) readManifest(ctx context.Context, doc *document, children []ocispec.Descriptor) error {
	doc.config = children[0] // parsed manifests have one
	if !image.IsConfig(doc.config.MediaType) {
		if doc.desc.Digest != c.Target.Digest {
			return nil // left out
		}
		return fmt.Errorf("%s has a config of type %.200q, so it is not a container image: %w", doc.desc.Digest, doc.config.MediaType, errdefs.ErrInvalidArgument)
	}
	data, img, err := image.ReadConfig(ctx, c.Store, doc.config)
	if err != nil {
		return err
	}
	doc.configData = data
	layers := children[1:]
	if len(img.RootFS.DiffIDs) != len(layers) {
		return fmt.Errorf("config %s has %d diff IDs for %d layers: %w", doc.config.Digest, len(img.RootFS.DiffIDs), len(layers), errdefs.ErrInvalidArgument)
	}
	for i, l := range layers {
		j := &job{desc: l, diffID: img.RootFS.DiffIDs[i]}
		if !image.IsLayer(l.MediaType) { // foreign, encrypted
			c.keep(l.Digest, "its media type is "+l.MediaType)
			j.result, j.newID = l, j.diffID
		} else if _, err := c.Store.Info(ctx, l.Digest); err != nil {
			return fmt.Errorf("layer %s is not here; pull the image whole first: %w", l.Digest, err)
		}
		doc.layers = append(doc.layers, j)
	}
	return nil
}

// plan collects the layers to convert. Those that several manifests share are converted once.
func (c *converter) plan(ctx context.Context, doc *document, jobs map[string]*job) error {
	for _, part := range doc.parts {
		if err := c.plan(ctx, part, jobs); err != nil {
			return err
		}
	}
	if len(c.First) > 0 {
		if err := c.order(ctx, doc.layers); err != nil {
			return err
		}
	}
	for i, j := range doc.layers {
		if j.result.Digest != "" {
			continue
		}
		if known := jobs[j.key()]; known != nil {
			doc.layers[i] = known
		} else {
			jobs[j.key()] = j
		}
	}
	return nil
}

// write stores the document made anew, after all that it names.
func (c *converter) write(ctx context.Context, doc *document) (ocispec.Descriptor, error) {
	changes := map[string]any{}
	var children []ocispec.Descriptor
	mediaType := ocispec.MediaTypeImageManifest
	if doc.parts != nil {
		mediaType = ocispec.MediaTypeImageIndex
		for _, part := range doc.parts {
			d, err := c.write(ctx, part)
			if err != nil {
				return d, err
			}
			children = append(children, d)
		}
		changes["manifests"] = children
	} else {
		config, err := c.writeConfig(ctx, doc)
		if err != nil {
			return config, err
		}
		layers := []ocispec.Descriptor{}
		for _, j := range doc.layers {
			layers = append(layers, j.result)
		}
		changes["config"], changes["layers"] = config, layers
		children = append([]ocispec.Descriptor{config}, layers...)
	}
	changes["mediaType"] = mediaType
	data, err := change(doc.data, changes)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("cannot change %s: %w", doc.desc.Digest, err)
	}
	return c.store(ctx, doc.desc, mediaType, data, image.ChildLabels(children))
}

func (c *converter) writeConfig(ctx context.Context, doc *document) (ocispec.Descriptor, error) {
	data, same := doc.configData, true
	ids := []digest.Digest{}
	for _, j := range doc.layers {
		ids = append(ids, j.newID)
		same = same && j.newID == j.diffID
	}
	if !same {
		var err error
		if data, err = change(data, map[string]any{"rootfs": ocispec.RootFS{Type: "layers", DiffIDs: ids}}); err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("cannot change config %s: %w", doc.config.Digest, err)
		}
	}
	return c.store(ctx, doc.config, ocispec.MediaTypeImageConfig, data, nil)
}

// change replaces members of a JSON object and leaves the others as they are. The same object gives the same bytes.
func change(data []byte, changes map[string]any) ([]byte, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	for key := range members {
		for changed := range changes { // encoding/json's readers take names of any case
			if strings.EqualFold(key, changed) {
				delete(members, key)
			}
		}
	}
	for key, value := range changes {
		text, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		members[key] = text
	}
	return json.Marshal(members)
}

// sociAnnotation names an index of the layers as they were.
const sociAnnotation = "com.amazon.soci.index-digest"

// store writes a document and answers its descriptor, which is old's but for what is in it.
func (c *converter) store(ctx context.Context, old ocispec.Descriptor, mediaType string, data []byte, labels map[string]string) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data)), Platform: old.Platform}
	for key, value := range old.Annotations {
		if key != sociAnnotation {
			if d.Annotations == nil {
				d.Annotations = map[string]string{}
			}
			d.Annotations[key] = value
		}
	}
	if err := image.WriteBlob(ctx, c.Store, d, data, labels); err != nil {
		return d, fmt.Errorf("cannot store %s: %w", d.Digest, err)
	}
	return d, nil
}
