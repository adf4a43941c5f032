package changeset

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Apply changes the whole tree dir, which nobody else may be changing, as the uncompressed tar r says. It reads no further
// than the archive's end. It is not durable: Sync is. InvalidArgument when the archive is damaged, names something outside
// or asks for more than the bounds of this package; ResourceExhausted when the disk is full. After an error dir is in no
// defined state. Of o only the id maps matter.
func Apply(ctx context.Context, dir string, r io.Reader, o Options) error {
	a := &applier{opts: o, made: map[string]struct{}{}, used: map[string]struct{}{}}
	return a.apply(ctx, dir, r)
}

// ApplyOverlay writes r into dir, the empty upper directory of an overlayfs, otherwise like Apply. What it cannot know
// without the layers below, it answers: Settle is then called once they are there.
func ApplyOverlay(ctx context.Context, dir string, r io.Reader, o Options) (Pending, error) {
	a := &applier{opts: o, overlay: true}
	err := a.apply(ctx, dir, r)
	return a.pending, err
}

func (a *applier) apply(ctx context.Context, dir string, r io.Reader) (err error) {
	if a.tree, err = openTree(dir); err != nil {
		return fmt.Errorf("cannot open %q: %w", dir, kind(err))
	}
	defer a.tree.close()
	if a.ids, err = newIDMaps(a.opts); err != nil {
		return err
	}
	a.metas = map[string]*dirMeta{}
	a.out = startWriters()
	defer func() { err = errors.Join(err, a.out.close()) }()
	if err := a.entries(ctx, tar.NewReader(r)); err != nil {
		return err
	}
	if err := a.out.close(); err != nil {
		return err
	}
	return a.finishDirs()
}

// applier unpacks one archive. Names are made and removed here, one after the other as the archive lists them; contents
// and attributes of files are written by out, which holds them open, so that it does not matter what becomes of the name.
// What directories should look like waits in metas until nothing is made in them any more.
type applier struct {
	opts    Options
	ids     idMaps
	overlay bool // dir is the upper directory of an overlay, and empty at first
	tree    *tree
	out     *writers
	metas   map[string]*dirMeta
	made    map[string]struct{} // paths this archive made; nil in an overlay, where there is nothing else
	used    map[string]struct{} // paths it made something below without making them; nil in an overlay
	pending Pending
	sparse  int64 // bytes so far, see maxSparse
	hops    int   // links to directories still to be made, followed for this entry
}

// maxHops is how many such links an entry's path may have, as many as the kernel follows.
const maxHops = 40

func (a *applier) entries(ctx context.Context, tr *tar.Reader) error {
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return unreadable(fmt.Errorf("cannot read layer after %d entries: %w", n, err))
		}
		if n >= maxEntries {
			return fmt.Errorf("layer has more than %d entries: %w", maxEntries, errdefs.ErrInvalidArgument)
		}
		if err := a.entry(ctx, tr, hdr); err != nil {
			return fmt.Errorf("cannot unpack %.300q: %w", hdr.Name, kind(err))
		}
	}
}

// unreadable tells a bad archive from a reader that failed.
func unreadable(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w (%w)", err, errdefs.ErrInvalidArgument)
	}
	return err
}

// entry does what one header says.
func (a *applier) entry(ctx context.Context, tr *tar.Reader, hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil // layer.md gives it no meaning
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	if name == "." {
		if hdr.Typeflag != tar.TypeDir {
			return fmt.Errorf("the root of a layer must be a directory: %w", errdefs.ErrInvalidArgument)
		}
		m, err := a.ids.newMeta(hdr)
		a.metas["."] = &dirMeta{meta: m}
		return err
	}
	parent, base := split(name)
	if base != opaqueMarker && (strings.HasPrefix(name, metaPrefix) || strings.Contains(name, "/"+metaPrefix)) {
		return nil // aufs's own
	}
	if strings.HasPrefix(parent, whiteoutPrefix) || strings.Contains(parent, "/"+whiteoutPrefix) {
		return fmt.Errorf("a whiteout cannot be a directory: %w", errdefs.ErrInvalidArgument)
	}
	a.hops = 0
	a.tree.reserve()
	dir, err := a.dir(parent)
	if err != nil {
		return err
	}
	switch hidden, isWhiteout := strings.CutPrefix(base, whiteoutPrefix); {
	case base == opaqueMarker:
		return a.opaque(dir)
	case isWhiteout:
		if hidden == "" || hidden == "." || hidden == ".." {
			return fmt.Errorf("whiteout of nothing: %w", errdefs.ErrInvalidArgument)
		}
		return a.whiteout(dir, hidden)
	case hdr.Typeflag == tar.TypeChar && hdr.Devmajor == 0 && hdr.Devminor == 0:
		return a.whiteout(dir, base) // overlayfs would take it for one whatever we called it
	}
	if err := a.make(ctx, tr, hdr, dir, base); err != nil {
		return err
	}
	if a.made != nil {
		a.made[join(dir.path, base)] = struct{}{}
	}
	return nil
}

