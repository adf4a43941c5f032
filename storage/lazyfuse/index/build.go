package index

import (
	"bytes"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
)

const (
	maxName       = 255
	maxPath       = 4095
	maxSize       = 1 << 62  // of files and blobs: no sum of two overflows
	maxText       = 12 << 20 // of names and targets
	maxXattrs     = 256
	maxXattrSize  = 64 << 10
	maxXattrTotal = 8 << 20 // bytes of all distinct sets
)

// builder collects a tree within limits. Nodes and names are appended; what a later one replaces is left out by finish.
type builder struct {
	x       Index
	limits  Limits
	text    []byte
	names   []name
	table   []uint32 // hash table of names: numbers of names and 1
	seed    maphash.Seed
	sets    map[string]uint32 // of attributes, by their canonical form
	setSize int
	total   int64               // bytes of all files
	placed  int                 // entries, of whatever kind
	fresh   uint32              // a directory that the last of them has described, 0 for none or the root
	given   map[uint32]struct{} // directories that somebody was told of while the tree grows; nil when nobody is
	last    struct {
		path string // the directory of the name before
		node uint32
	}
}

type name struct {
	parent, node uint32
	text         uint32
	length       uint8
	dead         bool
}

func newBuilder(kind Kind, blob int64, limits Limits) *builder {
	b := &builder{limits: limits.withDefaults(), seed: maphash.MakeSeed(), table: make([]uint32, 1<<10)}
	b.x.kind, b.x.blob = kind, blob
	b.x.nodes = append(b.x.nodes, node{mode: typeDir | 0o755 | impliedFlag})
	return b
}

// grow makes room for n names, so that no garbage comes up on the way.
func (b *builder) grow(n int) {
	n = min(n, b.limits.Nodes)
	b.x.nodes = append(make([]node, 0, n+1), b.x.nodes...)
	b.names = make([]name, 0, n)
	for len(b.table) < n+n/2 {
		b.table = make([]uint32, 2*len(b.table))
	}
}

func (b *builder) hash(parent uint32, base string) uint64 {
	return maphash.String(b.seed, base) ^ uint64(parent)*0x9e3779b97f4a7c15
}

// lookup answers the number of a living name in directory parent, or -1.
func (b *builder) lookup(parent uint32, base string) int {
	mask := uint64(len(b.table) - 1)
	for at := b.hash(parent, base) & mask; b.table[at] != 0; at = (at + 1) & mask {
		n := &b.names[b.table[at]-1]
		if n.parent == parent && !n.dead && string(b.text[n.text:n.text+uint32(n.length)]) == base {
			return int(b.table[at] - 1)
		}
	}
	return -1
}

func (b *builder) slot(number int) {
	n := &b.names[number]
	mask := uint64(len(b.table) - 1)
	at := b.hash(n.parent, string(b.text[n.text:n.text+uint32(n.length)])) & mask
	for b.table[at] != 0 {
		at = (at + 1) & mask
	}
	b.table[at] = uint32(number + 1)
}

// enter gives a node a name that is not taken.
func (b *builder) enter(parent uint32, base string, node uint32) error {
	if len(b.names) >= b.limits.Nodes {
		return tooMuch("more than %d names", b.limits.Nodes)
	}
	text, err := b.keep(base)
	if err != nil {
		return err
	}
	b.names = append(roomFor(b.names, b.limits.Nodes), name{parent: parent, node: node, text: text, length: uint8(len(base))})
	if 4*len(b.names) > 3*len(b.table) {
		b.table = make([]uint32, 2*len(b.table))
		for i := range b.names {
			b.slot(i)
		}
		return nil
	}
	b.slot(len(b.names) - 1)
	return nil
}

// keep stores a text and answers where.
func (b *builder) keep(s string) (uint32, error) {
	if len(b.text)+len(s) > maxText {
		return 0, tooMuch("more than %d bytes of names", maxText)
	}
	if len(b.text)+len(s) > cap(b.text) {
		b.text = append(make([]byte, 0, max(1<<12, len(b.text)+len(s), min(2*len(b.text), maxText))), b.text...)
	}
	b.text = append(b.text, s...)
	return uint32(len(b.text) - len(s)), nil
}

// roomFor makes room for one more in s, which will not be longer than limit. append alone leaves five times as much garbage.
func roomFor[T any](s []T, limit int) []T {
	if len(s) < cap(s) || len(s) < 1<<10 {
		return s
	}
	return append(make([]T, 0, max(len(s)+1, min(2*len(s), limit))), s...)
}

func (b *builder) addNode(n node) (uint32, error) {
	if len(b.x.nodes) >= b.limits.Nodes {
		return 0, tooMuch("more than %d files", b.limits.Nodes)
	}
	b.x.nodes = append(roomFor(b.x.nodes, b.limits.Nodes), n)
	return uint32(len(b.x.nodes) - 1), nil
}

// addDigest answers the number of a digest and 1. Equal ones in a row are kept once: that of a file is often that of its
// only unit.
func (b *builder) addDigest(sum []byte) uint32 {
	if d := b.x.digests; len(d) == 0 || !bytes.Equal(d[len(d)-digestSize:], sum) {
		b.x.digests = append(d, sum...)
	}
	return uint32(len(b.x.digests) / digestSize)
}

// sumOf answers digest number-1.
func (b *builder) sumOf(number uint32) []byte {
	return b.x.digests[(number-1)*digestSize : number*digestSize]
}

// addXattrs answers the number of a set of attributes and 1, or 0 for none. It drops those that overlayfs acts on (a layer
// must not redirect lookups) and, of anything but files and directories, those that no file system keeps.
func (b *builder) addXattrs(set map[string]string, mode uint32) (uint32, error) {
	kept := make(map[string]string, len(set))
	for k, v := range set {
		if isOverlayXattr(k) {
			continue
		}
		if t := mode & typeMask; strings.HasPrefix(k, "user.") && t != typeReg && t != typeDir {
			continue
		}
		if k == "" || len(k) > maxName || len(v) > maxXattrSize || strings.IndexByte(k, 0) >= 0 || len(set) > maxXattrs {
			return 0, invalid("extended attribute %.300q is out of bounds", k)
		}
		kept[k] = v
	}
	return b.xattrSet(kept)
}

func (b *builder) xattrSet(set map[string]string) (uint32, error) {
	if len(set) == 0 {
		return 0, nil
	}
	key := canonical(set)
	if n, known := b.sets[key]; known {
		return n, nil
	}
	if b.setSize += len(key) + 64; b.setSize > maxXattrTotal {
		return 0, tooMuch("more than %d bytes of extended attributes", maxXattrTotal)
	}
	if b.sets == nil {
		b.sets = map[string]uint32{}
	}
	b.x.xattrs = append(b.x.xattrs, set)
	b.sets[key] = uint32(len(b.x.xattrs))
	return b.sets[key], nil
}

// canonical is one text for equal sets: how many there are, then names and values after their lengths.
func canonical(set map[string]string) string {
	var w writer
	w.uint(uint64(len(set)))
	for _, k := range slices.Sorted(maps.Keys(set)) {
		w.string(k)
		w.string(set[k])
	}
	return w.String()
}

func isOverlayXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}
