package changeset

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// DiffOverlay writes what the upper directory of an overlayfs adds to the layers below, as an uncompressed tar. Entries
// are sorted by name, directories before what is in them, so that equal directories give equal bytes. FailedPrecondition
// when the layer was written with the options redirect_dir or metacopy, which no tar can express, or changes meanwhile.
func DiffOverlay(ctx context.Context, upper string, w io.Writer, o Options) error {
	fd, err := unix.Open(upper, dirFlags, 0)
	if err != nil {
		return fmt.Errorf("cannot open %q: %w", upper, kind(err))
	}
	defer unix.Close(fd)
	tw, err := newTarWriter(w, o)
	if err != nil {
		return err
	}
	d := overlayDiff{tarWriter: tw}
	return tw.close(d.root(ctx, fd))
}

type overlayDiff struct{ *tarWriter }

func (d overlayDiff) root(ctx context.Context, fd int) error {
	var below *meta
	if len(d.opts.Lower) > 0 {
		lower, err := unix.Open(d.opts.Lower[0], dirFlags, 0)
		if err != nil {
			return fmt.Errorf("cannot open %q: %w", d.opts.Lower[0], err)
		}
		below, err = metaOf(lower)
		unix.Close(lower)
		if err != nil {
			return err
		}
	}
	if err := d.tarWriter.root(fd, below); err != nil {
		return err
	}
	xattrs, err := readXattrs(procPath(fd), true)
	if err != nil {
		return err
	}
	return d.directory(ctx, fd, ".", xattrs)
}

// directory writes what is in the open directory fd.
func (d overlayDiff) directory(ctx context.Context, fd int, full string, xattrs []xattr) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if has(xattrs, d.opts.opaqueXattr(), "y") {
		if err := d.opaque(full); err != nil {
			return err
		}
	}
	names, err := readNames(fd)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, n := range names {
		if err := d.entry(ctx, fd, full, n); err != nil {
			return err
		}
	}
	return nil
}

func (d overlayDiff) entry(ctx context.Context, fd int, parent, base string) error {
	full := join(parent, base)
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("%.300q: %w", full, err)
	}
	if isWhiteout(&st) {
		return d.whiteout(parent, base)
	}
	xattrs, err := readXattrs(procPath(fd)+"/"+base, false)
	if err != nil {
		return fmt.Errorf("%.300q: %w", full, err)
	}
	for _, bad := range []string{"redirect", "metacopy"} {
		if slices.ContainsFunc(xattrs, func(x xattr) bool { return x.name == d.opts.prefix()+bad }) {
			return fmt.Errorf("%.300q has overlayfs's attribute %q and cannot be put in a tar: %w", full, bad, errdefs.ErrFailedPrecondition)
		}
	}
	if err := d.file(fd, base, full, &st, xattrs); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	sub, err := unix.Openat(fd, base, dirFlags|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("%.300q: %w", full, err)
	}
	defer unix.Close(sub)
	return d.directory(ctx, sub, full, xattrs)
}

func has(xattrs []xattr, name, value string) bool { return slices.Contains(xattrs, xattr{name, value}) }
