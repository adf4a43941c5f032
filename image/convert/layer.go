package convert

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
)

// job is a layer to convert, and what it became.
type job struct {
	desc   ocispec.Descriptor
	diffID digest.Digest
	first  []string // clean paths of entries that come first

	result ocispec.Descriptor
	newID  digest.Digest
}

// key tells jobs of one layer apart.
func (j *job) key() string {
	if len(j.first) == 0 {
		return j.desc.Digest.String()
	}
	return j.desc.Digest.String() + " " + digest.FromString(strings.Join(j.first, "\x00")).Encoded()
}

// Labels of blobs.
const (
	// convertedLabel on a layer, followed by what was made of it, holds that blob's digest. The number is raised when other
	// bytes are written for the same layer.
	convertedLabel    = "slipway.io/converted.1."
	uncompressedLabel = "containerd.io/uncompressed" // the diff ID, as containerd's pkg/labels has it
)

func (c *converter) label(j *job) string {
	label := convertedLabel + strings.ReplaceAll(string(c.Format), ":", "-")
	if len(j.first) > 0 {
		label += "." + digest.FromString(strings.Join(j.first, "\x00")).Encoded()[:32]
	}
	return label
}

func (c *converter) mediaType() string {
	if c.Format == ZstdChunked {
		return ocispec.MediaTypeImageLayerZstd
	}
	return ocispec.MediaTypeImageLayerGzip
}

// progress begins to report on a layer.
func (c *converter) progress(d ocispec.Descriptor) *image.Part {
	return c.report.Part("layer-"+d.Digest.String(), "", d)
}

// convert makes j's blob, or finds the one that an earlier conversion made.
func (c *converter) convert(ctx context.Context, j *job) error {
	p := c.progress(j.desc)
	if found, err := c.find(ctx, j); err != nil || found {
		p.Enter(image.Exists)
		return err
	}
	p.Enter(Converting)
	err := c.make(ctx, j, p)
	var no unfit
	if errors.As(err, &no) {
		c.keep(j.desc.Digest, no.why)
		j.result, j.newID = j.desc, j.diffID
		j.result.MediaType = image.PlainLayer(j.desc.MediaType)
		p.At(j.desc.Size)
		p.Enter(Kept)
		return nil
	}
	if err == nil {
		p.Enter(image.Done)
	}
	return err
}

// find looks for what an earlier conversion made of the layer.
func (c *converter) find(ctx context.Context, j *job) (bool, error) {
	labels, err := c.Store.Labels(ctx, j.desc.Digest)
	if err != nil {
		return false, fmt.Errorf("cannot read its labels: %w", err)
	}
	made := digest.Digest(labels[c.label(j)])
	if made.Validate() != nil {
		return false, nil
	}
	blob, err := c.Store.Info(ctx, made) // and puts it under the lease
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot look for %s: %w", made, err)
	}
	if labels, err = c.Store.Labels(ctx, made); err != nil {
		return false, fmt.Errorf("cannot read the labels of %s: %w", made, err)
	}
	annotations := map[string]string{}
	for key, value := range labels {
		if describes(key) {
			annotations[key] = value
		}
	}
	if digest.Digest(labels[uncompressedLabel]).Validate() != nil || len(annotations) == 0 {
		return false, nil
	}
	j.newID = digest.Digest(labels[uncompressedLabel])
	j.result = c.describe(j.desc, made, blob.Size, annotations)
	return true, nil
}

// describe is the descriptor of the new blob: the old one's other annotations stay.
func (c *converter) describe(old ocispec.Descriptor, d digest.Digest, size int64, annotations map[string]string) ocispec.Descriptor {
	for key, value := range old.Annotations {
		if !describes(key) {
			annotations[key] = value
		}
	}
	return ocispec.Descriptor{MediaType: c.mediaType(), Digest: d, Size: size, Annotations: annotations}
}

// describes tells of annotations that say something about how a layer is compressed.
func describes(annotation string) bool {
	return annotation == tableAnnotation || annotation == sizeAnnotation || strings.HasPrefix(annotation, chunkedPrefix) ||
		strings.HasPrefix(annotation, "io.containers.zstd-chunked.") // of zstd:chunked as it was at first
}

