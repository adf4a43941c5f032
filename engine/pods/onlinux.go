package pods

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/internal/sandbox"
	"github.com/slipwayd/slipway/internal/usage"
	"github.com/slipwayd/slipway/network"
	"github.com/slipwayd/slipway/spec"
)

// defaultShm is the shared memory of a pod in bytes, as much as Docker gives a container.
const defaultShm = 64 << 20

// onLinux is the system whose pods are pinned namespaces (package internal/sandbox). What it is told of Windows it ignores, as other runtimes do.
type onLinux struct {
	m       *Manager
	cgroups *usage.Host // nil where there are none
}

// newLinux looks at the host for m.
func newLinux(m *Manager) (*onLinux, error) {
	host, err := spec.ThisHost()
	if err != nil {
		return nil, err
	}
	cgroups, err := usage.NewHost()
	if err != nil {
		m.conf.Log.Warn("what pods use cannot be told", "err", err)
	}
	if host.AppArmor {
		if err := spec.LoadAppArmor(); err != nil {
			m.conf.Log.Warn("containers run without AppArmor", "err", err)
			host.AppArmor = false
		}
	}
	m.host = host
	return &onLinux{m: m, cgroups: cgroups}, nil
}

func (l *onLinux) checkPod(s *spec.Pod) error {
	if n := s.Security.Namespaces.Network; n == spec.ModeContainer || n == spec.ModeTarget {
		return fmt.Errorf("the network of pod %s can be its own or the host's, nothing else: %w", s.Name, errdefs.ErrInvalidArgument)
	}
	if !l.m.conf.SELinux {
		s.Security.SELinux = nil
	}
	return checkUserNamespace(s.Security.Namespaces.User)
}

func checkUserNamespace(u *spec.UserNamespace) error {
	if u == nil || u.Mode == spec.ModeNode {
		return nil
	}
	if u.Mode != spec.ModePod {
		return fmt.Errorf("a user namespace can be the pod's or the host's, nothing else: %w", errdefs.ErrInvalidArgument)
	}
	for _, maps := range [][]spec.IDMap{u.UIDs, u.GIDs} {
		if len(maps) != 1 || maps[0].Container != 0 || maps[0].Size == 0 {
			return fmt.Errorf("a user namespace needs exactly one mapping of user ids and one of group ids, from container id 0 on: %w", errdefs.ErrInvalidArgument)
		}
	}
	if u.UIDs[0] != u.GIDs[0] {
		return fmt.Errorf("a user namespace needs the same mapping for user and group ids: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

func (l *onLinux) checkContainer(p *pod, s *spec.PodContainer) error {
	if s.Security.Privileged && !p.record.Spec.Security.Privileged {
		return fmt.Errorf("container %s wants to be privileged in a pod that is not: %w", s.Name, errdefs.ErrInvalidArgument)
	}
	if !l.m.conf.SELinux {
		s.Security.SELinux = nil
	}
	return nil
}

func (l *onLinux) make(_ context.Context, p *pod, record []byte) error {
	options, err := sandboxOptions(p.record.Spec)
	if err != nil {
		return err
	}
	options.Files[podFile] = record
	p.record.Pins = pins(options)
	return sandbox.Make(l.m.dir(p.id), options)
}

// sandboxOptions are what the pod has of its own: a network and a host name unless it uses the host's, IPC unless it is the host's.
func sandboxOptions(s *spec.Pod) (sandbox.Options, error) {
	ns := s.Security.Namespaces
	own := ns.Network != spec.ModeNode
	o := sandbox.Options{Net: own, UTS: own, IPC: ns.IPC != spec.ModeNode, Hostname: s.Hostname, Sysctls: map[string]string{}, Files: map[string][]byte{}}
	if ns.User != nil && ns.User.Mode == spec.ModePod {
		o.UIDs, o.GIDs = idMaps(ns.User.UIDs), idMaps(ns.User.GIDs)
	}
	if own { // containers need no privilege for low ports and pings, as in containerd's defaults
		o.Sysctls["net.ipv4.ip_unprivileged_port_start"] = "0"
		if len(o.UIDs) == 0 {
			o.Sysctls["net.ipv4.ping_group_range"] = "0 2147483647"
		}
	}
	for k, v := range s.Sysctls {
		o.Sysctls[k] = v
	}
	if o.IPC {
		o.ShmSize = defaultShm
	}
	hostname := s.Hostname
	if hostname == "" {
		var err error
		if hostname, err = os.Hostname(); err != nil {
			return o, fmt.Errorf("cannot learn the host's name: %w", err)
		}
	}
	o.Files["hostname"] = []byte(hostname + "\n")
	for name, path := range map[string]string{"hosts": "/etc/hosts", "resolv.conf": "/etc/resolv.conf"} {
		if name == "resolv.conf" && s.DNS != nil {
			text, err := s.DNS.File()
			if err != nil {
				return o, err
			}
			o.Files[name] = text
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return o, fmt.Errorf("cannot copy the host's %s for the pod: %w", path, err)
		}
		o.Files[name] = text
	}
	return o, nil
}

func idMaps(maps []spec.IDMap) []sandbox.IDMap {
	var list []sandbox.IDMap
	for _, m := range maps {
		list = append(list, sandbox.IDMap(m))
	}
	return list
}

func pins(o sandbox.Options) []string {
	var list []string
	for _, n := range []struct {
		name string
		own  bool
	}{{sandbox.Net, o.Net}, {sandbox.IPC, o.IPC}, {sandbox.UTS, o.UTS}, {sandbox.User, len(o.UIDs) > 0}} {
		if n.own {
			list = append(list, n.name)
		}
	}
	return list
}

func (l *onLinux) alive(p *pod) bool { return sandbox.Alive(l.m.dir(p.id), p.record.Pins...) }

func (l *onLinux) remove(_ context.Context, p *pod) error { return sandbox.Remove(l.m.dir(p.id)) }

func (l *onLinux) netns(p *pod) string {
	if !ownNetwork(p.record.Spec) {
		return ""
	}
	return sandbox.NamespacePath(l.m.dir(p.id), sandbox.Net)
}

func (l *onLinux) dial(ctx context.Context, p Pod, port uint16) (*net.TCPConn, error) {
	return network.Dial(ctx, p.NetNS, port)
}

func (l *onLinux) accounts(ctx context.Context, snapshots *engine.Snapshots, chain string) (spec.Accounts, error) {
	return readAccounts(ctx, snapshots, chain)
}

func (l *onLinux) user(_ *pod, s *spec.PodContainer, img *image) (specs.User, error) {
	return spec.PodUser(img.accounts, s.Security, img.Config.Config.User)
}

func (l *onLinux) nowhere() string { return os.DevNull }
