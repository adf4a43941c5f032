package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image/reference"
)

// Export writes images as the tar of an OCI image layout (image-spec image-layout.md), with docker's manifest.json beside it.
// The same images give the same bytes. NotFound when an image has no platform whose blobs are all here.
func Export(ctx context.Context, w io.Writer, o ExportOptions) error {
	e := &exporter{store: o.Store, limits: o.Limits.withDefaults(), platforms: o.Platforms, tar: tar.NewWriter(w), written: map[digest.Digest]bool{}}
	if err := e.run(ctx, o); err != nil {
		return fmt.Errorf("cannot export: %w", err)
	}
	return nil
}

type exporter struct {
	store     Store
	limits    Limits
	platforms []ocispec.Platform
	tar       *tar.Writer
	written   map[digest.Digest]bool
}

func (e *exporter) run(ctx context.Context, o ExportOptions) error {
	if err := e.document("oci-layout", ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}); err != nil {
		return err
	}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	index.SchemaVersion = 2
	var saved []savedImage
	for _, img := range o.Images {
		manifests, err := e.image(ctx, img.Target, 4)
		if err != nil {
			return fmt.Errorf("image %s: %w", img.Name, err)
		}
		if len(manifests) == 0 {
			return fmt.Errorf("image %s is here for none of the platforms in whole; pull it first: %w", img.Name, errdefs.ErrNotFound)
		}
		desc := img.Target
		desc.Annotations = names(img.Name)
		index.Manifests = append(index.Manifests, desc)
		saved = append(saved, e.saved(img.Name, manifests))
	}
	if err := e.document("index.json", index); err != nil {
		return err
	}
	if !o.NoDockerManifest {
		if err := e.document("manifest.json", saved); err != nil {
			return err
		}
	}
	return e.tar.Close()
}

// names are the annotations under which an importer finds an image's name.
func names(name string) map[string]string {
	ref, err := reference.Parse(name)
	if err != nil {
		return nil
	}
	m := map[string]string{"io.containerd.image.name": name}
	if ref.Tag != "" {
		m[ocispec.AnnotationRefName] = ref.Tag
	}
	return m
}

// exported is a manifest that was written.
type exported struct {
	desc ocispec.Descriptor
	doc  document
}

// image writes a manifest with its blobs, or an index with those of its images that are asked for and here whole.
func (e *exporter) image(ctx context.Context, d ocispec.Descriptor, depth int) ([]exported, error) {
	if depth < 0 {
		return nil, fmt.Errorf("index %s is nested too deeply: %w", d.Digest, errdefs.ErrInvalidArgument)
	}
	doc, err := readDocument(ctx, e.store, d, e.limits.Manifest)
	if err != nil {
		return nil, err
	}
	if isIndex(d.MediaType) {
		return e.index(ctx, d, doc, depth)
	}
	for _, c := range doc.children() {
		if _, err := e.store.Info(ctx, c.Digest); err != nil && !isForeign(c.MediaType) {
			return nil, fmt.Errorf("%s %s: %w", kind(c.MediaType), c.Digest, err)
		}
	}
	for _, c := range append(doc.children(), d) {
		if isForeign(c.MediaType) {
			continue
		}
		if err := e.blob(ctx, c); err != nil {
			return nil, err
		}
	}
	return []exported{{d, doc}}, nil
}

func (e *exporter) index(ctx context.Context, d ocispec.Descriptor, doc document, depth int) ([]exported, error) {
	var all []exported
	for _, m := range doc.Manifests {
		if !isIndex(m.MediaType) && !isManifest(m.MediaType) || !e.wanted(m) {
			continue
		}
		some, err := e.image(ctx, m, depth-1)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all, e.blob(ctx, d)
}

func (e *exporter) wanted(m ocispec.Descriptor) bool {
	if len(e.platforms) == 0 || m.Platform == nil {
		return true
	}
	for _, p := range e.platforms {
		if platforms.OnlyStrict(p).Match(*m.Platform) {
			return true
		}
	}
	return false
}

// saved is docker's entry for an image: of several platforms the host's, else the first.
func (e *exporter) saved(name string, manifests []exported) savedImage {
	pick, host := manifests[0], matcher(hostPlatform())
	for _, m := range manifests {
		if m.desc.Platform != nil && host.Match(*m.desc.Platform) {
			pick = m
			break
		}
	}
	s := savedImage{Config: blobPath(pick.doc.Config.Digest), Layers: []string{}}
	if ref, err := reference.Parse(name); err == nil && ref.Tag != "" {
		ref.Digest = ""
		s.RepoTags = []string{ref.Familiar()}
		if ref.Tag == "latest" { // docker wants the tag
			s.RepoTags[0] += ":latest"
		}
	}
	for _, l := range pick.doc.Layers {
		s.Layers = append(s.Layers, blobPath(l.Digest))
	}
	return s
}

func blobPath(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

func (e *exporter) header(name string, size int64) error {
	return e.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o444, Size: size, Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)})
}

func (e *exporter) document(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := e.header(name, int64(len(data))); err != nil {
		return err
	}
	_, err = e.tar.Write(data)
	return err
}

// blob writes a blob once, and fails when its bytes are not those of its digest: an archive must not spread a bad disk's.
func (e *exporter) blob(ctx context.Context, d ocispec.Descriptor) error {
	if e.written[d.Digest] {
		return nil
	}
	e.written[d.Digest] = true
	ra, err := e.store.ReaderAt(ctx, d)
	if err != nil {
		return fmt.Errorf("cannot open blob %s: %w", d.Digest, err)
	}
	defer ra.Close()
	if err := e.header(blobPath(d.Digest), ra.Size()); err != nil {
		return err
	}
	verify := d.Digest.Verifier()
	r := &counted{r: io.NewSectionReader(ra, 0, ra.Size()), ctx: ctx, progress: NewReporter(nil).Part("", "", d)}
	if _, err := io.Copy(io.MultiWriter(e.tar, verify), r); err != nil {
		return fmt.Errorf("cannot write blob %s: %w", d.Digest, err)
	}
	if !verify.Verified() {
		return errors.Join(fmt.Errorf("blob %s is damaged; delete and pull it again", d.Digest), errdefs.ErrDataLoss)
	}
	return nil
}
