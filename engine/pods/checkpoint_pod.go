package pods

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/durable"
	"github.com/slipwayd/slipway/spec"
)

// savedDir is what a checkpoint of a pod has in the directory that it was given. In it are the manifest, and of each container a directory with its
// name that has archiveImages and archiveChanges.
const savedDir = "pod"

// CheckpointPod writes what running containers of a pod are at one moment into path, an empty directory: all stand still until the last is
// written, and go on then. What is written is there whole, durably, or not at all. FailedPrecondition when one does not run, or the
// host lacks what it takes.
func (m *Manager) CheckpointPod(ctx context.Context, id, path string, ids []string) error {
	p, release, err := m.hold(id)
	if err != nil {
		return err
	}
	defer release()
	if err := m.checkpointPod(ctx, p, path, ids); err != nil {
		return fmt.Errorf("cannot checkpoint pod %s: %w", p.id, err)
	}
	return nil
}

func (m *Manager) checkpointPod(ctx context.Context, p *pod, path string, ids []string) (err error) {
	if err := checkEmpty(path); err != nil {
		return err
	}
	chosen, err := m.chosen(p, ids)
	if err != nil {
		return err
	}
	part := filepath.Join(path, savedDir+".part-"+rand.Text())
	drop, err := m.e.StageCheckpoint(part)
	if err != nil {
		return err
	}
	defer drop()
	forget, err := m.noteAll(chosen)
	if err != nil {
		return err
	}
	err = m.captureAll(ctx, chosen, part)
	if err = errors.Join(err, forget(ctx)); err != nil {
		return err
	}
	saved := savedPod{Version: savedVersion, Runtime: p.runtime.Name}
	for _, c := range chosen {
		saved.Containers = append(saved.Containers, savedOf(c))
	}
	data, err := json.Marshal(saved)
	if err != nil {
		return fmt.Errorf("cannot encode the manifest: %w", err)
	}
	if len(data) > maxSaved {
		return fmt.Errorf("its manifest takes %d bytes, more than %d: %w", len(data), maxSaved, errdefs.ErrInvalidArgument)
	}
	if err := os.WriteFile(filepath.Join(part, savedFile), data, 0o600); err != nil {
		return err
	}
	return durable.RenameTree(part, filepath.Join(path, savedDir))
}

func checkEmpty(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%.200q is no absolute path: %w", path, errdefs.ErrInvalidArgument)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if len(entries) > 0 {
		return fmt.Errorf("there is something in %s: %w", path, errdefs.ErrInvalidArgument)
	}
	return nil
}

// chosen are the running containers with ids, each once and of the pod.
func (m *Manager) chosen(p *pod, ids []string) ([]*container, error) {
	var list []*container
	names := map[string]bool{}
	for _, id := range ids {
		c, err := m.running(id)
		if err != nil {
			return nil, err
		}
		if c.pod != p {
			return nil, fmt.Errorf("container %s is of another pod: %w", c.id, errdefs.ErrInvalidArgument)
		}
		name := c.record.Spec.Name
		if names[name] {
			return nil, fmt.Errorf("container %q is named twice: %w", name, errdefs.ErrInvalidArgument)
		}
		names[name] = true
		if err := errors.Join(checkSavedName(name), canSave(c.record.Spec.Security.Namespaces)); err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}

// canSave refuses what CRIU would restore into something else.
func canSave(n spec.Namespaces) error {
	if n.PID != spec.ModeContainer {
		return fmt.Errorf("only containers with a PID namespace of their own can be checkpointed with their pod: %w", errdefs.ErrFailedPrecondition)
	}
	if n.User != nil && n.User.Mode != spec.ModeNode {
		return fmt.Errorf("containers in a user namespace cannot be checkpointed with their pod: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// noteAll has the next daemon let the containers go on if this one dies. forget does so now, whatever ctx, and removes the notes.
func (m *Manager) noteAll(chosen []*container) (forget func(context.Context) error, err error) {
	var noted []*container
	forget = func(ctx context.Context) error {
		ctx, cancel := undoing(ctx)
		defer cancel()
		var all error
		for _, c := range noted {
			err := m.resume(ctx, c.id)
			if err == nil {
				err = os.Remove(m.checkpointNote(c))
			}
			all = errors.Join(all, err)
		}
		return all
	}
	for _, c := range chosen {
		err := writeFile(m.checkpointNote(c), func(io.Writer) error { return nil })
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("another checkpoint of container %s is under way: %w", c.id, errdefs.ErrUnavailable)
		}
		if err != nil {
			return nil, errors.Join(err, forget(context.Background()))
		}
		noted = append(noted, c)
	}
	return forget, nil
}

// captureAll pauses all of the containers before it writes the first.
func (m *Manager) captureAll(ctx context.Context, chosen []*container, dir string) error {
	for _, c := range chosen {
		if err := m.e.Tasks().Pause(ctx, Namespace, c.id); err != nil && !errdefs.IsFailedPrecondition(err) { // paused already
			return fmt.Errorf("cannot pause container %s: %w", c.id, err)
		}
	}
	for _, c := range chosen {
		record, err := m.e.GetContainer(ctx, Namespace, c.id)
		if err != nil {
			return err
		}
		into := filepath.Join(dir, c.record.Spec.Name)
		if err := os.Mkdir(into, 0o700); err != nil {
			return err
		}
		if err := m.capture(ctx, c, record, into); err != nil {
			return fmt.Errorf("cannot checkpoint container %s: %w", c.id, err)
		}
	}
	return nil
}
