package content

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// NewReader reads a blob from front to back. Closing ra stays the caller's duty.
func NewReader(ra ReaderAt) io.Reader {
	return io.NewSectionReader(ra, 0, ra.Size())
}

// ReadAll reads a small blob, such as a manifest, into memory and checks it against its digest (DataLoss when they
// differ). A blob of more than limit bytes is OutOfRange.
func ReadAll(ctx context.Context, p Provider, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	ra, err := p.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	if ra.Size() > limit {
		return nil, fmt.Errorf("blob %s has %d bytes, more than the %d allowed here: %w", desc.Digest, ra.Size(), limit, errdefs.ErrOutOfRange)
	}
	data := make([]byte, ra.Size())
	if _, err := io.ReadFull(NewReader(ra), data); err != nil {
		return nil, fmt.Errorf("cannot read blob %s: %w", desc.Digest, err)
	}
	if got := desc.Digest.Algorithm().FromBytes(data); got != desc.Digest {
		return nil, fmt.Errorf("blob %s holds the bytes of %s: %w", desc.Digest, got, errdefs.ErrDataLoss)
	}
	return data, nil
}

// Write commits all of r as the blob desc, from its first byte whatever the ingest ref holds. It is nil when the blob is
// there already. After any other error the ingest is aborted, so Write is for what is cheap to fetch again.
func Write(ctx context.Context, s Store, ref string, desc ocispec.Descriptor, r io.Reader) error {
	w, err := s.Writer(ctx, ref, desc)
	if err != nil {
		return ignoreExists(err)
	}
	err = copyAndCommit(ctx, w, desc, r)
	if err == nil || errdefs.IsAlreadyExists(err) {
		return nil
	}
	return errors.Join(err, s.Abort(context.WithoutCancel(ctx), ref))
}

func copyAndCommit(ctx context.Context, w Writer, desc ocispec.Descriptor, r io.Reader) error {
	err := w.Truncate(0)
	if err == nil {
		_, err = io.Copy(w, contextReader{ctx, r})
	}
	if err != nil {
		return errors.Join(err, w.Close())
	}
	return w.Commit(ctx, desc.Size, desc.Digest)
}

func ignoreExists(err error) error {
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// WriteBytes is Write for bytes in memory, and answers their descriptor.
func WriteBytes(ctx context.Context, s Store, mediaType string, data []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return desc, Write(ctx, s, "bytes-"+desc.Digest.String(), desc, bytes.NewReader(data))
}
