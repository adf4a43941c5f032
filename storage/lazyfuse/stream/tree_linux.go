package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/storage/lazyfuse/index"
)

// tree is a layer's files as slipwayd has put them in place. They do not change. What was known while the layer passed keeps its number;
// the rest is numbered in the order of the walk, so that each server gives it the same.
type tree struct {
	root  *os.Root
	files []file
	inode map[uint64]int // numbers of files with several names
}

type file struct {
	index.Node
	there  bool
	parent int
	name   string // one of them
	kids   []kid  // of a directory, by name
}

type kid struct {
	name string
	file int
}

// opaque is overlayfs's mark of a directory that hides what lies below.
const opaque = "trusted.overlay.opaque"

// maxFiles bounds the memory that a layer takes.
const maxFiles = 1 << 18

// openTree reads what is in dir.
func openTree(dir string, known *index.Growing) (t *tree, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	t = &tree{root: root, files: make([]file, known.Len()), inode: map[uint64]int{}}
	if err := t.readRoot(dir, known); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot read %s: %w", dir, err), root.Close())
	}
	return t, nil
}

func (t *tree) readRoot(dir string, known *index.Growing) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	n, _, err := nodeAt(fd, ".")
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	t.files[0] = file{Node: n, there: true, name: "."}
	return t.readDir(os.NewFile(uintptr(fd), dir), 0, known)
}

// readDir reads directory number from its descriptor, which it closes, and all below.
func (t *tree) readDir(dir *os.File, number int, known *index.Growing) error {
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	kids := make([]kid, 0, len(names))
	for _, name := range names {
		n, st, err := nodeAt(int(dir.Fd()), name)
		if err != nil {
			return fmt.Errorf("%.300q: %w", name, err)
		}
		at, err := t.number(number, name, &n, st, known)
		if err != nil {
			return err
		}
		kids = append(kids, kid{name, at})
		if !n.Mode.IsDir() {
			continue
		}
		fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%.300q: %w", name, err)
		}
		if err := t.readDir(os.NewFile(uintptr(fd), name), at, known); err != nil {
			return err
		}
	}
	t.files[number].kids = kids
	return nil
}

// number enters a file.
func (t *tree) number(parent int, name string, n *index.Node, st *unix.Stat_t, known *index.Growing) (int, error) {
	several := !n.Mode.IsDir() && n.Nlink > 1
	if several {
		if at, ok := t.inode[st.Ino]; ok {
			return at, nil
		}
	}
	at, ok := known.Number(parent, name)
	if !ok || t.files[at].there || !sameFile(known, at, n) {
		if at = len(t.files); at >= 2*maxFiles {
			return 0, fmt.Errorf("more than %d files: %w", 2*maxFiles, errdefs.ErrOutOfRange)
		}
		t.files = append(t.files, file{})
	}
	t.files[at] = file{Node: *n, there: true, parent: parent, name: name}
	if several {
		t.inode[st.Ino] = at
	}
	return at, nil
}

// sameFile says whether n is node at of what has passed, so that it may have its number, which to the kernel means these attributes and
// these bytes. Of a tree that stopped growing before the layer's end that is not known of files: there may have been another of the name.
func sameFile(known *index.Growing, at int, n *index.Node) bool {
	then := known.Node(at)
	if then.Mode.Type() != n.Mode.Type() || then.Xattrs[opaque] != n.Xattrs[opaque] {
		return false
	}
	return n.Mode.IsDir() || known.Err() == nil
}

func (t *tree) has(i int) bool { return i < len(t.files) && t.files[i].there }

func (t *tree) lookup(dir int, name string) (int, bool) {
	if !t.has(dir) {
		return 0, false
	}
	kids := t.files[dir].kids
	at, ok := sort.Find(len(kids), func(i int) int { return strings.Compare(name, kids[i].name) })
	if !ok {
		return 0, false
	}
	return kids[at].file, true
}

// open opens a regular file. The caller closes it.
func (t *tree) open(i int) (*os.File, error) {
	if !t.has(i) || !t.files[i].Mode.IsRegular() {
		return nil, fmt.Errorf("the layer has no file %d: %w", i, errdefs.ErrNotFound)
	}
	path := t.files[i].name
	for up := t.files[i].parent; up != 0; up = t.files[up].parent {
		path = t.files[up].name + "/" + path
	}
	return t.root.Open(path)
}

// nodeAt reads the attributes of a file.
func nodeAt(dir int, name string) (index.Node, *unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return index.Node{}, nil, err
	}
	n := index.Node{Mode: index.FileMode(st.Mode), UID: st.Uid, GID: st.Gid, ModTime: time.Unix(st.Mtim.Unix()), Nlink: uint32(st.Nlink)}
	path := fmt.Sprintf("/proc/self/fd/%d/%s", dir, name)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		n.Size = st.Size
	case unix.S_IFLNK:
		link, err := os.Readlink(path)
		if err != nil {
			return n, nil, err
		}
		n.Link, n.Size = link, int64(len(link))
	case unix.S_IFCHR, unix.S_IFBLK:
		n.Rdev = unix.Major(st.Rdev)<<8&0xfff00 | unix.Minor(st.Rdev)&0xff | unix.Minor(st.Rdev)&^0xff<<12
	case unix.S_IFSOCK:
		n.Mode |= fs.ModeSocket
	}
	var err error
	n.Xattrs, err = xattrs(path)
	return n, &st, err
}

// xattrs reads the attributes that are the layer's: not the host's label, nor overlayfs's but for the mark of an opaque directory.
func xattrs(path string) (map[string]string, error) {
	size, err := unix.Llistxattr(path, nil)
	if err != nil || size == 0 {
		return nil, ignore(err, unix.ENOTSUP)
	}
	list := make([]byte, size)
	if size, err = unix.Llistxattr(path, list); err != nil {
		return nil, err
	}
	var set map[string]string
	for name := range bytes.SplitSeq(bytes.TrimSuffix(list[:size], []byte{0}), []byte{0}) {
		key := string(name)
		if key == "security.selinux" || strings.HasPrefix(key, "trusted.overlay.") && key != opaque {
			continue
		}
		value := make([]byte, 64<<10) // the kernel's own limit
		n, err := unix.Lgetxattr(path, key, value)
		if err != nil {
			return nil, err
		}
		if set == nil {
			set = map[string]string{}
		}
		set[key] = string(value[:n])
	}
	return set, nil
}

func ignore(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}
