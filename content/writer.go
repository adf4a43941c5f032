package content

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	hashBuffer = 1 << 20 // bytes read at a time to hash a file

	// writebackStep is after how many bytes the kernel is told to begin writing them out, so that the sync in Commit finds
	// little left to do. Smaller steps make for more, smaller requests to the disk.
	writebackStep = 8 << 20
)

// writer is an open ingest. Its lock in the store is held until closed.
type writer struct {
	store *FS
	name  string // of the ingest's files
	meta  ingestMeta
	data  *os.File // nil when closed

	offset    int64 // bytes in data
	algorithm digest.Algorithm
	hash      hash.Hash // of the first hashed bytes of data; what a resumed ingest holds is hashed when that is needed
	hashed    int64
	flushed   int64 // bytes whose writing out has begun
}

// Writer implements Ingester.
func (s *FS) Writer(ctx context.Context, ref string, desc ocispec.Descriptor) (Writer, error) {
	if err := checkRef(ref); err != nil {
		return nil, err
	}
	if desc.Size < 0 {
		return nil, fmt.Errorf("ingest %q: size of %d bytes: %w", ref, desc.Size, errdefs.ErrInvalidArgument)
	}
	if err := s.absent(ctx, desc.Digest); err != nil {
		return nil, err
	}
	name := ingestName(ref)
	if err := s.lock(name, ref); err != nil {
		return nil, err
	}
	// Again, as who held the lock until now may have committed the blob since.
	if err := s.absent(ctx, desc.Digest); err != nil {
		s.unlock(name)
		return nil, err
	}
	w, err := s.openWriter(name, ref, desc)
	if err != nil {
		s.unlock(name)
		if diskFull(err) {
			err = fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
		}
		return nil, fmt.Errorf("cannot open ingest %q: %w", ref, err)
	}
	return w, nil
}

// absent is AlreadyExists when the store holds dgst; an empty one is not looked for.
func (s *FS) absent(ctx context.Context, dgst digest.Digest) error {
	if dgst == "" {
		return nil
	}
	if _, err := s.Info(ctx, dgst); errdefs.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	return fmt.Errorf("blob %s: %w", dgst, errdefs.ErrAlreadyExists)
}

// openWriter opens the ingest's files or makes them. The caller holds its lock.
func (s *FS) openWriter(name, ref string, desc ocispec.Descriptor) (_ *writer, err error) {
	w := &writer{store: s, name: name}
	old, err := s.status(name)
	if err == nil {
		w.meta = ingestMeta{Ref: ref, Total: old.Total, Expected: old.Expected, StartedAt: old.StartedAt}
		err = w.resume(desc)
	} else {
		w.meta = ingestMeta{Ref: ref, Total: desc.Size, Expected: desc.Digest, StartedAt: time.Now().UTC()}
		err = w.begin()
	}
	if err != nil {
		return nil, err
	}
	w.algorithm = digest.SHA256
	if w.meta.Expected != "" {
		w.algorithm = w.meta.Expected.Algorithm()
	}
	w.hash = cryptoHash(w.algorithm).New()
	return w, nil
}

func (w *writer) dataPath() string { return ingestPath(w.name, dataFile) }

