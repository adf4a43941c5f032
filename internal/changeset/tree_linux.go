package changeset

import (
	"errors"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// tree opens directories below a root and keeps them open, for most entries of an archive lie in the directory of the one
// before. Symbolic links are followed as a process would that has the root for its own.
type tree struct {
	root  *dir
	real  string          // the root's path as the kernel names it
	cache map[string]*dir // by the path that was asked for
	all   []*dir
	stale bool // a directory or a link is gone that cache may know
}

// dir is an open directory. It belongs to the tree and is valid until the next reserve.
type dir struct {
	fd   int
	path string // from the root, without symbolic links
}

// maxOpen bounds the directories a tree keeps open.
const maxOpen = 256

func openTree(root string) (*tree, error) {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	t := &tree{root: &dir{fd: fd, path: "."}, cache: map[string]*dir{}}
	if t.real, err = os.Readlink(procPath(fd)); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return t, nil
}

func (t *tree) close() {
	t.forget()
	unix.Close(t.root.fd)
}

func (t *tree) forget() {
	for _, d := range t.all {
		unix.Close(d.fd)
	}
	t.all = t.all[:0]
	clear(t.cache)
	t.stale = false
}

const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC

// open answers the directory p, a cleaned path from the root.
func (t *tree) open(p string) (*dir, error) {
	if p == "." {
		return t.root, nil
	}
	if d, ok := t.cache[p]; ok {
		return d, nil
	}
	real := p
	fd, err := unix.Openat2(t.root.fd, p, &unix.OpenHow{Flags: dirFlags, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if errors.Is(err, unix.ELOOP) {
		fd, err = unix.Openat2(t.root.fd, p, &unix.OpenHow{Flags: dirFlags, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
		if err == nil {
			real, err = t.nameOf(fd)
		}
	}
	if err != nil {
		return nil, err
	}
	d := &dir{fd: fd, path: real}
	t.cache[p] = d
	t.all = append(t.all, d)
	return d, nil
}

// reserve is called between entries: it closes what is too much, and everything once stale is set.
func (t *tree) reserve() {
	if t.stale || len(t.all) >= maxOpen {
		t.forget()
	}
}

// nameOf answers the path from the root of an open directory.
func (t *tree) nameOf(fd int) (string, error) {
	name, err := os.Readlink(procPath(fd))
	if err != nil {
		return "", err
	}
	if name == t.real {
		return ".", nil
	}
	rel, ok := strings.CutPrefix(name, strings.TrimSuffix(t.real, "/")+"/")
	if !ok || path.Clean(rel) != rel {
		return "", unix.EXDEV
	}
	return rel, nil
}

// removeAll removes base in the directory open as fd, with everything below, and follows no link. It calls gone with the
// path of each thing removed, which begins with full, the path of base.
func removeAll(fd int, base, full string, gone func(string)) error {
	err := unix.Unlinkat(fd, base, 0)
	if err == nil {
		gone(full)
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM {
		return err
	}
	sub, err := unix.Openat(fd, base, dirFlags|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	names, err := readNames(sub)
	for _, n := range names {
		if err == nil {
			err = removeAll(sub, n, full+"/"+n, gone)
		}
	}
	unix.Close(sub)
	if err != nil {
		return err
	}
	gone(full)
	return unix.Unlinkat(fd, base, unix.AT_REMOVEDIR)
}

// readNames lists an open directory in no order, from its start.
func readNames(fd int) ([]string, error) {
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		return nil, err
	}
	buf := make([]byte, 16<<10)
	var names []string
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}
