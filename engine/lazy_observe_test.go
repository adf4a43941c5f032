package engine

import (
	"fmt"
	"testing"
)

// TestObservedStarts: of each image a few starts are noted, and not many at a time.
func TestObservedStarts(t *testing.T) {
	var o observedStarts
	for i := range enoughStarts + 2 {
		if got, want := o.begin("image"), i < enoughStarts; got != want {
			t.Errorf("start %d is noted: %v", i, got)
		} else if got {
			o.end()
		}
	}
	for i := range observedAtOnce + 2 {
		if got, want := o.begin(fmt.Sprint("other ", i)), i < observedAtOnce; got != want {
			t.Errorf("start %d at a time is noted: %v", i, got)
		}
	}
	for range observedAtOnce {
		o.end()
	}
	for i := range 2 * observedImages {
		if !o.begin(fmt.Sprint("many ", i)) {
			t.Fatalf("image %d is not noted", i)
		}
		o.end()
	}
	if len(o.starts) > observedImages {
		t.Errorf("%d images are remembered", len(o.starts))
	}
}
