package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// trash removes layers that have no record any more, one after the other, so that whoever removed the record need not wait
// for the disk. It is kept in memory only: what a crash leaves in it, restore finds again.
type trash struct {
	e *Engine

	mu     sync.Mutex
	queue  []trashed
	failed []trashed     // tried again after a while, and with the next collection
	busy   bool          // a layer is being removed
	more   chan struct{} // holds a token when queue may have something
	idle   chan struct{} // closed when queue is empty and nothing is being removed; replaced by put
}

type trashed struct{ driver, layer string }

// trashPause is how long what could not be removed is left before it is tried again, each time twice as long up to maxTrashPause. A root file
// system is in use until the kernel has taken its container apart, which it does in the background.
const (
	trashPause    = 200 * time.Millisecond
	maxTrashPause = 5 * time.Minute
)

func newTrash(e *Engine) *trash {
	t := &trash{e: e, more: make(chan struct{}, 1), idle: make(chan struct{})}
	close(t.idle)
	return t
}

// put takes layers over; the caller has removed their records, or failed to make them.
func (t *trash) put(driver string, layers ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range layers {
		t.enqueue(trashed{driver, l})
	}
}

// enqueue needs t.mu.
func (t *trash) enqueue(x trashed) {
	if len(t.queue) == 0 && !t.busy {
		t.idle = make(chan struct{})
	}
	t.queue = append(t.queue, x)
	select {
	case t.more <- struct{}{}:
	default:
	}
}

// retry puts what could not be removed back into the queue.
func (t *trash) retry() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, x := range t.failed {
		t.enqueue(x)
	}
	t.failed = nil
}

// wait returns when all that was put before is removed or has failed.
func (t *trash) wait(ctx context.Context) error {
	t.mu.Lock()
	idle := t.idle
	t.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.e.life.Done():
		return fmt.Errorf("daemon is shutting down: %w", errdefs.ErrUnavailable)
	}
}

func (t *trash) run(ctx context.Context) {
	pause := trashPause
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.more:
		case <-again:
			again = nil
			t.retry()
		}
		for ctx.Err() == nil && t.removeOne(ctx) {
		}
		switch {
		case !t.failing():
			again, pause = nil, trashPause
		case again == nil:
			again, pause = time.After(pause), min(2*pause, maxTrashPause)
		}
	}
}

func (t *trash) failing() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.failed) > 0
}

// removeOne answers false when the queue is empty.
func (t *trash) removeOne(ctx context.Context) bool {
	t.mu.Lock()
	if len(t.queue) == 0 {
		t.queue = nil // give back the array of a burst
		t.mu.Unlock()
		return false
	}
	x := t.queue[0]
	t.queue, t.busy = t.queue[1:], true
	t.mu.Unlock()

	t.e.filler.drop(layerKey{x.driver, x.layer})
	err := t.e.drivers[x.driver].Remove(ctx, x.layer)

	t.mu.Lock()
	defer t.mu.Unlock()
	t.busy = false
	if err != nil {
		t.e.log.Warn("cannot remove a layer that nothing needs, will try again", "snapshotter", x.driver, "layer", x.layer, "err", err)
		t.failed = append(t.failed, x)
	}
	if len(t.queue) == 0 {
		close(t.idle)
	}
	return true
}
