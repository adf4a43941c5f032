package spec

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// WindowsPodDocument is what the document of a Windows container in a pod is made from.
type WindowsPodDocument struct {
	PodID, ID string
	Pod       *Pod
	Container *PodContainer
	Image     ocispec.ImageConfig
	ImageName string
	OSVersion string // that the image was built for
	Network   string // GUID of the pod's network namespace; "" for the host's network
	HyperV    bool   // a virtual machine around the container
	Alone     bool   // its shim is not to look for a shim of the pod
}

// annotationHostProcess has runhcs make a process of the host (hcsshim, annotations.HostProcessContainer).
const annotationHostProcess = "microsoft.com/hostprocess-container"

// ForWindowsPod answers the document of a container in a pod. It looks at nothing on this host, which the executor does: whether mounts are there, and
// whether it can run the image. InvalidArgument when the container cannot be as its client wants it.
func ForWindowsPod(d WindowsPodDocument) (*specs.Spec, error) {
	s := defaultWindows()
	s.Process.Terminal = d.Container.TTY
	s.Process.User.Username = WindowsUser(d.Pod, d.Container, d.Image.User)
	for _, step := range []func(*specs.Spec) error{d.command, d.environment, d.network, d.mounts, d.limits, d.devices, d.credentials, d.annotate} {
		err := step(s)
		if err != nil && !errdefs.IsNotImplemented(err) {
			err = fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return nil, fmt.Errorf("container %q: %w", d.Container.Name, err)
		}
	}
	return s, nil
}

// WindowsUser is the name of the user that a container runs as, whom the image must know; "" for Windows' own choice.
func WindowsUser(p *Pod, c *PodContainer, image string) string {
	for _, w := range []*WindowsSecurity{c.Security.Windows, p.Security.Windows} {
		if w != nil && w.Username != "" {
			return w.Username
		}
	}
	return image
}

// HostProcess tells whether containers of the pod are processes of the host.
func (p *Pod) HostProcess() bool { return p.Security.Windows != nil && p.Security.Windows.HostProcess }

// command is the image's unless the container has its own. What an image says whose arguments are escaped is part of a command line as it is (image-spec
// config.md, ArgsEscaped), and arguments of the container's own are quoted behind it.
func (d *WindowsPodDocument) command(s *specs.Spec) error {
	s.Process.Cwd = cmp.Or(d.Container.WorkingDir, d.Image.WorkingDir, s.Process.Cwd)
	of, own := slices.Concat(d.Image.Entrypoint, d.Image.Cmd), []string(nil)
	switch c := d.Container; {
	case len(c.Command) > 0:
		of, own = nil, slices.Concat(c.Command, c.Args)
	case len(c.Args) > 0:
		of, own = d.Image.Entrypoint, c.Args
	}
	//lint:ignore SA1019 Windows images still set it
	if escaped := d.Image.ArgsEscaped; escaped && len(of) > 0 {
		s.Process.CommandLine = strings.Join(of, " ")
		for _, arg := range own {
			s.Process.CommandLine += " " + quoteWindows(arg)
		}
		return nil
	}
	if s.Process.Args = slices.Concat(of, own); len(s.Process.Args) == 0 {
		return fmt.Errorf("it has no command, and its image %s names none", d.ImageName)
	}
	return nil
}

