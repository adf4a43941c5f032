package stream

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// gate is where readers wait for what has not passed yet. Its lock guards what they wait for.
type gate struct {
	deadline time.Duration // without any change, after which a wait is Unavailable

	mu       sync.Mutex
	changed  chan struct{} // closed at each change, while somebody waits
	waiters  int
	failed   error // the layer is wrong, for ever
	trouble  error // why the last attempt to go on has failed
	troubles int   // how many have
}

func newGate(deadline time.Duration) *gate {
	return &gate{deadline: deadline, changed: make(chan struct{})}
}

// change does something to what readers wait for, and has them look.
func (g *gate) change(do func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	do()
	if g.waiters > 0 {
		close(g.changed)
		g.changed = make(chan struct{})
	}
}

// fail ends all waits, those to come too.
func (g *gate) fail(err error) { g.change(func() { g.failed = err }) }

// upset ends the waits that are under way: what they wait for does not come now.
func (g *gate) upset(err error) { g.change(func() { g.trouble, g.troubles = err, g.troubles+1 }) }

// wait returns nil when known says true, which is called with the lock held.
func (g *gate) wait(ctx context.Context, known func() bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.troubles
	if g.failed == nil && known() {
		return nil
	}
	g.waiters++
	defer func() { g.waiters-- }()
	timer := time.NewTimer(g.deadline)
	defer timer.Stop()
	for {
		switch {
		case g.failed != nil:
			return g.failed
		case known():
			return nil
		case g.troubles > before:
			return g.trouble
		}
		if err := g.pause(ctx, timer); err != nil {
			return err
		}
	}
}

// pause gives the lock away until something changes.
func (g *gate) pause(ctx context.Context, timer *time.Timer) error {
	changed := g.changed
	g.mu.Unlock()
	defer g.mu.Lock()
	select {
	case <-changed:
		timer.Reset(g.deadline)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return fmt.Errorf("nothing of the layer has come for %s: %w", g.deadline, errdefs.ErrUnavailable)
	}
}
