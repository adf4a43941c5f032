package pods

import (
	"context"
	"path"

	"github.com/slipwayd/slipway/internal/usage"
	"github.com/slipwayd/slipway/network"
)

func (l *onLinux) use(_ context.Context, c *container, v Container, more bool) (*usage.Usage, *uint64) {
	return c.use.container(l.cgroups, v.Pid, more)
}

// podUse reads the cgroup that kubelet made for the pod.
func (l *onLinux) podUse(p *pod, containers []Stats, more bool) (*usage.Usage, *uint64) {
	l.m.mu.Lock()
	parent := p.record.Spec.CgroupParent
	l.m.mu.Unlock()
	if parent == "" || parent == "/" {
		return nil, nil
	}
	for _, s := range containers {
		if s.Use == nil {
			continue
		}
		l.m.mu.Lock()
		c := l.m.containers[s.Container.ID]
		l.m.mu.Unlock()
		if c == nil {
			continue
		}
		if group := c.use.around(path.Base(parent)); group != nil {
			return p.use.read(group, more)
		}
	}
	return nil, nil
}

func (l *onLinux) traffic(_ context.Context, netns []string) ([][]Interface, error) {
	return network.Usage(netns)
}

// container reads the cgroup of the process that is a container's init; nil when it is gone.
func (s *sampler) container(host *usage.Host, pid uint32, more bool) (*usage.Usage, *uint64) {
	if host == nil {
		return nil, nil
	}
	s.mu.Lock()
	if s.pid != pid || s.group == nil {
		s.pid = pid
		s.group, _ = host.Find(int(pid)) // without, it is ending
	}
	group := s.group
	s.mu.Unlock()
	if group == nil {
		return nil, nil
	}
	return s.read(group, more)
}

// around is the cgroup around the container's, if it has that name.
func (s *sampler) around(name string) *usage.Cgroup {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.group == nil {
		return nil
	}
	return s.group.Parent(name)
}

func (s *sampler) read(group *usage.Cgroup, more bool) (*usage.Usage, *uint64) {
	read := group.Read
	if more {
		read = group.ReadAll
	}
	u, err := read()
	if err != nil {
		return nil, nil
	}
	return &u, s.rate(u)
}
