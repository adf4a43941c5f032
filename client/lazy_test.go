package client

import (
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestWaitingProgress: only layers that are on their way are shown, and remembered as those that were waited for.
func TestWaitingProgress(t *testing.T) {
	waited := map[digest.Digest]bool{}
	for i, c := range []struct {
		layer LazyLayer
		want  string
	}{
		{LazyLayer{Mode: LayerFull, Size: 10}, ""},
		{LazyLayer{Mode: LayerArrived, Size: 10}, ""},
		{LazyLayer{Mode: LayerLazy, Size: 10, Reads: &LayerReads{Background: 4}}, "downloading 4 of 10 of image"},
		{LazyLayer{Mode: LayerLazy, Size: 10, Reads: &LayerReads{Background: 10}}, "extracting 10 of 10 of image"},
	} {
		c.layer.Digest = digest.FromString(fmt.Sprint(i))
		p, ok := c.layer.progress("image", waited)
		got := ""
		if ok {
			got = fmt.Sprint(p.Event, " ", p.Offset, " of ", p.Total, " of ", p.Parents[0])
		}
		if got != c.want || waited[c.layer.Digest] != ok {
			t.Errorf("%s: %q, noted %v; want %q", c.layer.Mode, got, waited[c.layer.Digest], c.want)
		}
	}
}

func TestHitRate(t *testing.T) {
	if hitRate(0, 0) != nil {
		t.Error("there is a rate before the first read")
	}
	if r := hitRate(8, 2); r == nil || *r != 0.75 {
		t.Errorf("two of eight waited: %v", r)
	}
}
