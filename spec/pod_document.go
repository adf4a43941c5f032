package spec

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// PodDocument is what the document of a pod's container is made from. Paths of Namespaces say where those of the pod (or of another
// container) are; a kind that is missing is the host's.
type PodDocument struct {
	PodID, ID                string
	Pod                      *Pod
	Container                *PodContainer
	Image                    ocispec.ImageConfig
	ImageName                string
	User                     specs.User
	Hostname                 string // as HOSTNAME says it
	Namespaces               map[specs.LinuxNamespaceType]string
	OwnPID                   bool // a PID namespace of the container alone
	Cgroups                  string
	Volumes                  []specs.Mount // that the daemon adds: hosts, resolv.conf, shared memory, volumes of the image
	Host                     Host
	PrivilegedWithoutDevices bool
}

// Annotations that tell other runtimes and tools about the pod; names that are CRI runtimes' custom (containerd's docs/cri).
const (
	AnnotationType             = "io.kubernetes.cri.container-type"
	AnnotationSandboxID        = "io.kubernetes.cri.sandbox-id"
	AnnotationSandboxName      = "io.kubernetes.cri.sandbox-name"
	AnnotationSandboxNamespace = "io.kubernetes.cri.sandbox-namespace"
	AnnotationSandboxUID       = "io.kubernetes.cri.sandbox-uid"
	AnnotationContainerName    = "io.kubernetes.cri.container-name"
	AnnotationImageName        = "io.kubernetes.cri.image-name"
	AnnotationLogDirectory     = "io.kubernetes.cri.sandbox-log-directory"
)

// ForPod answers the document of a container in a pod. It reads a seccomp profile and devices of this host where those are named.
// InvalidArgument when the container cannot be as its client wants it.
func ForPod(d PodDocument) (*specs.Spec, error) {
	s := defaultLinux()
	c := d.Container
	s.Process.NoNewPrivileges = c.Security.NoNewPriv
	s.Process.User = d.User
	s.Process.Terminal = c.TTY
	s.Root.Readonly = c.Security.ReadonlyRootfs
	s.Linux.CgroupsPath = d.Cgroups
	if !c.Security.Unset { // then its client says all that is to be hidden
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = c.Security.MaskedPaths, c.Security.ReadonlyPaths
	}
	for _, step := range []func(*specs.Spec) error{
		d.command, d.environment, d.namespaces, d.mounts, d.capabilities, d.resources, d.devices, d.confine, d.annotate,
	} {
		if err := step(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// command is the image's unless the container has its own (image-spec config.md, Entrypoint and Cmd).
func (d *PodDocument) command(s *specs.Spec) error {
	entry, args := d.Container.Command, d.Container.Args
	if len(entry) == 0 {
		if len(args) == 0 {
			args = d.Image.Cmd
		}
		entry = d.Image.Entrypoint
	}
	s.Process.Args = append(slices.Clone(entry), args...)
	if len(s.Process.Args) == 0 {
		return fmt.Errorf("container %q has no command, and its image %s names none: %w", d.Container.Name, d.ImageName, errdefs.ErrInvalidArgument)
	}
	dir := cmp.Or(d.Container.WorkingDir, d.Image.WorkingDir, "/")
	if err := Cwd(dir)(s); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (d *PodDocument) environment(s *specs.Spec) error {
	env := slices.Clone(s.Process.Env)
	if d.Container.TTY {
		env = append(env, "TERM=xterm")
	}
	s.Process.Env = env
	all := append([]string{"HOSTNAME=" + d.Hostname}, d.Image.Env...)
	if err := Env(append(all, d.Container.Env...)...)(s); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (d *PodDocument) namespaces(s *specs.Spec) error {
	s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if d.OwnPID {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	// Where a hierarchy is for all there is no sense in hiding it from a privileged container; on v1 each has its own mounts.
	if d.Host.CgroupV2 && !d.Container.Security.Privileged {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	for _, kind := range []specs.LinuxNamespaceType{specs.UserNamespace, specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace} {
		if path := d.Namespaces[kind]; path != "" {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
		}
	}
	return nil
}

// Mappings are id maps as documents have them.
func Mappings(maps []IDMap) []specs.LinuxIDMapping {
	var list []specs.LinuxIDMapping
	for _, m := range maps {
		list = append(list, specs.LinuxIDMapping{ContainerID: m.Container, HostID: m.Host, Size: m.Size})
	}
	return list
}

func (d *PodDocument) annotate(s *specs.Spec) error {
	s.Annotations = map[string]string{
		AnnotationType: "container", AnnotationSandboxID: d.PodID, AnnotationSandboxName: d.Pod.Name,
		AnnotationSandboxNamespace: d.Pod.Namespace, AnnotationSandboxUID: d.Pod.UID,
		AnnotationContainerName: d.Container.Name, AnnotationImageName: d.ImageName,
	}
	return nil
}

// Matching answers those of annotations whose keys match a pattern of a runtime class: a key, or a beginning before "*".
func Matching(annotations map[string]string, patterns []string) map[string]string {
	found := map[string]string{}
	for k, v := range annotations {
		for _, p := range patterns {
			if begin, open := strings.CutSuffix(p, "*"); k == p || open && strings.HasPrefix(k, begin) {
				found[k] = v
			}
		}
	}
	return found
}
