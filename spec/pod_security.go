package spec

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// capabilities start from Docker's, or from all that the daemon has when the container is privileged.
func (d *PodDocument) capabilities(s *specs.Spec) error {
	sec := d.Container.Security
	caps := defaultCapabilities()
	if sec.Privileged {
		caps = slices.Clone(d.Host.Capabilities)
	}
	add, drop, ambient := capNames(sec.AddCapabilities), capNames(sec.DropCapabilities), capNames(sec.AmbientCapabilities)
	all := func(list []string) bool { return slices.Contains(list, "CAP_ALL") }
	for _, c := range slices.Concat(add, drop, ambient) {
		if c != "CAP_ALL" && !slices.Contains(d.Host.KnownCapabilities, c) {
			return fmt.Errorf("capability %.100q is not known: %w", c, errdefs.ErrInvalidArgument)
		}
	}
	switch { // ALL counts before single names, so that "drop ALL, add CHOWN" and "add ALL, drop CHOWN" both say something
	case all(add):
		caps = slices.Clone(d.Host.Capabilities)
	case all(drop):
		caps = nil
	}
	for _, c := range slices.Concat(add, ambient) {
		if c != "CAP_ALL" && !slices.Contains(caps, c) {
			caps = append(caps, c)
		}
	}
	if !all(drop) || all(add) {
		caps = slices.DeleteFunc(caps, func(c string) bool { return slices.Contains(drop, c) })
	}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	if len(ambient) > 0 {
		s.Process.Capabilities.Ambient, s.Process.Capabilities.Inheritable = ambient, ambient
	}
	return nil
}

// capNames writes capabilities in full.
func capNames(list []string) []string {
	var names []string
	for _, c := range list {
		c = strings.ToUpper(c)
		if !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		names = append(names, c)
	}
	return names
}

// confine sets seccomp, AppArmor and SELinux. A privileged container is confined by none of the first two.
func (d *PodDocument) confine(s *specs.Spec) error {
	sec := d.Container.Security
	if sec.Privileged {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
	} else if err := d.seccomp(s, sec.Seccomp); err != nil {
		return err
	}
	if err := d.appArmor(s, sec.AppArmor); err != nil {
		return err
	}
	return d.selinux(s)
}

// seccomp comes after the capabilities: the default profile allows what belongs to them.
func (d *PodDocument) seccomp(s *specs.Spec, p *Profile) error {
	switch {
	case p == nil || p.Kind == ProfileUnconfined:
		return nil
	case p.Kind == ProfileDefault:
		return DefaultSeccomp()(s)
	case p.Kind == ProfileLocalhost:
		return localSeccomp(s, strings.TrimPrefix(p.Ref, "localhost/"))
	}
	return fmt.Errorf("there is no kind %d of seccomp profile: %w", p.Kind, errdefs.ErrInvalidArgument)
}

// DefaultAppArmor is the name under which the daemon loads its default profile.
const DefaultAppArmor = "slipway-default"

func (d *PodDocument) appArmor(s *specs.Spec, p *Profile) error {
	switch {
	case p == nil && (!d.Host.AppArmor || d.Container.Security.Privileged), p != nil && p.Kind == ProfileUnconfined:
		return nil
	case !d.Host.AppArmor:
		return fmt.Errorf("an AppArmor profile is asked for, and this kernel has no AppArmor; take it from the container's security context: %w", errdefs.ErrInvalidArgument)
	case d.Container.Security.Privileged && (p == nil || p.Kind == ProfileDefault):
		return nil
	case p == nil || p.Kind == ProfileDefault:
		s.Process.ApparmorProfile = DefaultAppArmor
	case p.Ref == "":
		return fmt.Errorf("a localhost AppArmor profile has no name: %w", errdefs.ErrInvalidArgument)
	default:
		name := strings.TrimPrefix(p.Ref, "localhost/")
		if !appArmorLoaded(name) {
			return fmt.Errorf("AppArmor profile %.200q is not loaded on this host; load it with apparmor_parser: %w", name, errdefs.ErrInvalidArgument)
		}
		s.Process.ApparmorProfile = name
	}
	return nil
}

func (d *PodDocument) selinux(s *specs.Spec) error {
	l := d.Container.Security.SELinux
	if l == nil || *l == (SELinux{}) || d.Container.Security.Privileged {
		return nil
	}
	if !d.Host.SELinux {
		return fmt.Errorf("SELinux labels are asked for, and this kernel has no SELinux; take them from the container's security context: %w", errdefs.ErrInvalidArgument)
	}
	process, mount, err := selinuxLabels(*l)
	if err != nil {
		return fmt.Errorf("cannot make SELinux labels of %+v: %w: %w", *l, err, errdefs.ErrInvalidArgument)
	}
	s.Process.SelinuxLabel, s.Linux.MountLabel = process, mount
	return nil
}
