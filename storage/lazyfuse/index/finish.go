package index

import (
	"cmp"
	"maps"
	"slices"
	"sort"
)

// finish drops what was replaced, sorts the directories, counts links and checks everything that had to wait for the end.
func (b *builder) finish() (*Index, error) {
	x := &b.x
	first, order := b.byParent()
	number := b.number(first, order)
	kept := 0
	for i := range x.nodes {
		if number[i] != dropped {
			kept++
		}
	}
	nodes := make([]node, kept)
	x.entries = make([]entry, 0, len(b.names))
	for i := range x.nodes {
		if number[i] == dropped {
			continue
		}
		n := x.nodes[i]
		if n.dir() {
			n.a = uint32(len(x.entries))
			for _, k := range order[first[i]:first[i+1]] {
				e := &b.names[k]
				x.entries = append(x.entries, entry{text: e.text, node: number[e.node], length: e.length})
			}
			n.b = uint32(len(x.entries)) - n.a
		}
		if err := b.markOpaque(&n); err != nil {
			return nil, err
		}
		nodes[number[i]] = n
	}
	x.nodes, x.text = nodes, string(b.text)
	x.entries, x.digests = exact(x.entries), exact(x.digests)
	x.extents, x.units, x.skips = exact(x.extents), exact(x.units), exact(x.skips)
	b.text, b.names, b.table, b.sets = nil, nil, nil, nil
	if err := x.check(b.limits); err != nil {
		return nil, err
	}
	return x, nil
}

// exact is s without room to grow, which is worth a copy in something that stays.
func exact[T any](s []T) []T {
	if cap(s)-len(s) <= len(s)/16 {
		return s
	}
	return append(make([]T, 0, len(s)), s...)
}

const (
	dropped    = 1<<32 - 1
	maxDeflate = 1032 // bytes that one byte of deflate can stand for
)

// byParent answers the living names of each directory i, sorted: order[first[i]:first[i+1]].
func (b *builder) byParent() (first, order []uint32) {
	first = make([]uint32, len(b.x.nodes)+2)
	for i := range b.names {
		if !b.names[i].dead {
			first[b.names[i].parent+2]++
		}
	}
	for i := 2; i < len(first); i++ {
		first[i] += first[i-1]
	}
	order = make([]uint32, first[len(first)-1])
	for i := range b.names {
		if n := &b.names[i]; !n.dead {
			order[first[n.parent+1]] = uint32(i)
			first[n.parent+1]++
		}
	}
	first = first[:len(first)-1]
	for i := range b.x.nodes {
		slices.SortFunc(order[first[i]:first[i+1]], func(p, q uint32) int {
			return slices.Compare(b.nameOf(p), b.nameOf(q))
		})
	}
	return first, order
}

func (b *builder) nameOf(number uint32) []byte {
	n := &b.names[number]
	return b.text[n.text : n.text+uint32(n.length)]
}

// number walks the tree from the root, counts links, and answers new numbers for what it met, in the old order.
func (b *builder) number(first, order []uint32) []uint32 {
	number := make([]uint32, len(b.x.nodes))
	for i := range number {
		number[i] = dropped
	}
	for i := range b.x.nodes {
		b.x.nodes[i].nlink = 0
	}
	number[0], b.x.nodes[0].nlink = 0, 2
	todo := []uint32{0}
	for len(todo) > 0 {
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, k := range order[first[dir]:first[dir+1]] {
			at := b.names[k].node
			number[at] = 0
			if n := &b.x.nodes[at]; n.dir() {
				n.nlink = 2
				b.x.nodes[dir].nlink++
				todo = append(todo, at)
			} else {
				n.nlink++
			}
		}
	}
	next := uint32(0)
	for i := range number {
		if number[i] != dropped {
			number[i] = next
			next++
		}
	}
	return number
}

// markOpaque turns the flag into the attribute that overlayfs reads.
func (b *builder) markOpaque(n *node) (err error) {
	if n.mode&opaqueFlag == 0 {
		return nil
	}
	n.mode &^= opaqueFlag
	set := map[string]string{opaqueXattr: "y"}
	if n.xattrs > 0 {
		maps.Copy(set, b.x.xattrs[n.xattrs-1])
	}
	n.xattrs, err = b.xattrSet(set)
	return err
}