// make writes the layer's blob. After an error nothing of it is left.
func (c *converter) make(ctx context.Context, j *job, p *image.Part) (err error) {
	ref := "convert-" + j.desc.Digest.Encoded() + "-" + digest.FromString(c.label(j)).Encoded()[:16]
	w, err := c.Store.Writer(ctx, ref, ocispec.Descriptor{}, nil)
	if err != nil {
		return fmt.Errorf("cannot open an ingest: %w", err)
	}
	defer func() {
		if closeErr := w.Close(); err != nil {
			err = errors.Join(err, closeErr, c.Store.Abort(context.WithoutCancel(ctx), ref))
		}
	}()
	if err := w.Truncate(0); err != nil {
		return fmt.Errorf("cannot begin anew: %w", err)
	}
	made, err := c.stream(ctx, j, w, p)
	if err != nil {
		return err
	}
	status, err := w.Status()
	if err != nil {
		return fmt.Errorf("cannot read the ingest: %w", err)
	}
	d := w.Digest()
	if err := w.Commit(ctx, status.Offset, d); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("cannot commit %s: %w", d, err)
	}
	if _, err := c.Store.Info(ctx, d); err != nil { // one that was there comes under the lease
		return fmt.Errorf("cannot find %s: %w", d, err)
	}
	labels := map[string]string{uncompressedLabel: made.diffID.String()}
	for key, value := range made.annotations {
		labels[key] = value
	}
	if err := c.Store.SetLabels(ctx, d, labels); err != nil {
		return fmt.Errorf("cannot label %s: %w", d, err)
	}
	if err := c.Store.SetLabels(ctx, j.desc.Digest, map[string]string{c.label(j): d.String()}); err != nil {
		return fmt.Errorf("cannot label it: %w", err)
	}
	j.newID = made.diffID
	j.result = c.describe(j.desc, d, status.Offset, made.annotations)
	return nil
}

// stream writes the layer, converted, to dst.
func (c *converter) stream(ctx context.Context, j *job, dst io.Writer, p *image.Part) (written, error) {
	f, err := c.format()
	if err != nil {
		return written{}, err
	}
	w := newWriter(dst, f)
	ended := false
	defer func() {
		if !ended {
			w.abandon()
		}
	}()
	if err := c.leading(ctx, j, w); err != nil {
		return written{}, err
	}
	moved := map[string]bool{}
	for _, name := range j.first {
		moved[name] = true
	}
	err = c.open(ctx, j, p, func(r io.Reader) error { return w.archive(r, moved) })
	if err != nil {
		return written{}, err
	}
	ended = true
	return w.end(dst)
}

func (c *converter) format() (format, error) {
	if c.Format == ZstdChunked {
		return newZstdChunked(c.encoder)
	}
	return estargz{}, nil
}

// open calls fn with the uncompressed layer and then compares its diff ID. fn need not read to the end.
func (c *converter) open(ctx context.Context, j *job, p *image.Part, fn func(io.Reader) error) error {
	ra, err := c.Store.ReaderAt(ctx, j.desc)
	if err != nil {
		return fmt.Errorf("cannot open it: %w", err)
	}
	defer ra.Close()
	plain, err := image.Decompress(&reader{ctx: ctx, r: io.NewSectionReader(ra, 0, ra.Size()), at: p.At})
	if err != nil {
		return fmt.Errorf("cannot decompress it: %w", err)
	}
	defer plain.Close()
	sum := &hashing{r: plain, h: sha256.New()}
	if err := fn(sum); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, sum); err != nil {
		return fmt.Errorf("cannot decompress it: %w", err)
	}
	if got := digest.NewDigest(digest.SHA256, sum.h); j.diffID.Algorithm() == digest.SHA256 && got != j.diffID {
		return fmt.Errorf("it has diff ID %s and not the %s that its config says: %w", got, j.diffID, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// hashing hashes what is read through it.
type hashing struct {
	r io.Reader
	h hash.Hash
}

func (r *hashing) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.h.Write(p[:n])
	return n, err
}

// archive writes the entries of an archive, but those that were moved to the front.
func (w *writer) archive(r io.Reader, moved map[string]bool) error {
	a := newArchive(r)
	for skip := false; ; {
		e, err := a.next()
		if err != nil && err != io.EOF {
			return err
		}
		if !skip {
			if err := w.bytes(e.before); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return w.trailer(e.raw, a.rest())
		}
		if skip = readersOnly(e.Name) || moved[clean(e.Name)]; !skip {
			err = w.add(e)
		} else if err = nil; e.body != nil {
			_, err = io.Copy(io.Discard, e.body)
		}
		if err != nil {
			return err
		}
	}
}

// trailer writes what an archive ends with, where it is to stay what it was.
func (w *writer) trailer(last []byte, rest io.Reader) error {
	if !w.format.verbatim() {
		return nil
	}
	if err := w.bytes(last); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := rest.Read(buf)
		if err := w.bytes(buf[:n]); err != nil {
			return err
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot decompress it: %w", err)
		}
	}
}
