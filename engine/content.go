package engine

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/metadata"
)

// Content is the part of the content store that one namespace sees, with labels; what is written through it joins the
// scope's lease. It is a content.Store.
//
// A blob is committed to the store and then recorded; an ingest is recorded and then begun in the store. What a crash
// leaves in between is a blob or an ingest that nobody has: restore removes both.
type Content struct {
	e     *Engine
	scope Scope
}

var _ content.Store = (*Content)(nil)

// Content answers the content of a namespace.
func (e *Engine) Content(s Scope) *Content { return &Content{e: e, scope: s} }

func (c *Content) blobs(tx *metadata.Tx) metadata.Blobs { return tx.Blobs(c.scope.Namespace) }

func (c *Content) ingests(tx *metadata.Tx) metadata.Ingests { return tx.Ingests(c.scope.Namespace) }

// Blob answers a blob with its labels. NotFound when the namespace has none of that digest.
func (c *Content) Blob(ctx context.Context, dgst digest.Digest) (metadata.Blob, error) {
	return view(ctx, c.e, func(tx *metadata.Tx) (metadata.Blob, error) { return c.blobs(tx).Get(dgst) })
}

// Info implements content.Store.
func (c *Content) Info(ctx context.Context, dgst digest.Digest) (content.Blob, error) {
	b, err := c.Blob(ctx, dgst)
	return content.Blob{Digest: b.Digest, Size: b.Size, CreatedAt: b.CreatedAt}, err
}

// Update changes the labels that fieldpaths name (labels, labels.KEY), all when there are none.
func (c *Content) Update(ctx context.Context, b metadata.Blob, fieldpaths ...string) (metadata.Blob, error) {
	b.Labels, fieldpaths = c.e.ownLabels(b.Labels), c.e.ownFields(fieldpaths)
	made, err := update(ctx, c.e, func(tx *metadata.Tx) (metadata.Blob, error) { return c.blobs(tx).Update(b, fieldpaths...) })
	if err == nil {
		c.e.gc.schedule() // a reference may have gone
	}
	return made, err
}

// ReaderAt implements content.Provider. It waits for the blob of a layer that is on its way.
func (c *Content) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	_, err := c.Blob(ctx, desc.Digest)
	if errdefs.IsNotFound(err) {
		if err := c.e.arrivedBlob(ctx, c.scope.Namespace, desc.Digest); err != nil {
			return nil, err
		}
		_, err = c.Blob(ctx, desc.Digest)
	}
	if err != nil {
		return nil, err
	}
	r, err := c.e.blobs.ReaderAt(ctx, desc)
	if errdefs.IsNotFound(err) { // somebody deleted files below the daemon's root
		return nil, fmt.Errorf("the file of blob %s is gone (remove the images with it and pull them again): %w", desc.Digest, errdefs.ErrDataLoss)
	}
	return r, err
}

// Verify implements content.Store.
func (c *Content) Verify(ctx context.Context, dgst digest.Digest) error {
	if _, err := c.Blob(ctx, dgst); err != nil {
		return err
	}
	return c.e.blobs.Verify(ctx, dgst)
}

// Pages calls fn with pages of the blobs that match any of filters, in order of their digests.
func (c *Content) Pages(ctx context.Context, fn func([]metadata.Blob) error, filters ...string) error {
	return pages(ctx, c.e, fn, func(tx *metadata.Tx, last *metadata.Blob) ([]metadata.Blob, error) {
		var after digest.Digest
		if last != nil {
			after = last.Digest
		}
		return c.blobs(tx).Page(after, pageSize, filters...)
	})
}

// Walk implements content.Store.
func (c *Content) Walk(ctx context.Context, fn func(content.Blob) error) error {
	return c.Pages(ctx, func(page []metadata.Blob) error {
		for _, b := range page {
			if err := fn(content.Blob{Digest: b.Digest, Size: b.Size, CreatedAt: b.CreatedAt}); err != nil {
				return err
			}
		}
		return nil
	})
}

