package changeset

import (
	"archive/tar"
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Empty writes the tar of a layer that changes nothing.
func Empty(w io.Writer) error { return tar.NewWriter(w).Close() }

// NewRoot makes directory dir to be the root of an overlay's upper layer: it looks like the root of the layers below,
// under the host's ids where there are id maps.
func NewRoot(dir string, o Options) error {
	ids, err := newIDMaps(o)
	if err != nil {
		return err
	}
	m := &meta{mode: 0o755}
	inherit := len(o.Lower) > 0
	if inherit {
		fd, err := unix.Open(o.Lower[0], dirFlags, 0)
		if err != nil {
			return fmt.Errorf("cannot open %q: %w", o.Lower[0], kind(err))
		}
		m, err = metaOf(fd)
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	if err := ids.toHost(m); err != nil {
		return err
	}
	if err := unix.Mkdir(dir, 0o700); err != nil {
		return err
	}
	fd, err := unix.Open(dir, dirFlags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !inherit {
		return m.setOwner(fd, 0)
	}
	return m.set(fd)
}

// Unshift gives everything below dir, which has the host's ids, those of the container. Without id maps it does nothing.
// It may be repeated after a crash: what has been translated is left alone. NotImplemented for maps of which that cannot
// be told, because the container's ids overlap the host's.
func Unshift(ctx context.Context, dir string, o Options) error {
	ids, err := newIDMaps(o)
	if err != nil {
		return err
	}
	if ids.uid == nil && ids.gid == nil {
		return nil
	}
	if ids.uid.overlaps() || ids.gid.overlaps() {
		return fmt.Errorf("cannot translate owners back where host and container ids overlap (%q, %q): %w", o.UIDMap, o.GIDMap, errdefs.ErrNotImplemented)
	}
	fd, err := unix.Open(dir, dirFlags, 0)
	if err != nil {
		return fmt.Errorf("cannot open %q: %w", dir, kind(err))
	}
	defer unix.Close(fd)
	if err := unshift(fd, ".", ids); err != nil {
		return err
	}
	return unshiftBelow(ctx, fd, ids)
}

func unshiftBelow(ctx context.Context, fd int, ids idMaps) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	names, err := readNames(fd)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := unshift(fd, n, ids); err != nil {
			return fmt.Errorf("%.300q: %w", n, err)
		}
		sub, err := unix.Openat(fd, n, dirFlags|unix.O_NOFOLLOW, 0)
		if err == unix.ENOTDIR || err == unix.ELOOP {
			continue
		}
		if err != nil {
			return err
		}
		err = unshiftBelow(ctx, sub, ids)
		unix.Close(sub)
		if err != nil {
			return err
		}
	}
	return nil
}

// unshift changes the owner of one file and puts back what the kernel takes away when an owner changes.
func unshift(fd int, base string, ids idMaps) error {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if isWhiteout(&st) {
		return nil // it is overlayfs's
	}
	uid, _ := ids.uid.toContainer(st.Uid)
	gid, _ := ids.gid.toContainer(st.Gid)
	if uid == st.Uid && gid == st.Gid {
		return nil
	}
	path := procPath(fd) + "/" + base
	caps := make([]byte, 64)
	n, err := unix.Lgetxattr(path, "security.capability", caps)
	if err != nil {
		n = 0
	}
	if err := unix.Fchownat(fd, base, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK && st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
		if err := unix.Fchmodat(fd, base, st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	if n > 0 {
		return unix.Lsetxattr(path, "security.capability", []byte(capability(string(caps[:n]))), 0)
	}
	return nil
}
