package content

import (
	"context"
	"crypto"
	_ "crypto/sha256" // the hashes that digests name
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FS is a Store in a directory:
//
//	blobs/<algorithm>/<hex>       a finished blob
//	ingest/<sha256 of ref>.meta   what the ingest is: see ingestMeta
//	ingest/<sha256 of ref>.data   the bytes so far
//
// A commit syncs data, renames it to its place among the blobs and syncs that directory, in this order; then it is visible
// to other calls. So whatever stands under a digest is whole. An empty file there that is not the blob of no bytes can only
// be damage done by others (or by a disk that lies); it counts as missing, and the next commit replaces it.
//
// One process may have a directory open for writing; others can read the blobs.
type FS struct {
	root  *os.Root
	blobs map[digest.Algorithm]*directory

	mu      sync.Mutex
	writing map[string]struct{}             // names of ingests that are open or being removed
	commits map[digest.Digest]chan struct{} // digests that a Commit is at work on; closed at its end
	hidden  map[digest.Digest]struct{}      // blobs in their place whose directory is not synced yet

	// step is nil but in tests, which stop the store (or the process) before the named step of its work on disk.
	step func(name string) error
}

var _ Store = (*FS)(nil)

// directory is an open directory that blobs are put in.
type directory struct {
	*os.Root
	handle *os.File // for syncing
}

var algorithms = []digest.Algorithm{digest.SHA256, digest.SHA512}

const (
	blobsDir  = "blobs"
	ingestDir = "ingest"
)

// Open opens the store in dir, an absolute path, and makes it when it is not there. It removes the ingests that a crash
// left without a name or without data. The caller closes the store.
func Open(dir string) (_ *FS, err error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("cannot open content store %q: the path must be absolute: %w", dir, errdefs.ErrInvalidArgument)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make content store: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open content store: %w", err)
	}
	s := &FS{
		root:    root,
		blobs:   make(map[digest.Algorithm]*directory),
		writing: make(map[string]struct{}),
		commits: make(map[digest.Digest]chan struct{}),
		hidden:  make(map[digest.Digest]struct{}),
	}
	if err := errors.Join(s.prepare(), s.sweep()); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open content store %s: %w", dir, err), s.Close())
	}
	return s, nil
}

// prepare makes and opens the directories. It syncs them too: a blob that a commit had renamed and not synced when its
// process was killed is visible from now on, so it has to be durable.
func (s *FS) prepare() error {
	if err := s.root.MkdirAll(ingestDir, 0o700); err != nil {
		return err
	}
	for _, alg := range algorithms {
		name := path.Join(blobsDir, alg.String())
		if err := s.root.MkdirAll(name, 0o700); err != nil {
			return err
		}
		sub, err := s.root.OpenRoot(name)
		if err != nil {
			return err
		}
		d := &directory{Root: sub}
		s.blobs[alg] = d
		if d.handle, err = sub.Open("."); err != nil {
			return err
		}
		if err := syncDirectory(d.handle); err != nil {
			return err
		}
	}
	for _, name := range []string{blobsDir, "."} {
		f, err := s.root.Open(name)
		if err != nil {
			return err
		}
		if err := errors.Join(syncDirectory(f), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// Close frees the store's descriptors. Writers must be closed before; readers stay usable.
func (s *FS) Close() error {
	var errs []error
	for _, d := range s.blobs {
		if d.handle != nil {
			errs = append(errs, d.handle.Close())
		}
		errs = append(errs, d.Root.Close())
	}
	return errors.Join(append(errs, s.root.Close())...)
}

// directory checks a digest, before any path is made of it, and answers the directory of its blob.
func (s *FS) directory(dgst digest.Digest) (*directory, error) {
	if err := dgst.Validate(); err != nil {
		return nil, fmt.Errorf("digest %.200q: %w: %w", dgst, err, errdefs.ErrInvalidArgument)
	}
	d, ok := s.blobs[dgst.Algorithm()]
	if !ok {
		return nil, fmt.Errorf("digest algorithm %s is not supported (use sha256 or sha512): %w", dgst.Algorithm(), errdefs.ErrInvalidArgument)
	}
	return d, nil
}

// visible is NotFound for a blob whose directory entry may not be durable yet.
func (s *FS) visible(dgst digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.hidden[dgst]; ok {
		return fmt.Errorf("blob %s is being committed: %w", dgst, errdefs.ErrNotFound)
	}
	return nil
}

// hide makes a blob invisible until show.
func (s *FS) hide(dgst digest.Digest) (show func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hidden[dgst] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.hidden, dgst)
	}
}

// checkBlob is NotFound for what stands under a digest and cannot be its blob.
func checkBlob(dgst digest.Digest, fi fs.FileInfo) error {
	if !fi.Mode().IsRegular() || fi.Size() == 0 && dgst != dgst.Algorithm().FromBytes(nil) {
		return fmt.Errorf("blob %s is damaged (mode %s, %d bytes): %w", dgst, fi.Mode(), fi.Size(), errdefs.ErrNotFound)
	}
	return nil
}

// stat finds a blob in its directory, visible or not.
func (d *directory) stat(dgst digest.Digest) (Blob, error) {
	fi, err := d.Lstat(dgst.Encoded())
	if err != nil {
		return Blob{}, blobError("stat", dgst, err)
	}
	if err := checkBlob(dgst, fi); err != nil {
		return Blob{}, err
	}
	return Blob{Digest: dgst, Size: fi.Size(), CreatedAt: fi.ModTime()}, nil
}

func blobError(verb string, dgst digest.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob %s: %w", dgst, errdefs.ErrNotFound)
	}
	return fmt.Errorf("cannot %s blob %s: %w", verb, dgst, err)
}

