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

	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/network"
	"github.com/slipwayd/slipway/nri"
	"github.com/slipwayd/slipway/spec"
)

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
		return m.run(ctx, podRecord{Spec: s}, k)
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
	return m.sys.checkPod(s)
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
func (m *Manager) run(ctx context.Context, begun podRecord, k *making) (_ string, err error) {
	s := begun.Spec
	r, err := m.runtime(s.Handler)
	if err != nil {
		return "", err
	}
	begun.NetConfig = r.NetworkConfigDir
	p := &pod{id: newID(), runtime: r, ready: true, containers: map[string]*container{}, record: begun}
	k.at("making namespaces")
	record, err := json.Marshal(p.record) // so that a later daemon can take back its addresses
	if err != nil {
		return "", err
	}
	if len(record) > maxConfig {
		return "", fmt.Errorf("its configuration takes %d bytes, more than %d: %w", len(record), maxConfig, errdefs.ErrInvalidArgument)
	}
	if err := m.sys.make(ctx, p, record); err != nil {
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
	if ownNetwork(s) {
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

// podFile is in the directory of each pod: its record, as it was when the pod began to be made.
const podFile = "pod.json"

// ownNetwork tells whether a pod's network is not the host's.
func ownNetwork(s *spec.Pod) bool { return s.Security.Namespaces.Network != spec.ModeNode }

func (m *Manager) networkPod(p *pod) network.Pod {
	s := p.record.Spec
	n := network.Pod{
		ID: p.id, Name: s.Name, Namespace: s.Namespace, UID: s.UID, NetNS: m.sys.netns(p),
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
	if ownNetwork(p.record.Spec) && m.conf.Network != nil {
		if err := m.conf.Network.Detach(ctx, m.networkPod(p)); err != nil {
			return fmt.Errorf("cannot detach pod %s from its network: %w", p.id, err)
		}
	}
	if err := m.unmountVolumes(ctx, p.id); err != nil {
		return err
	}
	return m.sys.remove(ctx, p)
}

// now is when something happens, as records keep it.
func now() time.Time { return time.Now().UTC() }

// shown is the name that a container of the pod has for itself.
func (m *Manager) shown(s *spec.Pod) string {
	host, _ := os.Hostname() // "" is as good a guess as any
	return cmp.Or(s.Hostname, host)
}
