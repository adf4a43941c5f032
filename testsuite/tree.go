package testsuite

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Node is one file of a Tree. Nodes that are the same pointer are one file with several names.
type Node struct {
	Type         byte // as in archive/tar
	Mode         int64
	UID, GID     int
	MTime        time.Time
	Link         string // where a symbolic link points
	Data         string
	Major, Minor int64
	Xattrs       map[string]string
}

// Tree is a model of a directory tree: what a layer driver must show, written without a thought for speed or disks. Keys
// are paths without leading slash; the root is ".".
type Tree map[string]*Node

// NewTree answers an empty tree.
func NewTree() Tree { return Tree{".": newDirNode()} }

func newDirNode() *Node { return &Node{Type: tar.TypeDir, Mode: 0o755, MTime: time.Unix(0, 0)} }

// Clone answers a tree that can be changed without changing t.
func (t Tree) Clone() Tree {
	copies := map[*Node]*Node{}
	out := Tree{}
	for p, n := range t {
		if copies[n] == nil {
			c := *n
			c.Xattrs = maps.Clone(n.Xattrs)
			copies[n] = &c
		}
		out[p] = copies[n]
	}
	return out
}

// Apply changes t as the uncompressed tar r says (OCI image-spec layer.md, "Applying Changesets").
func (t Tree) Apply(r io.Reader) error {
	ours := map[string]bool{}
	tr := tar.NewReader(r)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return errors.Join(err, errdefs.ErrInvalidArgument)
		}
		if hdr.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		name := path.Clean(strings.TrimLeft(hdr.Name, "/"))
		if name == ".." || strings.HasPrefix(name, "../") {
			return fmt.Errorf("%q: %w", hdr.Name, errdefs.ErrInvalidArgument)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return errors.Join(err, errdefs.ErrInvalidArgument)
		}
		if err := t.entry(name, hdr, string(data), ours); err != nil {
			return fmt.Errorf("%q: %w", hdr.Name, err)
		}
	}
}

func (t Tree) entry(name string, hdr *tar.Header, data string, ours map[string]bool) error {
	if name == "." {
		t["."] = node(hdr, "")
		return nil
	}
	if strings.HasPrefix(name, ".wh..wh.") && name != ".wh..wh..opq" || strings.Contains(name, "/.wh..wh.") && path.Base(name) != ".wh..wh..opq" {
		return nil
	}
	dir, err := t.mkdirs(path.Dir(name), ours, 0)
	if err != nil {
		return err
	}
	base := path.Base(name)
	name = path.Join(dir, base)
	if base == ".wh..wh..opq" {
		t.removeBelow(dir, ours)
		return nil
	}
	if hidden, ok := strings.CutPrefix(base, ".wh."); ok {
		hidden = path.Join(dir, hidden)
		t.removeBelow(hidden, ours)
		if !ours[hidden] {
			delete(t, hidden)
		}
		return nil
	}
	old := t[name]
	if old == nil || old.Type != tar.TypeDir || hdr.Typeflag != tar.TypeDir {
		t.removeBelow(name, nil)
	}
	ours[name] = true
	if hdr.Typeflag != tar.TypeLink {
		t[name] = node(hdr, data)
		return nil
	}
	target := path.Clean(strings.TrimLeft(hdr.Linkname, "/"))
	if dir, err = t.mkdirs(path.Dir(target), ours, 0); err != nil {
		return err
	}
	target = path.Join(dir, path.Base(target))
	if t[target] == nil || t[target].Type == tar.TypeDir {
		return fmt.Errorf("hard link to %q: %w", hdr.Linkname, errdefs.ErrInvalidArgument)
	}
	t[name] = t[target]
	return nil
}

// mkdirs answers directory p with links resolved, and makes what is missing.
func (t Tree) mkdirs(p string, ours map[string]bool, depth int) (string, error) {
	if p == "." {
		return p, nil
	}
	if depth > 100 {
		return "", fmt.Errorf("%q leads in circles: %w", p, errdefs.ErrInvalidArgument)
	}
	parent, err := t.mkdirs(path.Dir(p), ours, depth+1)
	if err != nil {
		return "", err
	}
	at := path.Join(parent, path.Base(p))
	n := t[at]
	switch {
	case n == nil:
		t[at] = newDirNode()
		ours[at] = true
	case n.Type == tar.TypeSymlink:
		target := n.Link
		if !path.IsAbs(target) {
			target = path.Join("/", parent, target)
		}
		return t.mkdirs(path.Clean(strings.TrimPrefix(path.Clean(target), "/")), ours, depth+1)
	case n.Type != tar.TypeDir:
		return "", fmt.Errorf("%q is not a directory: %w", at, errdefs.ErrInvalidArgument)
	}
	return at, nil
}