// Delete removes the namespace's record, and the bytes when no other namespace has one.
func (c *Content) Delete(ctx context.Context, dgst digest.Digest) error {
	last, err := update(ctx, c.e, func(tx *metadata.Tx) (bool, error) { return c.blobs(tx).Delete(dgst) })
	if err != nil {
		return err
	}
	c.e.publish(c.scope.Namespace, "/content/delete", ContentDelete{Digest: dgst})
	c.e.gc.schedule()
	if !last {
		return nil
	}
	return c.e.db.Reap(ctx, []digest.Digest{dgst}, c.e.blobs.Delete)
}

// Status implements content.Store.
func (c *Content) Status(ctx context.Context, ref string) (content.Ingest, error) {
	rec, err := view(ctx, c.e, func(tx *metadata.Tx) (metadata.Ingest, error) { return c.ingests(tx).Get(ref) })
	if err != nil {
		return content.Ingest{}, err
	}
	return c.status(ctx, rec)
}

// status completes a record with what the store knows of it.
func (c *Content) status(ctx context.Context, rec metadata.Ingest) (content.Ingest, error) {
	st, err := c.e.blobs.Status(ctx, rec.StoreRef)
	if err == nil {
		st.Ref = rec.Ref
		return st, nil
	}
	if !errdefs.IsNotFound(err) {
		return st, err
	}
	// Recorded, and the store knows nothing of it: not begun, or complete because another namespace has the blob.
	st = content.Ingest{Ref: rec.Ref, Expected: rec.Expected, StartedAt: rec.CreatedAt, UpdatedAt: rec.CreatedAt}
	if rec.Expected != "" {
		shared, err := c.shared(ctx, rec.Expected, 0)
		if err != nil {
			return st, err
		}
		st.Offset, st.Total = shared.Size, shared.Size
	}
	return st, nil
}

// Ingests implements content.Store.
func (c *Content) Ingests(ctx context.Context) ([]content.Ingest, error) { return c.Statuses(ctx) }

// Statuses answers the ingests that match any of filters.
func (c *Content) Statuses(ctx context.Context, filters ...string) ([]content.Ingest, error) {
	recs, err := view(ctx, c.e, func(tx *metadata.Tx) ([]metadata.Ingest, error) { return c.ingests(tx).List(filters...) })
	if err != nil {
		return nil, err
	}
	all := make([]content.Ingest, 0, len(recs))
	for _, rec := range recs {
		st, err := c.status(ctx, rec)
		if err != nil {
			return nil, err
		}
		all = append(all, st)
	}
	return all, nil
}

// Abort implements content.Store.
func (c *Content) Abort(ctx context.Context, ref string) error {
	unlock, err := c.lockRef(ref)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := update(ctx, c.e, func(tx *metadata.Tx) (metadata.Ingest, error) { return c.ingests(tx).Delete(ref) })
	if err != nil {
		return err
	}
	if err := c.e.blobs.Abort(ctx, rec.StoreRef); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// lockRef makes the caller the only one that writes or aborts ref. Unavailable when another does.
func (c *Content) lockRef(ref string) (unlock func(), err error) {
	unlock, ok := c.e.locks.try("ingest/" + c.scope.Namespace + "/" + ref)
	if !ok {
		return nil, fmt.Errorf("ingest %q is being written by another client: %w", ref, errdefs.ErrUnavailable)
	}
	return unlock, nil
}

// shared answers the blob dgst of another namespace that this one may have by committing it, with the size given (0 for
// any); the zero Blob when there is none.
func (c *Content) shared(ctx context.Context, dgst digest.Digest, size int64) (metadata.Blob, error) {
	b, err := view(ctx, c.e, func(tx *metadata.Tx) (metadata.Blob, error) { return c.blobs(tx).Shared(dgst) })
	if errdefs.IsNotFound(err) || err == nil && size > 0 && size != b.Size {
		return metadata.Blob{}, nil
	}
	return b, err
}

// Writer implements content.Ingester.
func (c *Content) Writer(ctx context.Context, ref string, desc ocispec.Descriptor) (content.Writer, error) {
	w, err := c.Open(ctx, ref, desc)
	if err != nil {
		return nil, err // not w, which would be an interface that is not nil
	}
	return w, nil
}
