package cache

import "slices"

// span is the bytes from off up to end of a file; never empty in a ranges.
type span struct{ off, end int64 }

// ranges is a set of bytes: spans in order, with gaps between them.
type ranges []span

// find is the index of the first span that ends at off or after it.
func (r ranges) find(off int64) int {
	i, _ := slices.BinarySearchFunc(r, off, func(s span, off int64) int {
		if s.end < off {
			return -1
		}
		return 1
	})
	return i
}

// add puts s into the set.
func (r *ranges) add(s span) {
	if s.off >= s.end {
		return
	}
	first := r.find(s.off)
	last := first
	for last < len(*r) && (*r)[last].off <= s.end {
		s.off = min(s.off, (*r)[last].off)
		s.end = max(s.end, (*r)[last].end)
		last++
	}
	*r = slices.Replace(*r, first, last, s)
}

// remove takes s out of the set.
func (r *ranges) remove(s span) {
	if s.off >= s.end {
		return
	}
	var left ranges
	for _, have := range *r {
		if before := (span{have.off, min(have.end, s.off)}); before.off < before.end {
			left = append(left, before)
		}
		if after := (span{max(have.off, s.end), have.end}); after.off < after.end {
			left = append(left, after)
		}
	}
	*r = left
}

// from is how many bytes of the set follow off without a gap.
func (r ranges) from(off int64) int64 {
	i := r.find(off)
	if i < len(r) && r[i].end == off {
		i++ // the one that ends where we begin
	}
	if i < len(r) && r[i].off <= off {
		return r[i].end - off
	}
	return 0
}

// missing are the parts of s that are not in the set.
func (r ranges) missing(s span) []span {
	var gaps []span
	at := s.off
	for _, have := range r[r.find(s.off):] {
		if have.off >= s.end {
			break
		}
		if at < have.off {
			gaps = append(gaps, span{at, have.off})
		}
		at = max(at, have.end)
	}
	if at < s.end {
		gaps = append(gaps, span{at, s.end})
	}
	return gaps
}

func (r ranges) bytes() (n int64) {
	for _, s := range r {
		n += s.end - s.off
	}
	return n
}
