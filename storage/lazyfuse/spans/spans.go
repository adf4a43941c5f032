// Package spans is sets of bytes of a file, for what keeps some of them: the cache of files, and the fetcher of blobs. It imports nothing of
// Slipway and is not safe for concurrent use.
package spans

import "slices"

// Span is the bytes from Off up to End; never empty in a Set.
type Span struct{ Off, End int64 }

// Set is a set of bytes: spans in order, with gaps between them.
type Set []Span

// find is the index of the first span that ends at off or after it.
func (r Set) find(off int64) int {
	i, _ := slices.BinarySearchFunc(r, off, func(s Span, off int64) int {
		if s.End < off {
			return -1
		}
		return 1
	})
	return i
}

// Add puts s into the set.
func (r *Set) Add(s Span) {
	if s.Off >= s.End {
		return
	}
	first := r.find(s.Off)
	last := first
	for last < len(*r) && (*r)[last].Off <= s.End {
		s.Off = min(s.Off, (*r)[last].Off)
		s.End = max(s.End, (*r)[last].End)
		last++
	}
	*r = slices.Replace(*r, first, last, s)
}

// Remove takes s out of the set.
func (r *Set) Remove(s Span) {
	if s.Off >= s.End {
		return
	}
	var left Set
	for _, have := range *r {
		if before := (Span{have.Off, min(have.End, s.Off)}); before.Off < before.End {
			left = append(left, before)
		}
		if after := (Span{max(have.Off, s.End), have.End}); after.Off < after.End {
			left = append(left, after)
		}
	}
	*r = left
}

// From is how many bytes of the set follow off without a gap.
func (r Set) From(off int64) int64 {
	i := r.find(off)
	if i < len(r) && r[i].End == off {
		i++ // the one that ends where we begin
	}
	if i < len(r) && r[i].Off <= off {
		return r[i].End - off
	}
	return 0
}

// Missing are the parts of s that are not in the set.
func (r Set) Missing(s Span) []Span {
	var gaps []Span
	at := s.Off
	for _, have := range r[r.find(s.Off):] {
		if have.Off >= s.End {
			break
		}
		if at < have.Off {
			gaps = append(gaps, Span{at, have.Off})
		}
		at = max(at, have.End)
	}
	if at < s.End {
		gaps = append(gaps, Span{at, s.End})
	}
	return gaps
}

// Bytes counts them.
func (r Set) Bytes() (n int64) {
	for _, s := range r {
		n += s.End - s.Off
	}
	return n
}
