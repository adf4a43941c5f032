package index

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Parse reads what Marshal wrote. DataLoss when it was damaged since. Who made it is the caller's business: an index says
// what a file's bytes are, so it must be this host's own, or signed.
func Parse(data []byte, limits Limits) (*Index, error) {
	limits = limits.withDefaults()
	if !IsMarshalled(data) {
		return nil, unsupported("an index of unknown form")
	}
	data = data[len(magic):]
	if len(data) < sha256.Size {
		return nil, damagedData("the index is cut short")
	}
	if sum := sha256.Sum256(data[sha256.Size:]); !bytes.Equal(sum[:], data[:sha256.Size]) {
		return nil, damagedData("the index has a wrong checksum")
	}
	data = data[sha256.Size:]
	packed, n := binary.Uvarint(data)
	size, m := binary.Uvarint(data[max(n, 0):])
	if n <= 0 || m <= 0 || packed > uint64(len(data)-n-m) || size > uint64(limits.Bytes) {
		return nil, invalid("the index has lengths out of bounds")
	}
	data = data[n+m:]
	zr, err := newZstd(bytes.NewReader(data[:packed]))
	if err != nil {
		return nil, err
	}
	defer zr.Close()
	p := &parser{src: bufio.NewReader(io.LimitReader(zr, int64(size))), rest: data[packed:]}
	return p.index(limits)
}

// parser reads numbers and remembers the first error.
type parser struct {
	*builder
	src   *bufio.Reader
	rest  []byte // digests and windows
	err   error
	count struct{ digests, states, units, xattrs, nodes, entries int }
	kids  []uint32 // of each node, entries to come
}

func (p *parser) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

// uint reads a number of at most limit.
func (p *parser) uint(limit uint64) uint64 {
	if p.err != nil {
		return 0
	}
	v, err := binary.ReadUvarint(p.src)
	if err != nil {
		p.fail(invalid("the index is cut short: %v", err))
		return 0
	}
	if v > limit {
		p.fail(invalid("a number in the index is out of bounds"))
		return 0
	}
	return v
}

// int reads a number that may be negative and is at most limit when added to base, and not below 0.
func (p *parser) int(base, limit int64) int64 {
	if p.err != nil {
		return 0
	}
	v, err := binary.ReadVarint(p.src)
	if err != nil {
		p.fail(invalid("the index is cut short: %v", err))
		return 0
	}
	if v > limit || v < -limit || base+v < 0 || base+v > limit {
		p.fail(invalid("a number in the index is out of bounds"))
		return 0
	}
	return base + v
}

