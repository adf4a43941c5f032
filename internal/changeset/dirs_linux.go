package changeset

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// dirMeta is what a directory shall look like in the end.
type dirMeta struct {
	meta
	timesOnly bool // the directory was there before: only our traces on it are removed
	implied   bool // the archive uses it without describing it
}

// dir opens the directory p for making things in it, and makes it and its parents where the archive did not.
func (a *applier) dir(p string) (*dir, error) {
	d, err := a.tree.open(p)
	hidden := err == unix.ENOTDIR
	switch {
	case err == nil:
		return d, a.touched(d)
	case hidden:
		if err := a.clearWay(p); err != nil {
			return nil, err
		}
	case err != unix.ENOENT:
		return nil, err
	}
	parent, base := split(p)
	up, err := a.dir(parent)
	if err != nil {
		return nil, err
	}
	err = unix.Mkdirat(up.fd, base, 0o700)
	if err == unix.EEXIST {
		return a.linked(up, base)
	}
	if err != nil {
		return nil, err
	}
	if d, err = a.tree.open(p); err != nil {
		return nil, err
	}
	if a.made != nil {
		a.made[d.path] = struct{}{}
	}
	m := meta{mode: 0o755}
	if err := a.ids.toHost(&m); err != nil {
		return nil, err
	}
	a.metas[d.path] = &dirMeta{meta: m, implied: true}
	if a.overlay && hidden {
		a.metas[d.path].implied = false // what was below is gone
		return d, a.markOpaque(d.fd, ".")
	}
	return d, nil
}

// linked makes the directory that the symbolic link dir/base points to and that is not there yet.
func (a *applier) linked(dir *dir, base string) (*dir, error) {
	buf := make([]byte, maxPath)
	n, err := unix.Readlinkat(dir.fd, base, buf)
	if err != nil || a.hops >= maxHops {
		return nil, unix.ENOTDIR
	}
	a.hops++
	target := string(buf[:n])
	if !strings.HasPrefix(target, "/") {
		target = join(dir.path, target)
	}
	return a.dir(strings.TrimPrefix(path.Clean("/"+target), "/"))
}

// touched remembers how a directory of the tree below looked before we made something in it.
func (a *applier) touched(d *dir) error {
	if a.metas[d.path] != nil {
		return nil
	}
	for p := d.path; a.made != nil && p != "."; p, _ = split(p) {
		if _, known := a.made[p]; known {
			break
		}
		if _, known := a.used[p]; known {
			break
		}
		a.used[p] = struct{}{}
	}
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return err
	}
	a.metas[d.path] = &dirMeta{meta: meta{mtime: st.Mtim}, timesOnly: true}
	return nil
}

// clearWay removes what is where p needs a directory: a file of the tree below, or this layer's whiteout of one.
func (a *applier) clearWay(p string) error {
	parent, base := split(p)
	up, err := a.tree.open(parent)
	if err == unix.ENOTDIR {
		return a.clearWay(parent)
	}
	if err != nil {
		return err
	}
	if a.overlay {
		var st unix.Stat_t
		if err := unix.Fstatat(up.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if !isWhiteout(&st) {
			return unix.ENOTDIR
		}
	} else if _, ours := a.made[join(up.path, base)]; ours {
		return unix.ENOTDIR
	}
	return a.remove(up, base)
}

func (a *applier) mkdir(dir *dir, base string, m meta) error {
	full := join(dir.path, base)
	err := unix.Mkdirat(dir.fd, base, 0o700)
	replaced := false
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err := unix.Fstatat(dir.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			a.metas[full] = &dirMeta{meta: m}
			return nil
		}
		if err := a.remove(dir, base); err != nil {
			return err
		}
		replaced = true
		err = unix.Mkdirat(dir.fd, base, 0o700)
	}
	if err != nil {
		return err
	}
	a.metas[full] = &dirMeta{meta: m}
	if replaced && a.overlay {
		// This layer hid what is below before it made the directory: it must not show again.
		return a.markOpaque(dir.fd, base)
	}
	return nil
}

// remove takes away dir/base and what we know of it.
func (a *applier) remove(dir *dir, base string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	err := removeAll(dir.fd, base, join(dir.path, base), func(p string) {
		delete(a.metas, p)
		delete(a.made, p)
		delete(a.used, p)
	})
	if t := st.Mode & unix.S_IFMT; t == unix.S_IFDIR || t == unix.S_IFLNK {
		a.tree.stale = true
	}
	return err
}

// whiteout hides dir/base of the layers below; what this archive made of that name stays.
func (a *applier) whiteout(dir *dir, base string) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil && err != unix.ENOENT {
		return err
	}
	there, isDir := err == nil, st.Mode&unix.S_IFMT == unix.S_IFDIR
	switch _, ours := a.made[join(dir.path, base)]; {
	case a.overlay && !there:
		a.pending.whiteouts = append(a.pending.whiteouts, join(dir.path, base))
		return unix.Mknodat(dir.fd, base, unix.S_IFCHR, 0)
	case a.overlay && isDir:
		return a.markOpaque(dir.fd, base)
	case a.overlay || !there:
		return nil
	case ours && isDir:
		return a.removeOlder(join(dir.path, base))
	case ours:
		return nil
	}
	return a.remove(dir, base)
}

func (a *applier) opaque(dir *dir) error {
	if a.overlay {
		return a.markOpaque(dir.fd, ".")
	}
	return a.removeOlder(dir.path)
}

func (a *applier) markOpaque(fd int, base string) error {
	sub, err := unix.Openat(fd, base, dirFlags|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(sub)
	return unix.Fsetxattr(sub, a.opts.opaqueXattr(), []byte("y"), 0)
}

// removeOlder removes what is in directory p but was not made by this archive.
func (a *applier) removeOlder(p string) error {
	d, err := a.tree.open(p)
	if err != nil {
		return err
	}
	names, err := readNames(d.fd)
	if err != nil {
		return err
	}
	for _, n := range names {
		full := join(p, n)
		_, ours := a.made[full]
		_, used := a.used[full]
		if !ours && !used {
			if err := a.remove(d, n); err != nil {
				return err
			}
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstatat(d.fd, n, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			if err := a.removeOlder(full); err != nil {
				return err
			}
		}
	}
	return nil
}

// finishDirs gives directories their attributes, which making things in them would have changed.
func (a *applier) finishDirs() error {
	for p, m := range a.metas {
		fd, err := unix.Openat2(a.tree.root.fd, p, &unix.OpenHow{Flags: dirFlags, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
		if err != nil {
			return fmt.Errorf("cannot open directory %q again: %w", p, err)
		}
		switch {
		case m.timesOnly:
			err = setTimes(fd, m.mtime)
		case a.overlay:
			err = m.set(fd)
		default:
			err = m.setOnly(fd)
		}
		if m.implied && a.overlay {
			a.pending.dirs = append(a.pending.dirs, p)
		}
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("cannot set attributes of directory %q: %w", p, err)
		}
	}
	return nil
}
