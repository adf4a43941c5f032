package pods

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/nri"
)

// killTimeout is how long a container has to end after SIGKILL before a call says that it does not.
const killTimeout = time.Minute

// Stop asks a container to end with its stop signal, and kills it after timeout. It is nil when the container does not run or is
// not there.
func (m *Manager) Stop(ctx context.Context, id string, timeout time.Duration) error {
	c, err := m.container(id)
	if errdefs.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	return m.stopContainer(ctx, c, timeout)
}

func (m *Manager) stopContainer(ctx context.Context, c *container, timeout time.Duration) error {
	if m.state(c) != Running {
		return nil
	}
	if timeout > 0 {
		sig, err := signalNumber(c.record.StopSignal)
		if err != nil { // an image may say anything
			m.conf.Log.Warn("an image names a stop signal that does not exist; SIGTERM is sent", "container", c.id, "signal", c.record.StopSignal)
			sig = signals["SIGTERM"]
		}
		err = m.kill(ctx, c, sig, false)
		if errdefs.IsInvalidArgument(err) { // Windows has few
			m.conf.Log.Warn("the stop signal of a container does not exist here; SIGTERM is sent", "container", c.id, "signal", c.record.StopSignal)
			err = m.kill(ctx, c, signals["SIGTERM"], false)
		}
		if err != nil {
			return err
		}
		if ended, err := m.await(ctx, c, timeout); ended || err != nil {
			return err
		}
	}
	if err := m.kill(ctx, c, sigKill, true); err != nil {
		return err
	}
	ended, err := m.await(ctx, c, killTimeout)
	if err == nil && !ended {
		err = fmt.Errorf("container %s did not end within %s after SIGKILL: a process hangs in the kernel: %w", c.id, killTimeout, errdefs.ErrUnavailable)
	}
	return err
}

// kill is nil when the container has ended already. A paused one could not take the signal.
func (m *Manager) kill(ctx context.Context, c *container, sig uint32, all bool) error {
	err := persist(ctx, func() error { return m.e.Tasks().Kill(ctx, Namespace, c.id, "", sig, all) })
	if errdefs.IsNotFound(err) {
		// It has ended, and the word of that may still be on its way; or it was lost with a shim.
		m.background(func(ctx context.Context) { m.ended(context.WithoutCancel(ctx), c) })
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot send signal %d to container %s: %w", sig, c.id, err)
	}
	return nil
}

// await says whether the container ended in time.
func (m *Manager) await(ctx context.Context, c *container, timeout time.Duration) (bool, error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-c.done:
		return true, nil
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, fmt.Errorf("container %s has not ended yet: %w", c.id, ctx.Err())
	}
}

// Remove deletes a container, killing it when it runs; its log stays. It is nil when the container is not there.
func (m *Manager) Remove(ctx context.Context, id string) error {
	c, err := m.container(id)
	if errdefs.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	return m.removeContainer(ctx, c)
}

func (m *Manager) removeContainer(ctx context.Context, c *container) error {
	m.mu.Lock()
	c.removing = true // from here on no repeated Create answers it
	m.mu.Unlock()
	if err := m.stopContainer(ctx, c, 0); err != nil {
		return err
	}
	farewell, err := m.forgetEnded(ctx, c)
	if err != nil {
		return err
	}
	// While c.life is free: a plugin may want to change the container that it is told of, or one that waits to be told of.
	farewell()
	return nil
}

