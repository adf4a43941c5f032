package cri

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/spec"
)

func containerFromWire(c *runtime.ContainerConfig, s side) (*spec.PodContainer, error) {
	if c.GetMetadata() == nil {
		return nil, fmt.Errorf("the container has no metadata: %w", errdefs.ErrInvalidArgument)
	}
	out := &spec.PodContainer{
		Name: c.Metadata.Name, Attempt: c.Metadata.Attempt, Command: c.Command, Args: c.Args, WorkingDir: c.WorkingDir,
		Labels: c.Labels, Annotations: c.Annotations, LogPath: c.LogPath, Stdin: c.Stdin, StdinOnce: c.StdinOnce, TTY: c.Tty,
	}
	if i := imageFromWire(c.Image); i != nil {
		out.Image = *i
	}
	for _, e := range c.Envs {
		out.Env = append(out.Env, e.GetKey()+"="+string(e.GetValue()))
	}
	for _, m := range c.Mounts {
		out.Mounts = append(out.Mounts, mountFromWire(m))
	}
	for _, d := range c.Devices {
		out.Devices = append(out.Devices, spec.Device{Container: d.GetContainerPath(), Host: d.GetHostPath(), Permissions: d.GetPermissions()})
	}
	for _, d := range c.CDIDevices {
		out.CDIDevices = append(out.CDIDevices, d.GetName())
	}
	if c.StopSignal != runtime.Signal_SIGNAL_RUNTIME_DEFAULT {
		out.StopSignal = signalFromWire(c.StopSignal)
	}
	return out, s.container(c, out)
}

func securityFromWire(s *runtime.LinuxContainerSecurityContext) (spec.ContainerSecurity, error) {
	if s == nil {
		return spec.ContainerSecurity{Unset: true}, nil
	}
	out := spec.ContainerSecurity{
		Namespaces: namespacesFromWire(s.NamespaceOptions), Privileged: s.Privileged,
		AddCapabilities: s.Capabilities.GetAddCapabilities(), DropCapabilities: s.Capabilities.GetDropCapabilities(),
		AmbientCapabilities: s.Capabilities.GetAddAmbientCapabilities(),
		SELinux:             selinuxFromWire(s.SelinuxOptions), Seccomp: profileFromWire(s.Seccomp), AppArmor: profileFromWire(s.Apparmor),
		User: idFromWire(s.RunAsUser), Group: idFromWire(s.RunAsGroup), Username: s.RunAsUsername, Groups: s.SupplementalGroups,
		StrictGroups:   s.SupplementalGroupsPolicy == runtime.SupplementalGroupsPolicy_Strict,
		ReadonlyRootfs: s.ReadonlyRootfs, NoNewPriv: s.NoNewPrivs, MaskedPaths: s.MaskedPaths, ReadonlyPaths: s.ReadonlyPaths,
	}
	var err error
	if out.Seccomp == nil {
		//lint:ignore SA1019 clients of old still send it
		if out.Seccomp, err = namedProfile(s.SeccompProfilePath); err != nil {
			return out, err
		}
	}
	if out.AppArmor == nil {
		//lint:ignore SA1019 clients of old still send it
		out.AppArmor, err = namedProfile(s.ApparmorProfile)
	}
	return out, err
}

func imageFromWire(i *runtime.ImageSpec) *spec.PodImage {
	if i.GetImage() == "" {
		return nil
	}
	return &spec.PodImage{Ref: i.Image, UserRef: i.UserSpecifiedImage, Handler: i.RuntimeHandler, Annotations: i.Annotations}
}

func mountFromWire(m *runtime.Mount) spec.PodMount {
	return spec.PodMount{
		Destination: m.GetContainerPath(), Source: m.GetHostPath(), Readonly: m.GetReadonly(), RecursiveReadonly: m.GetRecursiveReadOnly(),
		Relabel: m.GetSelinuxRelabel(), Propagation: spec.Propagation(m.GetPropagation()),
		UIDs: mapsFromWire(m.GetUidMappings()), GIDs: mapsFromWire(m.GetGidMappings()),
		Image: imageFromWire(m.GetImage()), ImageSubPath: m.GetImageSubPath(), Options: m.GetMountOptions(),
	}
}

func mountToWire(m spec.PodMount) *runtime.Mount {
	out := &runtime.Mount{
		ContainerPath: m.Destination, HostPath: m.Source, Readonly: m.Readonly, RecursiveReadOnly: m.RecursiveReadonly,
		SelinuxRelabel: m.Relabel, Propagation: runtime.MountPropagation(m.Propagation),
		UidMappings: mapsToWire(m.UIDs), GidMappings: mapsToWire(m.GIDs), ImageSubPath: m.ImageSubPath, MountOptions: m.Options,
	}
	if m.Image != nil {
		out.Image = &runtime.ImageSpec{Image: m.Image.Ref, UserSpecifiedImage: m.Image.UserRef, RuntimeHandler: m.Image.Handler, Annotations: m.Image.Annotations}
	}
	return out
}

// signalFromWire turns SIGNAL_SIGRTMINPLUS1 into SIGRTMIN+1.
func signalFromWire(s runtime.Signal) string {
	name := strings.TrimPrefix(s.String(), "SIGNAL_")
	return strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(name)
}

func signalToWire(name string) string {
	return "SIGNAL_" + strings.NewReplacer("+", "PLUS", "-", "MINUS").Replace(name)
}
