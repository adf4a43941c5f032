package spec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// mounts are the system's, changed by what the container shares with host and pod, then those of the daemon and the container's
// own, a directory before what is below it.
func (d *PodDocument) mounts(s *specs.Spec) error {
	privileged := d.Container.Security.Privileged
	own := make(map[string]bool, len(d.Container.Mounts))
	for _, m := range d.Container.Mounts {
		if !path.IsAbs(m.Destination) {
			return fmt.Errorf("volume cannot be mounted on %q: the path is not absolute: %w", m.Destination, errdefs.ErrInvalidArgument)
		}
		own[path.Clean(m.Destination)] = true
	}
	var list []specs.Mount
	for _, m := range s.Mounts {
		switch {
		case m.Destination == "/run", m.Destination == "/dev/shm", own[m.Destination]:
			continue // the first is not for pods, the second is the pod's
		case privileged && (m.Destination == "/sys" || m.Destination == "/sys/fs/cgroup"):
			m.Options = append(slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" }), "rw")
		}
		if m.Destination == "/sys" && d.Namespaces[specs.UserNamespace] != "" && d.Namespaces[specs.NetworkNamespace] == "" {
			// Only who owns the network namespace may mount a new sysfs.
			m.Type, m.Source, m.Options = "bind", "/sys", []string{"rbind", "nosuid", "noexec", "nodev", "ro"}
		}
		list = append(list, m)
	}
	system := len(list)
	for _, m := range d.Volumes {
		if !own[m.Destination] {
			list = append(list, m)
		}
	}
	for _, v := range d.Container.Mounts {
		m, err := volume(v)
		if err != nil {
			return fmt.Errorf("cannot mount volume %q on %q: %w", v.Source, v.Destination, err)
		}
		s.Linux.RootfsPropagation = strongest(s.Linux.RootfsPropagation, v.Propagation)
		list = append(list, m)
	}
	slices.SortStableFunc(list[system:], func(a, b specs.Mount) int { return depth(a.Destination) - depth(b.Destination) })
	s.Mounts = list
	return nil
}

func depth(p string) int { return strings.Count(path.Clean(p), "/") }

// strongest is the propagation of the root that lets those of all volumes work.
func strongest(have string, p Propagation) string {
	switch {
	case p == PropagationBoth || have == "rshared":
		return "rshared"
	case p == PropagationFromHost:
		return "rslave"
	}
	return have
}

// volumeFlags are mount options that a client may name itself (mount(8), of all file systems).
var volumeFlags = []string{
	"nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "relatime", "strictatime", "nodiratime", "nosymfollow", "ro", "rw",
}

// volume converts one volume whose Source is a path that exists.
func volume(v PodMount) (specs.Mount, error) {
	m := specs.Mount{Type: "bind", Source: v.Source, Destination: path.Clean(v.Destination), Options: []string{"rbind"}}
	switch {
	case v.Propagation > PropagationBoth:
		return m, fmt.Errorf("there is no mount propagation %d: %w", v.Propagation, errdefs.ErrInvalidArgument)
	case v.RecursiveReadonly && !v.Readonly:
		return m, fmt.Errorf("it is to be recursively read-only but not read-only: %w", errdefs.ErrInvalidArgument)
	case v.RecursiveReadonly && v.Propagation != PropagationPrivate:
		return m, fmt.Errorf("a recursively read-only mount must have private propagation: %w", errdefs.ErrInvalidArgument)
	}
	m.Options = append(m.Options, [...]string{"rprivate", "rslave", "rshared"}[v.Propagation])
	for _, o := range v.Options {
		if !slices.Contains(volumeFlags, o) {
			return m, fmt.Errorf("mount option %.100q is not one of %s: %w", o, strings.Join(volumeFlags, " "), errdefs.ErrInvalidArgument)
		}
		m.Options = append(m.Options, o)
	}
	switch {
	case v.RecursiveReadonly:
		m.Options = append(m.Options, "rro")
	case v.Readonly:
		m.Options = append(m.Options, "ro")
	default:
		m.Options = append(m.Options, "rw")
	}
	m.UIDMappings, m.GIDMappings = Mappings(v.UIDs), Mappings(v.GIDs)
	return m, nil
}
