// Package content names and keeps blobs by their digest.
//
// It owns the files below one directory: finished blobs, and ingests that are still being written. It knows nothing of
// namespaces, labels or leases (package metadata does) nor of registries (package image does), and imports neither.
//
// What a crash leaves: a blob is either whole, verified and durable under its digest, or it is an ingest that can be
// resumed or aborted. A process's death loses no byte of an ingest; a power failure may damage what an ingest holds, and
// then Commit refuses it. Nothing is ever visible half-written.
//
// FS is the store on a file system; its layout is described there.
package content

import (
	"context"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Blob describes a finished blob.
type Blob struct {
	Digest    digest.Digest
	Size      int64 // bytes
	CreatedAt time.Time
}

// Ingest describes a blob that is still being written.
type Ingest struct {
	Ref       string        // the caller's name for the ingest, opaque
	Offset    int64         // bytes written so far; a writer resumes here
	Total     int64         // bytes expected, 0 when unknown
	Expected  digest.Digest // digest expected, empty when unknown
	StartedAt time.Time
	UpdatedAt time.Time
}

// ReaderAt reads a finished blob at random. The caller closes it; it stays readable after the blob's deletion.
type ReaderAt interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// A Provider opens blobs. NotFound when there is none with that digest.
type Provider interface {
	ReaderAt(ctx context.Context, desc ocispec.Descriptor) (ReaderAt, error)
}

// An Ingester begins or resumes the writing of a blob.
type Ingester interface {
	// Writer opens the ingest ref, creating it when it is not there and resuming it when it is. It holds the lock on ref
	// until Close or Commit: a second Writer for the same ref is Unavailable. A desc that names a digest which the store
	// already holds is AlreadyExists. Zero fields of desc are unknown; those that contradict what the ingest was begun
	// with are FailedPrecondition (Abort it first).
	Writer(ctx context.Context, ref string, desc ocispec.Descriptor) (Writer, error)
}

// Writer appends to one ingest. It is not safe for concurrent use.
type Writer interface {
	// Write appends; the bytes survive a crash of the process, and after Commit a power failure too. What would go past
	// the expected size is OutOfRange and not written at all, so that an endless body fills no disk. On a full disk it is
	// ResourceExhausted, and what was written stays.
	io.Writer
	// Close releases the lock and keeps what was written, so that the ingest can be resumed.
	io.Closer
	// Digest of all bytes written so far, by the expected digest's algorithm (sha256 when none is expected). Empty when
	// they could not be read back; Write and Commit tell why.
	Digest() digest.Digest
	Status() (Ingest, error)
	// Truncate cuts the ingest to size bytes (from 0 to the current offset; anything else is OutOfRange), and the digest
	// with it.
	Truncate(size int64) error
	// Commit verifies size (when above 0, else the expected one) and digest (when not empty, else the expected one), makes
	// the blob durable (file, directory) and then visible, and ends the ingest. FailedPrecondition when size or digest
	// differ: the ingest is kept, for Abort or Truncate. AlreadyExists when the blob is there already, in which case the
	// ingest is gone too. The writer is closed whatever the outcome.
	Commit(ctx context.Context, size int64, expected digest.Digest) error
}

// Store is all of it. Every method is safe for concurrent use, also by several processes for reading.
type Store interface {
	Provider
	Ingester
	// Info is NotFound when there is no such blob.
	Info(ctx context.Context, dgst digest.Digest) (Blob, error)
	// Walk calls fn for every blob in no particular order until fn fails. Blobs that come or go meanwhile may be missed.
	Walk(ctx context.Context, fn func(Blob) error) error
	// Delete removes a blob durably; NotFound when there is none. Readers that are open go on.
	Delete(ctx context.Context, dgst digest.Digest) error
	// Verify reads the whole blob: DataLoss when its bytes are not those of the digest.
	Verify(ctx context.Context, dgst digest.Digest) error
	// Status is NotFound when there is no such ingest.
	Status(ctx context.Context, ref string) (Ingest, error)
	Ingests(ctx context.Context) ([]Ingest, error)
	// Abort deletes an ingest; NotFound when there is none, Unavailable while a writer has it open.
	Abort(ctx context.Context, ref string) error
}

// A Fetcher reads ranges of a blob that is somewhere else.
type Fetcher interface {
	// Fetch streams length bytes from offset; length -1 means to the end. The caller closes the stream.
	Fetch(ctx context.Context, desc ocispec.Descriptor, offset, length int64) (io.ReadCloser, error)
}
