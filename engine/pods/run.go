package pods

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/sandbox"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/network"
	"github.com/slipwayd/slipway/nri"
	"github.com/slipwayd/slipway/spec"
)

// defaultShm is the shared memory of a pod in bytes, as much as Docker gives a container.
const defaultShm = 64 << 20

// maxName bounds each part of a pod's or container's name in bytes; Kubernetes' own bound is 253 (RFC 1123 subdomain).
const maxName = 1024

// maxConfig bounds what is kept of a pod's configuration in bytes.
const maxConfig = 6 << 20

// Run makes a pod and answers its id. Repeated while the pod is being made it waits for the same, and afterwards answers the
// same id until a container is made in it; AlreadyExists from then on, and for another pod of that name.
func (m *Manager) Run(ctx context.Context, s *spec.Pod) (string, error) {
	if err := m.checkPod(s); err != nil {
		return "", err
	}
	what := fmt.Sprintf("make pod %s/%s", s.Namespace, s.Name)
	print := fingerprint(s)
	return m.once(ctx, podName(s), what, print, func(ctx context.Context, k *making) (string, error) {
		if id, err := m.samePod(s, print); id != "" || err != nil {
			return id, err
		}
		return m.run(ctx, s, k)
	})
}

func (m *Manager) checkPod(s *spec.Pod) error {
	for _, part := range []struct{ what, value string }{{"name", s.Name}, {"namespace", s.Namespace}, {"uid", s.UID}} {
		if err := checkName("the "+part.what+" of a pod", part.value); err != nil {
			return err
		}
	}
	if s.LogDirectory != "" && !filepath.IsAbs(s.LogDirectory) {
		return fmt.Errorf("the log directory %.200q of pod %s is not absolute: %w", s.LogDirectory, s.Name, errdefs.ErrInvalidArgument)
	}
	if s.Security.Namespaces.Network == spec.ModeContainer || s.Security.Namespaces.Network == spec.ModeTarget {
		return fmt.Errorf("the network of pod %s can be its own or the host's, nothing else: %w", s.Name, errdefs.ErrInvalidArgument)
	}
	if l := s.Security.SELinux; l != nil && !m.conf.SELinux {
		s.Security.SELinux = nil
	}
	return checkUserNamespace(s.Security.Namespaces.User)
}

// checkName refuses what no object of Kubernetes is called. Two names with slashes could be one where they are put together.
func checkName(what, name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("%s must have 1 to %d bytes: %w", what, maxName, errdefs.ErrInvalidArgument)
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r == '/' || unicode.IsControl(r) }) || !utf8.ValidString(name) {
		return fmt.Errorf("%s must have no slashes and nothing that cannot be printed: %.200q: %w", what, name, errdefs.ErrInvalidArgument)
	}
	return nil
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

// samePod is the id of a pod that an earlier call of the same made and nobody has used.
func (m *Manager) samePod(s *spec.Pod, print string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, ok := m.names[podName(s)]
	if !ok {
		return "", nil
	}
	p := m.pods[id]
	if p.ready && !p.stopping && len(p.containers) == 0 && fingerprint(p.record.Spec) == print {
		return id, nil
	}
	return "", fmt.Errorf("pod %s has that name and attempt: %w", id, errdefs.ErrAlreadyExists)
}

