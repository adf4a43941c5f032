package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/internal/sandbox"
	"github.com/slipwayd/slipway/spec"
)

// snapshotLabels give the root file system the ids of the pod's user namespace.
func (l *onLinux) snapshotLabels(p *pod, _ *spec.PodContainer) map[string]string {
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

func (l *onLinux) document(ctx context.Context, p *pod, c *container, img *image) (doc *specs.Spec, undo func(context.Context) error, err error) {
	volumes, undo, err := l.m.volumes(ctx, p, c, img)
	if err != nil {
		return nil, nil, err
	}
	if doc, err = l.m.document(ctx, p, c, img, volumes); err != nil {
		return nil, nil, errors.Join(err, undo(ctx))
	}
	return doc, undo, nil
}

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

func (l *onLinux) limit(doc *specs.Spec, r *spec.Resources) (told opaque.Any, err error) {
	limits, err := r.Linux(l.m.host)
	if err != nil {
		return told, err
	}
	if doc.Linux == nil || doc.Process == nil {
		return told, fmt.Errorf("its document is none of Linux: %w", errdefs.ErrDataLoss)
	}
	told.TypeURL = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
	if told.Value, err = json.Marshal(limits); err != nil {
		return told, err
	}
	if had := doc.Linux.Resources; had != nil { // what CRI has no words for stays
		limits.Devices, limits.Pids, limits.BlockIO = had.Devices, had.Pids, had.BlockIO
	}
	doc.Linux.Resources = limits
	adj := max(int(r.OOMScoreAdj), l.m.host.LeastOOMScoreAdj)
	doc.Process.OOMScoreAdj = &adj
	return told, nil
}
