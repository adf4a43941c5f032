package index

import "strings"

// Names with a meaning (OCI image-spec layer.md, "Whiteouts" and "Opaque Whiteout"); those that begin with metaPrefix belong
// to aufs.
const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh."
	opaqueMarker   = ".wh..wh..opq"
	opaqueXattr    = "trusted.overlay.opaque"
)

// file is what a document says of one name.
type file struct {
	path   string
	node   node // without a and b for links
	target string
	hard   bool // a hard link to target: the rest does not count
	xattrs map[string]string
}

// cutName cuts the first name off a path.
func cutName(path string) (first, rest string) {
	first, rest, _ = strings.Cut(path, "/")
	return first, rest
}

// splitPath checks a path of a document and answers it as directory and last name, both without "." and empty names; base
// is empty for the root.
func splitPath(path string) (dir, base string, err error) {
	if len(path) > maxPath || strings.IndexByte(path, 0) >= 0 {
		return "", "", invalid("name %.100q is too long or has a zero byte", path)
	}
	clean := make([]byte, 0, len(path))
	at := 0 // of the last name
	for rest := path; rest != ""; {
		var name string
		name, rest = cutName(rest)
		switch {
		case name == "" || name == ".":
			continue
		case name == "..":
			return "", "", invalid("name %.300q leads out of the layer", path)
		case len(name) > maxName:
			return "", "", invalid("name %.300q is longer than %d bytes", name, maxName)
		}
		if len(clean) > 0 {
			clean = append(clean, '/')
		}
		at = len(clean)
		clean = append(clean, name...)
	}
	if at == 0 {
		return "", string(clean), nil
	}
	return string(clean[:at-1]), string(clean[at:]), nil
}

// relative refuses an absolute path. Archives may have them, documents that were made for being looked up may not.
func relative(path string) error {
	if strings.HasPrefix(path, "/") {
		return invalid("name %.300q is absolute", path)
	}
	return nil
}

// place puts f in the tree and answers its node. With replace, a name that is there gives way, as in a tar; else it is an
// error. The second answer is false for what only marks something, and has no content.
func (b *builder) place(f *file, replace bool) (uint32, bool, error) {
	b.placed++
	b.fresh = 0
	dir, base, err := splitPath(f.path)
	if err != nil {
		return 0, false, err
	}
	if base == "" {
		return 0, false, b.root(f)
	}
	if base != opaqueMarker && (strings.HasPrefix(base, metaPrefix) || hasName(dir, metaPrefix)) {
		return 0, false, nil // aufs's own
	}
	if hasName(dir, whiteoutPrefix) {
		return 0, false, invalid("a whiteout cannot be a directory")
	}
	parent, err := b.dir(dir)
	if err != nil {
		return 0, false, err
	}
	hidden, isWhiteout := strings.CutPrefix(base, whiteoutPrefix)
	switch {
	case base == opaqueMarker:
		return 0, false, b.hide(parent)
	case isWhiteout && (hidden == "" || hidden == "." || hidden == ".."):
		return 0, false, invalid("whiteout of nothing")
	case isWhiteout:
		return 0, false, b.whiteout(parent, hidden)
	case !f.hard && f.node.mode&typeMask == typeChar && f.node.a == 0:
		return 0, false, b.whiteout(parent, base) // overlayfs would take it for one whatever it was called
	case f.hard:
		return 0, false, b.hardLink(f, parent, base, replace)
	}
	n, err := b.insert(f, parent, base, replace)
	if f.node.mode&typeMask == typeDir {
		b.fresh = n
	}
	return n, true, err
}

func hasName(dir, prefix string) bool {
	return strings.HasPrefix(dir, prefix) || strings.Contains(dir, "/"+prefix)
}

func (b *builder) root(f *file) error {
	if f.hard || f.node.mode&typeMask != typeDir {
		return invalid("the root of a layer must be a directory")
	}
	return b.describe(0, f)
}

// describe gives directory n the attributes of f.
func (b *builder) describe(n uint32, f *file) (err error) {
	keep := b.x.nodes[n].mode & opaqueFlag
	b.x.nodes[n] = f.node
	b.x.nodes[n].mode |= keep
	b.x.nodes[n].xattrs, err = b.addXattrs(f.xattrs, f.node.mode)
	return err
}

// dir answers the directory at a clean path and makes what is missing on the way.
func (b *builder) dir(path string) (uint32, error) {
	if path == "" {
		return 0, nil
	}
	if path == b.last.path {
		return b.last.node, nil
	}
	at := uint32(0)
	for rest := path; rest != ""; {
		var base string
		base, rest = cutName(rest)
		number := b.lookup(at, base)
		if number < 0 {
			next, err := b.mkdir(at, base, impliedFlag)
			if err != nil {
				return 0, err
			}
			at = next
			continue
		}
		n := b.names[number].node
		switch there := &b.x.nodes[n]; {
		case there.dir():
		case there.whiteout():
			// What was below is hidden, and nothing of it shows again.
			b.names[number].dead = true
			next, err := b.mkdir(at, base, opaqueFlag)
			if err != nil {
				return 0, err
			}
			n = next
		case there.mode&typeMask == typeLink:
			return 0, unsupported("%.300q is reached through a symbolic link", path)
		default:
			return 0, invalid("%.300q is in something that is not a directory", path)
		}
		at = n
	}
	b.last.path, b.last.node = path, at
	return at, nil
}

