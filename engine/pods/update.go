package pods

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/nri"
	"github.com/slipwayd/slipway/spec"
)

// Update changes a container's limits: what change does not set stays as it is. One that has not been started gets them when it is;
// FailedPrecondition for one that has ended.
func (m *Manager) Update(ctx context.Context, id string, change *spec.Resources) error {
	c, err := m.container(id)
	if err != nil {
		return err
	}
	if !m.conf.Plugins.Active() {
		return m.setLimits(ctx, c, change)
	}
	view, err := m.pluginContainer(ctx, c)
	if err != nil {
		return err
	}
	wanted, err := change.Linux(m.host)
	if err != nil {
		return err
	}
	limits, others, err := m.conf.Plugins.Update(ctx, m.pluginPod(c.pod), view, wanted)
	if err != nil {
		return fmt.Errorf("cannot change the limits of container %s: %w", c.id, err)
	}
	m.changeLater(others)
	if err := m.setLimits(ctx, c, change.Update(spec.ResourcesOf(limits))); err != nil {
		return err
	}
	m.mention(ctx, nri.ContainerUpdated, c.pod, c)
	return nil
}

// setLimits is Update without asking plugins, who may be the ones that want it.
func (m *Manager) setLimits(ctx context.Context, c *container, change *spec.Resources) error {
	if st := m.state(c); st == Exited { // it need not be waited for
		return fmt.Errorf("cannot change the limits of container %s, which has ended: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	c.life.Lock()
	defer c.life.Unlock()
	m.mu.Lock()
	next, state := c.record.Resources.Update(change), c.state
	m.mu.Unlock()
	if state != Created && state != Running {
		return fmt.Errorf("cannot change the limits of container %s, which has ended: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	document, err := m.Document(ctx, c.id)
	if err != nil {
		return err
	}
	var doc specs.Spec
	if err := json.Unmarshal(document, &doc); err != nil {
		return fmt.Errorf("the document of container %s cannot be read: %w: %w", c.id, err, errdefs.ErrDataLoss)
	}
	limits, err := m.sys.limit(&doc, next)
	if err != nil {
		return fmt.Errorf("cannot change the limits of container %s: %w", c.id, err)
	}
	if state == Running {
		if err := m.e.Tasks().Update(ctx, Namespace, c.id, limits, nil); err != nil {
			return fmt.Errorf("cannot change the limits of container %s: %w", c.id, err)
		}
	}
	m.mu.Lock()
	c.record.Resources = next
	m.mu.Unlock()
	return m.saveLimits(ctx, c, &doc)
}

// saveLimits records them, in the container's document too.
func (m *Manager) saveLimits(ctx context.Context, c *container, doc *specs.Spec) error {
	document, err := encodeSpec(doc)
	if err != nil {
		return err
	}
	m.mu.Lock()
	ext, err := encodeExtension(containerExtension, c.record)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	_, err = m.e.UpdateContainer(ctx, Namespace, metadata.Container{ID: c.id, Spec: document, Extensions: ext}, "spec", "extensions."+containerExtension)
	return err
}

// UpdatePod records what a pod's containers may use together, and tells plugins. The cgroup of the pod is kubelet's own, which has changed it
// before it calls (CRI's UpdatePodSandboxResources), and is not touched.
func (m *Manager) UpdatePod(ctx context.Context, id string, overhead, resources *spec.Resources) error {
	m.mu.Lock()
	p, err := find(m.pods, "pod", id)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	if m.conf.Plugins.Active() {
		if err := m.conf.Plugins.UpdatePod(ctx, m.pluginPod(p), m.limits(overhead), m.limits(resources)); err != nil {
			return err
		}
	}
	m.mu.Lock()
	next := *p.record.Spec
	if overhead != nil {
		next.Overhead = overhead
	}
	if resources != nil {
		next.Resources = resources
	}
	p.record.Spec = &next
	record := p.record
	m.mu.Unlock()
	if err := m.savePod(ctx, p.id, record); err != nil {
		return err
	}
	m.mention(ctx, nri.PodUpdated, p, nil)
	return nil
}

// ReopenLog has a container's log written to a new file of the same name, after somebody moved the old one away.
func (m *Manager) ReopenLog(ctx context.Context, id string) error {
	c, err := m.running(id)
	if err != nil {
		return err
	}
	if c.record.LogPath == "" {
		return fmt.Errorf("container %s has no log: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	if c.pod.runtime.Foreign {
		return nil // the program that writes it notices by itself
	}
	if err := m.e.ReopenLog(ctx, Namespace, c.id); err != nil {
		return fmt.Errorf("cannot reopen the log of container %s: %w", c.id, err)
	}
	return nil
}
