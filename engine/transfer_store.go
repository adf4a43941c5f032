package engine

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/metadata"
)

// imageStore is the content of a namespace as package image uses it: what it finds or writes is under the scope's lease.
type imageStore struct{ *Content }

var _ image.Store = imageStore{}

func (e *Engine) imageStore(sc Scope) imageStore { return imageStore{e.Content(sc)} }

// Info looks and puts under the lease in one transaction, so that collection cannot come between. Only a hit writes.
func (s imageStore) Info(ctx context.Context, dgst digest.Digest) (content.Blob, error) {
	b, err := s.Blob(ctx, dgst)
	if err == nil && s.scope.Lease != "" {
		b, err = update(ctx, s.e, func(tx *metadata.Tx) (metadata.Blob, error) {
			found, err := s.blobs(tx).Get(dgst)
			if err != nil {
				return found, err
			}
			r := metadata.Resource{Type: "content", ID: dgst.String()}
			return found, tx.Leases(s.scope.Namespace).AddResource(s.scope.Lease, r)
		})
	}
	return content.Blob{Digest: b.Digest, Size: b.Size, CreatedAt: b.CreatedAt}, err
}

// Writer waits while another pull writes the same ref, so that pulls of one image share the work: the one that waited finds
// the blob there (AlreadyExists) or, when the other failed, resumes where that stopped.
func (s imageStore) Writer(ctx context.Context, ref string, desc ocispec.Descriptor, labels map[string]string) (content.Writer, error) {
	unlock, err := s.e.locks.lock(ctx, "transfer/"+s.scope.Namespace+"/"+ref)
	if err != nil {
		return nil, err
	}
	w, err := s.Open(ctx, ref, desc)
	if err != nil {
		unlock()
		return nil, err
	}
	return &labelledWriter{Writer: w, labels: labels, unlock: unlock}, nil
}

// labelledWriter commits with labels and lets the next pull go on when it is closed.
type labelledWriter struct {
	*Writer
	labels map[string]string
	unlock func()
}

func (w *labelledWriter) Commit(ctx context.Context, size int64, expected digest.Digest) error {
	err := w.CommitLabels(ctx, size, expected, w.labels)
	return errors.Join(err, w.Close())
}

func (w *labelledWriter) Close() error {
	err := w.Writer.Close()
	if w.unlock != nil {
		w.unlock()
		w.unlock = nil
	}
	return err
}

// Abort is nil for an ingest that is not there.
func (s imageStore) Abort(ctx context.Context, ref string) error {
	if err := s.Content.Abort(ctx, ref); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

func (s imageStore) Labels(ctx context.Context, dgst digest.Digest) (map[string]string, error) {
	b, err := s.Blob(ctx, dgst)
	return b.Labels, err
}

// SetLabels writes only when a label changes.
func (s imageStore) SetLabels(ctx context.Context, dgst digest.Digest, labels map[string]string) error {
	b, err := s.Blob(ctx, dgst)
	if err != nil {
		return err
	}
	change := metadata.Blob{Digest: dgst, Labels: map[string]string{}}
	var fields []string
	for k, v := range labels {
		if b.Labels[k] != v {
			change.Labels[k] = v
			fields = append(fields, "labels."+k)
		}
	}
	if len(fields) == 0 {
		return nil
	}
	_, err = s.Update(ctx, change, fields...)
	return err
}
