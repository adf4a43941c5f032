package spec

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// volumeOptions are those a volume may name, with the mount options they become.
var volumeOptions = map[string]string{
	"ro": "ro", "rw": "rw", "private": "private", "rprivate": "rprivate", "shared": "shared", "rshared": "rshared",
	"slave": "slave", "rslave": "rslave", "nosuid": "nosuid", "nodev": "nodev", "noexec": "noexec", "rro": "rro",
}

// ParseVolume reads SOURCE:TARGET[:OPTION,…] as docker users write it into a bind mount. Named volumes are not known here.
func ParseVolume(v string) (specs.Mount, error) {
	parts := strings.Split(v, ":")
	if len(parts) < 2 || len(parts) > 3 {
		return specs.Mount{}, fmt.Errorf("volume %q is not SOURCE:TARGET[:OPTIONS]", v)
	}
	if !filepath.IsAbs(parts[0]) || !strings.HasPrefix(parts[1], "/") {
		return specs.Mount{}, fmt.Errorf("volume %q needs absolute paths on both sides of the colon", v)
	}
	m := specs.Mount{Type: "bind", Source: filepath.Clean(parts[0]), Destination: parts[1], Options: []string{"rbind"}}
	if len(parts) == 3 {
		for _, o := range strings.Split(parts[2], ",") {
			opt, ok := volumeOptions[o]
			if !ok {
				return specs.Mount{}, fmt.Errorf("volume %q: option %q is not known; ro, rw, rro, nosuid, nodev, noexec and the propagations are", v, o)
			}
			m.Options = append(m.Options, opt)
		}
	}
	if !slices.ContainsFunc(m.Options, func(o string) bool {
		return strings.HasSuffix(o, "private") || strings.HasSuffix(o, "shared") || strings.HasSuffix(o, "slave")
	}) {
		m.Options = append(m.Options, "rprivate")
	}
	return m, nil
}