func (t Tree) removeBelow(dir string, keep map[string]bool) {
	prefix := dir + "/"
	if dir == "." {
		prefix = ""
	}
	kept := func(p string) bool {
		for k := range keep {
			if k == p || strings.HasPrefix(k, p+"/") {
				return true
			}
		}
		return false
	}
	for p := range t {
		if p != "." && p != dir && strings.HasPrefix(p, prefix) && !kept(p) {
			delete(t, p)
		}
	}
}

func node(hdr *tar.Header, data string) *Node {
	n := &Node{Type: hdr.Typeflag, Mode: hdr.Mode & 0o7777, UID: hdr.Uid, GID: hdr.Gid, MTime: hdr.ModTime, Link: hdr.Linkname, Data: data}
	switch n.Type {
	case tar.TypeGNUSparse, tar.TypeCont:
		n.Type = tar.TypeReg
	case tar.TypeSymlink:
		n.Mode = 0o777
	case tar.TypeChar, tar.TypeBlock:
		n.Major, n.Minor = hdr.Devmajor, hdr.Devminor
	}
	for k, v := range hdr.PAXRecords {
		if x, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok && !strings.Contains(x, ".overlay.") {
			n.set(x, v)
		}
	}
	return n
}

func (n *Node) set(xattr, value string) {
	if n.Xattrs == nil {
		n.Xattrs = map[string]string{}
	}
	n.Xattrs[xattr] = value
}

// Diff writes what makes lower into t.
func (t Tree) Diff(lower Tree, w io.Writer) error {
	tw := tar.NewWriter(w)
	all := maps.Clone(lower)
	maps.Copy(all, t)
	first := map[*Node]string{}
	for _, p := range slices.Sorted(maps.Keys(all)) {
		now, was := t[p], lower[p]
		var err error
		switch {
		case now == nil && t[path.Dir(p)] != nil && t[path.Dir(p)].Type == tar.TypeDir:
			err = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(path.Dir(p), ".wh."+path.Base(p))})
		case now == nil || was != nil && now.line() == was.line():
		case first[now] != "":
			err = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: p, Linkname: first[now], ModTime: now.MTime, Format: tar.FormatPAX})
		default:
			first[now] = p
			err = now.write(tw, p)
		}
		if err != nil {
			return err
		}
	}
	return tw.Close()
}

func (n *Node) write(tw *tar.Writer, name string) error {
	hdr := &tar.Header{
		Typeflag: n.Type, Name: name, Linkname: n.Link, Size: int64(len(n.Data)), Mode: n.Mode, Uid: n.UID, Gid: n.GID, ModTime: n.MTime,
		Devmajor: n.Major, Devminor: n.Minor, Format: tar.FormatPAX, PAXRecords: map[string]string{},
	}
	for k, v := range n.Xattrs {
		hdr.PAXRecords["SCHILY.xattr."+k] = v
	}
	if err := tw.WriteHeader(hdr); err != nil {
		return err
	}
	_, err := io.WriteString(tw, n.Data)
	return err
}

func (n *Node) line() string {
	data := n.Data
	if len(data) > 40 {
		data = fmt.Sprintf("%.20s… %d bytes, sum %x", data, len(data), sum(data))
	}
	return fmt.Sprintf("%c %04o %d:%d %s %q %q %d:%d %v", n.Type, n.Mode, n.UID, n.GID, n.MTime.UTC().Format(time.RFC3339Nano), n.Link, data, n.Major, n.Minor, n.Xattrs)
}

func sum(s string) (h uint64) {
	for _, c := range []byte(s) {
		h = h*1099511628211 + uint64(c) + 1
	}
	return h
}

// Lines describes every file on a line, with the other names it has. Equal trees have equal lines.
func (t Tree) Lines() []string {
	names := map[*Node][]string{}
	for p, n := range t {
		names[n] = append(names[n], p)
	}
	var out []string
	for _, p := range slices.Sorted(maps.Keys(t)) {
		line := p + ": " + t[p].line()
		if n := names[t[p]]; len(n) > 1 {
			slices.Sort(n)
			line += " = " + strings.Join(n, " ")
		}
		out = append(out, line)
	}
	return out
}
