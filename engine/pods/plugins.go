package pods

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/nri"
	"github.com/slipwayd/slipway/spec"
)

// Plugins see pods and containers, and adjust them; *nri.Plugins in the daemon, whose comments say what each verb does.
type Plugins interface {
	Active() bool
	Hold() (release func())
	Tell(ctx context.Context, ev nri.Event, pod nri.Pod, c *nri.Container) error
	Create(ctx context.Context, pod nri.Pod, c nri.Container) ([]nri.Update, error)
	Update(ctx context.Context, pod nri.Pod, c nri.Container, limits *specs.LinuxResources) (*specs.LinuxResources, []nri.Update, error)
	UpdatePod(ctx context.Context, pod nri.Pod, overhead, resources *specs.LinuxResources) error
	Stopped(ctx context.Context, pod nri.Pod, c nri.Container) ([]nri.Update, error)
}

// noPlugins are those of a daemon without.
type noPlugins struct{}

func (noPlugins) Active() bool { return false }
func (noPlugins) Hold() func() { return func() {} }
func (noPlugins) Tell(context.Context, nri.Event, nri.Pod, *nri.Container) error {
	return nil
}
func (noPlugins) Create(context.Context, nri.Pod, nri.Container) ([]nri.Update, error) {
	return nil, nil
}
func (noPlugins) Update(_ context.Context, _ nri.Pod, _ nri.Container, limits *specs.LinuxResources) (*specs.LinuxResources, []nri.Update, error) {
	return limits, nil, nil
}
func (noPlugins) UpdatePod(context.Context, nri.Pod, *specs.LinuxResources, *specs.LinuxResources) error {
	return nil
}
func (noPlugins) Stopped(context.Context, nri.Pod, nri.Container) ([]nri.Update, error) {
	return nil, nil
}

// tell tells plugins of an event; c is nil for those of pods. An error is a refusal.
func (m *Manager) tell(ctx context.Context, ev nri.Event, p *pod, c *container) error {
	if !m.conf.Plugins.Active() {
		return nil
	}
	if c == nil {
		return m.conf.Plugins.Tell(ctx, ev, m.pluginPod(p), nil)
	}
	view, err := m.pluginContainer(ctx, c)
	if err != nil {
		return err
	}
	return m.conf.Plugins.Tell(ctx, ev, m.pluginPod(p), &view)
}

// mention is tell where nobody can refuse any more.
func (m *Manager) mention(ctx context.Context, ev nri.Event, p *pod, c *container) {
	m.warnPlugins(p, m.tell(ctx, ev, p, c))
}

func (m *Manager) warnPlugins(p *pod, err error) {
	if err != nil {
		m.conf.Log.Warn("a plugin did not take what it was told of a pod", "pod", p.id, "err", err)
	}
}

func (m *Manager) pluginPod(p *pod) nri.Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.viewPod(p)
	s := v.Spec
	return nri.Pod{
		ID: v.ID, Name: s.Name, UID: s.UID, Namespace: s.Namespace, Handler: s.Handler, Labels: s.Labels, Annotations: s.Annotations,
		CgroupParent: s.CgroupParent, NetNS: v.NetNS, Pid: v.Pid, IPs: v.IPs,
		Overhead: m.limits(s.Overhead), Resources: m.limits(s.Resources),
	}
}

// limits is nil for those that nobody set, or that this host has no words for.
func (m *Manager) limits(r *spec.Resources) *specs.LinuxResources {
	if r == nil {
		return nil
	}
	l, err := r.Linux(m.host)
	if err != nil {
		return nil
	}
	return l
}

// pluginContainer is a container with its document as it is recorded.
func (m *Manager) pluginContainer(ctx context.Context, c *container) (nri.Container, error) {
	data, err := m.Document(ctx, c.id)
	if err != nil {
		return nri.Container{}, err
	}
	var doc specs.Spec
	if err := json.Unmarshal(data, &doc); err != nil {
		return nri.Container{}, fmt.Errorf("the document of container %s cannot be read: %w: %w", c.id, err, errdefs.ErrDataLoss)
	}
	return m.pluginView(c, &doc), nil
}

// states of containers, as plugins call them.
var pluginStates = map[State]nri.State{Created: nri.Created, Running: nri.Running, Exited: nri.Stopped, Unknown: nri.Unknown}

