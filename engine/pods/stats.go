package pods

import (
	"context"
	"sync"
	"time"

	"github.com/slipwayd/slipway/internal/usage"
	"github.com/slipwayd/slipway/network"
)

// kubelet asks for all of this every few seconds. Cgroups of Linux are therefore read by the daemon itself, without a call to any shim, and what takes
// long (how large a layer is) comes from a cache that is renewed in the background.

// Stats is what a container uses at a moment.
type Stats struct {
	Container Container
	Use       *usage.Usage     // nil when it does not run
	NanoCores *uint64          // billionths of a processor, lately; nil until it was asked for twice
	Layer     *FilesystemUsage // its writable layer; nil until that is measured
}

// PodStats is what a pod uses at a moment.
type PodStats struct {
	Pod        Pod
	At         time.Time
	Use        *usage.Usage // nil when nothing of it runs
	NanoCores  *uint64
	Network    []Interface // none for one in the host's network
	Containers []Stats
}

// Interface is the traffic of one.
type Interface = network.Interface

// ContainerStats is Stats of one container.
func (m *Manager) ContainerStats(ctx context.Context, id string) (Stats, error) {
	c, err := m.container(id)
	if err != nil {
		return Stats{}, err
	}
	return m.stats(ctx, c, false), nil
}

// AllContainerStats is Stats of all containers that match.
func (m *Manager) AllContainerStats(ctx context.Context, f Filter) []Stats {
	var list []Stats
	for _, v := range m.Containers(f) {
		if c, err := m.container(v.ID); err == nil {
			list = append(list, m.stats(ctx, c, false))
		}
	}
	return list
}

// AllPodStats is PodStats of all pods that match.
func (m *Manager) AllPodStats(ctx context.Context, f Filter) []PodStats {
	return m.podStats(ctx, f, false)
}

// Measurements is AllPodStats of all, with the counts of usage.More.
func (m *Manager) Measurements(ctx context.Context) []PodStats {
	return m.podStats(ctx, Filter{}, true)
}

func (m *Manager) podStats(ctx context.Context, f Filter, more bool) []PodStats {
	found := m.Pods(f)
	list := make([]PodStats, 0, len(found))
	var spaces []string
	var of []int // pods that spaces belong to
	for _, v := range found {
		m.mu.Lock()
		p := m.pods[v.ID]
		m.mu.Unlock()
		if p == nil {
			continue
		}
		s := PodStats{Pod: v, At: time.Now()}
		for _, c := range m.members(p) {
			s.Containers = append(s.Containers, m.stats(ctx, c, more))
		}
		s.Use, s.NanoCores = m.podUse(p, s.Containers, more)
		if v.NetNS != "" && v.Ready {
			spaces, of = append(spaces, v.NetNS), append(of, len(list))
		}
		list = append(list, s)
	}
	traffic, err := m.sys.traffic(ctx, spaces)
	if err != nil {
		m.conf.Log.Warn("cannot read the traffic of all pods", "err", err)
	}
	for i, n := range of {
		list[n].Network = traffic[i]
	}
	return list
}

func (m *Manager) stats(ctx context.Context, c *container, more bool) Stats {
	m.mu.Lock()
	s := Stats{Container: c.view()}
	m.mu.Unlock()
	if s.Container.State == Running && s.Container.Pid != 0 {
		s.Use, s.NanoCores = m.sys.use(ctx, c, s.Container, more)
	}
	s.Layer = m.layerUse(ctx, c)
	return s
}

// podUse is what the system tells of the pod as a whole, or else the sum of what its containers use.
func (m *Manager) podUse(p *pod, containers []Stats, more bool) (*usage.Usage, *uint64) {
	if u, cores := m.sys.podUse(p, containers, more); u != nil {
		return u, cores
	}
	var sum usage.Usage
	running := false
	for _, s := range containers {
		if s.Use != nil {
			running = true
			add(&sum, s.Use)
		}
	}
	if !running {
		return nil, nil
	}
	sum.At = time.Now()
	return &sum, p.use.rate(sum)
}

func add(sum, u *usage.Usage) {
	sum.CPU += u.CPU
	sum.Memory += u.Memory
	sum.WorkingSet += u.WorkingSet
	sum.RSS += u.RSS
	sum.Commit += u.Commit
	sum.Faults += u.Faults
	sum.Majors += u.Majors
	if u.Swap != nil {
		swap := *u.Swap
		if sum.Swap != nil {
			swap += *sum.Swap
		}
		sum.Swap = &swap
	}
}

// sampler remembers how much processor time something had used some time ago, and where the cgroup is that tells it.
type sampler struct {
	mu         sync.Mutex
	pid        uint32
	group      *usage.Cgroup // nil until it is found
	base, last sample
}

type sample struct {
	at  time.Time
	cpu uint64
}

// rateOver is how much time there must be between two samples for a rate.
const rateOver = time.Second

// rate is what was used of processors since a sample that is long enough ago.
func (s *sampler) rate(u usage.Usage) *uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := sample{u.At, u.CPU}
	if s.last.at.IsZero() || u.CPU < s.last.cpu { // the first of this container, or of those that are left of a pod
		s.base, s.last = sample{}, now
		return nil
	}
	if now.at.Sub(s.last.at) >= rateOver {
		s.base, s.last = s.last, now
	}
	elapsed := now.at.Sub(s.base.at)
	if s.base.at.IsZero() || elapsed <= 0 || now.cpu < s.base.cpu {
		return nil
	}
	cores := uint64(float64(now.cpu-s.base.cpu) / elapsed.Seconds())
	return &cores
}
