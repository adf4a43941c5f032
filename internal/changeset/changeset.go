// Package changeset writes the tar of an image layer into a directory and makes such a tar from a directory.
//
// It owns the format (OCI image-spec layer.md, "Representing Changes") and its meaning on disk, either as overlayfs wants
// it (deletions are character devices 0/0, opaque directories have an attribute) or carried out on a whole tree. The
// drivers of package storage share it; it imports none of them and knows no layer ids. Archives come from strangers: every
// path is resolved by the kernel inside the directory (openat2, RESOLVE_IN_ROOT), so that nothing outside is ever touched.
//
// What a crash leaves: a directory that is partly written. Callers do not show it before Apply and Sync have returned.
package changeset

import "path"

// Options describes the upper directory of an overlayfs.
type Options struct {
	// XattrPrefix of overlayfs's attributes: "trusted.overlay." when empty, "user.overlay." for mounts with userxattr.
	XattrPrefix string
	// Lower are the directories below it, nearest first.
	Lower []string
	// UIDMap and GIDMap ("container:host:size[,…]") say that files have the host's ids on disk: Diff writes the container's.
	UIDMap, GIDMap string
}

func (o Options) opaqueXattr() string { return o.prefix() + "opaque" }

func (o Options) prefix() string {
	if o.XattrPrefix == "" {
		return "trusted.overlay."
	}
	return o.XattrPrefix
}

// Names with a meaning (layer.md, "Whiteouts" and "Opaque Whiteout"); those that begin with metaPrefix belong to aufs.
const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh."
	opaqueMarker   = ".wh..wh..opq"
	xattrRecord    = "SCHILY.xattr."
)

// Bounds on what an archive may ask for. The tar reader itself bounds extended headers to 1 MiB each.
const (
	maxEntries   = 10_000_000
	maxPath      = 4095
	maxXattrs    = 256
	maxXattrSize = 64 << 10  // bytes of one value, the kernel's own limit
	maxSparse    = 256 << 30 // bytes of all sparse files of a layer, holes included: reading holes costs time
)

// split answers the directory and the last element of a cleaned, relative path. The root's name is ".".
func split(p string) (dir, base string) {
	dir, base = path.Split(p)
	if dir == "" {
		return ".", base
	}
	return dir[:len(dir)-1], base
}

func join(dir, base string) string {
	if dir == "." {
		return base
	}
	return dir + "/" + base
}