// begin makes the ingest anew, over what an earlier one may have left.
func (w *writer) begin() (err error) {
	s := w.store
	defer func() {
		if err != nil {
			_ = s.root.Remove(w.dataPath())
			_ = s.root.Remove(ingestPath(w.name, metaFile))
		}
	}()
	if err := s.writeMeta(w.name, metaFile, w.meta); err != nil {
		return err
	}
	if err := s.at("ingest: make data"); err != nil {
		return err
	}
	w.data, err = s.root.OpenFile(w.dataPath(), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	return err
}

// resume opens the data of an ingest and writes down what desc tells beyond what was known.
func (w *writer) resume(desc ocispec.Descriptor) error {
	known := w.meta
	if desc.Size != 0 && known.Total != 0 && desc.Size != known.Total {
		return fmt.Errorf("it was begun for %d bytes, not %d: %w", known.Total, desc.Size, errdefs.ErrFailedPrecondition)
	}
	if desc.Digest != "" && known.Expected != "" && desc.Digest != known.Expected {
		return fmt.Errorf("it was begun for %s, not %s: %w", known.Expected, desc.Digest, errdefs.ErrFailedPrecondition)
	}
	if desc.Size != 0 {
		w.meta.Total = desc.Size
	}
	if desc.Digest != "" {
		w.meta.Expected = desc.Digest
	}
	if w.meta != known {
		if err := w.store.replaceMeta(w.name, w.meta); err != nil {
			return err
		}
	}
	f, err := w.store.root.OpenFile(w.dataPath(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	w.data, w.offset, w.flushed = f, fi.Size(), fi.Size()
	return nil
}

func (w *writer) errorf(verb string, err error) error {
	if diskFull(err) {
		err = fmt.Errorf("%w (free some space; the ingest is kept and can be resumed): %w", err, errdefs.ErrResourceExhausted)
	}
	return fmt.Errorf("cannot %s ingest %q: %w", verb, w.meta.Ref, err)
}

var errClosed = fmt.Errorf("the writer is closed: %w", errdefs.ErrFailedPrecondition)

// catchUp hashes what is in the file and not in the hash.
func (w *writer) catchUp() error {
	if w.hashed == w.offset {
		return nil
	}
	adviseSequential(w.data)
	rest := io.NewSectionReader(w.data, w.hashed, w.offset-w.hashed)
	n, err := io.CopyBuffer(struct{ io.Writer }{w.hash}, rest, make([]byte, min(hashBuffer, w.offset-w.hashed)))
	w.hashed += n
	if err == nil && w.hashed != w.offset {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Write implements Writer.
func (w *writer) Write(p []byte) (int, error) {
	if w.data == nil {
		return 0, w.errorf("write to", errClosed)
	}
	if w.meta.Total > 0 && int64(len(p)) > w.meta.Total-w.offset {
		return 0, w.errorf("write to", fmt.Errorf("%d bytes at %d exceed the expected size of %d: %w",
			len(p), w.offset, w.meta.Total, errdefs.ErrOutOfRange))
	}
	if err := w.catchUp(); err != nil {
		return 0, w.errorf("read back", err)
	}
	if err := w.store.at("write"); err != nil {
		return 0, w.errorf("write to", err)
	}
	n, err := w.data.WriteAt(p, w.offset)
	w.hash.Write(p[:n])
	w.offset += int64(n)
	w.hashed = w.offset
	if w.offset-w.flushed >= writebackStep {
		startWriteback(w.data, w.flushed, w.offset-w.flushed)
		w.flushed = w.offset
	}
	if err != nil {
		return n, w.errorf("write to", err)
	}
	return n, nil
}

// Digest implements Writer.
func (w *writer) Digest() digest.Digest {
	if w.hashed != w.offset && (w.data == nil || w.catchUp() != nil) {
		return ""
	}
	return digest.NewDigest(w.algorithm, w.hash)
}

// Status implements Writer.
func (w *writer) Status() (Ingest, error) {
	if w.data == nil {
		return Ingest{}, w.errorf("read", errClosed)
	}
	st, err := w.store.status(w.name)
	if err != nil {
		return Ingest{}, ingestError("read", w.meta.Ref, err)
	}
	return st, nil
}

// Truncate implements Writer.
func (w *writer) Truncate(size int64) error {
	if w.data == nil {
		return w.errorf("truncate", errClosed)
	}
	if size < 0 || size > w.offset {
		return w.errorf("truncate", fmt.Errorf("%d bytes, of %d: %w", size, w.offset, errdefs.ErrOutOfRange))
	}
	if err := w.data.Truncate(size); err != nil {
		return w.errorf("truncate", err)
	}
	w.offset, w.flushed = size, min(size, w.flushed)
	if size < w.hashed {
		w.hash.Reset()
		w.hashed = 0
	}
	return nil
}

// Close implements Writer. Closing twice is nil.
func (w *writer) Close() error {
	if w.data == nil {
		return nil
	}
	defer w.store.unlock(w.name)
	err := w.data.Close()
	w.data = nil
	return err
}
