package spec

import (
	"fmt"
	"math"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func windowsResources(s *specs.Spec) *specs.WindowsResources {
	if s.Windows.Resources == nil {
		s.Windows.Resources = &specs.WindowsResources{}
	}
	return s.Windows.Resources
}

// windowsCPUs limits to n of the host's processors: runtime-spec's maximum is in hundredths of a per cent of them all (config-windows.md, "CPU").
func windowsCPUs(s *specs.Spec, n float64, host int) error {
	share := math.Round(n / float64(host) * 10000)
	if share < 1 {
		return fmt.Errorf("a limit of %g CPUs cannot be set on %d: it must be a ten thousandth of them at least", n, host)
	}
	maximum := uint16(min(share, 10000))
	windowsResources(s).CPU = &specs.WindowsCPUResources{Maximum: &maximum}
	return nil
}

// ParseWindowsVolume reads SOURCE:TARGET[:ro|rw] as docker users write it on Windows: each side C:\path with a drive, or both a
// pipe, \\.\pipe\NAME.
func ParseWindowsVolume(v string) (specs.Mount, error) {
	source, rest, ok := cutWindowsPath(v)
	target, option, tok := cutWindowsPath(rest)
	if !ok || !tok || windowsPipe(source) != windowsPipe(target) {
		return specs.Mount{}, fmt.Errorf(`volume %q is not C:\SOURCE:C:\TARGET[:ro], nor \\.\pipe\SOURCE:\\.\pipe\TARGET`, v)
	}
	m := specs.Mount{Source: source, Destination: target}
	switch option {
	case "", "rw":
	case "ro":
		m.Options = []string{"ro"}
	default:
		return specs.Mount{}, fmt.Errorf("volume %q: option %q is neither ro nor rw", v, option)
	}
	return m, nil
}

func windowsPipe(path string) bool { return strings.HasPrefix(strings.ToLower(path), `\\.\pipe\`) }

// cutWindowsPath takes a path off the front, up to a colon that does not belong to a drive, or the end.
func cutWindowsPath(v string) (path, rest string, ok bool) {
	drive := 0
	if len(v) > 2 && v[1] == ':' && (v[2] == '\\' || v[2] == '/') {
		drive = 2
	} else if !windowsPipe(v) {
		return "", "", false
	}
	path, rest, _ = strings.Cut(v[drive:], ":")
	return v[:drive] + path, rest, true
}
