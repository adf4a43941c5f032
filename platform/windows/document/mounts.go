package document

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// mounts are what a container sees of the host.
type mounts struct {
	dirs  []directory2
	pipes []pipe
}

// ignoredOptions have no meaning for a mapped directory and do not change what a program sees.
var ignoredOptions = []string{"", "rw", "bind", "rbind", "private", "rprivate", "shared", "rshared", "slave", "rslave", "nosuid", "nodev", "noexec", "relatime", "noatime"}

func newMounts(h Host, list []specs.Mount, schema int) (mounts, error) {
	var all mounts
	if len(list) > maxEntries {
		return all, invalid("the spec has %d mounts, more than %d", len(list), maxEntries)
	}
	seen := map[string]bool{}
	for _, m := range list {
		key := strings.ToLower(strings.ReplaceAll(m.Destination, "/", `\`))
		if seen[key] {
			return all, invalid("%#q is mounted twice", m.Destination)
		}
		seen[key] = true
		readOnly, err := mountOptions(m)
		if err != nil {
			return all, err
		}
		if name, ok := pipeName(m.Source); ok {
			p, err := newPipe(h, name, m)
			if err != nil {
				return all, err
			}
			all.pipes = append(all.pipes, p)
			continue
		}
		d, err := newDirectory(h, m, schema)
		if err != nil {
			return all, err
		}
		d.ReadOnly = readOnly
		all.dirs = append(all.dirs, d)
	}
	return all, nil
}

func mountOptions(m specs.Mount) (readOnly bool, err error) {
	switch m.Type {
	case "", "bind", "npipe":
	case "virtual-disk", "physical-disk", "extensible-virtual-disk":
		return false, unimplemented("mount %#q of type %s: %s", m.Destination, m.Type, OtherShim)
	default:
		return false, invalid("mount %#q has type %#.80q: on Windows only directories, files and named pipes of the host can be mounted", m.Destination, m.Type)
	}
	if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		return false, invalid("mount %#q has id mappings, which Windows has not", m.Destination)
	}
	for _, o := range m.Options {
		switch o = strings.ToLower(o); {
		case o == "ro" || o == "readonly":
			readOnly = true
		case !slices.Contains(ignoredOptions, o):
			return false, invalid("mount %#q has an option %#.80q that means nothing on Windows", m.Destination, o)
		}
	}
	return readOnly, nil
}

func newPipe(h Host, name string, m specs.Mount) (pipe, error) {
	target, ok := pipeName(m.Destination)
	switch {
	case !ok:
		return pipe{}, invalid(`named pipe %#q must be mounted at a named pipe (\\.\pipe\NAME), not at %#q`, m.Source, m.Destination)
	case !validPipe(name) || !validPipe(target):
		return pipe{}, invalid("mount of %#q at %#q: no name of a pipe", m.Source, m.Destination)
	case h.Machine().Build < 16299:
		return pipe{}, unimplemented("mount of named pipe %#q: Windows can from build 16299 on, this is %d", m.Source, h.Machine().Build)
	}
	return pipe{ContainerPipeName: target, HostPath: pipePrefix + name}, nil
}

func newDirectory(h Host, m specs.Mount, schema int) (directory2, error) {
	source, err := hostPath(m.Source)
	if err != nil {
		return directory2{}, err
	}
	if _, ok := pipeName(m.Destination); ok || m.Type == "npipe" {
		return directory2{}, invalid("%#q is no named pipe and cannot be mounted as one at %#q", m.Source, m.Destination)
	}
	destination, err := containerPath(m.Destination)
	if err != nil {
		return directory2{}, err
	}
	real, dir, err := h.Resolve(source)
	switch {
	case errdefs.IsNotFound(err):
		return directory2{}, invalid("cannot mount %#q at %#q: there is no such directory or file on this host", m.Source, m.Destination)
	case err != nil:
		return directory2{}, fmt.Errorf("cannot mount %#q at %#q: %w", m.Source, m.Destination, err)
	case !dir && schema == 1:
		return directory2{}, invalid("cannot mount %#q: it is a file, and this container (Hyper-V isolation, an endpoint list, or an old host) can be given directories only", m.Source)
	}
	return directory2{HostPath: real, ContainerPath: destination}, nil
}
