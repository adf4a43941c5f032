package pods

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/nri"
	"github.com/slipwayd/slipway/spec"
)

// Create makes a container in a pod and answers its id; Start runs it. What Run says of repeated calls holds here too, until
// the container is started.
func (m *Manager) Create(ctx context.Context, podID string, s *spec.PodContainer) (string, error) {
	p, release, err := m.hold(podID)
	if err != nil {
		return "", err
	}
	defer release()
	if err := m.checkContainer(p, s); err != nil {
		return "", err
	}
	what := fmt.Sprintf("create container %s of pod %s/%s", s.Name, p.record.Spec.Namespace, p.record.Spec.Name)
	print := fingerprint(s)
	return m.once(ctx, containerName(p.id, s), what, print, func(ctx context.Context, k *making) (string, error) {
		_, release, err := m.hold(p.id) // for as long as this takes, which is longer than a caller waits
		if err != nil {
			return "", err
		}
		defer release()
		if id, err := m.sameContainer(p, s, print); id != "" || err != nil {
			return id, err
		}
		return m.create(ctx, p, s, k)
	})
}

func (m *Manager) checkContainer(p *pod, s *spec.PodContainer) error {
	if err := checkName("the name of a container", s.Name); err != nil {
		return err
	}
	if s.Image.Ref == "" {
		return fmt.Errorf("container %s names no image: %w", s.Name, errdefs.ErrInvalidArgument)
	}
	if l := s.LogPath; l != "" && !filepath.IsLocal(l) {
		return fmt.Errorf("the log path %.200q of container %s leads out of the pod's log directory: %w", l, s.Name, errdefs.ErrInvalidArgument)
	}
	if s.StopSignal != "" {
		if _, err := signalNumber(s.StopSignal); err != nil {
			return err
		}
	}
	return m.sys.checkContainer(p, s)
}

func (m *Manager) sameContainer(p *pod, s *spec.PodContainer, print string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, ok := m.names[containerName(p.id, s)]
	if !ok {
		return "", nil
	}
	if c := m.containers[id]; c.state == Created && !c.removing && fingerprint(c.record.Spec) == print {
		return id, nil
	}
	return "", fmt.Errorf("container %s has that name and attempt: %w", id, errdefs.ErrAlreadyExists)
}

func (m *Manager) create(ctx context.Context, p *pod, s *spec.PodContainer, k *making) (_ string, err error) {
	k.at("finding image " + s.Image.Ref)
	img, err := m.image(ctx, s.Image.Ref, p.runtime.Snapshotter)
	if err != nil {
		return "", err
	}
	c := &container{
		id: newID(), pod: p, image: img.Image.Name, done: make(chan struct{}),
		record: containerRecord{
			Spec: s, ImageID: img.ID, ImageRef: img.ref(), Resources: s.Resources,
			StopSignal: stopSignal(s.StopSignal, img.Config.Config.StopSignal),
		},
	}
	if dir := p.record.Spec.LogDirectory; dir != "" && s.LogPath != "" {
		c.record.LogPath = filepath.Join(dir, s.LogPath)
	}
	if c.record.User, err = m.sys.user(p, s, img); err != nil {
		return "", err
	}
	k.at("building its document")
	doc, undo, err := m.sys.document(ctx, p, c, img)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, undo(ctx))
		}
	}()
	k.at("asking plugins about it")
	defer m.conf.Plugins.Hold()()
	retract, err := m.adjusted(ctx, p, c, doc)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			retract()
		}
	}()
	k.at("making its root file system")
	if err := m.recordContainer(ctx, c, img, doc); err != nil {
		return "", err
	}
	m.mu.Lock()
	m.insertContainer(c)
	m.mu.Unlock()
	m.mention(ctx, nri.ContainerCreated, p, c)
	m.notify(c, ContainerCreated)
	return c.id, nil
}

func (m *Manager) recordContainer(ctx context.Context, c *container, img *image, doc *specs.Spec) error {
	document, err := encodeSpec(doc)
	if err != nil {
		return err
	}
	ext, err := encodeExtension(containerExtension, c.record)
	if err != nil {
		return err
	}
	labels := fits(img.Config.Config.Labels)
	for k, v := range fits(c.record.Spec.Labels) {
		labels[k] = v
	}
	labels[labelKind] = kindContainer
	made, err := m.e.CreateContainerOn(ctx, scope, metadata.Container{
		ID: c.id, Labels: labels, Image: c.image, Runtime: metadata.Runtime{Name: c.pod.runtime.Name, Options: c.pod.runtime.Options},
		Spec: document, Snapshotter: c.pod.runtime.Snapshotter, SnapshotKey: c.id, Extensions: ext, SandboxID: c.pod.id,
	}, img.ChainID, m.sys.snapshotLabels(c.pod, c.record.Spec))
	c.created = made.CreatedAt
	return err
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
