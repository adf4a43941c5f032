package spans

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestSet compares a set of spans with a set of single bytes.
func TestSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var got Set
		var want [64]bool
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			off := rapid.Int64Range(0, 63).Draw(t, "off")
			s := Span{off, rapid.Int64Range(off, 63).Draw(t, "end")}
			add := rapid.Bool().Draw(t, "add")
			if add {
				got.Add(s)
			} else {
				got.Remove(s)
			}
			for i := s.Off; i < s.End; i++ {
				want[i] = add
			}
			checkSet(t, got, want)
		}
		a, b := rapid.Int64Range(0, 32).Draw(t, "a"), rapid.Int64Range(33, 63).Draw(t, "b")
		var missing [64]bool
		for _, gap := range got.Missing(Span{a, b}) {
			for i := gap.Off; i < gap.End; i++ {
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

func checkSet(t *rapid.T, got Set, want [64]bool) {
	t.Helper()
	var n int64
	for i, have := range want {
		length := int64(slices.Index(append(want[i:], false), false))
		if from := got.From(int64(i)); from != length {
			t.Fatalf("%d bytes from %d, want %d: %v", from, i, length, got)
		}
		if have {
			n++
		}
	}
	if got.Bytes() != n {
		t.Fatalf("%d bytes, want %d: %v", got.Bytes(), n, got)
	}
	for i, s := range got {
		if s.Off >= s.End || i > 0 && got[i-1].End >= s.Off {
			t.Fatalf("not in order or not merged: %v", got)
		}
	}
}