// run makes the pod's things on the host, and its record last: what has no record goes at the next start.
func (m *Manager) run(ctx context.Context, s *spec.Pod, k *making) (_ string, err error) {
	r, err := m.runtime(s.Handler)
	if err != nil {
		return "", err
	}
	p := &pod{id: newID(), runtime: r, ready: true, containers: map[string]*container{}, record: podRecord{Spec: s, NetConfig: r.NetworkConfigDir}}
	dir := m.dir(p.id)
	k.at("making namespaces")
	options, err := m.sandboxOptions(s)
	if err != nil {
		return "", err
	}
	if options.Files["pod.json"], err = json.Marshal(p.record); err != nil { // so that a later daemon can take back its addresses
		return "", err
	}
	if n := len(options.Files["pod.json"]); n > maxConfig {
		return "", fmt.Errorf("its configuration takes %d bytes, more than %d: %w", n, maxConfig, errdefs.ErrInvalidArgument)
	}
	p.record.Pins = pins(options)
	if err := sandbox.Make(dir, options); err != nil {
		return "", err
	}
	told := false
	defer func() {
		if err != nil {
			ctx, cancel := undoing(ctx)
			defer cancel()
			if told {
				m.mention(ctx, nri.StopPod, p, nil)
			}
			err = errors.Join(err, m.dismantle(ctx, p))
			if told {
				m.mention(ctx, nri.RemovePod, p, nil)
			}
		}
	}()
	if options.Net {
		k.at("attaching the network")
		if err := m.attach(ctx, p); err != nil {
			return "", err
		}
	}
	if m.wantsHolder(p) {
		k.at("starting the process that holds the pod")
		if err := m.startHolder(ctx, p); err != nil {
			return "", err
		}
	}
	k.at("telling plugins of it")
	defer m.conf.Plugins.Hold()()
	told = true
	if err := m.tell(ctx, nri.RunPod, p, nil); err != nil {
		return "", err
	}
	k.at("recording it")
	if err := m.recordPod(ctx, p); err != nil {
		return "", err
	}
	m.mu.Lock()
	m.insertPod(p)
	m.mu.Unlock()
	m.notifyPod(p, ContainerCreated)
	m.notifyPod(p, ContainerStarted)
	return p.id, nil
}

func (m *Manager) recordPod(ctx context.Context, p *pod) error {
	ext, err := encodeExtension(podExtension, p.record)
	if err != nil {
		return err
	}
	made, err := m.e.CreateSandbox(ctx, Namespace, metadata.Sandbox{
		ID: p.id, Labels: fits(p.record.Spec.Labels), Sandboxer: "podsandbox",
		Runtime: metadata.Runtime{Name: p.runtime.Name, Options: p.runtime.Options}, Extensions: ext,
	})
	p.created = made.CreatedAt
	return err
}

// sandboxOptions are what the pod has of its own: a network and a host name unless it uses the host's, IPC unless it is the host's.
func (m *Manager) sandboxOptions(s *spec.Pod) (sandbox.Options, error) {
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
		if err != nil && !errors.Is(err, os.ErrNotExist) {
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

func (m *Manager) networkPod(p *pod) network.Pod {
	s := p.record.Spec
	n := network.Pod{
		ID: p.id, Name: s.Name, Namespace: s.Namespace, UID: s.UID, NetNS: sandbox.NamespacePath(m.dir(p.id), sandbox.Net),
		ConfigDir: p.record.NetConfig, Annotations: s.Annotations, CgroupParent: s.CgroupParent,
	}
	for _, m := range s.Ports {
		n.Ports = append(n.Ports, network.Port{Protocol: m.Protocol, Container: m.ContainerPort, Host: m.HostPort, HostIP: m.HostIP})
	}
	if s.DNS != nil {
		n.DNS = network.DNS(*s.DNS)
	}
	return n
}

func (m *Manager) attach(ctx context.Context, p *pod) error {
	if m.conf.Network == nil {
		return errNoNetwork()
	}
	a, err := m.conf.Network.Attach(ctx, m.networkPod(p))
	if err != nil {
		return err
	}
	p.record.IPs, p.record.Network = a.IPs, a.Result
	return nil
}

// dismantle takes away everything of a pod but its record and containers. It may be repeated.
func (m *Manager) dismantle(ctx context.Context, p *pod) error {
	if err := m.stopHolder(ctx, p); err != nil {
		return fmt.Errorf("cannot stop the process that holds pod %s: %w", p.id, err)
	}
	if p.record.Spec.Security.Namespaces.Network != spec.ModeNode && m.conf.Network != nil {
		if err := m.conf.Network.Detach(ctx, m.networkPod(p)); err != nil {
			return fmt.Errorf("cannot detach pod %s from its network: %w", p.id, err)
		}
	}
	if err := m.unmountVolumes(ctx, p.id); err != nil {
		return err
	}
	return sandbox.Remove(m.dir(p.id))
}

// now is when something happens, as records keep it.
func now() time.Time { return time.Now().UTC() }

// shown is the name that a container of the pod has for itself.
func (m *Manager) shown(s *spec.Pod) string {
	host, _ := os.Hostname() // "" is as good a guess as any
	return cmp.Or(s.Hostname, host)
}
