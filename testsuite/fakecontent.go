package testsuite

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
)

// MemoryContent is a content.Store in memory, for the tests of packages that need one.
type MemoryContent struct {
	mu      sync.Mutex
	blobs   map[digest.Digest]*memoryBlob
	ingests map[string]*memoryIngest
}

type memoryBlob struct {
	data    []byte
	created time.Time
}

type memoryIngest struct {
	content.Ingest
	data []byte
	open bool
}

// NewMemoryContent makes an empty store.
func NewMemoryContent() *MemoryContent {
	return &MemoryContent{blobs: make(map[digest.Digest]*memoryBlob), ingests: make(map[string]*memoryIngest)}
}

// Damage overwrites the bytes of a blob, for tests of what finds that out.
func (m *MemoryContent) Damage(dgst digest.Digest, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blobs[dgst] = &memoryBlob{data: data, created: time.Now()}
}

func checkDigest(dgst digest.Digest) error {
	if err := dgst.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w: %w", dgst, err, errdefs.ErrInvalidArgument)
	}
	if alg := dgst.Algorithm(); alg != digest.SHA256 && alg != digest.SHA512 {
		return fmt.Errorf("digest algorithm %s: %w", alg, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (m *MemoryContent) blob(dgst digest.Digest) (*memoryBlob, error) {
	if err := checkDigest(dgst); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.blobs[dgst]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", dgst, errdefs.ErrNotFound)
	}
	return b, nil
}

// Info implements content.Store.
func (m *MemoryContent) Info(_ context.Context, dgst digest.Digest) (content.Blob, error) {
	b, err := m.blob(dgst)
	if err != nil {
		return content.Blob{}, err
	}
	return content.Blob{Digest: dgst, Size: int64(len(b.data)), CreatedAt: b.created}, nil
}

type memoryReader struct{ *bytes.Reader }

func (memoryReader) Close() error { return nil }

// ReaderAt implements content.Provider.
func (m *MemoryContent) ReaderAt(_ context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	b, err := m.blob(desc.Digest)
	if err != nil {
		return nil, err
	}
	return memoryReader{bytes.NewReader(b.data)}, nil
}

// Walk implements content.Store.
func (m *MemoryContent) Walk(ctx context.Context, fn func(content.Blob) error) error {
	m.mu.Lock()
	digests := slices.Collect(maps.Keys(m.blobs))
	m.mu.Unlock()
	for _, dgst := range digests {
		if err := ctx.Err(); err != nil {
			return err
		}
		if b, err := m.Info(ctx, dgst); err == nil {
			if err := fn(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// Delete implements content.Store.
func (m *MemoryContent) Delete(_ context.Context, dgst digest.Digest) error {
	if _, err := m.blob(dgst); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.blobs, dgst)
	return nil
}

// Verify implements content.Store.
func (m *MemoryContent) Verify(ctx context.Context, dgst digest.Digest) error {
	b, err := m.blob(dgst)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if dgst.Algorithm().FromBytes(b.data) != dgst {
		return fmt.Errorf("blob %s: %w", dgst, errdefs.ErrDataLoss)
	}
	return nil
}

func checkRef(ref string) error {
	if ref == "" || len(ref) > 4096 {
		return fmt.Errorf("ref %.80q: %w", ref, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Status implements content.Store.
func (m *MemoryContent) Status(_ context.Context, ref string) (content.Ingest, error) {
	if err := checkRef(ref); err != nil {
		return content.Ingest{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	in, ok := m.ingests[ref]
	if !ok {
		return content.Ingest{}, fmt.Errorf("ingest %q: %w", ref, errdefs.ErrNotFound)
	}
	return in.status(), nil
}

func (in *memoryIngest) status() content.Ingest {
	st := in.Ingest
	st.Offset = int64(len(in.data))
	return st
}

// Ingests implements content.Store.
func (m *MemoryContent) Ingests(context.Context) ([]content.Ingest, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []content.Ingest
	for _, in := range m.ingests {
		all = append(all, in.status())
	}
	return all, nil
}

// Abort implements content.Store.
func (m *MemoryContent) Abort(_ context.Context, ref string) error {
	if err := checkRef(ref); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	in, ok := m.ingests[ref]
	switch {
	case !ok:
		return fmt.Errorf("ingest %q: %w", ref, errdefs.ErrNotFound)
	case in.open:
		return fmt.Errorf("ingest %q is in use: %w", ref, errdefs.ErrUnavailable)
	}
	delete(m.ingests, ref)
	return nil
}

// Writer implements content.Ingester.
func (m *MemoryContent) Writer(ctx context.Context, ref string, desc ocispec.Descriptor) (content.Writer, error) {
	if err := checkRef(ref); err != nil {
		return nil, err
	}
	if desc.Size < 0 {
		return nil, fmt.Errorf("size %d: %w", desc.Size, errdefs.ErrInvalidArgument)
	}
	if desc.Digest != "" {
		if err := checkDigest(desc.Digest); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.blobs[desc.Digest]; ok {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, errdefs.ErrAlreadyExists)
	}
	in, ok := m.ingests[ref]
	if !ok {
		in = &memoryIngest{Ingest: content.Ingest{Ref: ref, StartedAt: time.Now(), UpdatedAt: time.Now()}}
	}
	switch {
	case in.open:
		return nil, fmt.Errorf("ingest %q is in use: %w", ref, errdefs.ErrUnavailable)
	case in.Total != 0 && desc.Size != 0 && in.Total != desc.Size, in.Expected != "" && desc.Digest != "" && in.Expected != desc.Digest:
		return nil, fmt.Errorf("ingest %q was begun for another blob: %w", ref, errdefs.ErrFailedPrecondition)
	}
	in.Total, in.Expected = max(in.Total, desc.Size), max(in.Expected, desc.Digest)
	in.open = true
	m.ingests[ref] = in
	return &memoryWriter{store: m, in: in}, nil
}

type memoryWriter struct {
	store  *MemoryContent
	in     *memoryIngest
	closed bool
}

var errWriterClosed = fmt.Errorf("writer is closed: %w", errdefs.ErrFailedPrecondition)

func (w *memoryWriter) Write(p []byte) (int, error) {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	if w.closed {
		return 0, errWriterClosed
	}
	if w.in.Total > 0 && int64(len(w.in.data)+len(p)) > w.in.Total {
		return 0, fmt.Errorf("ingest %q exceeds %d bytes: %w", w.in.Ref, w.in.Total, errdefs.ErrOutOfRange)
	}
	w.in.data = append(w.in.data, p...)
	w.in.UpdatedAt = time.Now()
	return len(p), nil
}

func (w *memoryWriter) Close() error {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	w.close()
	return nil
}

func (w *memoryWriter) close() {
	if !w.closed {
		w.closed, w.in.open = true, false
	}
}

func (w *memoryWriter) Digest() digest.Digest {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	if w.in.Expected != "" {
		return w.in.Expected.Algorithm().FromBytes(w.in.data)
	}
	return digest.FromBytes(w.in.data)
}

func (w *memoryWriter) Status() (content.Ingest, error) {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	if w.closed {
		return content.Ingest{}, errWriterClosed
	}
	return w.in.status(), nil
}

func (w *memoryWriter) Truncate(size int64) error {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	if w.closed {
		return errWriterClosed
	}
	if size < 0 || size > int64(len(w.in.data)) {
		return fmt.Errorf("truncate to %d of %d bytes: %w", size, len(w.in.data), errdefs.ErrOutOfRange)
	}
	w.in.data = slices.Clone(w.in.data[:size])
	return nil
}

func (w *memoryWriter) Commit(_ context.Context, size int64, expected digest.Digest) error {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	if w.closed {
		return errWriterClosed
	}
	defer w.close()
	if size <= 0 {
		size = w.in.Total
	}
	if size > 0 && size != int64(len(w.in.data)) {
		return fmt.Errorf("ingest %q has %d bytes, not %d: %w", w.in.Ref, len(w.in.data), size, errdefs.ErrFailedPrecondition)
	}
	if expected == "" {
		expected = w.in.Expected
	}
	if expected == "" {
		expected = digest.FromBytes(w.in.data)
	}
	if err := checkDigest(expected); err != nil {
		return err
	}
	if got := expected.Algorithm().FromBytes(w.in.data); got != expected {
		return fmt.Errorf("ingest %q has digest %s, not %s: %w", w.in.Ref, got, expected, errdefs.ErrFailedPrecondition)
	}
	delete(w.store.ingests, w.in.Ref)
	if _, ok := w.store.blobs[expected]; ok {
		return fmt.Errorf("blob %s: %w", expected, errdefs.ErrAlreadyExists)
	}
	w.store.blobs[expected] = &memoryBlob{data: w.in.data, created: time.Now()}
	return nil
}
