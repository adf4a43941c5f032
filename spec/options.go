package spec

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Image takes arguments, environment, working directory and user of an image's config (image-spec config.md). A user that
// is not numeric needs User with the image's files afterwards: see ResolveUser.
func Image(c ocispec.ImageConfig) Opt {
	return func(s *specs.Spec) error {
		s.Process.Args = append(slices.Clone(c.Entrypoint), c.Cmd...)
		//lint:ignore SA1019 Windows images still set it
		if s.Windows != nil && c.ArgsEscaped && len(s.Process.Args) > 0 {
			s.Process.CommandLine, s.Process.Args = strings.Join(s.Process.Args, " "), nil
		}
		if c.WorkingDir != "" {
			s.Process.Cwd = c.WorkingDir
		}
		return Env(c.Env...)(s)
	}
}

// OSVersion notes which version of Windows the image was built for (image-spec, os.version), so that a host that cannot run it says so. It
// does nothing for another system, nor without a version.
func OSVersion(version string) Opt {
	return func(s *specs.Spec) error {
		if s.Windows == nil || version == "" {
			return nil
		}
		if s.Annotations == nil {
			s.Annotations = map[string]string{}
		}
		s.Annotations["org.opencontainers.image.os.version"] = version // runtime-spec config.md, "Annotations"
		return nil
	}
}

// Args replaces the whole command line.
func Args(args ...string) Opt {
	return func(s *specs.Spec) error {
		s.Process.Args, s.Process.CommandLine = args, ""
		return nil
	}
}

// Env sets variables given as KEY=VALUE; a KEY that is there already keeps its place. Entries without "=" remove KEY.
func Env(env ...string) Opt {
	return func(s *specs.Spec) error {
		for _, e := range env {
			key, _, set := strings.Cut(e, "=")
			if key == "" || strings.ContainsRune(e, 0) {
				return fmt.Errorf("environment variable %q has no name or holds a NUL", e)
			}
			i := slices.IndexFunc(s.Process.Env, func(have string) bool { return strings.HasPrefix(have, key+"=") })
			switch {
			case !set && i >= 0:
				s.Process.Env = slices.Delete(s.Process.Env, i, i+1)
			case set && i >= 0:
				s.Process.Env[i] = e
			case set:
				s.Process.Env = append(s.Process.Env, e)
			}
		}
		return nil
	}
}

// Cwd sets the working directory, which must be absolute.
func Cwd(dir string) Opt {
	return func(s *specs.Spec) error {
		if s.Linux != nil && !strings.HasPrefix(dir, "/") {
			return fmt.Errorf("working directory %q is not absolute", dir)
		}
		s.Process.Cwd = dir
		return nil
	}
}

// maxHostname is what a kernel takes (sethostname(2), HOST_NAME_MAX).
const maxHostname = 64

// Hostname sets the name that the container sees as its own.
func Hostname(name string) Opt {
	return func(s *specs.Spec) error {
		if name == "" || len(name) > maxHostname || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
			return fmt.Errorf("host name %q is not 1 to %d visible ASCII characters without slashes", name, maxHostname)
		}
		s.Hostname = name
		return Env("HOSTNAME=" + name)(s)
	}
}

// Terminal gives the process a terminal of its own.
func Terminal() Opt {
	return func(s *specs.Spec) error {
		s.Process.Terminal = true
		return Env("TERM=xterm")(s)
	}
}

// Mounts appends mounts; one for a destination that is there replaces it.
func Mounts(mounts ...specs.Mount) Opt {
	return func(s *specs.Spec) error {
		for _, m := range mounts {
			s.Mounts = slices.DeleteFunc(s.Mounts, func(have specs.Mount) bool { return have.Destination == m.Destination })
			s.Mounts = append(s.Mounts, m)
		}
		return nil
	}
}

// HostNetwork leaves the container in the host's network, with the host's resolver and hosts file where those exist.
func HostNetwork(files ...specs.Mount) Opt {
	return func(s *specs.Spec) error {
		if s.Linux == nil {
			return fmt.Errorf("host networking is for Linux containers only; use --network none or nat")
		}
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
		return Mounts(files...)(s)
	}
}

// Memory limits memory to a number of bytes, swap included.
func Memory(bytes int64) Opt {
	return func(s *specs.Spec) error {
		if bytes < 6<<20 {
			return fmt.Errorf("a memory limit of %d bytes is too small: 6 MiB is the least a container can start with", bytes)
		}
		if s.Windows != nil {
			limit := uint64(bytes)
			windowsResources(s).Memory = &specs.WindowsMemoryResources{Limit: &limit}
			return nil
		}
		resources(s).Memory = &specs.LinuxMemory{Limit: &bytes, Swap: &bytes}
		return nil
	}
}

// CPUs limits CPU time to a number of processors, such as 0.5. Windows is told a share of all of them: those of the machine that this runs on.
func CPUs(n float64) Opt {
	return func(s *specs.Spec) error {
		if s.Windows != nil {
			return windowsCPUs(s, n, runtime.NumCPU())
		}
		const period = uint64(100_000) // µs
		quota := int64(n * float64(period))
		if quota < 1000 || s.Linux == nil {
			return fmt.Errorf("a limit of %g CPUs cannot be set: 0.01 is the least", n)
		}
		p := period
		resources(s).CPU = &specs.LinuxCPU{Quota: &quota, Period: &p}
		return nil
	}
}

func resources(s *specs.Spec) *specs.LinuxResources {
	if s.Linux.Resources == nil {
		s.Linux.Resources = &specs.LinuxResources{}
	}
	return s.Linux.Resources
}

// CgroupsPath places the container's cgroup: an absolute path for cgroupfs, slice:prefix:name for systemd.
func CgroupsPath(path string) Opt {
	return func(s *specs.Spec) error {
		if s.Linux != nil {
			s.Linux.CgroupsPath = path
		}
		return nil
	}
}

// ReadOnly makes the root file system read-only.
func ReadOnly() Opt {
	return func(s *specs.Spec) error {
		s.Root.Readonly = true
		return nil
	}
}

// Annotations adds annotations.
func Annotations(a map[string]string) Opt {
	return func(s *specs.Spec) error {
		if s.Annotations == nil {
			s.Annotations = map[string]string{}
		}
		for k, v := range a {
			s.Annotations[k] = v
		}
		return nil
	}
}
