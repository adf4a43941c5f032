package linux

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups/systemd"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/platform"
)

// parseSpec reads config.json and refuses what can't be run here, before anything exists.
func (e *Executor) parseSpec(s platform.Spec) (*specs.Spec, error) {
	var spec specs.Spec
	if err := json.Unmarshal(s.OCI, &spec); err != nil {
		return nil, fmt.Errorf("the spec is no runtime-spec: %v: %w", err, errdefs.ErrInvalidArgument)
	}
	switch {
	case spec.Root == nil || spec.Root.Path == "":
		return nil, fmt.Errorf("the spec has no root.path: %w", errdefs.ErrInvalidArgument)
	case spec.Process == nil || len(spec.Process.Args) == 0:
		return nil, fmt.Errorf("the spec has no process.args: %w", errdefs.ErrInvalidArgument)
	case spec.Linux == nil:
		return nil, fmt.Errorf("the spec has no linux section: it is for another platform: %w", errdefs.ErrInvalidArgument)
	case spec.Linux.Seccomp != nil && !seccomp.Enabled && builtIn(s.Options.BinaryName):
		return nil, fmt.Errorf("the spec asks for a seccomp filter and this build has no libseccomp; build with -tags seccomp, or run the container with seccomp unconfined: %w", errdefs.ErrNotImplemented)
	case s.Options.SystemdCgroup && !systemd.IsRunningSystemd():
		return nil, fmt.Errorf("the systemd cgroup driver is asked for and systemd does not run here; use the cgroupfs driver (SystemdCgroup = false): %w", errdefs.ErrFailedPrecondition)
	}
	path := spec.Linux.CgroupsPath
	if s.Options.SystemdCgroup && path != "" && strings.Count(path, ":") != 2 {
		return nil, fmt.Errorf("linux.cgroupsPath %q is not of the form slice:prefix:name that the systemd cgroup driver needs: %w", path, errdefs.ErrInvalidArgument)
	}
	spec.Process.Terminal = s.IO.Terminal
	e.privileges.fit(spec.Process, e.log)
	return &spec, nil
}

// libcontainerConfig converts spec. Relative paths in it are below the bundle; libcontainer would take this process's directory.
func libcontainerConfig(spec *specs.Spec, s platform.Spec) (*configs.Config, error) {
	bundle, o := s.Bundle, s.Options
	cgroup := s.ID // for a spec without cgroupsPath: names may be the same in several namespaces
	if o.SystemdCgroup {
		cgroup = strings.ReplaceAll(cgroup, "+", ":") // systemd.unit(5) has no plus in names
	}
	if !filepath.IsAbs(spec.Root.Path) {
		spec.Root.Path = filepath.Join(bundle, spec.Root.Path)
	}
	for i, m := range spec.Mounts {
		if isBind(m) && !filepath.IsAbs(m.Source) {
			spec.Mounts[i].Source = filepath.Join(bundle, m.Source)
		}
	}
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName:       cgroup,
		UseSystemdCgroup: o.SystemdCgroup,
		NoPivotRoot:      o.NoPivotRoot,
		NoNewKeyring:     o.NoNewKeyring,
		Spec:             spec,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot convert the spec: %v: %w", err, errdefs.ErrInvalidArgument)
	}
	// Hooks are told the bundle; libcontainer takes it from the last label, and wrote its own directory there.
	config.Labels[len(config.Labels)-1] = "bundle=" + bundle
	return config, nil
}

func isBind(m specs.Mount) bool {
	if m.Type == "bind" {
		return true
	}
	for _, o := range m.Options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return false
}

// libcontainerProcess converts the spec of one process, of init too.
func libcontainerProcess(s *specs.Process) (*libcontainer.Process, error) {
	p := &libcontainer.Process{
		Args:            s.Args,
		Env:             s.Env,
		UID:             int(s.User.UID),
		GID:             int(s.User.GID),
		Cwd:             s.Cwd,
		Label:           s.SelinuxLabel,
		AppArmorProfile: s.ApparmorProfile,
		NoNewPrivileges: &s.NoNewPrivileges,
		Scheduler:       s.Scheduler,
		IOPriority:      s.IOPriority,
	}
	for _, gid := range s.User.AdditionalGids {
		p.AdditionalGroups = append(p.AdditionalGroups, int(gid))
	}
	if c := s.Capabilities; c != nil {
		p.Capabilities = &configs.Capabilities{
			Bounding: c.Bounding, Effective: c.Effective, Inheritable: c.Inheritable, Permitted: c.Permitted, Ambient: c.Ambient,
		}
	}
	for _, r := range s.Rlimits {
		kind, err := rlimitKind(r.Type)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		p.Rlimits = append(p.Rlimits, configs.Rlimit{Type: kind, Hard: r.Hard, Soft: r.Soft})
	}
	affinity, err := configs.ConvertCPUAffinity(s.ExecCPUAffinity)
	if err != nil {
		return nil, fmt.Errorf("cannot convert execCPUAffinity: %v: %w", err, errdefs.ErrInvalidArgument)
	}
	p.CPUAffinity = affinity
	return p, nil
}

// consoleSize prefers the size the client gave with the streams to the one in the spec.
func consoleSize(s *specs.Process, stdio platform.IO) (width, height uint16) {
	if stdio.Width != 0 && stdio.Height != 0 {
		return stdio.Width, stdio.Height
	}
	if s.ConsoleSize != nil {
		return uint16(s.ConsoleSize.Width), uint16(s.ConsoleSize.Height)
	}
	return 0, 0
}

// setConsoleSize has another runtime begin with the size that program has.
func setConsoleSize(s *specs.Process, program *libcontainer.Process) {
	if s.Terminal && program.ConsoleWidth != 0 && program.ConsoleHeight != 0 {
		s.ConsoleSize = &specs.Box{Width: uint(program.ConsoleWidth), Height: uint(program.ConsoleHeight)}
	}
}