// cleanName answers name relative to the root, "." for the root itself. Absolute names are taken from the root.
func cleanName(name string) (string, error) {
	if len(name) > maxPath || strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("name is too long or has a zero byte: %w", errdefs.ErrInvalidArgument)
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("name leads out of the layer: %w", errdefs.ErrInvalidArgument)
	}
	return clean, nil
}

// make creates what hdr describes as dir/base, in place of whatever is there.
func (a *applier) make(ctx context.Context, tr *tar.Reader, hdr *tar.Header, dir *dir, base string) error {
	m, err := a.ids.newMeta(hdr)
	if err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		return a.mkdir(dir, base, m)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return a.regular(ctx, tr, hdr, dir, base, m)
	case tar.TypeLink:
		return a.link(hdr.Linkname, dir, base)
	case tar.TypeSymlink:
		err = a.replacing(dir, base, func() error { return unix.Symlinkat(hdr.Linkname, dir.fd, base) })
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		err = a.node(hdr, dir, base, m)
	default:
		return fmt.Errorf("unknown type %q of tar entry: %w", hdr.Typeflag, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return err
	}
	return m.setAt(dir.fd, base, hdr.Typeflag == tar.TypeSymlink)
}

func (a *applier) node(hdr *tar.Header, dir *dir, base string, m meta) error {
	if hdr.Devmajor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor < 0 || hdr.Devminor >= 1<<20 {
		return fmt.Errorf("device number %d:%d: %w", hdr.Devmajor, hdr.Devminor, errdefs.ErrInvalidArgument)
	}
	mode, dev := m.mode, 0
	switch hdr.Typeflag {
	case tar.TypeChar:
		mode |= unix.S_IFCHR
	case tar.TypeBlock:
		mode |= unix.S_IFBLK
	case tar.TypeFifo:
		mode |= unix.S_IFIFO
	}
	if hdr.Typeflag != tar.TypeFifo {
		dev = int(unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor)))
	}
	return a.replacing(dir, base, func() error { return unix.Mknodat(dir.fd, base, mode, dev) })
}

func (a *applier) link(target string, dir *dir, base string) error {
	name, err := cleanName(target)
	if err != nil {
		return fmt.Errorf("hard link to %.300q: %w", target, err)
	}
	parent, targetBase := split(name)
	from, err := a.tree.open(parent)
	if err != nil {
		return fmt.Errorf("hard link to %.300q, which is not in this layer: %w", target, err)
	}
	if join(from.path, targetBase) == join(dir.path, base) {
		return nil // removing what is there would remove the target
	}
	err = a.replacing(dir, base, func() error { return unix.Linkat(from.fd, targetBase, dir.fd, base, 0) })
	if err != nil {
		return fmt.Errorf("hard link to %.300q: %w", target, err)
	}
	return nil
}

// replacing calls create, and once more after removing what was in the way.
func (a *applier) replacing(dir *dir, base string, create func() error) error {
	err := create()
	if err != unix.EEXIST {
		return err
	}
	if err := a.remove(dir, base); err != nil {
		return err
	}
	return create()
}

// kind joins the kernel's error with the errdefs kind that callers act on.
func kind(err error) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	switch errno {
	case unix.ENOSPC, unix.EDQUOT, unix.EMFILE, unix.ENFILE:
		return fmt.Errorf("%w (%w)", err, errdefs.ErrResourceExhausted)
	case unix.ENOTDIR, unix.ELOOP, unix.ENAMETOOLONG, unix.ENOENT, unix.EINVAL, unix.EXDEV, unix.EISDIR, unix.EMLINK, unix.EEXIST, unix.E2BIG, unix.ERANGE:
		return fmt.Errorf("%w (%w)", err, errdefs.ErrInvalidArgument)
	case unix.EPERM, unix.EACCES:
		return fmt.Errorf("%w (%w)", err, errdefs.ErrPermissionDenied)
	case unix.ENOSYS:
		return fmt.Errorf("%w (%w): Linux 5.6 is the oldest that can unpack safely", err, errdefs.ErrNotImplemented)
	}
	return err
}
