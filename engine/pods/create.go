package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/internal/sandbox"
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
	if l := s.LogPath; l != "" && (path.IsAbs(l) || strings.HasPrefix(path.Clean(l), "..")) {
		return fmt.Errorf("the log path %.200q of container %s leads out of the pod's log directory: %w", l, s.Name, errdefs.ErrInvalidArgument)
	}
	if s.StopSignal != "" {
		if _, err := signalNumber(s.StopSignal); err != nil {
			return err
		}
	}
	if s.Security.Privileged && !p.record.Spec.Security.Privileged {
		return fmt.Errorf("container %s wants to be privileged in a pod that is not: %w", s.Name, errdefs.ErrInvalidArgument)
	}
	if !m.conf.SELinux {
		s.Security.SELinux = nil
	}
	return nil
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
	if c.record.User, err = spec.PodUser(img.accounts, s.Security, img.Config.Config.User); err != nil {
		return "", err
	}
	k.at("building its document")
	volumes, undo, err := m.volumes(ctx, p, c, img)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, undo(ctx))
		}
	}()
	doc, err := m.document(ctx, p, c, img, volumes)
	if err != nil {
		return "", err
	}
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
	}, img.ChainID, m.snapshotLabels(c.pod))
	c.created = made.CreatedAt
	return err
}

// snapshotLabels give the root file system the ids of the pod's user namespace.
func (m *Manager) snapshotLabels(p *pod) map[string]string {
	u := p.record.Spec.Security.Namespaces.User
	if u == nil || u.Mode != spec.ModePod {
		return nil
	}
	mapping := func(maps []spec.IDMap) string {
		return fmt.Sprintf("%d:%d:%d", maps[0].Container, maps[0].Host, maps[0].Size)
	}
	return map[string]string{
		"containerd.io/snapshot/uidmapping": mapping(u.UIDs), "containerd.io/snapshot/gidmapping": mapping(u.GIDs),
	}
}

// document says to the executor what the container is.
func (m *Manager) document(ctx context.Context, p *pod, c *container, img *image, volumes []specs.Mount) (*specs.Spec, error) {
	s := c.record.Spec
	resolved := *s
	var err error
	if resolved.Mounts, err = resolveMounts(s.Mounts); err != nil {
		return nil, err
	}
	dir := m.dir(p.id)
	ns := s.Security.Namespaces
	d := spec.PodDocument{
		PodID: p.id, ID: c.id, Pod: p.record.Spec, Container: &resolved, Image: img.Config.Config, ImageName: c.image,
		User: c.record.User, Hostname: m.shown(p.record.Spec), Namespaces: map[specs.LinuxNamespaceType]string{},
		Cgroups: m.cgroup(p, c.id), Volumes: append(m.podFiles(p, s), volumes...), Host: m.host,
		PrivilegedWithoutDevices: p.runtime.PrivilegedWithoutHostDevices,
	}
	for _, pin := range p.record.Pins {
		d.Namespaces[namespaceKinds[pin]] = sandbox.NamespacePath(dir, pin)
	}
	switch ns.PID {
	case spec.ModeContainer:
		d.OwnPID = true
	case spec.ModePod:
		if err := m.ensureHolder(ctx, p); err != nil {
			return nil, err
		}
		d.Namespaces[specs.PIDNamespace] = sandbox.NamespacePath(dir, sandbox.PID)
	case spec.ModeTarget:
		target, err := m.Container(ns.Target)
		if err != nil || target.PodID != p.id || target.State != Running {
			return nil, fmt.Errorf("the container %.100q whose processes it is to see does not run in its pod: %w", ns.Target, errdefs.ErrInvalidArgument)
		}
		d.Namespaces[specs.PIDNamespace] = fmt.Sprintf("/proc/%d/ns/pid", target.Pid)
	}
	doc, err := spec.ForPod(d)
	if err != nil {
		return nil, err
	}
	for _, from := range []struct {
		annotations map[string]string
		patterns    []string
	}{{p.record.Spec.Annotations, p.runtime.PodAnnotations}, {s.Annotations, p.runtime.ContainerAnnotations}} {
		if err := spec.Annotations(spec.Matching(from.annotations, from.patterns))(doc); err != nil {
			return nil, err
		}
	}
	return doc, m.injectDevices(doc, s)
}

// podFiles are what all containers of a pod see: its name, hosts, resolver and shared memory.
func (m *Manager) podFiles(p *pod, s *spec.PodContainer) []specs.Mount {
	options := []string{"rbind", "rprivate", "rw"}
	if s.Security.ReadonlyRootfs {
		options[2] = "ro"
	}
	var list []specs.Mount
	for _, name := range []string{"hostname", "hosts", "resolv.conf"} {
		list = append(list, specs.Mount{Destination: "/etc/" + name, Type: "bind", Source: filepath.Join(m.dir(p.id), name), Options: options})
	}
	shm := "/dev/shm"
	if p.record.Spec.Security.Namespaces.IPC != spec.ModeNode {
		shm = sandbox.ShmPath(m.dir(p.id))
	}
	return append(list, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"rbind", "rprivate", "rw", "nosuid", "nodev", "noexec"}})
}

// cgroup is where a container's is: below what kubelet gave the pod.
func (m *Manager) cgroup(p *pod, id string) string {
	parent := p.record.Spec.CgroupParent
	if m.conf.SystemdCgroup {
		return path.Base(orElse(parent, "system.slice")) + ":cri-containerd:" + id
	}
	return path.Join("/", orElse(parent, "k8s.io"), id)
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// resolveMounts follows links in the sources of volumes, which must exist (CRI's Mount.host_path). Those of images have theirs set.
func resolveMounts(mounts []spec.PodMount) ([]spec.PodMount, error) {
	var list []spec.PodMount
	for _, v := range mounts {
		if v.Image != nil {
			continue // among the volumes already
		}
		if !filepath.IsAbs(v.Source) {
			return nil, fmt.Errorf("volume on %s: its source %.200q is not absolute: %w", v.Destination, v.Source, errdefs.ErrInvalidArgument)
		}
		source, err := filepath.EvalSymlinks(v.Source)
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("volume on %s: its source is not there: %w: %w", v.Destination, err, errdefs.ErrInvalidArgument)
		} else if err != nil {
			return nil, fmt.Errorf("volume on %s: %w", v.Destination, err)
		}
		v.Source = source
		list = append(list, v)
	}
	return list, nil
}
