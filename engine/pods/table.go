package pods

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/spec"
)

// pod is one in the table. id, spec, created and runtime never change; the rest is under Manager.mu.
type pod struct {
	id      string
	created time.Time
	runtime Runtime

	record     podRecord
	ready      bool
	stopping   bool
	busy       int           // verbs that need it to stay ready
	idle       chan struct{} // closed when a stop waits and busy is 0
	containers map[string]*container

	life sync.Mutex // one Stop or Remove at a time
	use  sampler
}

// container is one in the table. What is above life never changes; status, resources and state are under Manager.mu.
type container struct {
	id      string
	pod     *pod
	created time.Time
	image   string // name of the image record
	record  containerRecord

	life  sync.Mutex // one Start, end or Remove at a time
	use   sampler
	layer layerUse

	state    State
	oom      bool
	removing bool
	pid      uint32
	done     chan struct{} // closed when it has exited and that is recorded
}

// State of a container, in the order of CRI's ContainerState.
type State uint8

const (
	Created State = iota
	Running
	Exited
	Unknown
)

// Pod is a pod at a moment. Its maps and slices are shared and not to be changed.
type Pod struct {
	ID      string
	Spec    *spec.Pod
	Created time.Time
	Ready   bool
	IPs     []string
	Network []byte // network.Attachment.Result
	NetNS   string // its path, on Windows its GUID; "" for the host's
	Pid     uint32 // of the process that holds it, 0 without
}

// Container is a container of a pod at a moment. Its maps and slices are shared and not to be changed.
type Container struct {
	ID, PodID                  string
	Spec                       *spec.PodContainer
	ImageID, ImageRef, Image   string
	Created, Started, Finished time.Time
	State                      State
	ExitCode                   int32
	Reason, Message            string
	LogPath, StopSignal        string
	Resources                  *spec.Resources
	UID, GID                   uint32
	Groups                     []uint32
	Pid                        uint32
}

// Filter chooses from a list; what is zero is not asked for.
type Filter struct {
	ID, PodID string // the beginning of an id is enough
	Ready     *bool
	State     *State
	Labels    map[string]string
}

func (f Filter) labels(have map[string]string) bool {
	for k, v := range f.Labels {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// Pods lists pods, in the order in which they were made.
func (m *Manager) Pods(f Filter) []Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Pod
	for _, p := range m.pods {
		if strings.HasPrefix(p.id, f.ID) && (f.Ready == nil || *f.Ready == p.ready) && f.labels(p.record.Spec.Labels) {
			list = append(list, m.viewPod(p))
		}
	}
	slices.SortFunc(list, func(a, b Pod) int { return a.Created.Compare(b.Created) })
	return list
}

// Containers lists containers, in the order in which they were made.
func (m *Manager) Containers(f Filter) []Container {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Container
	for _, c := range m.containers {
		if strings.HasPrefix(c.id, f.ID) && strings.HasPrefix(c.pod.id, f.PodID) && (f.State == nil || *f.State == c.state) && f.labels(c.record.Spec.Labels) {
			list = append(list, c.view())
		}
	}
	slices.SortFunc(list, func(a, b Container) int { return a.Created.Compare(b.Created) })
	return list
}

// Pod finds one by its id or a beginning that only it has.
func (m *Manager) Pod(id string) (Pod, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := find(m.pods, "pod", id)
	if err != nil {
		return Pod{}, err
	}
	return m.viewPod(p), nil
}

// Container finds one by its id or a beginning that only it has.
func (m *Manager) Container(id string) (Container, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, err := find(m.containers, "container", id)
	if err != nil {
		return Container{}, err
	}
	return c.view(), nil
}

func find[T any](all map[string]*T, noun, id string) (*T, error) {
	if v, ok := all[id]; ok {
		return v, nil
	}
	var found []string
	for k := range all {
		if id != "" && strings.HasPrefix(k, id) {
			found = append(found, k)
		}
	}
	switch len(found) {
	case 1:
		return all[found[0]], nil
	case 0:
		return nil, fmt.Errorf("there is no %s %.100q: %w", noun, id, errdefs.ErrNotFound)
	}
	return nil, fmt.Errorf("%d %ss have ids that begin with %q: %w", len(found), noun, id, errdefs.ErrInvalidArgument)
}

// viewPod needs m.mu.
func (m *Manager) viewPod(p *pod) Pod {
	return Pod{ID: p.id, Spec: p.record.Spec, Created: p.created, Ready: p.ready, IPs: p.record.IPs, Network: p.record.Network, NetNS: m.sys.netns(p)}
}

// view needs Manager.mu.
func (c *container) view() Container {
	r := &c.record
	return Container{
		ID: c.id, PodID: c.pod.id, Spec: r.Spec, ImageID: r.ImageID, ImageRef: r.ImageRef, Image: c.image,
		Created: c.created, Started: r.Status.Started, Finished: r.Status.Finished, State: c.state, ExitCode: r.Status.ExitCode,
		Reason: r.Status.Reason, Message: r.Status.Message, LogPath: r.LogPath, StopSignal: r.StopSignal, Resources: r.Resources,
		UID: r.User.UID, GID: r.User.GID, Groups: r.User.AdditionalGids, Pid: c.pid,
	}
}

// name of a pod, and of a container, which no two have.
func podName(s *spec.Pod) string {
	return fmt.Sprintf("pod/%s/%s/%s/%d", s.Namespace, s.Name, s.UID, s.Attempt)
}

func containerName(podID string, s *spec.PodContainer) string {
	return fmt.Sprintf("container/%s/%s/%d", podID, s.Name, s.Attempt)
}

// hold keeps a pod from being stopped until release. FailedPrecondition when it is not ready.
func (m *Manager) hold(id string) (p *pod, release func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err = find(m.pods, "pod", id)
	if err != nil {
		return nil, nil, err
	}
	if !p.ready || p.stopping {
		return nil, nil, fmt.Errorf("pod %s is not ready: it was stopped, or the host was started anew: %w", p.id, errdefs.ErrFailedPrecondition)
	}
	p.busy++
	return p, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if p.busy--; p.busy == 0 && p.idle != nil {
			close(p.idle)
			p.idle = nil
		}
	}, nil
}

// insert and forget keep both maps in step; they need m.mu.
func (m *Manager) insertPod(p *pod) {
	m.pods[p.id] = p
	m.names[podName(p.record.Spec)] = p.id
}

func (m *Manager) insertContainer(c *container) {
	m.containers[c.id] = c
	c.pod.containers[c.id] = c
	m.names[containerName(c.pod.id, c.record.Spec)] = c.id
}

func (m *Manager) forgetPod(p *pod) {
	delete(m.pods, p.id)
	delete(m.names, podName(p.record.Spec))
}

func (m *Manager) forgetContainer(c *container) {
	delete(m.containers, c.id)
	delete(c.pod.containers, c.id)
	delete(m.names, containerName(c.pod.id, c.record.Spec))
}

// members are the containers of a pod.
func (m *Manager) members(p *pod) []*container {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(p.containers))
}