func (p *parser) string(limit uint64) string {
	n := p.uint(limit)
	if p.err != nil {
		return ""
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(p.src, text); err != nil {
		p.fail(invalid("the index is cut short: %v", err))
	}
	return string(text)
}

func (p *parser) index(l Limits) (*Index, error) {
	kind, c := kinds[p.uint(uint64(len(kinds)-1))], codec(p.uint(uint64(codecNone)))
	blob := int64(p.uint(maxSize))
	p.builder = newBuilder(kind, blob, l)
	p.x.codec = c
	p.x.prefetch = int64(p.uint(uint64(blob)))
	if p.x.diff = digest.Digest(p.string(256)); p.x.diff != "" && p.x.diff.Validate() != nil {
		p.fail(invalid("the index has a wrong digest"))
	}
	if c == 0 || kind == EStargz && c != codecGzip || kind == ZstdChunked && c != codecZstd {
		p.fail(invalid("the index has a compression that does not fit its kind"))
	}
	most := uint64(l.Nodes)
	p.count.digests = int(p.uint(most + uint64(2*l.Units)))
	p.count.states = int(p.uint(uint64(l.Units)))
	p.count.units = int(p.uint(uint64(l.Units)))
	p.count.xattrs = int(p.uint(most))
	p.count.nodes = int(p.uint(most))
	p.count.entries = int(p.uint(most))
	p.digests()
	p.states()
	if kind == Spans {
		p.x.chain = slices.Clone(p.take((p.count.units + 1) * chainState))
	}
	p.units()
	for range p.count.xattrs {
		p.readXattrs()
	}
	p.nodes()
	p.entries()
	if p.err == nil {
		if _, err := p.src.ReadByte(); err != io.EOF || len(p.rest) > 0 {
			p.fail(invalid("the index has something after its end"))
		}
	}
	if p.err != nil {
		return nil, p.err
	}
	x, err := p.finish()
	if err == nil && len(x.nodes) != p.count.nodes {
		err = invalid("the index has files without a name")
	}
	return x, err
}

// take cuts n bytes off the part that is not compressed.
func (p *parser) take(n int) []byte {
	if p.err == nil && n > len(p.rest) {
		p.fail(invalid("the index is cut short"))
	}
	if p.err != nil {
		return nil
	}
	out := p.rest[:n:n]
	p.rest = p.rest[n:]
	return out
}

func (p *parser) digests() { p.x.digests = slices.Clone(p.take(p.count.digests * digestSize)) }

func (p *parser) states() {
	for range p.count.states {
		c := checkpoint{bit: uint8(p.uint(7))}
		c.window = slices.Clone(p.take(int(p.uint(2 * windowSize))))
		if p.err != nil {
			return
		}
		p.x.states = append(p.x.states, c)
	}
}

func (p *parser) units() {
	end := int64(0)
	for range p.count.units {
		u := unit{
			offset: p.int(end, maxSize), length: uint32(p.uint(math.MaxUint32)), size: uint32(p.uint(math.MaxUint32)),
			digest: uint32(p.uint(math.MaxUint32)), state: uint32(p.uint(uint64(p.count.states))),
		}
		if u.digest&^rawFlag > uint32(p.count.digests) {
			p.fail(invalid("a unit of no digest"))
		}
		skip := uint32(p.uint(uint64(p.limits.UnitSize)))
		if p.err != nil {
			return
		}
		if skip > 0 && p.x.skips == nil {
			p.x.skips = make([]uint32, len(p.x.units), p.count.units)
		}
		if p.x.skips != nil {
			p.x.skips = append(p.x.skips, skip)
		}
		p.x.units = append(p.x.units, u)
		end = u.offset + int64(u.length)
	}
}

func (p *parser) readXattrs() {
	set := map[string]string{}
	for range p.uint(maxXattrs + 1) {
		k, v := p.string(maxName), p.string(maxXattrSize)
		if k == "" || strings.IndexByte(k, 0) >= 0 || isOverlayXattr(k) && (k != opaqueXattr || v != "y") {
			p.fail(invalid("extended attribute %.300q is out of bounds", k))
		}
		set[k] = v
	}
	if p.err != nil {
		return
	}
	if _, err := p.xattrSet(set); err != nil {
		p.fail(err)
	}
}

func (p *parser) nodes() {
	if p.count.nodes == 0 {
		p.fail(invalid("an index without a root"))
	}
	if p.err != nil {
		return
	}
	p.grow(p.count.nodes)
	before, place, unit := node{}, int64(0), int64(0)
	for i := range p.count.nodes {
		n := node{
			mode: uint32(p.uint(impliedFlag<<1 - 1)), uid: uint32(p.uint(math.MaxUint32)), gid: uint32(p.uint(math.MaxUint32)),
		}
		n.sec = p.seconds(before.sec)
		n.nsec = uint32(p.uint(1e9 - 1))
		n.xattrs = uint32(p.uint(uint64(len(p.x.xattrs))))
		before.sec = n.sec
		kids := uint64(0)
		switch n.mode & typeMask {
		case typeDir:
			kids = p.uint(uint64(p.count.entries))
		case typeLink:
			p.link(&n)
		case typeChar, typeBlock:
			n.a = uint32(p.uint(math.MaxUint32))
		case typeFIFO:
		case typeReg:
			n.size = int64(p.uint(maxSize - 1))
			n.digest = uint32(p.int(int64(before.digest), int64(p.count.digests)))
			before.digest = n.digest
			if p.x.stream() {
				place = p.int(place, maxSize)
				n.a, n.b = uint32(place), uint32(place>>32)
				place += n.size
			} else {
				p.pieces(&n, &unit)
			}
		default:
			p.fail(invalid("a file of unknown type"))
		}
		if p.err != nil {
			return
		}
		p.kids = append(p.kids, uint32(kids))
		if i == 0 {
			p.x.nodes = p.x.nodes[:0]
		}
		p.x.nodes = append(p.x.nodes, n)
	}
	if !p.x.nodes[0].dir() {
		p.fail(invalid("the root of a layer must be a directory"))
	}
}

// seconds reads a time as its difference from another. Any time will do.
func (p *parser) seconds(base int64) int64 {
	if p.err != nil {
		return 0
	}
	v, err := binary.ReadVarint(p.src)
	if err != nil {
		p.fail(invalid("the index is cut short: %v", err))
	}
	return base + v
}

func (p *parser) link(n *node) {
	target := p.string(maxPath)
	if target == "" || strings.IndexByte(target, 0) >= 0 {
		p.fail(invalid("a symbolic link without a target"))
	}
	if p.err != nil {
		return
	}
	at, err := p.keep(target)
	if err != nil {
		p.fail(err)
	}
	n.a, n.b, n.size = at, uint32(len(target)), int64(len(target))
}

func (p *parser) pieces(n *node, before *int64) {
	n.a, n.b = uint32(len(p.x.extents)), uint32(p.uint(uint64(p.limits.Units)))
	for range n.b {
		e := extent{offset: int64(p.uint(maxSize)), unit: zeroUnit}
		v, err := binary.ReadVarint(p.src)
		switch {
		case err != nil:
			p.fail(invalid("the index is cut short: %v", err))
		case v == math.MaxInt64:
		case v > math.MaxUint32 || v < -math.MaxUint32 || *before+v < 0 || *before+v >= int64(p.count.units):
			p.fail(invalid("a piece of no unit"))
		default:
			*before += v
			e.unit, e.from = uint32(*before), uint32(p.uint(math.MaxUint32))
		}
		if len(p.x.extents) >= p.limits.Units {
			p.fail(tooMuch("more than %d pieces", len(p.x.extents)))
		}
		if p.err != nil {
			return
		}
		p.x.extents = append(p.x.extents, e)
	}
}

// entries gives every node its names. A directory has one, and the root none.
func (p *parser) entries() {
	named := make([]bool, len(p.x.nodes))
	for i, kids := range p.kids {
		for range kids {
			base := p.string(maxName)
			at := p.int(int64(i), int64(len(p.x.nodes)-1))
			if p.err != nil {
				return
			}
			dir := p.x.nodes[at].dir()
			if base == "" || base == "." || base == ".." || strings.ContainsAny(base, "/\x00") || at == 0 || dir && named[at] {
				p.fail(invalid("name %.300q is not allowed", base))
				return
			}
			if p.lookup(uint32(i), base) >= 0 {
				p.fail(invalid("name %.300q is there twice", base))
				return
			}
			named[at] = true
			if err := p.enter(uint32(i), base, uint32(at)); err != nil {
				p.fail(err)
				return
			}
		}
	}
}
