package engine

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/internal/durable"
	"github.com/slipwayd/slipway/internal/opaque"
)

// Media types of the blobs that a checkpoint consists of (containerd's core/images).
const (
	checkpointType     = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
	checkpointSpecType = "application/vnd.containerd.container.checkpoint.config.v1+proto"
)

// CheckpointTask writes what a task is at this moment with CRIU. With a path the images are in that directory then, whole, and nothing is
// answered; AlreadyExists when it has something in it. Without one they become two blobs of the content store, the images as a tar and the
// container's spec, held by the scope's lease. FailedPrecondition where CRIU is missing or cannot. A crash leaves the task as it was, and
// nothing of the images.
func (e *Engine) CheckpointTask(ctx context.Context, sc Scope, id, path string, options *opaque.Any) ([]ocispec.Descriptor, error) {
	c, err := e.GetContainer(ctx, sc.Namespace, id)
	if err != nil {
		return nil, err
	}
	if path != "" {
		return nil, e.checkpointTo(ctx, sc.Namespace, id, path, options)
	}
	dir, remove, err := e.CheckpointDir()
	if err != nil {
		return nil, err
	}
	defer remove()
	if err := e.tasks.Checkpoint(ctx, sc.Namespace, id, dir, options); err != nil {
		return nil, err
	}
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(TarDir(dir, pw)) }()
	img, err := e.writeBlob(ctx, sc, checkpointType, pr)
	pr.Close() // ends the goroutine when the blob could not be written
	if err != nil {
		return nil, fmt.Errorf("cannot keep the checkpoint of task %s: %w", id, err)
	}
	if c.Spec == nil {
		return []ocispec.Descriptor{img}, nil
	}
	spec, err := e.writeBlob(ctx, sc, checkpointSpecType, bytes.NewReader(encodeAny(*c.Spec)))
	if err != nil {
		return nil, fmt.Errorf("cannot keep the spec of task %s: %w", id, err)
	}
	return []ocispec.Descriptor{img, spec}, nil
}

// encodeAny is protobuf's encoding (protobuf.dev, "Encoding") of a google.protobuf.Any, which is what clients expect of a spec that is kept.
func encodeAny(a opaque.Any) []byte {
	const typeURL, value = 1<<3 | 2, 2<<3 | 2 // number of the field, and that its length follows
	out := binary.AppendUvarint([]byte{typeURL}, uint64(len(a.TypeURL)))
	out = append(append(out, a.TypeURL...), value)
	return append(binary.AppendUvarint(out, uint64(len(a.Value))), a.Value...)
}

// checkpointTo has the images written beside path and makes them path when they are whole and durable. What is beside it is noted, for the
// next start to remove.
func (e *Engine) checkpointTo(ctx context.Context, ns, id, path string, options *opaque.Any) error {
	path = filepath.Clean(path)
	if !filepath.IsAbs(path) {
		return fmt.Errorf("cannot checkpoint task %s to %q: it is no absolute path: %w", id, path, errdefs.ErrInvalidArgument)
	}
	if entries, err := os.ReadDir(path); len(entries) > 0 {
		return fmt.Errorf("cannot checkpoint task %s to %s: there is something in it: %w", id, path, errdefs.ErrAlreadyExists)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot checkpoint task %s: %w: %w", id, err, errdefs.ErrInvalidArgument)
	}
	part := path + ".part-" + rand.Text()
	drop, err := e.StageCheckpoint(part)
	if err != nil {
		return fmt.Errorf("cannot checkpoint task %s: %w", id, err)
	}
	defer drop()
	if err := e.tasks.Checkpoint(ctx, ns, id, part, options); err != nil {
		return err
	}
	err = os.Remove(path) // which is empty
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = durable.RenameTree(part, path)
	}
	if err != nil {
		return fmt.Errorf("cannot keep the checkpoint of task %s: %w", id, err)
	}
	return nil
}

// StageCheckpoint makes the directory part, whose name nobody else uses, for what gets another name when it is whole. drop removes what then is still
// there; so does the next start after a crash.
func (e *Engine) StageCheckpoint(part string) (drop func(), err error) {
	note := filepath.Join(e.checkpoints(), filepath.Base(part))
	if err := os.MkdirAll(e.checkpoints(), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make a directory for checkpoints: %w", err)
	}
	if err := durable.Replace(note, []byte(part)); err != nil {
		return nil, fmt.Errorf("cannot note a checkpoint: %w", err)
	}
	drop = func() { e.discard(part, note) }
	if err := os.Mkdir(part, 0o700); err != nil {
		drop()
		return nil, fmt.Errorf("cannot make a directory for a checkpoint: %w", err)
	}
	return drop, nil
}

func (e *Engine) checkpoints() string { return filepath.Join(e.root, "checkpoint") }

// CheckpointDir makes a directory for what is about to become a checkpoint, which a crash leaves for the next start to remove.
func (e *Engine) CheckpointDir() (string, func(), error) {
	parent := e.checkpoints()
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", nil, fmt.Errorf("cannot make a directory for a checkpoint: %w", err)
	}
	dir, err := os.MkdirTemp(parent, "")
	if err != nil {
		return "", nil, fmt.Errorf("cannot make a directory for a checkpoint: %w", err)
	}
	return dir, func() { e.discard(dir) }, nil
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
