package content

import (
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Commit implements Writer. It costs one fdatasync of the data and one fsync of the directory.
func (w *writer) Commit(ctx context.Context, size int64, expected digest.Digest) (err error) {
	if w.data == nil {
		return w.errorf("commit", errClosed)
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	dgst, err := w.verify(size, expected)
	if err != nil {
		return w.errorf("commit", err)
	}
	release, err := w.store.claim(ctx, dgst)
	if err != nil {
		return w.errorf("commit", err)
	}
	defer release()
	d := w.store.blobs[dgst.Algorithm()]
	exists := false
	if _, err := d.stat(dgst); err == nil {
		exists = true
	} else if !errdefs.IsNotFound(err) {
		return w.errorf("commit", err)
	}
	if !exists {
		if err := w.publish(d, dgst); err != nil {
			return w.errorf("commit", err)
		}
	}
	// A published ingest has no data left, so what a failure leaves of it here is as good as gone.
	if err := w.store.remove(w.name); err != nil && exists {
		return w.errorf("remove the finished", err)
	}
	if exists {
		return fmt.Errorf("blob %s: %w", dgst, errdefs.ErrAlreadyExists)
	}
	return nil
}

// verify answers the digest of the ingest after comparing size and digest with what they must be.
func (w *writer) verify(size int64, expected digest.Digest) (digest.Digest, error) {
	if size <= 0 {
		size = w.meta.Total
	}
	if size > 0 && size != w.offset {
		return "", fmt.Errorf("it has %d bytes, not %d: %w", w.offset, size, errdefs.ErrFailedPrecondition)
	}
	if expected == "" {
		expected = w.meta.Expected
	}
	if expected != "" {
		if _, err := w.store.directory(expected); err != nil {
			return "", err
		}
		if alg := expected.Algorithm(); alg != w.algorithm {
			w.algorithm, w.hash, w.hashed = alg, cryptoHash(alg).New(), 0
		}
	}
	if err := w.catchUp(); err != nil {
		return "", fmt.Errorf("cannot read it back: %w", err)
	}
	dgst := digest.NewDigest(w.algorithm, w.hash)
	if expected != "" && dgst != expected {
		return "", fmt.Errorf("it has digest %s, not %s: %w", dgst, expected, errdefs.ErrFailedPrecondition)
	}
	return dgst, nil
}

// claim makes the caller the only one that commits dgst until release.
func (s *FS) claim(ctx context.Context, dgst digest.Digest) (release func(), err error) {
	for {
		s.mu.Lock()
		other, busy := s.commits[dgst]
		if !busy {
			done := make(chan struct{})
			s.commits[dgst] = done
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				delete(s.commits, dgst)
				s.mu.Unlock()
				close(done)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// publish makes the data durable and puts it in its place. After an error it is where it was.
func (w *writer) publish(d *directory, dgst digest.Digest) (err error) {
	s, blob := w.store, path.Join(blobsDir, dgst.Algorithm().String(), dgst.Encoded())
	if err := s.at("commit: sync data"); err != nil {
		return err
	}
	if err := syncData(w.data); err != nil {
		return fmt.Errorf("cannot sync: %w", err)
	}
	if err := s.at("commit: rename"); err != nil {
		return err
	}
	defer s.hide(dgst)()
	if err := s.root.Rename(w.dataPath(), blob); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.root.Rename(blob, w.dataPath()))
		}
	}()
	if err := s.at("commit: sync directory"); err != nil {
		return err
	}
	if err := syncDirectory(d.handle); err != nil {
		return fmt.Errorf("cannot sync the directory of blobs: %w", err)
	}
	return nil
}