// Info implements Store.
func (s *FS) Info(_ context.Context, dgst digest.Digest) (Blob, error) {
	d, err := s.directory(dgst)
	if err != nil {
		return Blob{}, err
	}
	if err := s.visible(dgst); err != nil {
		return Blob{}, err
	}
	return d.stat(dgst)
}

// file is an open blob.
type file struct {
	*os.File
	size int64
}

func (f *file) Size() int64 { return f.size }

// ReaderAt implements Provider. Of desc only the digest counts.
func (s *FS) ReaderAt(_ context.Context, desc ocispec.Descriptor) (ReaderAt, error) {
	return s.open(desc.Digest)
}

func (s *FS) open(dgst digest.Digest) (*file, error) {
	d, err := s.directory(dgst)
	if err != nil {
		return nil, err
	}
	if err := s.visible(dgst); err != nil {
		return nil, err
	}
	f, err := d.Open(dgst.Encoded())
	if err != nil {
		return nil, blobError("open", dgst, err)
	}
	fi, err := f.Stat()
	if err == nil {
		err = checkBlob(dgst, fi)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &file{File: f, size: fi.Size()}, nil
}

// walkBatch is how many directory entries are read at a time, so that a walk of a large store takes little memory.
const walkBatch = 512

// Walk implements Store.
func (s *FS) Walk(ctx context.Context, fn func(Blob) error) error {
	for _, alg := range algorithms {
		if err := s.walk(ctx, alg, fn); err != nil {
			return err
		}
	}
	return nil
}

func (s *FS) walk(ctx context.Context, alg digest.Algorithm, fn func(Blob) error) error {
	dir, err := s.blobs[alg].Open(".")
	if err != nil {
		return fmt.Errorf("cannot list blobs: %w", err)
	}
	defer dir.Close()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		names, err := dir.Readdirnames(walkBatch)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot list blobs: %w", err)
		}
		for _, name := range names {
			blob, err := s.Info(ctx, digest.NewDigestFromEncoded(alg, name))
			if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
				continue // gone, not visible, or not ours
			}
			if err != nil {
				return err
			}
			if err := fn(blob); err != nil {
				return err
			}
		}
	}
}

// Delete implements Store.
func (s *FS) Delete(_ context.Context, dgst digest.Digest) error {
	d, err := s.directory(dgst)
	if err != nil {
		return err
	}
	if err := s.visible(dgst); err != nil {
		return err
	}
	if err := s.at("delete: remove blob"); err != nil {
		return err
	}
	if err := d.Remove(dgst.Encoded()); err != nil {
		return blobError("delete", dgst, err)
	}
	if err := s.at("delete: sync directory"); err != nil {
		return err
	}
	if err := syncDirectory(d.handle); err != nil {
		return fmt.Errorf("cannot make the deletion of blob %s durable: %w", dgst, err)
	}
	return nil
}

// Verify implements Store. A blob that cannot be read is DataLoss as well.
func (s *FS) Verify(ctx context.Context, dgst digest.Digest) error {
	f, err := s.open(dgst)
	if err != nil {
		return err
	}
	defer f.Close()
	adviseSequential(f.File)
	hash := cryptoHash(dgst.Algorithm()).New()
	if _, err := io.CopyBuffer(hash, contextReader{ctx, f}, make([]byte, hashBuffer)); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("cannot verify blob %s: %w", dgst, err)
		}
		return fmt.Errorf("blob %s cannot be read (delete it and fetch it again): %w: %w", dgst, err, errdefs.ErrDataLoss)
	}
	if got := digest.NewDigest(dgst.Algorithm(), hash); got != dgst {
		return fmt.Errorf("blob %s holds the bytes of %s (delete it and fetch it again): %w", dgst, got, errdefs.ErrDataLoss)
	}
	return nil
}

// contextReader ends when its context does; it also hides the file's WriteTo, which would read in small pieces.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

func cryptoHash(alg digest.Algorithm) crypto.Hash {
	if alg == digest.SHA512 {
		return crypto.SHA512
	}
	return crypto.SHA256
}

func (s *FS) at(step string) error {
	if s.step == nil {
		return nil
	}
	return s.step(step)
}
