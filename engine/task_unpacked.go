package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/shim"
)

// unpackCheckpoint makes a directory of a checkpoint's blob for a task that is about to be created. It is removed when the task has started or
// is deleted; by the caller, with forgetCheckpoint, when it is not created.
func (e *Engine) unpackCheckpoint(ctx context.Context, sc Scope, id string, desc ocispec.Descriptor) (string, error) {
	if desc.MediaType != checkpointType {
		return "", fmt.Errorf("checkpoint of media type %.200q: %w", desc.MediaType, errdefs.ErrInvalidArgument)
	}
	ra, err := e.imageStore(sc).ReaderAt(ctx, desc)
	if err != nil {
		return "", fmt.Errorf("cannot read checkpoint %s: %w", desc.Digest, err)
	}
	defer ra.Close()
	dir := e.unpacked(sc.Namespace, id)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return "", fmt.Errorf("cannot make a directory for a checkpoint: %w", err)
	}
	e.restoringMu.Lock()
	e.restoring[taskKey(sc.Namespace, id)] = true
	e.restoringMu.Unlock()
	if err := untarFiles(io.NewSectionReader(ra, 0, ra.Size()), dir); err != nil {
		e.forgetCheckpoint(sc.Namespace, id)
		return "", fmt.Errorf("cannot unpack checkpoint %s: %w", desc.Digest, err)
	}
	return dir, nil
}

// unpacked is where the checkpoint of a task is that was not started yet.
func (e *Engine) unpacked(ns, id string) string {
	return filepath.Join(e.checkpoints(), unpackedDir, ns, id)
}

const unpackedDir = "unpacked"

// forgetCheckpoint removes what unpackCheckpoint made for a task, if anything.
func (e *Engine) forgetCheckpoint(ns, id string) {
	e.restoringMu.Lock()
	had := e.restoring[taskKey(ns, id)]
	delete(e.restoring, taskKey(ns, id))
	e.restoringMu.Unlock()
	if !had {
		return
	}
	if err := os.RemoveAll(e.unpacked(ns, id)); err != nil {
		e.log.Warn("cannot remove a checkpoint that was restored, will try again at the next start", "namespace", ns, "container", id, "err", err)
	}
}

// observeRestored learns from a shim's event that a task needs its checkpoint no more.
func (e *Engine) observeRestored(ev Event) {
	e.restoringMu.Lock()
	none := len(e.restoring) == 0
	e.restoringMu.Unlock()
	if !none && (ev.Topic == "/tasks/start" || ev.Topic == "/tasks/delete") {
		e.forgetCheckpoint(ev.Namespace, e.EventField(ev, "container_id"))
	}
}

// restoreCheckpoints drops what a crash left in the middle of a checkpoint, and the unpacked ones that no task waits to be started from.
// The tasks are known.
func (e *Engine) restoreCheckpoints(ctx context.Context) error {
	entries, err := os.ReadDir(e.checkpoints())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := filepath.Join(e.checkpoints(), entry.Name())
		if entry.Name() == unpackedDir {
			err = errors.Join(err, e.restoreUnpacked(ctx, name))
			continue
		}
		if entry.Type().IsRegular() && filepath.Ext(name) != ".new" {
			part, readErr := os.ReadFile(name)
			if readErr != nil {
				err = errors.Join(err, readErr)
				continue
			}
			e.discard(string(part), name)
			continue
		}
		e.discard(name)
	}
	return err
}

const (
	discardAgain = 100 * time.Millisecond
	discardFor   = 2 * time.Minute
)

// discard removes one after the other, and goes on with that in the background while it fails: the CRIU of a shim that died may be writing
// still. The next start of the daemon tries again what fails for long.
func (e *Engine) discard(paths ...string) {
	remove := func() (err error) {
		for _, path := range paths {
			if err = os.RemoveAll(path); err != nil {
				break
			}
		}
		return err
	}
	if remove() == nil {
		return
	}
	e.background(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, discardFor)
		defer cancel()
		for err := remove(); err != nil; err = remove() {
			select {
			case <-time.After(discardAgain):
			case <-ctx.Done():
				e.log.Warn("cannot remove what is left of a checkpoint, will try again at the next start", "path", paths[0], "err", err)
				return
			}
		}
	})
}

func (e *Engine) restoreUnpacked(ctx context.Context, dir string) error {
	found, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	for _, name := range found {
		ns, id := filepath.Base(filepath.Dir(name)), filepath.Base(name)
		e.restoringMu.Lock()
		e.restoring[taskKey(ns, id)] = true
		e.restoringMu.Unlock()
		if st, err := e.tasks.State(ctx, ns, id, ""); err != nil || st.Status != shim.Created {
			e.forgetCheckpoint(ns, id)
		}
	}
	return err
}