// forgetEnded removes a container that has ended, or was never started, and answers what tells of that; it does nothing when another call has.
func (m *Manager) forgetEnded(ctx context.Context, c *container) (farewell func(), err error) {
	c.life.Lock()
	defer c.life.Unlock()
	if m.state(c) == Running { // started in between
		return nil, fmt.Errorf("container %s was started while it was being removed, try again: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	m.mu.Lock()
	known := m.containers[c.id] == c
	m.mu.Unlock()
	if !known {
		return func() {}, nil
	}
	if err := m.deleteTask(ctx, c.id); err != nil {
		return nil, fmt.Errorf("cannot remove the processes of container %s: %w", c.id, err)
	}
	tell := m.farewell(ctx, c)
	record := metadata.Container{ID: c.id, Snapshotter: c.pod.runtime.Snapshotter, SnapshotKey: c.id}
	err = m.e.RemoveContainer(ctx, Namespace, record)
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("cannot remove container %s: %w", c.id, err)
	}
	if err := errors.Join(m.removeFiles(c), m.unmountOwn(ctx, c)); err != nil {
		m.conf.Log.Warn("something of a container is left; it goes with its pod", "container", c.id, "err", err)
	}
	m.mu.Lock()
	m.forgetContainer(c)
	m.mu.Unlock()
	return func() {
		tell()
		m.notify(c, ContainerDeleted)
	}, nil
}

// StopPod kills what runs in a pod and gives back its network and namespaces; the records stay. It is nil when the pod is not there or
// was stopped before.
func (m *Manager) StopPod(ctx context.Context, id string) error {
	p, err := m.lockPod(id)
	if p == nil {
		return err
	}
	defer p.life.Unlock()
	return m.stopPod(ctx, p)
}

// lockPod locks a pod's life; nil without an error when there is no such pod.
func (m *Manager) lockPod(id string) (*pod, error) {
	m.mu.Lock()
	p, err := find(m.pods, "pod", id)
	m.mu.Unlock()
	if errdefs.IsNotFound(err) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	p.life.Lock()
	return p, nil
}

// stopPod needs p.life.
func (m *Manager) stopPod(ctx context.Context, p *pod) error {
	if err := m.quiesce(ctx, p); err != nil {
		return err
	}
	var group errgroup.Group
	for _, c := range m.members(p) {
		group.Go(func() error { return m.stopContainer(ctx, c, 0) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	m.mu.Lock()
	stopped := p.record.Stopped
	m.mu.Unlock()
	if stopped {
		return nil
	}
	m.mention(ctx, nri.StopPod, p, nil)
	if err := m.dismantle(ctx, p); err != nil {
		return err
	}
	m.mu.Lock()
	p.ready = false
	p.record.Stopped = true
	record := p.record
	m.mu.Unlock()
	m.notifyPod(p, ContainerStopped)
	return m.savePod(ctx, p.id, record)
}

// quiesce lets nothing begin in the pod any more, and waits for what has begun.
func (m *Manager) quiesce(ctx context.Context, p *pod) error {
	m.mu.Lock()
	p.stopping, p.ready = true, false
	var idle chan struct{}
	if p.busy > 0 {
		if p.idle == nil {
			p.idle = make(chan struct{})
		}
		idle = p.idle
	}
	m.mu.Unlock()
	if idle == nil {
		return nil
	}
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("pod %s cannot be stopped yet: containers are being made in it: %w", p.id, ctx.Err())
	}
}

// RemovePod stops a pod and deletes it with its containers. It is nil when the pod is not there.
func (m *Manager) RemovePod(ctx context.Context, id string) error {
	p, err := m.lockPod(id)
	if p == nil {
		return err
	}
	defer p.life.Unlock()
	if err := m.stopPod(ctx, p); err != nil {
		return err
	}
	for _, c := range m.members(p) {
		if err := m.removeContainer(ctx, c); err != nil {
			return err
		}
	}
	if err := m.e.DeleteSandbox(ctx, Namespace, p.id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("cannot remove pod %s: %w", p.id, err)
	}
	m.mu.Lock()
	if m.pods[p.id] == p {
		m.forgetPod(p)
	}
	m.mu.Unlock()
	m.mention(ctx, nri.RemovePod, p, nil)
	m.notifyPod(p, ContainerDeleted)
	return nil
}

func (m *Manager) savePod(ctx context.Context, id string, record podRecord) error {
	ext, err := encodeExtension(podExtension, record)
	if err != nil {
		return err
	}
	_, err = m.e.UpdateSandbox(ctx, Namespace, metadata.Sandbox{ID: id, Extensions: ext}, "extensions."+podExtension)
	return err
}

// save records what changed of a container.
func (m *Manager) save(ctx context.Context, c *container) error {
	m.mu.Lock()
	ext, err := encodeExtension(containerExtension, c.record)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	_, err = m.e.UpdateContainer(ctx, Namespace, metadata.Container{ID: c.id, Extensions: ext}, "extensions."+containerExtension)
	return err
}
