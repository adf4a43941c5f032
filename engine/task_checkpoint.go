package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/internal/opaque"
)

// Media types of the blobs that a checkpoint consists of (containerd's core/images).
const (
	checkpointType     = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
	checkpointSpecType = "application/vnd.containerd.container.checkpoint.config.v1+proto"
)

const (
	maxCheckpoint      = 64 << 30 // bytes, unpacked
	maxCheckpointFiles = 100_000
)

// CheckpointTask dumps a task with CRIU. With a path the image is left in that directory and nothing is answered; without
// one it becomes two blobs of the content store, the image as a tar and the container's spec, held by the scope's lease.
func (e *Engine) CheckpointTask(ctx context.Context, sc Scope, id, path string, options *opaque.Any) ([]ocispec.Descriptor, error) {
	c, err := e.GetContainer(ctx, sc.Namespace, id)
	if err != nil {
		return nil, err
	}
	if path != "" {
		return nil, e.tasks.Checkpoint(ctx, sc.Namespace, id, path, options)
	}
	dir, remove, err := e.checkpointDir()
	if err != nil {
		return nil, err
	}
	defer remove()
	if err := e.tasks.Checkpoint(ctx, sc.Namespace, id, dir, options); err != nil {
		return nil, err
	}
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(tarDir(dir, pw)) }()
	img, err := e.writeBlob(ctx, sc, checkpointType, pr)
	pr.Close() // ends the goroutine when the blob could not be written
	if err != nil {
		return nil, fmt.Errorf("cannot keep the checkpoint of task %s: %w", id, err)
	}
	if c.Spec == nil {
		return []ocispec.Descriptor{img}, nil
	}
	spec, err := e.writeBlob(ctx, sc, checkpointSpecType, bytes.NewReader(c.Spec.Value))
	if err != nil {
		return nil, fmt.Errorf("cannot keep the spec of task %s: %w", id, err)
	}
	return []ocispec.Descriptor{img, spec}, nil
}

func (e *Engine) checkpoints() string { return filepath.Join(e.state, "checkpoint") }

// removeCheckpoints drops what a crash left in the middle of a checkpoint or a restore.
func (e *Engine) removeCheckpoints() error {
	if err := os.RemoveAll(e.checkpoints()); err != nil {
		return fmt.Errorf("cannot remove old checkpoints: %w", err)
	}
	return nil
}

// checkpointDir makes a directory below State, where a crash leaves it for the next start to remove.
func (e *Engine) checkpointDir() (string, func(), error) {
	parent := e.checkpoints()
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", nil, fmt.Errorf("cannot make a directory for a checkpoint: %w", err)
	}
	dir, err := os.MkdirTemp(parent, "")
	if err != nil {
		return "", nil, fmt.Errorf("cannot make a directory for a checkpoint: %w", err)
	}
	return dir, func() { os.RemoveAll(dir) }, nil
}

// writeBlob puts all of r into the content store.
func (e *Engine) writeBlob(ctx context.Context, sc Scope, mediaType string, r io.Reader) (ocispec.Descriptor, error) {
	store, ref := e.imageStore(sc), "blob-"+rand.Text()
	w, err := store.Writer(ctx, ref, ocispec.Descriptor{MediaType: mediaType}, nil)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	size, err := io.Copy(w, r)
	if err != nil {
		return ocispec.Descriptor{}, errors.Join(err, w.Close(), store.Abort(context.WithoutCancel(ctx), ref))
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: w.Digest(), Size: size}
	if err := w.Commit(ctx, size, desc.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return ocispec.Descriptor{}, err
	}
	return desc, nil
}

// tarDir writes the regular files and directories below dir; CRIU's images consist of nothing else.
func tarDir(dir string, w io.Writer) error {
	tw := tar.NewWriter(w)
	root := os.DirFS(dir)
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		h, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		h.Name = name
		if err := tw.WriteHeader(h); err != nil || d.IsDir() {
			return err
		}
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(tw, f)
		return err
	})
	return errors.Join(err, tw.Close())
}

// unpackCheckpoint makes a directory of a checkpoint blob; the caller removes it with the function it gets.
func (e *Engine) unpackCheckpoint(ctx context.Context, sc Scope, desc ocispec.Descriptor) (string, func(), error) {
	if desc.MediaType != checkpointType {
		return "", nil, fmt.Errorf("checkpoint of media type %.200q: %w", desc.MediaType, errdefs.ErrInvalidArgument)
	}
	ra, err := e.imageStore(sc).ReaderAt(ctx, desc)
	if err != nil {
		return "", nil, fmt.Errorf("cannot read checkpoint %s: %w", desc.Digest, err)
	}
	defer ra.Close()
	dir, remove, err := e.checkpointDir()
	if err != nil {
		return "", nil, err
	}
	if err := untarFiles(io.NewSectionReader(ra, 0, ra.Size()), dir); err != nil {
		remove()
		return "", nil, fmt.Errorf("cannot unpack checkpoint %s: %w", desc.Digest, err)
	}
	return dir, remove, nil
}

// untarFiles unpacks what tarDir wrote. Names that lead out of dir and anything but files and directories are refused.
func untarFiles(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	tr, total := tar.NewReader(r), int64(0)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		if total += h.Size; n >= maxCheckpointFiles || total > maxCheckpoint || h.Size < 0 {
			return fmt.Errorf("more than %d files or %d bytes: %w", maxCheckpointFiles, int64(maxCheckpoint), errdefs.ErrOutOfRange)
		}
		name := filepath.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o700)
		case tar.TypeReg:
			err = untarFile(root, name, tr)
		default:
			err = fmt.Errorf("%.200q is neither a file nor a directory: %w", h.Name, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return err
		}
	}
}

func untarFile(root *os.Root, name string, r io.Reader) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
