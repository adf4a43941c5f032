package changeset

import (
	"archive/tar"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// meta is what a file has besides its content.
type meta struct {
	uid, gid uint32
	mode     uint32 // permissions, setuid, setgid and sticky
	mtime    unix.Timespec
	xattrs   []xattr // sorted by name
}

type xattr struct{ name, value string }

// newMeta checks a header and translates it to what shall be on disk. Attributes that overlayfs acts on are dropped: a layer must not redirect
// lookups to other layers or pass files for whiteouts.
func (ids idMaps) newMeta(hdr *tar.Header) (meta, error) {
	if hdr.Uid < 0 || hdr.Gid < 0 || int64(hdr.Uid) >= math.MaxUint32 || int64(hdr.Gid) >= math.MaxUint32 {
		return meta{}, fmt.Errorf("owner %d:%d: %w", hdr.Uid, hdr.Gid, errdefs.ErrInvalidArgument)
	}
	m := meta{
		uid: uint32(hdr.Uid), gid: uint32(hdr.Gid), mode: uint32(hdr.Mode & 0o7777),
		mtime: unix.Timespec{Sec: hdr.ModTime.Unix(), Nsec: int64(hdr.ModTime.Nanosecond())},
	}
	if err := ids.toHost(&m); err != nil {
		return m, err
	}
	for record, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(record, xattrRecord)
		if !ok || isOverlayXattr(name) {
			continue
		}
		if name == "" || len(name) > 255 || len(value) > maxXattrSize || len(m.xattrs) >= maxXattrs || strings.IndexByte(name, 0) >= 0 {
			return meta{}, fmt.Errorf("extended attribute %.300q is out of bounds: %w", name, errdefs.ErrInvalidArgument)
		}
		m.xattrs = append(m.xattrs, xattr{name, value})
	}
	slices.SortFunc(m.xattrs, func(a, b xattr) int { return strings.Compare(a.name, b.name) })
	return m, nil
}

func isOverlayXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

// metaOf reads what an open file has, without the attributes of overlayfs.
func metaOf(fd int) (*meta, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	m := statMeta(&st)
	var err error
	m.xattrs, err = readXattrs(procPath(fd), true)
	m.xattrs = slices.DeleteFunc(m.xattrs, func(x xattr) bool { return isOverlayXattr(x.name) })
	return &m, err
}

func statMeta(st *unix.Stat_t) meta {
	return meta{uid: st.Uid, gid: st.Gid, mode: st.Mode & 0o7777, mtime: st.Mtim}
}

// setOwner gives a file that the process just made its owner and mode. made is the mode it was made with.
func (m *meta) setOwner(fd int, made uint32) error {
	if m.uid != 0 || m.gid != 0 {
		if err := unix.Fchown(fd, int(m.uid), int(m.gid)); err != nil {
			return fmt.Errorf("chown to %d:%d: %w", m.uid, m.gid, err)
		}
		if m.mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
			made = ^m.mode // chown cleared the bits
		}
	}
	if m.mode == made {
		return nil
	}
	return unix.Fchmod(fd, m.mode)
}

// set gives an open file or directory everything. The owner comes first, since changing it drops capabilities and bits.
func (m *meta) set(fd int) error {
	if err := unix.Fchown(fd, int(m.uid), int(m.gid)); err != nil {
		return fmt.Errorf("chown to %d:%d: %w", m.uid, m.gid, err)
	}
	if err := unix.Fchmod(fd, m.mode); err != nil {
		return fmt.Errorf("chmod to %o: %w", m.mode, err)
	}
	if err := m.setXattrs(fd); err != nil {
		return err
	}
	return setTimes(fd, m.mtime)
}

// setOnly is set for a directory of a whole tree: attributes that it had before go.
func (m *meta) setOnly(fd int) error {
	old, err := readXattrs(procPath(fd), true)
	if err != nil {
		return err
	}
	for _, x := range old {
		if !slices.ContainsFunc(m.xattrs, func(n xattr) bool { return n.name == x.name }) {
			if err := unix.Fremovexattr(fd, x.name); err != nil {
				return fmt.Errorf("cannot remove extended attribute %q: %w", x.name, err)
			}
		}
	}
	return m.set(fd)
}

func (m *meta) setXattrs(fd int) error {
	for _, x := range m.xattrs {
		if err := tolerate(x.name, unix.Fsetxattr(fd, x.name, []byte(x.value), 0)); err != nil {
			return err
		}
	}
	return nil
}

// setAt gives a file everything that cannot be opened without side effects: a link, a device or a fifo.
func (m *meta) setAt(dirfd int, base string, isLink bool) error {
	if err := unix.Fchownat(dirfd, base, int(m.uid), int(m.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown to %d:%d: %w", m.uid, m.gid, err)
	}
	if !isLink {
		if err := unix.Fchmodat(dirfd, base, m.mode, 0); err != nil {
			return fmt.Errorf("chmod to %o: %w", m.mode, err)
		}
	}
	for _, x := range m.xattrs {
		if err := tolerate(x.name, unix.Lsetxattr(procPath(dirfd)+"/"+base, x.name, []byte(x.value), 0)); err != nil {
			return err
		}
	}
	ts := []unix.Timespec{m.mtime, m.mtime}
	return unix.UtimesNanoAt(dirfd, base, ts, unix.AT_SYMLINK_NOFOLLOW)
}

// tolerate lets pass what a file system cannot keep; user attributes of anything but files and directories are refused
// with EPERM.
func tolerate(name string, err error) error {
	if err == nil || errors.Is(err, unix.EOPNOTSUPP) || err == unix.EPERM && strings.HasPrefix(name, "user.") {
		return nil
	}
	return fmt.Errorf("extended attribute %q: %w", name, err)
}

// setTimes is futimens(3): utimensat(2) without a path. The time of access is set too, so that nothing of now remains.
func setTimes(fd int, mtime unix.Timespec) error {
	ts := [2]unix.Timespec{mtime, mtime}
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("utimens: %w", errno)
	}
	return nil
}

// readXattrs lists the attributes of path, or of what it links to, sorted. Labels of the host's security modules are left out.
func readXattrs(path string, follow bool) ([]xattr, error) {
	list, get := unix.Llistxattr, unix.Lgetxattr
	if follow {
		list, get = unix.Listxattr, unix.Getxattr
	}
	names := make([]byte, maxXattrSize)
	n, err := list(path, names)
	if errors.Is(err, unix.EOPNOTSUPP) || n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listxattr: %w", err)
	}
	var out []xattr
	value := make([]byte, maxXattrSize)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if name == "security.selinux" || name == "security.ima" || name == "security.evm" {
			continue
		}
		n, err := get(path, name, value)
		if err == unix.ENODATA {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("getxattr %q: %w", name, err)
		}
		out = append(out, xattr{name, string(value[:n])})
	}
	slices.SortFunc(out, func(a, b xattr) int { return strings.Compare(a.name, b.name) })
	return out, nil
}
