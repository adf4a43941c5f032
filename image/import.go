package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image/reference"
)

// maxArchiveEntries bounds the entries of an archive, so that what is kept of them in memory is bounded too.
const maxArchiveEntries = 100_000

// Import reads a tar, compressed or not, of an OCI image layout (image-spec image-layout.md) or of docker save in any of its
// forms, in one pass. All blobs go to the store; what is unpacked of them, and image records, are the caller's to make.
// InvalidArgument when it is neither, or names blobs that it does not have.
func Import(ctx context.Context, r io.Reader, o ImportOptions) ([]Imported, error) {
	i := &importer{
		store: o.Store, limits: o.Limits.withDefaults(), name: o.Name, report: NewReporter(o.Progress),
		documents: map[string][]byte{}, files: map[string]ocispec.Descriptor{}, links: map[string]string{},
	}
	found, err := i.run(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("cannot import the archive: %w", err)
	}
	return found, nil
}

type importer struct {
	store  Store
	limits Limits
	name   string
	report *Reporter

	documents map[string][]byte             // oci-layout, index.json, manifest.json
	files     map[string]ocispec.Descriptor // blobs by their path in the archive
	links     map[string]string             // symbolic and hard links, to paths in the archive
}

func (i *importer) run(ctx context.Context, r io.Reader) ([]Imported, error) {
	plain, err := decompressor(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	defer plain.Close()
	entries := tar.NewReader(plain)
	for n := 0; ; n++ {
		h, err := entries.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("it is not a tar: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if n == maxArchiveEntries {
			return nil, fmt.Errorf("it has more than %d entries: %w", maxArchiveEntries, errdefs.ErrOutOfRange)
		}
		if err := i.entry(ctx, h, entries); err != nil {
			return nil, fmt.Errorf("%.200q: %w", h.Name, err)
		}
	}
	if i.documents["oci-layout"] != nil && i.documents["index.json"] != nil {
		return i.layout(ctx)
	}
	if i.documents["manifest.json"] != nil {
		return i.dockerSave(ctx)
	}
	return nil, fmt.Errorf("it has neither oci-layout with index.json nor manifest.json: it is no archive of images: %w", errdefs.ErrInvalidArgument)
}

func (i *importer) entry(ctx context.Context, h *tar.Header, r io.Reader) error {
	name := path.Clean("/" + h.Name)[1:]
	switch h.Typeflag {
	case tar.TypeReg:
	case tar.TypeSymlink:
		i.links[name] = path.Join("/", path.Dir(name), h.Linkname)[1:]
		return nil
	case tar.TypeLink:
		i.links[name] = path.Clean("/" + h.Linkname)[1:]
		return nil
	default:
		return nil
	}
	switch base := path.Base(name); {
	case name == "oci-layout", name == "index.json", name == "manifest.json":
		data, err := readBounded(r, h.Size, i.limits.Manifest)
		i.documents[name] = data
		return err
	case base == "VERSION", base == "json" && path.Dir(name) != ".", name == "repositories":
		return nil // of docker save before 1.10, and said again by manifest.json
	}
	var expected digest.Digest
	if algorithm, hex, ok := strings.Cut(strings.TrimPrefix(name, "blobs/"), "/"); ok && strings.HasPrefix(name, "blobs/") {
		expected = digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
		if err := expected.Validate(); err != nil {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	return i.blob(ctx, name, h.Size, expected, r)
}

func readBounded(r io.Reader, size, limit int64) ([]byte, error) {
	if size > limit {
		return nil, fmt.Errorf("it has %d bytes, more than the %d allowed: %w", size, limit, errdefs.ErrOutOfRange)
	}
	data := make([]byte, size)
	_, err := io.ReadFull(r, data)
	return data, err
}

// blob stores one file. Its media type becomes known later; only compression is told here.
func (i *importer) blob(ctx context.Context, name string, size int64, expected digest.Digest, r io.Reader) error {
	if size > i.limits.Blob {
		return fmt.Errorf("it has %d bytes, more than the %d allowed: %w", size, i.limits.Blob, errdefs.ErrOutOfRange)
	}
	desc := ocispec.Descriptor{Digest: expected, Size: size, MediaType: dockerLayer}
	ref := "import-" + digest.FromString(fmt.Sprintf("%p %s", i, name)).Encoded()
	if expected != "" {
		ref = "import-" + expected.String()
	}
	part := i.report.Part(path.Base(name), "", desc)
	w, err := i.store.Writer(ctx, ref, ocispec.Descriptor{Digest: expected, Size: size}, nil)
	if errdefs.IsAlreadyExists(err) {
		i.files[name] = desc
		part.Enter(Exists)
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot open an ingest: %w", err)
	}
	defer w.Close()
	if err := w.Truncate(0); err != nil {
		return fmt.Errorf("cannot begin anew: %w", err)
	}
	head := &firstBytes{}
	_, err = io.Copy(io.MultiWriter(w, head), &counted{r: r, ctx: ctx, progress: part})
	if err == nil {
		desc.Digest = w.Digest()
		err = w.Commit(ctx, size, expected)
	}
	if err != nil && !errdefs.IsAlreadyExists(err) {
		_ = w.Close() // so that the ingest can be dropped; the error is the copy's
		return errors.Join(fmt.Errorf("cannot store it: %w", err), i.store.Abort(context.WithoutCancel(ctx), ref))
	}
	if string(head.data) == "\x1f\x8b" {
		desc.MediaType += ".gzip"
	}
	i.files[name] = desc
	part.Enter(Done)
	return nil
}

// firstBytes keeps the first two bytes written to it.
type firstBytes struct{ data []byte }

func (f *firstBytes) Write(p []byte) (int, error) {
	f.data = append(f.data, p[:min(len(p), 2-len(f.data))]...)
	return len(p), nil
}

// layout finds the images of an OCI layout.
func (i *importer) layout(ctx context.Context) ([]Imported, error) {
	var version ocispec.ImageLayout
	if err := json.Unmarshal(i.documents["oci-layout"], &version); err != nil || !strings.HasPrefix(version.Version, "1.") {
		return nil, fmt.Errorf("oci-layout %.100q is not of version 1: %w", i.documents["oci-layout"], errdefs.ErrInvalidArgument)
	}
	data := i.documents["index.json"]
	doc, err := parseDocument(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(data)}, data)
	if err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	var found []Imported
	for _, d := range doc.Manifests {
		name, err := i.nameOf(d)
		if err != nil {
			return nil, fmt.Errorf("index.json: %w", err)
		}
		if err := i.label(ctx, d); err != nil {
			return nil, err
		}
		img := Imported{Name: name, Target: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Platform: d.Platform}}
		if name == "" {
			img.Tag = d.Annotations[ocispec.AnnotationRefName]
		}
		found = append(found, img)
	}
	return found, nil
}

// nameOf reads the annotations that containerd and the OCI layout have for names.
func (i *importer) nameOf(d ocispec.Descriptor) (string, error) {
	full, tag := d.Annotations["io.containerd.image.name"], d.Annotations[ocispec.AnnotationRefName]
	switch {
	case full != "":
	case strings.ContainsAny(tag, "/:"):
		full = tag
	case i.name == "":
		return "", nil
	case tag != "":
		full = i.name + ":" + tag
	default:
		full = i.name + "@" + d.Digest.String()
	}
	ref, err := reference.Parse(full)
	return ref.String(), err
}

// label gives all blobs of an image the labels that hold its children. The top must be in the archive or the store.
func (i *importer) label(ctx context.Context, target ocispec.Descriptor) error {
	return walk(ctx, i.store, target, i.limits, func(d ocispec.Descriptor, doc *document) error {
		if doc == nil && d.Digest == target.Digest {
			return fmt.Errorf("the archive names %s (%.100q) but does not have it: %w", d.Digest, d.MediaType, errdefs.ErrInvalidArgument)
		}
		if doc == nil {
			return nil
		}
		if err := i.store.SetLabels(ctx, d.Digest, ChildLabels(doc.children())); err != nil {
			return fmt.Errorf("cannot label blob %s: %w", d.Digest, err)
		}
		return nil
	})
}
