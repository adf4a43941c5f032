package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/spec"
)

// RestorePod makes a pod whose containers go on, when Start is called, where those of the checkpoint in the directory path were, which has to
// be there until then. Containers are matched by their names, exactly; ids are in the order of containers. InvalidArgument for what is
// no checkpoint of such containers. Unlike Run it ends with ctx; after an error, or a crash, nothing of the pod is left.
func (m *Manager) RestorePod(ctx context.Context, path string, s *spec.Pod, containers []*spec.PodContainer) (id string, ids []string, err error) {
	if err := m.checkPod(s); err != nil {
		return "", nil, err
	}
	if !filepath.IsAbs(path) {
		return "", nil, fmt.Errorf("cannot restore a pod from %.200q: it is no absolute path: %w", path, errdefs.ErrInvalidArgument)
	}
	path = filepath.Clean(path)
	what := fmt.Sprintf("restore pod %s/%s from %s", s.Namespace, s.Name, path)
	print := fingerprint([]any{s, path, containers})
	id, err = m.once(context.WithoutCancel(ctx), podName(s), what, print, func(free context.Context, k *making) (string, error) {
		free, cancel := context.WithCancel(free)
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		return m.restoreFrom(free, path, s, containers, k)
	})
	if err != nil {
		return "", nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range containers {
		ids = append(ids, m.names[containerName(id, c)])
	}
	return id, ids, nil
}

func (m *Manager) restoreFrom(ctx context.Context, path string, s *spec.Pod, containers []*spec.PodContainer, k *making) (_ string, err error) {
	m.mu.Lock()
	other := m.names[podName(s)]
	m.mu.Unlock()
	if other != "" {
		return "", fmt.Errorf("pod %s has that name and attempt: %w", other, errdefs.ErrAlreadyExists)
	}
	k.at("reading the checkpoint")
	root, err := os.OpenRoot(path)
	if err != nil {
		return "", fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	defer root.Close()
	saved, err := readSaved(root)
	if err != nil {
		return "", err
	}
	byName, err := m.match(saved, s, containers)
	if err != nil {
		return "", err
	}
	id, err := m.run(ctx, podRecord{Spec: s, Restoring: true}, k)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			ctx, cancel := undoing(ctx)
			defer cancel()
			err = errors.Join(err, m.RemovePod(ctx, id))
		}
	}()
	for _, c := range containers {
		k.at("restoring container " + c.Name)
		if err := m.restoreContainer(ctx, root, id, c, byName[c.Name]); err != nil {
			return "", fmt.Errorf("container %s: %w", c.Name, err)
		}
	}
	k.at("recording it")
	return id, m.restored(ctx, id)
}

// match checks that the checkpoint is of the runtime that the pod asks for, and has containers of exactly these names.
func (m *Manager) match(saved *savedPod, s *spec.Pod, containers []*spec.PodContainer) (map[string]savedContainer, error) {
	r, err := m.runtime(s.Handler)
	if err != nil {
		return nil, err
	}
	if r.Name != saved.Runtime {
		return nil, fmt.Errorf("the checkpoint is of runtime %.100q, and the pod asks for %s: %w", saved.Runtime, r.Name, errdefs.ErrInvalidArgument)
	}
	byName := map[string]savedContainer{}
	for _, c := range saved.Containers {
		byName[c.Name] = c
	}
	wanted := map[string]bool{}
	for _, c := range containers {
		if _, ok := byName[c.Name]; !ok || wanted[c.Name] {
			return nil, fmt.Errorf("the checkpoint has not one container %.200q for each that is asked for: %w", c.Name, errdefs.ErrInvalidArgument)
		}
		wanted[c.Name] = true
	}
	if len(wanted) != len(byName) {
		return nil, fmt.Errorf("the checkpoint has %d containers, and %d are asked for: %w", len(byName), len(wanted), errdefs.ErrInvalidArgument)
	}
	return byName, nil
}

// restoreContainer creates a container with the files of the checkpoint, and notes where its processes are for Start.
func (m *Manager) restoreContainer(ctx context.Context, root *os.Root, podID string, s *spec.PodContainer, saved savedContainer) error {
	images := filepath.Join(savedDir, s.Name, archiveImages)
	if info, err := root.Lstat(images); err != nil || !info.IsDir() {
		return fmt.Errorf("the checkpoint has no directory %s: %w", images, errors.Join(err, errdefs.ErrInvalidArgument))
	}
	changes, err := openRegular(root, filepath.Join(savedDir, s.Name, archiveChanges))
	if err != nil {
		return err
	}
	defer changes.Close()
	id, err := m.Create(ctx, podID, s)
	if err != nil {
		return err
	}
	c, err := m.container(id)
	if err != nil {
		return err
	}
	c.life.Lock() // nobody starts it meanwhile
	defer c.life.Unlock()
	if m.state(c) != Created {
		return fmt.Errorf("somebody has started it: %w", errdefs.ErrFailedPrecondition)
	}
	if what := saved.differs(savedOf(c)); what != "" {
		return fmt.Errorf("it differs from the one in the checkpoint: %s: %w", what, errdefs.ErrInvalidArgument)
	}
	record, err := m.e.GetContainer(ctx, Namespace, id)
	if err != nil {
		return err
	}
	snapshots, err := m.e.Snapshots(scope, record.Snapshotter)
	if err != nil {
		return err
	}
	if _, err := snapshots.Apply(ctx, record.SnapshotKey, changes); err != nil {
		return fmt.Errorf("cannot apply what it had changed in its root file system: %w", err)
	}
	m.mu.Lock()
	c.record.Checkpoint = filepath.Join(root.Name(), images)
	m.mu.Unlock()
	return m.save(ctx, c)
}

// restored lets the pod stay.
func (m *Manager) restored(ctx context.Context, id string) error {
	m.mu.Lock()
	p, err := find(m.pods, "pod", id)
	if err != nil {
		m.mu.Unlock()
		return err
	}
	p.record.Restoring = false
	record := p.record
	m.mu.Unlock()
	return m.savePod(ctx, id, record)
}

// removeUnrestored removes pods that the last daemon was restoring from a checkpoint.
func (m *Manager) removeUnrestored(ctx context.Context) {
	m.mu.Lock()
	var ids []string
	for _, p := range m.pods {
		if p.record.Restoring {
			ids = append(ids, p.id)
		}
	}
	m.mu.Unlock()
	for _, id := range ids {
		if err := m.RemovePod(ctx, id); err != nil {
			m.conf.Log.Error("cannot remove a pod whose restoring from a checkpoint was cut short; the next start of the daemon tries again", "pod", id, "err", err)
		}
	}
}
