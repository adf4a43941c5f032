package cache

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestRanges compares a set of spans with a set of single bytes.
func TestRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var got ranges
		var want [64]bool
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			off := rapid.Int64Range(0, 63).Draw(t, "off")
			s := span{off, rapid.Int64Range(off, 63).Draw(t, "end")}
			add := rapid.Bool().Draw(t, "add")
			if add {
				got.add(s)
			} else {
				got.remove(s)
			}
			for i := s.off; i < s.end; i++ {
				want[i] = add
			}
			checkRanges(t, got, want)
		}
		a, b := rapid.Int64Range(0, 32).Draw(t, "a"), rapid.Int64Range(33, 63).Draw(t, "b")
		var missing [64]bool
		for _, gap := range got.missing(span{a, b}) {
			for i := gap.off; i < gap.end; i++ {
				missing[i] = true
			}
		}
		for i := range missing {
			if inside := int64(i) >= a && int64(i) < b; missing[i] != (inside && !want[i]) {
				t.Fatalf("byte %d of [%d,%d): missing is %t in %v", i, a, b, missing[i], got)
			}
		}
	})
}

func checkRanges(t *rapid.T, got ranges, want [64]bool) {
	t.Helper()
	var n int64
	for i, have := range want {
		length := int64(slices.Index(append(want[i:], false), false))
		if from := got.from(int64(i)); from != length {
			t.Fatalf("%d bytes from %d, want %d: %v", from, i, length, got)
		}
		if have {
			n++
		}
	}
	if got.bytes() != n {
		t.Fatalf("%d bytes, want %d: %v", got.bytes(), n, got)
	}
	for i, s := range got {
		if s.off >= s.end || i > 0 && got[i-1].end >= s.off {
			t.Fatalf("not in order or not merged: %v", got)
		}
	}
}
