package changeset

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// tarWriter writes what lies in a directory as entries of a tar. The same files give the same bytes.
type tarWriter struct {
	tw    *tar.Writer
	opts  Options
	ids   idMaps
	first map[inode]string // name under which a file with several was written
	buf   []byte
}

type inode struct{ dev, ino uint64 }

func newTarWriter(w io.Writer, o Options) (*tarWriter, error) {
	ids, err := newIDMaps(o)
	if err != nil {
		return nil, err
	}
	return &tarWriter{tw: tar.NewWriter(w), opts: o, ids: ids, first: map[inode]string{}, buf: make([]byte, chunk)}, nil
}

// whiteout says that base in directory dir of the layers below is gone.
func (w *tarWriter) whiteout(dir, base string) error { return w.marker(join(dir, whiteoutPrefix+base)) }

// opaque says that nothing shows of what the layers below have in directory dir.
func (w *tarWriter) opaque(dir string) error { return w.marker(join(dir, opaqueMarker)) }

func (w *tarWriter) marker(name string) error {
	return w.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
}

// file writes base in the open directory fd, whose name from the root is full. Sockets cannot be kept and are left out.
func (w *tarWriter) file(fd int, base, full string, st *unix.Stat_t, xattrs []xattr) error {
	if strings.HasPrefix(base, whiteoutPrefix) {
		return fmt.Errorf("%.300q has the name of a whiteout and cannot be in a layer: %w", full, errdefs.ErrInvalidArgument)
	}
	hdr, err := w.header(full, st, xattrs)
	if err != nil {
		return fmt.Errorf("%.300q: %w", full, err)
	}
	format := st.Mode & unix.S_IFMT
	if format != unix.S_IFDIR && st.Nlink > 1 {
		key := inode{st.Dev, st.Ino}
		if name, again := w.first[key]; again {
			hdr.Typeflag, hdr.Linkname, hdr.Size = tar.TypeLink, name, 0
			return w.tw.WriteHeader(hdr)
		}
		w.first[key] = full
	}
	switch format {
	case unix.S_IFSOCK:
		return nil
	case unix.S_IFREG:
		return w.regular(fd, base, hdr)
	case unix.S_IFLNK:
		n, err := unix.Readlinkat(fd, base, w.buf)
		if err != nil {
			return fmt.Errorf("readlink %.300q: %w", full, err)
		}
		hdr.Linkname = string(w.buf[:n])
	}
	return w.tw.WriteHeader(hdr)
}

func (w *tarWriter) header(full string, st *unix.Stat_t, xattrs []xattr) (*tar.Header, error) {
	hdr := &tar.Header{
		Name:    full,
		Mode:    int64(st.Mode & 0o7777),
		ModTime: time.Unix(st.Mtim.Unix()),
		Format:  tar.FormatPAX,
	}
	uid, okUID := w.ids.uid.toContainer(st.Uid)
	gid, okGID := w.ids.gid.toContainer(st.Gid)
	if !okUID || !okGID {
		return nil, fmt.Errorf("owner %d:%d is not in the layer's id map: %w", st.Uid, st.Gid, errdefs.ErrFailedPrecondition)
	}
	hdr.Uid, hdr.Gid = int(uid), int(gid)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		hdr.Typeflag, hdr.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		hdr.Typeflag, hdr.Name = tar.TypeDir, full+"/"
	case unix.S_IFLNK:
		hdr.Typeflag = tar.TypeSymlink
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
	case unix.S_IFCHR:
		hdr.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		hdr.Typeflag = tar.TypeBlock
	}
	if hdr.Typeflag == tar.TypeChar || hdr.Typeflag == tar.TypeBlock {
		hdr.Devmajor, hdr.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	for _, x := range xattrs {
		if isOverlayXattr(x.name) {
			continue
		}
		if hdr.PAXRecords == nil {
			hdr.PAXRecords = map[string]string{}
		}
		if x.name == "security.capability" && w.ids.uid != nil {
			x.value = capability(x.value)
		}
		hdr.PAXRecords[xattrRecord+x.name] = x.value
	}
	return hdr, nil
}

func (w *tarWriter) regular(dirfd int, base string, hdr *tar.Header) error {
	fd, err := unix.Openat(dirfd, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open %.300q: %w", hdr.Name, err)
	}
	defer unix.Close(fd)
	if err := w.tw.WriteHeader(hdr); err != nil {
		return err
	}
	for left := hdr.Size; left > 0; {
		n, err := unix.Read(fd, w.buf[:min(left, int64(len(w.buf)))])
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = fmt.Errorf("it was cut short meanwhile: %w", errdefs.ErrFailedPrecondition)
		}
		if err != nil {
			return fmt.Errorf("cannot read %.300q: %w", hdr.Name, err)
		}
		if _, err := w.tw.Write(w.buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}

// root writes the root directory's entry if it differs from a new one's, or from that of the layer below.
func (w *tarWriter) root(fd int, below *meta) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	xattrs, err := readXattrs(procPath(fd), true)
	if err != nil {
		return err
	}
	hdr, err := w.header(".", &st, xattrs)
	if err != nil {
		return err
	}
	m, err := idMaps{}.newMeta(hdr)
	if err != nil {
		return err
	}
	if below == nil {
		below = &meta{mode: 0o755}
	}
	if m.same(below) {
		return nil
	}
	return w.tw.WriteHeader(hdr)
}

// same compares everything but times.
func (m *meta) same(o *meta) bool {
	if m.uid != o.uid || m.gid != o.gid || m.mode != o.mode || len(m.xattrs) != len(o.xattrs) {
		return false
	}
	for i := range m.xattrs {
		if m.xattrs[i] != o.xattrs[i] {
			return false
		}
	}
	return true
}

// close ends the archive, unless writing it failed.
func (w *tarWriter) close(err error) error {
	if err != nil {
		var errno unix.Errno
		if errors.As(err, &errno) {
			return fmt.Errorf("cannot make a layer: %w", kind(err))
		}
		return fmt.Errorf("cannot make a layer: %w", err)
	}
	return w.tw.Close()
}
