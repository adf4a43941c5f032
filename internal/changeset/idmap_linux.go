package changeset

import (
	"fmt"
	"math"
	"strings"

	"github.com/containerd/errdefs"
)

// idMaps translate owners between a container and the host.
type idMaps struct{ uid, gid idMap }

// idMap is nil where every id is its own.
type idMap []struct{ container, host, size uint64 }

func newIDMaps(o Options) (m idMaps, err error) {
	if m.uid, err = parseIDMap(o.UIDMap); err != nil {
		return m, err
	}
	m.gid, err = parseIDMap(o.GIDMap)
	return m, err
}

// toHost gives m the owner it has on disk.
func (ids idMaps) toHost(m *meta) error {
	uid, okUID := ids.uid.toHost(m.uid)
	gid, okGID := ids.gid.toHost(m.gid)
	if !okUID || !okGID {
		return fmt.Errorf("owner %d:%d is not in the layer's id map: %w", m.uid, m.gid, errdefs.ErrInvalidArgument)
	}
	m.uid, m.gid = uid, gid
	return nil
}

func (m idMap) toHost(container uint32) (uint32, bool) {
	for _, r := range m {
		if c := uint64(container); c >= r.container && c < r.container+r.size {
			return uint32(c - r.container + r.host), true
		}
	}
	return container, m == nil
}

// overlaps says whether an id translated once could be taken for one that still has to be.
func (m idMap) overlaps() bool {
	for _, a := range m {
		for _, b := range m {
			if a.container < b.host+b.size && b.host < a.container+a.size && a.container != a.host {
				return true
			}
		}
	}
	return false
}

// toContainer answers which id of the container host is.
func (m idMap) toContainer(host uint32) (uint32, bool) {
	for _, r := range m {
		if h := uint64(host); h >= r.host && h < r.host+r.size {
			return uint32(h - r.host + r.container), true
		}
	}
	return host, m == nil
}

// parseIDMap reads "container:host:size[,…]"; nil for "".
func parseIDMap(s string) (m idMap, err error) {
	if s == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		var c, h, n uint64
		var rest string
		if got, _ := fmt.Sscanf(part+" .", "%d:%d:%d %s", &c, &h, &n, &rest); got != 4 || rest != "." || n == 0 ||
			c > math.MaxUint32 || h > math.MaxUint32 || n > 1<<32 {
			return nil, fmt.Errorf("id map %q is not container:host:size: %w", part, errdefs.ErrInvalidArgument)
		}
		m = append(m, struct{ container, host, size uint64 }{c, h, n})
	}
	return m, nil
}

// capability takes out of a security.capability value the user namespace that it is tied to (linux/capability.h: struct
// vfs_ns_cap_data, revision 3, becomes vfs_cap_data, revision 2). The kernel ties it when the container's root sets it.
func capability(value string) string {
	const revision, v2Size, v3Size = 3, 20, 24 // offset of the revision's byte, and bytes of the whole
	if len(value) != v3Size || value[revision] != 3 {
		return value
	}
	return value[:revision] + "\x02" + value[revision+1:v2Size]
}
