package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/metadata"
)

// Writer is a content.Writer of one namespace, whose Commit also records labels.
//
// When another namespace has the expected blob already, the writer is full from the start: its offset is the blob's size,
// and Commit makes it visible here without a byte being sent. Truncate to 0 turns it into an ordinary one.
type Writer struct {
	c      *Content
	rec    metadata.Ingest
	desc   ocispec.Descriptor
	full   metadata.Blob  // the other namespace's, zero for an ordinary writer
	store  content.Writer // nil while full
	unlock func()         // of the ref; nil when closed
}

var _ content.Writer = (*Writer)(nil)

// Open begins or resumes the ingest ref. AlreadyExists when the namespace has the blob that desc expects, which then joins
// the lease; Unavailable when another client has the ref open.
func (c *Content) Open(ctx context.Context, ref string, desc ocispec.Descriptor) (_ *Writer, err error) {
	if ref == "" {
		return nil, fmt.Errorf("ingest needs a ref: %w", errdefs.ErrInvalidArgument)
	}
	if desc.Digest != "" {
		if err := desc.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("digest %q: %w: %w", desc.Digest, err, errdefs.ErrInvalidArgument)
		}
		if err := c.refuseExisting(ctx, desc.Digest); err != nil {
			return nil, err
		}
	}
	unlock, err := c.lockRef(ref)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unlock()
		}
	}()
	w := &Writer{c: c, desc: desc, unlock: unlock}
	w.rec, err = update(c.scope.ctx(ctx), c.e, func(tx *metadata.Tx) (metadata.Ingest, error) {
		return c.ingests(tx).Open(metadata.Ingest{Ref: ref, Expected: desc.Digest})
	})
	if err != nil {
		return nil, err
	}
	if desc.Digest != "" {
		if w.full, err = c.shared(ctx, desc.Digest, desc.Size); err != nil {
			return nil, err
		}
	}
	if w.full.Size == 0 { // an empty blob is written again rather than shared: there is nothing to save
		if err := w.begin(ctx); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// refuseExisting is AlreadyExists, and joins the lease, when the namespace has the blob.
func (c *Content) refuseExisting(ctx context.Context, dgst digest.Digest) error {
	switch err := c.Hold(ctx, dgst); {
	case err == nil:
		return fmt.Errorf("blob %s: %w", dgst, errdefs.ErrAlreadyExists)
	case errdefs.IsNotFound(err):
		return nil
	default:
		return err
	}
}

// Hold puts a blob under the scope's lease, when there is one. NotFound when the namespace has no such blob.
func (c *Content) Hold(ctx context.Context, dgst digest.Digest) error {
	if _, err := c.Blob(ctx, dgst); err != nil || c.scope.Lease == "" {
		return err
	}
	return c.e.db.Update(c.scope.ctx(ctx), func(tx *metadata.Tx) error { return c.blobs(tx).Lease(dgst) })
}

// begin opens the store's writer.
func (w *Writer) begin(ctx context.Context) (err error) {
	w.full = metadata.Blob{}
	w.store, err = w.c.e.blobs.Writer(ctx, w.rec.StoreRef, w.desc)
	if errdefs.IsAlreadyExists(err) {
		// Bytes that this namespace may not see: it must prove to have them. Commit finds them there.
		w.store, err = w.c.e.blobs.Writer(ctx, w.rec.StoreRef, ocispec.Descriptor{Size: w.desc.Size})
	}
	return err
}

var errWriterClosed = fmt.Errorf("the writer is closed: %w", errdefs.ErrFailedPrecondition)

// Write implements content.Writer. A full writer takes no more bytes: OutOfRange.
func (w *Writer) Write(p []byte) (int, error) {
	switch {
	case w.unlock == nil:
		return 0, errWriterClosed
	case w.store == nil && len(p) > 0:
		return 0, fmt.Errorf("blob %s is complete with %d bytes, commit it: %w", w.full.Digest, w.full.Size, errdefs.ErrOutOfRange)
	case w.store == nil:
		return 0, nil
	}
	return w.store.Write(p)
}

// Digest implements content.Writer.
func (w *Writer) Digest() digest.Digest {
	if w.store == nil {
		return w.full.Digest
	}
	return w.store.Digest()
}

// Status implements content.Writer.
func (w *Writer) Status() (content.Ingest, error) {
	if w.unlock == nil {
		return content.Ingest{}, errWriterClosed
	}
	if w.store == nil {
		return content.Ingest{
			Ref: w.rec.Ref, Offset: w.full.Size, Total: w.full.Size, Expected: w.full.Digest,
			StartedAt: w.rec.CreatedAt, UpdatedAt: time.Now(),
		}, nil
	}
	st, err := w.store.Status()
	st.Ref = w.rec.Ref
	return st, err
}

// Truncate implements content.Writer.
func (w *Writer) Truncate(size int64) error {
	switch {
	case w.unlock == nil:
		return errWriterClosed
	case w.store != nil:
		return w.store.Truncate(size)
	case size == w.full.Size:
		return nil
	case size != 0:
		return fmt.Errorf("blob %s is complete with %d bytes and can be truncated to 0 only: %w", w.full.Digest, w.full.Size, errdefs.ErrOutOfRange)
	}
	return w.begin(context.Background())
}

// Close implements content.Writer.
func (w *Writer) Close() error {
	if w.unlock == nil {
		return nil
	}
	var err error
	if w.store != nil {
		err = w.store.Close()
	}
	w.unlock()
	w.unlock = nil
	return err
}

// Commit implements content.Writer.
func (w *Writer) Commit(ctx context.Context, size int64, expected digest.Digest) error {
	return w.CommitLabels(ctx, size, expected, nil)
}

// CommitLabels is Commit and gives the blob labels in the same step. When the namespace has the blob already it is
// AlreadyExists, the blob joins the lease and keeps its labels.
func (w *Writer) CommitLabels(ctx context.Context, size int64, expected digest.Digest, labels map[string]string) (err error) {
	if w.unlock == nil {
		return errWriterClosed
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if expected == "" {
		expected = w.desc.Digest
	}
	if expected == "" {
		expected = w.Digest()
	}
	// From the store's commit to the record nobody may take the blob for garbage.
	release, err := w.c.e.db.Hold(ctx, expected)
	if err != nil {
		return err
	}
	defer release()
	b, err := w.commitStore(ctx, size, expected)
	if err != nil {
		return err
	}
	b.Labels = w.c.e.ownLabels(labels)
	return w.record(ctx, b)
}

// commitStore makes the blob durable in the store and answers it.
func (w *Writer) commitStore(ctx context.Context, size int64, expected digest.Digest) (metadata.Blob, error) {
	if w.store == nil && (expected != w.full.Digest || size > 0 && size != w.full.Size) {
		return metadata.Blob{}, fmt.Errorf("ingest %q holds %s with %d bytes, not %s with %d: %w",
			w.rec.Ref, w.full.Digest, w.full.Size, expected, size, errdefs.ErrFailedPrecondition)
	}
	if w.store != nil {
		if err := w.store.Commit(ctx, size, expected); err != nil && !errdefs.IsAlreadyExists(err) {
			return metadata.Blob{}, err
		}
	}
	info, err := w.c.e.blobs.Info(ctx, expected)
	if errdefs.IsNotFound(err) {
		return metadata.Blob{}, fmt.Errorf("blob %s was removed from the other namespace meanwhile, write it again: %w", expected, errdefs.ErrUnavailable)
	}
	return metadata.Blob{Digest: expected, Size: info.Size}, err
}

// record ends the ingest and makes the blob visible, in one transaction.
func (w *Writer) record(ctx context.Context, b metadata.Blob) error {
	err := w.c.e.db.Update(w.c.scope.ctx(ctx), func(tx *metadata.Tx) error {
		if _, err := w.c.ingests(tx).Delete(w.rec.Ref); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		_, err := w.c.blobs(tx).Create(b)
		return err
	})
	if errdefs.IsAlreadyExists(err) { // which undid the rest
		gone := w.c.e.db.Update(ctx, func(tx *metadata.Tx) error {
			_, err := w.c.ingests(tx).Delete(w.rec.Ref)
			return err
		})
		if gone != nil && !errdefs.IsNotFound(gone) {
			return gone
		}
	}
	if err != nil {
		return err
	}
	w.c.e.publish(w.c.scope.Namespace, "/content/create", ContentCreate{Digest: b.Digest, Size: b.Size})
	return nil
}
