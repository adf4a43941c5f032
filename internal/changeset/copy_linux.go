package changeset

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Copy makes to, which must not exist, a copy of the tree from: owners, modes, times, attributes, hard links, holes and
// devices are kept. File systems that can share blocks between files do. Sockets are left out. It is not durable.
func Copy(ctx context.Context, from, to string) error { return CopyWithin(ctx, from, ".", to) }

// CopyWithin is Copy of directory sub of a tree that belongs to strangers: links on the way to it are followed as a process would that
// has root for its own. NotFound when there is no sub, InvalidArgument when it is not a directory; then to is not made.
func CopyWithin(ctx context.Context, root, sub, to string) error {
	t, err := openTree(root)
	if err != nil {
		return fmt.Errorf("cannot open %q: %w", root, kind(err))
	}
	defer t.close()
	src, err := t.open(sub)
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("there is no %.300q: %w", sub, errdefs.ErrNotFound)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%.300q is not a directory: %w", sub, errdefs.ErrInvalidArgument)
	case err != nil:
		return fmt.Errorf("cannot open %.300q in %q: %w", sub, root, kind(err))
	}
	c := &copier{root: to, names: map[inode]string{}, share: true}
	if err := c.directory(ctx, src.fd, unix.AT_FDCWD, to, "."); err != nil {
		return fmt.Errorf("cannot copy %.300q of %q: %w", sub, root, kind(err))
	}
	return nil
}

type copier struct {
	root  string
	names map[inode]string // where in the copy a file with several names is
	share bool             // the file system may share blocks
}

// directory copies the open directory src to base in the directory open as parent. full is its name from the root.
func (c *copier) directory(ctx context.Context, src, parent int, base, full string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m, err := metaOf(src)
	if err != nil {
		return err
	}
	if err := unix.Mkdirat(parent, base, 0o700); err != nil {
		return err
	}
	dst, err := unix.Openat(parent, base, dirFlags|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	names, err := readNames(src)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := c.entry(ctx, src, dst, n, join(full, n)); err != nil {
			return fmt.Errorf("%.300q: %w", n, err)
		}
	}
	return m.set(dst)
}

func (c *copier) entry(ctx context.Context, src, dst int, base, full string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(src, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	format := st.Mode & unix.S_IFMT
	if format != unix.S_IFDIR && st.Nlink > 1 {
		key := inode{st.Dev, st.Ino}
		if name, again := c.names[key]; again {
			return unix.Linkat(unix.AT_FDCWD, c.root+"/"+name, dst, base, 0)
		}
		c.names[key] = full
	}
	switch format {
	case unix.S_IFDIR:
		sub, err := unix.Openat(src, base, dirFlags|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(sub)
		return c.directory(ctx, sub, dst, base, full)
	case unix.S_IFREG:
		return c.regular(ctx, src, dst, base, &st)
	case unix.S_IFSOCK:
		return nil
	case unix.S_IFLNK:
		buf := make([]byte, maxPath+1)
		n, err := unix.Readlinkat(src, base, buf)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(string(buf[:n]), dst, base); err != nil {
			return err
		}
	default:
		if err := unix.Mknodat(dst, base, st.Mode, int(st.Rdev)); err != nil {
			return err
		}
	}
	m := statMeta(&st)
	var err error
	if m.xattrs, err = readXattrs(procPath(src)+"/"+base, false); err != nil {
		return err
	}
	return m.setAt(dst, base, format == unix.S_IFLNK)
}

func (c *copier) regular(ctx context.Context, src, dst int, base string, st *unix.Stat_t) error {
	in, err := unix.Openat(src, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	out, err := unix.Openat(dst, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(out)
	if err := c.content(ctx, in, out, st.Size); err != nil {
		return err
	}
	m, err := metaOf(in)
	if err != nil {
		return err
	}
	return m.set(out)
}

func (c *copier) content(ctx context.Context, in, out int, size int64) error {
	if c.share && size > 0 {
		if unix.IoctlFileClone(out, in) == nil {
			return nil
		}
		c.share = false
	}
	for off := int64(0); off < size; {
		data, err := unix.Seek(in, off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // a hole to the end
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(in, data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if err := copyRange(ctx, in, out, data, hole); err != nil {
			return err
		}
		off = hole
	}
	return unix.Ftruncate(out, size)
}

func copyRange(ctx context.Context, in, out int, from, to int64) error {
	buf := make([]byte, min(chunk, to-from))
	for from < to {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := unix.Pread(in, buf[:min(int64(len(buf)), to-from)], from)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
		if err := pwrite(out, buf[:n], from); err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}