// quoteWindows makes one argument for programs that split their command line as C's start-up code does: of backslashes those before a quotation
// mark are doubled.
func quoteWindows(arg string) string {
	if arg != "" && !strings.ContainsAny(arg, " \t\n\v\"") {
		return arg
	}
	var b strings.Builder
	slashes := 0
	for _, c := range []byte(arg) {
		if c == '"' {
			b.WriteString(strings.Repeat(`\`, slashes+1))
		}
		slashes++
		if c != '\\' {
			slashes = 0
		}
		b.WriteByte(c)
	}
	return `"` + b.String() + strings.Repeat(`\`, slashes) + `"`
}

func (d *WindowsPodDocument) environment(s *specs.Spec) error {
	return Env(slices.Concat(d.Image.Env, d.Container.Env)...)(s)
}

func (d *WindowsPodDocument) network(s *specs.Spec) error {
	if d.Network == "" {
		return nil
	}
	s.Windows.Network = &specs.WindowsNetwork{NetworkNamespace: d.Network, AllowUnqualifiedDNSQuery: true}
	if d.Pod.DNS != nil {
		s.Windows.Network.DNSSearchList = d.Pod.DNS.Searches
	}
	if d.HyperV {
		s.Windows.HyperV = &specs.WindowsHyperV{}
	}
	s.Hostname = d.Pod.Hostname
	return nil
}

// mounts are directories, files and named pipes of the host.
func (d *WindowsPodDocument) mounts(s *specs.Spec) error {
	for _, v := range d.Container.Mounts {
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"image", v.Image != nil || v.ImageSubPath != ""}, {"uidMappings and gidMappings", len(v.UIDs)+len(v.GIDs) > 0},
			{"propagation", v.Propagation != PropagationPrivate}, {"recursive_read_only", v.RecursiveReadonly}, {"selinux_relabel", v.Relabel},
			{"mount options", len(v.Options) > 0},
		} {
			if f.set {
				return fmt.Errorf("the volume on %q sets %s, which Windows has not", v.Destination, f.name)
			}
		}
		if v.Source == "" || v.Destination == "" {
			return fmt.Errorf("the volume %q on %q needs both paths", v.Source, v.Destination)
		}
		m := specs.Mount{Source: windowsPath(v.Source), Destination: windowsPath(v.Destination), Options: []string{"rw"}}
		if v.Readonly {
			m.Options[0] = "ro"
		}
		s.Mounts = append(s.Mounts, m)
	}
	return nil
}

// windowsPath understands slashes, and paths without a drive, which are C:'s: kubelet gives the same paths to nodes of all systems.
func windowsPath(path string) string {
	path = strings.ReplaceAll(path, "/", `\`)
	if strings.HasPrefix(path, `\`) && !strings.HasPrefix(path, `\\`) {
		path = "C:" + path
	}
	return path
}

func (d *WindowsPodDocument) limits(s *specs.Spec) error {
	limits, err := d.Container.Resources.ForWindows()
	s.Windows.Resources = limits
	return err
}

// ForWindows answers the limits as runtime-spec has them, nil for none. The size of the system drive is not among them: it is the snapshot's.
func (r *Resources) ForWindows() (*specs.WindowsResources, error) {
	if r == nil || r.Windows == nil {
		return nil, nil
	}
	w, out := r.Windows, &specs.WindowsResources{}
	for _, f := range []struct {
		name       string
		value, top int64
	}{
		{"cpu_shares", w.CPUShares, 10000}, {"cpu_count", w.CPUCount, math.MaxUint16}, {"cpu_maximum", w.CPUMaximum, 10000},
		{"memory_limit_in_bytes", w.Memory, math.MaxInt64}, {"rootfs_size_in_bytes", w.RootfsSize, math.MaxInt64},
	} {
		if f.value < 0 || f.value > f.top {
			return nil, fmt.Errorf("%s must be from 0 to %d, not %d: %w", f.name, f.top, f.value, errdefs.ErrInvalidArgument)
		}
	}
	if len(w.Affinity) > 0 {
		return nil, fmt.Errorf("affinity_cpus: containers are not tied to processors: %w", errdefs.ErrNotImplemented)
	}
	given := 0
	cpu := &specs.WindowsCPUResources{}
	if w.CPUShares != 0 {
		n := uint16(w.CPUShares)
		cpu.Shares, out.CPU = &n, cpu
		given++
	}
	if w.CPUCount != 0 {
		n := uint64(w.CPUCount)
		cpu.Count, out.CPU = &n, cpu
		given++
	}
	if w.CPUMaximum != 0 {
		n := uint16(w.CPUMaximum)
		cpu.Maximum, out.CPU = &n, cpu
		given++
	}
	if given > 1 {
		return nil, fmt.Errorf("cpu_shares %d, cpu_count %d and cpu_maximum %d exclude each other, set one: %w", w.CPUShares, w.CPUCount, w.CPUMaximum, errdefs.ErrInvalidArgument)
	}
	if w.Memory != 0 {
		n := uint64(w.Memory)
		out.Memory = &specs.WindowsMemoryResources{Limit: &n}
	}
	if out.CPU == nil && out.Memory == nil {
		return nil, nil
	}
	return out, nil
}

// devices are classes of them, class/GUID or class://GUID, as Kubernetes' device plugins for Windows name them.
func (d *WindowsPodDocument) devices(s *specs.Spec) error {
	for _, dev := range d.Container.Devices {
		kind, id, ok := strings.Cut(dev.Host, "://")
		if !ok {
			kind, id, ok = strings.Cut(dev.Host, "/")
		}
		if !ok || kind == "" || id == "" {
			return fmt.Errorf("device %.200q is not TYPE://ID, such as class://GUID", dev.Host)
		}
		if dev.Container != "" || dev.Permissions != "" {
			return fmt.Errorf("device %.200q: devices of Windows have no path in the container and no permissions", dev.Host)
		}
		s.Windows.Devices = append(s.Windows.Devices, specs.WindowsDevice{IDType: kind, ID: id})
	}
	return nil
}

// credentials are of a group managed service account: JSON, which the executor looks into.
func (d *WindowsPodDocument) credentials(s *specs.Spec) error {
	text := ""
	for _, w := range []*WindowsSecurity{d.Pod.Security.Windows, d.Container.Security.Windows} {
		if w != nil {
			text = cmp.Or(w.CredentialSpec, text)
		}
	}
	if text == "" {
		return nil
	}
	if !json.Valid([]byte(text)) {
		return fmt.Errorf("credential_spec is no JSON")
	}
	s.Windows.CredentialSpec = text
	return nil
}

func (d *WindowsPodDocument) annotate(s *specs.Spec) error {
	s.Annotations = map[string]string{
		AnnotationSandboxName: d.Pod.Name, AnnotationSandboxNamespace: d.Pod.Namespace, AnnotationSandboxUID: d.Pod.UID,
		AnnotationContainerName: d.Container.Name, AnnotationImageName: d.ImageName,
	}
	if !d.Alone {
		s.Annotations[AnnotationType], s.Annotations[AnnotationSandboxID] = "container", d.PodID
	}
	if d.Pod.HostProcess() {
		s.Annotations[annotationHostProcess] = "true"
	}
	return OSVersion(d.OSVersion)(s)
}