// check verifies that units lie within the blob and do not overlap, and that files lie within units.
func (x *Index) check(l Limits) error {
	if x.blob <= 0 || x.blob >= maxSize {
		return invalid("blob of %d bytes", x.blob)
	}
	if len(x.units) > l.Units {
		return tooMuch("more than %d units", l.Units)
	}
	for u := range x.units {
		d := &x.units[u]
		if d.offset < 0 || d.length == 0 || d.offset > x.blob-int64(d.length) {
			return invalid("unit %d is outside of the blob", u)
		}
		if int64(d.size) > l.UnitSize {
			return unsupported("unit %d has %d bytes, more than %d", u, d.size, l.UnitSize)
		}
		if d.size == 0 || x.codec == codecNone && d.size != d.length || x.codec == codecGzip && int64(d.size) > maxDeflate*(int64(d.length)+1) {
			return invalid("unit %d has %d bytes in %d", u, d.size, d.length)
		}
		if d.digest == 0 && x.kind != Spans || d.digest&^rawFlag == 0 && d.digest != 0 {
			return unsupported("unit %d has no digest", u)
		}
	}
	if err := x.checkChain(); err != nil {
		return err
	}
	if x.stream() {
		return x.checkStream()
	}
	return x.checkExtents()
}

// checkChain checks the states of a recorded layer.
func (x *Index) checkChain() error {
	if x.kind != Spans {
		return nil
	}
	return x.chain.check(len(x.units)+1, x.diff)
}

// checkStream makes starts and checks that units follow each other, sharing a byte at most, and that all files are in the
// uncompressed layer, each in a place of its own.
func (x *Index) checkStream() error {
	x.starts = make([]int64, len(x.units)+1)
	for u := range x.units {
		x.starts[u+1] = x.starts[u] + int64(x.units[u].size)
		if u > 0 && x.units[u].offset < x.units[u-1].offset+int64(x.units[u-1].length)-1 {
			return invalid("units %d and %d overlap", u-1, u)
		}
	}
	var files []uint32
	for i := range x.nodes {
		if n := &x.nodes[i]; n.mode&typeMask == typeReg && n.size > 0 {
			files = append(roomFor(files, len(x.nodes)), uint32(i))
		}
	}
	byPlace := func(p, q uint32) int { return cmp.Compare(x.nodes[p].place(), x.nodes[q].place()) }
	if !slices.IsSortedFunc(files, byPlace) {
		slices.SortFunc(files, byPlace)
	}
	at, end := int64(0), x.starts[len(x.units)]
	for _, i := range files {
		n := &x.nodes[i]
		if n.place() < at || n.place() > end-n.size {
			return invalid("file %d is outside of the layer or in another", i)
		}
		at = n.place() + n.size
	}
	return nil
}

// checkExtents checks that the extents of each file follow each other and are within their units, and that no two units
// have bytes in common.
func (x *Index) checkExtents() error {
	for i := range x.nodes {
		n := &x.nodes[i]
		if n.mode&typeMask != typeReg {
			continue
		}
		list := x.extents[n.a : n.a+n.b]
		if len(list) == 0 && n.size > 0 || len(list) > 0 && list[0].offset != 0 {
			return invalid("file %d has no bytes at its start", i)
		}
		for k := range list {
			stop := n.size
			if k+1 < len(list) {
				stop = list[k+1].offset
			}
			e := &list[k]
			if stop <= e.offset || stop > n.size {
				return invalid("file %d has overlapping pieces", i)
			}
			if e.unit != zeroUnit && (int(e.unit) >= len(x.units) || stop-e.offset > int64(x.units[e.unit].size)-int64(e.from)) {
				return invalid("file %d is outside of its units", i)
			}
		}
	}
	return x.checkOverlap()
}

func (x *Index) checkOverlap() error {
	order := make([]uint32, len(x.units))
	for i := range order {
		order[i] = uint32(i)
	}
	skip := func(u uint32) uint32 {
		if x.skips == nil {
			return 0
		}
		return x.skips[u]
	}
	less := func(i, j int) bool {
		p, q := order[i], order[j]
		return cmp.Or(cmp.Compare(x.units[p].offset, x.units[q].offset), cmp.Compare(skip(p), skip(q))) < 0
	}
	if !sort.SliceIsSorted(order, less) {
		sort.Slice(order, less)
	}
	for i := 1; i < len(order); i++ {
		p, q := &x.units[order[i-1]], &x.units[order[i]]
		if p.offset == q.offset && p.length == q.length && uint64(skip(order[i])) >= uint64(skip(order[i-1]))+uint64(p.size) {
			continue // several pieces in one compressed stream
		}
		if q.offset < p.offset+int64(p.length) {
			return invalid("units %d and %d overlap", order[i-1], order[i])
		}
	}
	return nil
}
