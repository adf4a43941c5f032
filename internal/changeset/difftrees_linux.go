package changeset

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sys/unix"
)

// DiffTrees writes what makes the tree lower into the tree upper, as an uncompressed tar, by comparing every file of both:
// type, attributes, times and, where those agree, content. lower "" is an empty tree. Order and errors are DiffOverlay's. Of o
// only the id maps matter.
func DiffTrees(ctx context.Context, lower, upper string, w io.Writer, o Options) error {
	up, err := unix.Open(upper, dirFlags, 0)
	if err != nil {
		return fmt.Errorf("cannot open %q: %w", upper, kind(err))
	}
	defer unix.Close(up)
	low := -1
	if lower != "" {
		if low, err = unix.Open(lower, dirFlags, 0); err != nil {
			return fmt.Errorf("cannot open %q: %w", lower, kind(err))
		}
		defer unix.Close(low)
	}
	tw, err := newTarWriter(w, o)
	if err != nil {
		return err
	}
	return tw.close(diffTrees(ctx, tw, low, up))
}

func diffTrees(ctx context.Context, tw *tarWriter, low, up int) error {
	var below *meta
	if low >= 0 {
		var err error
		if below, err = metaOf(low); err != nil {
			return err
		}
	}
	if err := tw.root(up, below); err != nil {
		return err
	}
	// A new name for an old file: the archive must hold the file too for a hard link to refer to. So the first pass finds
	// files that will be written, and the second writes their unchanged names as well.
	d := &treeDiff{tarWriter: tw, written: map[inode]struct{}{}, dry: true}
	if err := d.directory(ctx, low, up, "."); err != nil {
		return err
	}
	d.dry = false
	return d.directory(ctx, low, up, ".")
}

type treeDiff struct {
	*tarWriter
	dry     bool               // only fill written
	written map[inode]struct{} // files with several names of which one at least changed
	pending []func() error     // directories on the way here, written only when something in them is
}

// directory compares what is in two open directories; low is -1 when there is none below.
func (d *treeDiff) directory(ctx context.Context, low, up int, full string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	names, err := readNames(up)
	if err != nil {
		return err
	}
	if low >= 0 {
		below, err := readNames(low)
		if err != nil {
			return err
		}
		names = append(names, below...)
	}
	slices.Sort(names)
	for _, n := range slices.Compact(names) {
		if err := d.entry(ctx, low, up, full, n); err != nil {
			return fmt.Errorf("%.300q: %w", join(full, n), err)
		}
	}
	return nil
}

func (d *treeDiff) entry(ctx context.Context, low, up int, parent, base string) error {
	full := join(parent, base)
	was, err := stat(low, base)
	if err != nil {
		return err
	}
	is, err := stat(up, base)
	if err != nil {
		return err
	}
	if is == nil {
		return d.emit(func() error { return d.whiteout(parent, base) })
	}
	if d.dry && !isDir(is) && is.Nlink < 2 {
		return nil
	}
	changed := true
	if was != nil {
		if changed, err = d.differ(low, up, base, was, is); err != nil {
			return err
		}
	}
	write := func() error {
		xattrs, err := readXattrs(procPath(up)+"/"+base, false)
		if err != nil {
			return err
		}
		return d.file(up, base, full, is, xattrs)
	}
	if !isDir(is) {
		if key := (inode{is.Dev, is.Ino}); is.Nlink > 1 {
			if changed {
				d.written[key] = struct{}{}
			}
			_, changed = d.written[key]
		}
		if !changed {
			return nil
		}
		return d.emit(write)
	}
	if changed {
		if err := d.emit(write); err != nil {
			return err
		}
	} else {
		depth := len(d.pending)
		d.pending = append(d.pending, write)
		defer func() { d.pending = d.pending[:min(depth, len(d.pending))] }()
	}
	return d.descend(ctx, low, up, base, full, was)
}

func (d *treeDiff) descend(ctx context.Context, low, up int, base, full string, was *unix.Stat_t) error {
	upSub, err := unix.Openat(up, base, dirFlags|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(upSub)
	lowSub := -1
	if was != nil && isDir(was) {
		if lowSub, err = unix.Openat(low, base, dirFlags|unix.O_NOFOLLOW, 0); err != nil {
			return err
		}
		defer unix.Close(lowSub)
	}
	return d.directory(ctx, lowSub, upSub, full)
}

// emit calls write after writing the directories on the way.
func (d *treeDiff) emit(write func() error) error {
	if d.dry {
		return nil
	}
	for _, p := range d.pending {
		if err := p(); err != nil {
			return err
		}
	}
	d.pending = d.pending[:0]
	return write()
}

// stat answers nil when there is no such file, or no directory (fd -1) that it could be in.
func stat(fd int, base string) (*unix.Stat_t, error) {
	if fd < 0 {
		return nil, nil
	}
	var st unix.Stat_t
	err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return nil, nil
	}
	return &st, err
}

func isDir(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

func (d *treeDiff) differ(low, up int, base string, was, is *unix.Stat_t) (bool, error) {
	if was.Dev == is.Dev && was.Ino == is.Ino {
		return false, nil
	}
	if was.Mode != is.Mode || was.Uid != is.Uid || was.Gid != is.Gid || was.Rdev != is.Rdev || was.Mtim != is.Mtim ||
		!isDir(is) && was.Size != is.Size {
		return true, nil
	}
	a, err := readXattrs(procPath(low)+"/"+base, false)
	if err != nil {
		return false, err
	}
	b, err := readXattrs(procPath(up)+"/"+base, false)
	if err != nil || !slices.Equal(a, b) {
		return true, err
	}
	switch is.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		from, to := make([]byte, maxPath), make([]byte, maxPath)
		n, err := unix.Readlinkat(low, base, from)
		if err != nil {
			return false, err
		}
		m, err := unix.Readlinkat(up, base, to)
		return err != nil || !bytes.Equal(from[:n], to[:m]), err
	case unix.S_IFREG:
		same, err := sameContent(low, up, base)
		return !same, err
	}
	return false, nil
}

func sameContent(low, up int, base string) (bool, error) {
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	a, err := unix.Openat(low, base, flags, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(a)
	b, err := unix.Openat(up, base, flags, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(b)
	bufA, bufB := make([]byte, 128<<10), make([]byte, 128<<10)
	for off := int64(0); ; {
		n, err := unix.Pread(a, bufA, off)
		if err != nil {
			return false, err
		}
		m, err := unix.Pread(b, bufB, off)
		if err != nil || !bytes.Equal(bufA[:n], bufB[:m]) || n == 0 {
			return n == m && n == 0, err
		}
		off += int64(n)
	}
}
