package changeset

import (
	"bytes"
	"fmt"
	"path"

	"golang.org/x/sys/unix"
)

// Pending is what an archive leaves open about a layer until the layers below are known. Its text form is for a file
// beside the layer.
type Pending struct {
	dirs      []string // used but not described: they take owner, mode and times of the directory they cover
	whiteouts []string // needed only where there is something to hide, and visible to some programs where there is not
}

// Empty says that nothing is open.
func (p Pending) Empty() bool { return len(p.dirs)+len(p.whiteouts) == 0 }

// MarshalText answers each path after a letter for its kind and before a zero byte.
func (p Pending) MarshalText() ([]byte, error) {
	var b bytes.Buffer
	for _, d := range p.dirs {
		b.WriteString("d" + d + "\x00")
	}
	for _, w := range p.whiteouts {
		b.WriteString("w" + w + "\x00")
	}
	return b.Bytes(), nil
}

// UnmarshalText reads what MarshalText wrote.
func (p *Pending) UnmarshalText(text []byte) error {
	*p = Pending{}
	for line := range bytes.SplitSeq(bytes.TrimSuffix(text, []byte{0}), []byte{0}) {
		switch {
		case len(line) > 1 && line[0] == 'd':
			p.dirs = append(p.dirs, string(line[1:]))
		case len(line) > 1 && line[0] == 'w':
			p.whiteouts = append(p.whiteouts, string(line[1:]))
		case len(text) > 0:
			return fmt.Errorf("unknown line %.100q", line)
		}
	}
	return nil
}

// Settle finishes dir, an overlay's upper directory that ApplyOverlay filled, now that o.Lower is complete. It may be
// repeated after a crash. Nothing may be mounted with dir yet.
func Settle(dir string, p Pending, o Options) error {
	root, err := unix.Open(dir, dirFlags, 0)
	if err != nil {
		return fmt.Errorf("cannot open %q: %w", dir, kind(err))
	}
	defer unix.Close(root)
	for _, w := range p.whiteouts {
		if err := settleWhiteout(root, w, o); err != nil {
			return fmt.Errorf("whiteout of %.300q: %w", w, kind(err))
		}
	}
	for _, d := range p.dirs {
		if err := settleDir(root, d, o); err != nil {
			return fmt.Errorf("directory %.300q: %w", d, kind(err))
		}
	}
	return nil
}

func openBeneath(root int, p string) (int, error) {
	return unix.Openat2(root, p, &unix.OpenHow{Flags: dirFlags, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
}

// settleWhiteout removes the whiteout p if it hides nothing.
func settleWhiteout(root int, p string, o Options) error {
	_, exists, err := lookUp(p, o)
	if err != nil || exists {
		return err
	}
	parent, base := split(p)
	fd, err := openBeneath(root, parent)
	if err == unix.ENOENT {
		return nil // a later entry of the archive took its place
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st, dir unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err == unix.ENOENT || err == nil && !isWhiteout(&st) {
		return nil
	} else if err != nil {
		return err
	}
	if err := unix.Fstat(fd, &dir); err != nil {
		return err
	}
	if err := unix.Unlinkat(fd, base, 0); err != nil {
		return err
	}
	return setTimes(fd, dir.Mtim)
}

func settleDir(root int, p string, o Options) error {
	m, _, err := lookUp(p, o)
	if err != nil || m == nil {
		return err
	}
	ids, err := newIDMaps(o)
	if err != nil {
		return err
	}
	if err := ids.toHost(m); err != nil {
		return err
	}
	fd, err := openBeneath(root, p)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return m.set(fd)
}

// lookUp looks for p in the layers below. For a directory it answers its attributes.
func lookUp(p string, o Options) (m *meta, exists bool, err error) {
	for _, lower := range o.Lower {
		m, exists, hidden, err := lookIn(lower, p, o.opaqueXattr())
		if err != nil {
			return nil, false, fmt.Errorf("cannot look into layer %q: %w", lower, err)
		}
		if exists || hidden {
			return m, exists, nil
		}
	}
	return nil, false, nil
}

// lookIn looks for p in one layer. Hidden means that it has no p and does not let those below show theirs.
func lookIn(lower, p, opaque string) (m *meta, exists, hidden bool, err error) {
	root, err := unix.Open(lower, dirFlags, 0)
	if err != nil {
		return nil, false, false, err
	}
	defer unix.Close(root)
	for at := p; ; at = path.Dir(at) { // up to the deepest directory that this layer has; "." is always there
		fd, err := openBeneath(root, at)
		switch err {
		case nil:
		case unix.ENOENT:
			continue
		case unix.ENOTDIR, unix.ELOOP:
			exists, err := isFile(root, p)
			return nil, exists, true, err
		default:
			return nil, false, false, err
		}
		defer unix.Close(fd)
		if at == p {
			m, err := metaOf(fd)
			return m, true, false, err
		}
		return nil, false, isOpaque(procPath(fd), opaque), nil
	}
}

// isFile says whether p itself is there, as something else than a directory or a whiteout.
func isFile(root int, p string) (bool, error) {
	parent, base := split(p)
	fd, err := openBeneath(root, parent)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	return !isWhiteout(&st), nil
}

// isWhiteout knows overlayfs's mark for "there is no such file" (Documentation/filesystems/overlayfs.rst, "whiteouts and
// opaque directories").
func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

// Opaque says whether dir is marked to hide what the layers below have in it.
func Opaque(dir string, o Options) bool { return isOpaque(dir, o.opaqueXattr()) }

func isOpaque(path, xattr string) bool {
	value := make([]byte, 1)
	n, err := unix.Getxattr(path, xattr, value)
	return err == nil && string(value[:n]) == "y"
}
