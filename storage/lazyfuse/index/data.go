package index

import "sort"

// Extents answers all pieces of regular file i, in order and without gaps; nothing for other nodes.
func (x *Index) Extents(i int) []Extent { return x.Range(i, 0, x.nodes[i].size) }

// Range answers the pieces of regular file i that hold its bytes [off, off+size), as far as it has them. The first and the
// last are cut to that range.
func (x *Index) Range(i int, off, size int64) []Extent {
	n := &x.nodes[i]
	if n.mode&typeMask != typeReg || off < 0 || off >= n.size || size <= 0 {
		return nil
	}
	end := n.size
	if size < end-off {
		end = off + size
	}
	if x.stream() {
		return x.spanRange(n, off, end)
	}
	list := x.extents[n.a : n.a+n.b]
	var out []Extent
	for at := sort.Search(len(list), func(i int) bool { return list[i].offset > off }) - 1; at < len(list); at++ {
		e, stop := &list[at], n.size
		if at+1 < len(list) {
			stop = list[at+1].offset
		}
		if e.offset >= end {
			break
		}
		out = append(out, cut(e, stop, off, end))
	}
	return out
}

func cut(e *extent, stop, off, end int64) Extent {
	from, to := max(e.offset, off), min(stop, end)
	if e.unit == zeroUnit {
		return Extent{Offset: from, Size: to - from, Unit: Zeros}
	}
	return Extent{Offset: from, Size: to - from, Unit: int(e.unit), From: int64(e.from) + from - e.offset}
}

func (x *Index) spanRange(n *node, off, end int64) []Extent {
	var out []Extent
	place := n.place()
	u := sort.Search(len(x.units), func(u int) bool { return x.starts[u+1] > place+off })
	for off < end {
		stop := min(end, x.starts[u+1]-place)
		if stop > off {
			out = append(out, Extent{Offset: off, Size: stop - off, Unit: u, From: place + off - x.starts[u]})
			off = stop
		}
		u++
	}
	return out
}

// Units answers how many units there are.
func (x *Index) Units() int { return len(x.units) }

// Unit answers unit u, which must be below Units.
func (x *Index) Unit(u int) Unit {
	d := &x.units[u]
	out := Unit{
		Offset: d.offset, Length: int64(d.length), Size: int64(d.size),
		State: int(d.state) - 1,
	}
	if d.digest&rawFlag != 0 {
		out.Raw = x.digestOf(d.digest &^ rawFlag)
	} else {
		out.Digest = x.digestOf(d.digest)
	}
	if x.skips != nil {
		out.Skip = int64(x.skips[u])
	}
	return out
}