func (m *Manager) pluginView(c *container, doc *specs.Spec) nri.Container {
	m.mu.Lock()
	v := c.view()
	m.mu.Unlock()
	_, digest, _ := strings.Cut(v.ImageRef, "@")
	return nri.Container{
		ID: v.ID, PodID: v.PodID, Name: v.Spec.Name, State: pluginStates[v.State], Labels: v.Spec.Labels, Annotations: v.Spec.Annotations,
		Image: v.Image, ImageDigest: digest, ImageID: v.ImageID, CDIDevices: v.Spec.CDIDevices, Document: doc, Pid: v.Pid,
		Created: v.Created, Started: v.Started, Finished: v.Finished, ExitCode: v.ExitCode, Reason: v.Reason, Message: v.Message,
	}
}

// adjusted is a document as plugins want it, and the limits in it. What they want of other containers is done in the background. undo tells
// them that there is no such container after all.
func (m *Manager) adjusted(ctx context.Context, p *pod, c *container, doc *specs.Spec) (undo func(), err error) {
	undo = func() {}
	if !m.conf.Plugins.Active() {
		return undo, nil
	}
	pod, view := m.pluginPod(p), m.pluginView(c, doc)
	updates, err := m.conf.Plugins.Create(ctx, pod, view)
	if err != nil {
		return undo, err
	}
	limits := spec.ResourcesOf(doc.Linux.Resources)
	if r := c.record.Resources; r != nil {
		limits.OOMScoreAdj = r.OOMScoreAdj
	}
	c.record.Resources = limits
	m.changeLater(updates)
	return func() {
		ctx, cancel := undoing(ctx)
		defer cancel()
		if err := m.conf.Plugins.Tell(ctx, nri.RemoveContainer, pod, &view); err != nil {
			m.conf.Log.Warn("a plugin did not take that a container could not be made", "container", c.id, "err", err)
		}
	}, nil
}

// Everything answers what plugins learn when they join: pods that are ready, and containers that have not ended (nri.Host).
func (m *Manager) Everything(ctx context.Context) (pods []nri.Pod, containers []nri.Container, err error) {
	m.mu.Lock()
	var all []*pod
	for _, p := range m.pods {
		if p.ready {
			all = append(all, p)
		}
	}
	m.mu.Unlock()
	for _, p := range all {
		pods = append(pods, m.pluginPod(p))
		for _, c := range m.members(p) {
			if st := m.state(c); st != Created && st != Running {
				continue
			}
			view, err := m.pluginContainer(ctx, c)
			if errdefs.IsNotFound(err) {
				continue // removed meanwhile
			} else if err != nil {
				return nil, nil, err
			}
			containers = append(containers, view)
		}
	}
	return pods, containers, nil
}

// Change puts limits in force that plugins want, and answers those that could not be (nri.Host).
func (m *Manager) Change(ctx context.Context, updates []nri.Update) (failed []nri.Update) {
	for _, u := range updates {
		c, err := m.container(u.ContainerID)
		if err == nil {
			err = m.setLimits(ctx, c, spec.ResourcesOf(u.Resources))
		}
		if err == nil {
			continue
		}
		m.conf.Log.Warn("cannot change limits as a plugin wants it", "container", u.ContainerID, "err", err)
		if !u.IgnoreFailure {
			failed = append(failed, u)
		}
	}
	return failed
}

// changeLater is Change for those who must not wait for other containers.
func (m *Manager) changeLater(updates []nri.Update) {
	if len(updates) > 0 {
		m.background(func(ctx context.Context) { m.Change(ctx, updates) })
	}
}

// farewell reads what plugins are told of a container whose record is about to go, and answers what tells them.
func (m *Manager) farewell(ctx context.Context, c *container) func() {
	if !m.conf.Plugins.Active() {
		return func() {}
	}
	last, err := m.pluginContainer(ctx, c)
	if err != nil {
		return func() {}
	}
	return func() {
		m.warnPlugins(c.pod, m.conf.Plugins.Tell(ctx, nri.RemoveContainer, m.pluginPod(c.pod), &last))
	}
}

// tellStopped tells plugins that a container has ended.
func (m *Manager) tellStopped(ctx context.Context, c *container) {
	if !m.conf.Plugins.Active() {
		return
	}
	view, err := m.pluginContainer(ctx, c)
	var updates []nri.Update
	if err == nil {
		updates, err = m.conf.Plugins.Stopped(ctx, m.pluginPod(c.pod), view)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		m.conf.Log.Warn("a plugin did not take that a container has ended", "container", c.id, "err", err)
	}
	m.changeLater(updates)
}
