package index

import (
	"encoding/hex"
	"io/fs"
	"iter"
	"sort"
	"time"

	"github.com/opencontainers/go-digest"
)

// Index describes one layer. It is immutable and safe for concurrent use.
//
// It is a few arrays without a pointer for each file: 100,000 files take less than 16 MiB. Files of the kinds Spans and SOCI
// have a place in the uncompressed layer, from which extents are computed; the others have extents of their own.
type Index struct {
	kind     Kind
	codec    codec
	blob     int64 // bytes of the layer's blob
	prefetch int64
	diff     digest.Digest // of the uncompressed layer, when the index was recorded
	chain    chain         // of the units, likewise
	nodes    []node
	entries  []entry // of each directory together, sorted by name
	text     string  // names and targets of links
	xattrs   []map[string]string
	digests  []byte // digestSize each
	extents  []extent
	units    []unit
	starts   []int64      // of stream kinds: where in the uncompressed layer each unit begins, and the end
	skips    []uint32     // of the units, nil when all are 0
	states   []checkpoint // by which units of State 0 and more are decoded
}

type codec uint8

const (
	codecGzip codec = iota + 1
	codecZstd
	codecNone
)

const digestSize = 32

// node in memory. The meaning of a and b depends on the type: a directory's entries [a, a+b); a link's target
// text[a:a+b]; a regular file's extents [a, a+b), or its place a|b<<32 in the uncompressed layer; a device's number a.
type node struct {
	size   int64
	sec    int64
	nsec   uint32
	mode   uint32 // as in stat(2), and the flags below
	uid    uint32
	gid    uint32
	nlink  uint32
	a, b   uint32
	digest uint32 // number of its digest and 1, or 0
	xattrs uint32 // number of its set and 1, or 0
}

// Flags above what stat(2) has in the mode.
const (
	impliedFlag = 1 << 16
	opaqueFlag  = 1 << 17 // while building; then it is in xattrs
)

// File types of stat(2), which Windows' syscall package has not got.
const (
	typeMask  = 0o170000
	typeFIFO  = 0o010000
	typeChar  = 0o020000
	typeDir   = 0o040000
	typeBlock = 0o060000
	typeReg   = 0o100000
	typeLink  = 0o120000
)

type entry struct {
	text, node uint32
	length     uint8
}

// extent in memory: its end is where the next one begins.
type extent struct {
	offset     int64
	unit, from uint32 // zeroUnit for zeros
}

const zeroUnit = 1<<32 - 1

// unit in memory. state is its checkpoint and 1, or 0.
type unit struct {
	offset       int64
	length, size uint32
	digest       uint32 // number and 1, or 0; with rawFlag, of what is fetched
	state        uint32
}

const rawFlag = 1 << 31

// checkpoint is where a gzip stream can be entered.
type checkpoint struct {
	bit    uint8  // of the first byte, lowest first
	window []byte // packed: what was decoded before, at most 32 KiB
}

func (n *node) dir() bool { return n.mode&typeMask == typeDir }

func (n *node) whiteout() bool { return n.mode&typeMask == typeChar && n.a == 0 }

// place of a regular file in the uncompressed layer.
func (n *node) place() int64 { return int64(n.a) | int64(n.b)<<32 }

func (x *Index) stream() bool { return x.kind == Spans || x.kind == SOCI }

// Kind answers what the index was made of.
func (x *Index) Kind() Kind { return x.kind }

// BlobSize answers the bytes of the layer's blob.
func (x *Index) BlobSize() int64 { return x.blob }

// DiffID answers the digest of the uncompressed layer if the index was recorded, else nothing.
func (x *Index) DiffID() digest.Digest { return x.diff }

// PrefetchEnd answers how much of the blob, from its start, its maker wants to be fetched before the first start (eStargz's
// landmark); 0 when it has no such wish.
func (x *Index) PrefetchEnd() int64 { return x.prefetch }

// Len answers how many nodes there are.
func (x *Index) Len() int { return len(x.nodes) }

// Node answers node i, which must be below Len.
func (x *Index) Node(i int) Node {
	n := &x.nodes[i]
	out := x.attributes(n)
	if n.mode&typeMask == typeLink {
		out.Link = x.text[n.a : n.a+n.b]
	}
	return out
}

// attributes answers all of n but a link's target.
func (x *Index) attributes(n *node) Node {
	out := Node{
		Mode: FileMode(n.mode), UID: n.uid, GID: n.gid, Size: n.size, Nlink: n.nlink,
		ModTime: time.Unix(n.sec, int64(n.nsec)), Content: x.digestOf(n.digest),
	}
	if t := n.mode & typeMask; t == typeChar || t == typeBlock {
		out.Rdev = n.a
	}
	if n.xattrs > 0 {
		out.Xattrs = x.xattrs[n.xattrs-1]
	}
	return out
}

// Implied says of a directory that the layer has things in it but does not describe it: it looks like that of the layers
// below, and like the Node, if none has it.
func (x *Index) Implied(i int) bool { return x.nodes[i].mode&impliedFlag != 0 }

// FileMode translates the mode bits of stat(2).
func FileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	if mode&0o4000 != 0 {
		m |= fs.ModeSetuid
	}
	if mode&0o2000 != 0 {
		m |= fs.ModeSetgid
	}
	if mode&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	switch mode & typeMask {
	case typeDir:
		m |= fs.ModeDir
	case typeLink:
		m |= fs.ModeSymlink
	case typeFIFO:
		m |= fs.ModeNamedPipe
	case typeChar:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case typeBlock:
		m |= fs.ModeDevice
	}
	return m
}

// digestOf answers digest number n-1, nothing for 0.
func (x *Index) digestOf(n uint32) digest.Digest {
	if n == 0 {
		return ""
	}
	at := int(n-1) * digestSize
	return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(x.digests[at:at+digestSize]))
}

func (x *Index) name(e *entry) string { return x.text[e.text : e.text+uint32(e.length)] }

func (x *Index) entriesOf(dir int) []entry {
	if n := &x.nodes[dir]; n.dir() {
		return x.entries[n.a : n.a+n.b]
	}
	return nil
}

// Lookup answers the node called name in directory dir.
func (x *Index) Lookup(dir int, name string) (int, bool) {
	list := x.entriesOf(dir)
	at, found := sort.Find(len(list), func(i int) int {
		return compare(name, x.name(&list[i]))
	})
	if !found {
		return 0, false
	}
	return int(list[at].node), true
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// ReadDir lists directory dir by name from its entry number from on, without "." and "..".
func (x *Index) ReadDir(dir, from int) iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		list := x.entriesOf(dir)
		for i := max(0, from); i < len(list); i++ {
			if !yield(x.name(&list[i]), int(list[i].node)) {
				return
			}
		}
	}
}

// Find answers the node at a path from the root, without following links.
func (x *Index) Find(path string) (int, bool) {
	at := 0
	for path != "" {
		var name string
		name, path = cutName(path)
		if name == "" || name == "." {
			continue
		}
		next, ok := x.Lookup(at, name)
		if !ok {
			return 0, false
		}
		at = next
	}
	return at, true
}