func (b *builder) mkdir(parent uint32, base string, flags uint32) (uint32, error) {
	n, err := b.addNode(node{mode: typeDir | 0o755 | flags})
	if err != nil {
		return 0, err
	}
	return n, b.enter(parent, base, n)
}

// hide marks directory n as one that hides what lies below.
func (b *builder) hide(n uint32) error {
	if _, given := b.given[n]; given && b.x.nodes[n].mode&opaqueFlag == 0 {
		return ErrTakenBack
	}
	b.x.nodes[n].mode |= opaqueFlag
	return nil
}

// whiteout hides base of the layers below; what this layer made of that name stays.
func (b *builder) whiteout(parent uint32, base string) error {
	if number := b.lookup(parent, base); number >= 0 {
		if n := b.names[number].node; b.x.nodes[n].dir() {
			return b.hide(n)
		}
		return nil
	}
	n, err := b.addNode(node{mode: typeChar})
	if err != nil {
		return err
	}
	return b.enter(parent, base, n)
}

// insert makes a node for f, in place of a whiteout, of a directory that was only implied, or of anything with replace.
func (b *builder) insert(f *file, parent uint32, base string, replace bool) (uint32, error) {
	isDir := f.node.mode&typeMask == typeDir
	flags := uint32(0)
	if number := b.lookup(parent, base); number >= 0 {
		there := b.names[number].node
		old := &b.x.nodes[there]
		switch {
		case isDir && old.dir() && (replace || old.mode&impliedFlag != 0):
			return there, b.describe(there, f)
		case !replace && !old.whiteout():
			return 0, invalid("name %.300q is there twice", f.path)
		}
		b.remove(number)
		if isDir {
			flags = opaqueFlag // this layer hid what is below before it made the directory
		}
	}
	n := f.node
	n.mode |= flags
	var err error
	if n.xattrs, err = b.addXattrs(f.xattrs, n.mode); err != nil {
		return 0, err
	}
	if n.mode&typeMask == typeLink {
		if len(f.target) == 0 || len(f.target) > maxPath || strings.IndexByte(f.target, 0) >= 0 {
			return 0, invalid("symbolic link %.300q has a target of %d bytes", f.path, len(f.target))
		}
		if n.a, err = b.keep(f.target); err != nil {
			return 0, err
		}
		n.b, n.size = uint32(len(f.target)), int64(len(f.target))
	}
	if b.total += n.size; n.size < 0 || n.size >= maxSize || b.total >= maxSize {
		return 0, invalid("file %.300q has a size out of bounds", f.path)
	}
	number, err := b.addNode(n)
	if err != nil {
		return 0, err
	}
	return number, b.enter(parent, base, number)
}

// remove takes a name away, with everything below it.
func (b *builder) remove(number int) {
	b.names[number].dead = true
	b.last.path = "" // it may have been below
}

// hardLink gives an earlier file another name. A target that comes later, or never, is refused: so there are no loops.
func (b *builder) hardLink(f *file, parent uint32, base string, replace bool) error {
	target, ok, err := b.find(f.target)
	if err != nil {
		return err
	}
	if !ok {
		return invalid("hard link %.300q to %.300q, which is not there before it", f.path, f.target)
	}
	if n := &b.x.nodes[target]; n.dir() || n.whiteout() {
		return invalid("hard link %.300q to %.300q, which is no file", f.path, f.target)
	}
	if number := b.lookup(parent, base); number >= 0 {
		if b.names[number].node == target {
			return nil // a link to itself changes nothing
		}
		if !replace && !b.x.nodes[b.names[number].node].whiteout() {
			return invalid("name %.300q is there twice", f.path)
		}
		b.remove(number)
	}
	return b.enter(parent, base, target)
}

// find answers the node at a path, which names a file of this layer.
func (b *builder) find(path string) (uint32, bool, error) {
	dir, base, err := splitPath(path)
	if err != nil {
		return 0, false, err
	}
	at := uint32(0)
	for rest := joinPath(dir, base); rest != ""; {
		var name string
		name, rest = cutName(rest)
		number := b.lookup(at, name)
		if number < 0 {
			return 0, false, nil
		}
		if at = b.names[number].node; rest != "" && b.x.nodes[at].mode&typeMask == typeLink {
			return 0, false, unsupported("%.300q is reached through a symbolic link", path)
		}
	}
	return at, true, nil
}

func joinPath(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}

// mknod answers mknod(2)'s number of a device (glibc's makedev), within what the kernel keeps.
func mknod(major, minor int64) (uint32, error) {
	if major < 0 || major >= 1<<12 || minor < 0 || minor >= 1<<20 {
		return 0, invalid("device number %d:%d", major, minor)
	}
	return uint32(minor&0xff | major<<8 | minor&^0xff<<12), nil
}
