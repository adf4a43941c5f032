package server

import (
	"io/fs"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
	"golang.org/x/sys/unix"
)

// forever is how long the kernel may keep what it was told, in seconds. Layers do not change.
const forever = 10 * 365 * 24 * 3600

// A node id is a layer's slot and a number in that layer. Slot 0 has one node: the root of the mount.
const slotShift = 32

func nodeID(slot uint32, node int) uint64 { return uint64(slot)<<slotShift | uint64(uint32(node)) }

func splitID(id uint64) (slot uint32, node int) { return uint32(id >> slotShift), int(uint32(id)) }

// fillAttr writes what stat(2) answers for n. The inode number is the node id, unique in the mount.
func fillAttr(out *fuse.Attr, id uint64, n *index.Node) {
	size := uint64(max(n.Size, 0))
	mtime, nsec := uint64(n.ModTime.Unix()), uint32(n.ModTime.Nanosecond())
	*out = fuse.Attr{
		Ino: id, Size: size, Blocks: size/512 + min(size%512, 1), Blksize: 4096,
		Atime: mtime, Mtime: mtime, Ctime: mtime, Atimensec: nsec, Mtimensec: nsec, Ctimensec: nsec,
		Mode: unixMode(n.Mode), Nlink: max(n.Nlink, 1), Rdev: n.Rdev,
		Owner: fuse.Owner{Uid: n.UID, Gid: n.GID},
	}
	if n.Mode.IsDir() {
		out.Size, out.Blocks = 4096, 8
	}
}

// rootAttr is the root of the mount. It says nothing of what is attached, so that it never grows old.
func rootAttr(out *fuse.Attr) {
	*out = fuse.Attr{Ino: fuse.FUSE_ROOT_ID, Mode: unix.S_IFDIR | 0o711, Nlink: 2, Size: 4096, Blocks: 8, Blksize: 4096}
}

func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for _, b := range []struct {
		of   fs.FileMode
		unix uint32
	}{{fs.ModeSetuid, unix.S_ISUID}, {fs.ModeSetgid, unix.S_ISGID}, {fs.ModeSticky, unix.S_ISVTX}} {
		if m&b.of != 0 {
			mode |= b.unix
		}
	}
	switch m.Type() {
	case fs.ModeDir:
		return mode | unix.S_IFDIR
	case fs.ModeSymlink:
		return mode | unix.S_IFLNK
	case fs.ModeDevice | fs.ModeCharDevice, fs.ModeCharDevice:
		return mode | unix.S_IFCHR
	case fs.ModeDevice:
		return mode | unix.S_IFBLK
	case fs.ModeNamedPipe:
		return mode | unix.S_IFIFO
	case fs.ModeSocket:
		return mode | unix.S_IFSOCK
	}
	return mode | unix.S_IFREG
}
