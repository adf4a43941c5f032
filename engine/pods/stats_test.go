package pods

import (
	"testing"
	"time"

	"github.com/slipwayd/slipway/internal/usage"
)

// A rate is over at least a second, whoever asks how often.
func TestRate(t *testing.T) {
	begun := time.Unix(1000, 0)
	var s sampler
	for _, c := range []struct {
		after time.Duration
		cpu   uint64
		want  int64 // -1 for none
	}{
		{0, 1e9, -1},
		{500 * time.Millisecond, 2e9, -1},   // too early to say
		{2 * time.Second, 5e9, 2e9},         // 4 s in 2 s
		{2500 * time.Millisecond, 6e9, 2e9}, // over what was before: 5 s in 2.5 s
		{4 * time.Second, 6e9, 5e8},         // 1 s in 2 s
		{5 * time.Second, 1e9, -1},          // fewer containers in a pod: begun anew
		{6 * time.Second, 15e8, 5e8},
	} {
		got := s.rate(usage.Usage{At: begun.Add(c.after), CPU: c.cpu})
		if (got == nil) != (c.want < 0) || got != nil && int64(*got) != c.want {
			t.Errorf("after %s: %v, want %d", c.after, got, c.want)
		}
	}
}
