package fuselayer

import (
	"context"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync/atomic"
	"time"

	"github.com/slipwayd/slipway/storage/lazyfuse/index"
	"golang.org/x/sys/unix"
)

// Layer shows a directory. Nodes are numbered by path, so two processes that open the same directory agree.
type Layer struct {
	// Read is called before each read, if it is there, and can delay it or make it fail.
	Read func(ctx context.Context, node int, off int64) error
	// Complete says whether a node's file is here in full; nil means that none is.
	Complete func(node int) bool
	// Reads counts calls of ReadAt, Closed is set by Close.
	Reads  atomic.Int64
	Closed atomic.Bool

	nodes []node
}

type node struct {
	index.Node
	path  string
	names []string // sorted
	child []int
}

// Open reads the directory's shape.
func Open(dir string) (*Layer, error) {
	l := &Layer{}
	numbers, inodes := map[string]int{}, map[uint64]int{}
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		i, linked := inodes[st.Ino]
		if !linked || st.Mode&unix.S_IFMT == unix.S_IFDIR {
			n, err := describe(p, &st)
			if err != nil {
				return err
			}
			i = len(l.nodes)
			l.nodes = append(l.nodes, n)
			numbers[p], inodes[st.Ino] = i, i
		}
		if p != dir {
			parent := &l.nodes[numbers[filepath.Dir(p)]]
			parent.names, parent.child = append(parent.names, filepath.Base(p)), append(parent.child, i)
		}
		return nil
	})
	return l, err
}

func describe(p string, st *unix.Stat_t) (n node, err error) {
	fi, err := os.Lstat(p)
	if err != nil {
		return n, err
	}
	n = node{path: p, Node: index.Node{Mode: fi.Mode(), UID: st.Uid, GID: st.Gid, Size: st.Size, Nlink: uint32(st.Nlink),
		ModTime: time.Unix(st.Mtim.Unix()), Rdev: uint32(st.Rdev)}}
	if fi.Mode()&fs.ModeSymlink != 0 {
		if n.Link, err = os.Readlink(p); err != nil {
			return n, err
		}
	}
	names := make([]byte, 4096)
	size, err := unix.Llistxattr(p, names)
	if err != nil || size == 0 {
		return n, err
	}
	n.Xattrs = map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:size]), "\x00"), "\x00") {
		value := make([]byte, 65536)
		size, err := unix.Lgetxattr(p, name, value)
		if err != nil {
			return n, err
		}
		n.Xattrs[name] = string(value[:size])
	}
	return n, nil
}

// Find answers the node at a path below the root.
func (l *Layer) Find(path string) int {
	at := 0
	for name := range strings.SplitSeq(path, "/") {
		next, ok := l.Lookup(at, name)
		if !ok {
			panic("no " + path)
		}
		at = next
	}
	return at
}

// Change alters what the layer says of a node, for trees that no disk could hold. Only before the layer is served.
func (l *Layer) Change(i int, f func(n *index.Node)) { f(&l.nodes[i].Node) }

// Len implements server.Layer.
func (l *Layer) Len() int { return len(l.nodes) }

// Node implements server.Layer.
func (l *Layer) Node(i int) index.Node { return l.nodes[i].Node }

// Lookup implements server.Layer.
func (l *Layer) Lookup(dir int, name string) (int, bool) {
	n := &l.nodes[dir]
	i := sort.SearchStrings(n.names, name)
	if i == len(n.names) || n.names[i] != name {
		return 0, false
	}
	return n.child[i], true
}

// ReadDir implements server.Layer.
func (l *Layer) ReadDir(dir, from int) iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		n := &l.nodes[dir]
		for i := from; i < len(n.names); i++ {
			if !yield(n.names[i], n.child[i]) {
				return
			}
		}
	}
}

// ReadAt implements server.Layer.
func (l *Layer) ReadAt(ctx context.Context, i int, p []byte, off int64) (int, error) {
	l.Reads.Add(1)
	if l.Read != nil {
		if err := l.Read(ctx, i, off); err != nil {
			return 0, err
		}
	}
	f, err := os.Open(l.nodes[i].path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.ReadAt(p, off)
}

// Backing implements server.Layer.
func (l *Layer) Backing(i int) (*os.File, bool) {
	if l.Complete == nil || !l.Complete(i) {
		return nil, false
	}
	f, err := os.Open(l.nodes[i].path)
	return f, err == nil
}

// Close implements server.Layer.
func (l *Layer) Close() error {
	l.Closed.Store(true)
	return nil
}
