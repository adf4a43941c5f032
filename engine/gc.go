package engine

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/metadata"
)

// gcShare bounds what collection costs: after a run that took t, the next unasked one waits gcShare*t.
const gcShare = 20

// gcRunner collects garbage when something was deleted and nothing more has been for a while, from time to time for what
// expires, and at once when a client waits for it. A run marks in read transactions and writes only when there is garbage.
type gcRunner struct {
	e               *Engine
	delay, interval time.Duration

	mu      sync.Mutex
	waiters []chan error
	counts  GCCounts
	wake    chan struct{} // holds a token when a run was asked for
}

func newGC(e *Engine, delay, interval time.Duration) *gcRunner {
	return &gcRunner{e: e, delay: delay, interval: interval, wake: make(chan struct{}, 1)}
}

// schedule asks for a run soon.
func (g *gcRunner) schedule() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// scheduleOrWait asks for a run: soon, or at once when wait is set, and then answers its outcome.
func (g *gcRunner) scheduleOrWait(ctx context.Context, wait bool) error {
	if !wait {
		g.schedule()
		return nil
	}
	done := make(chan error, 1)
	g.mu.Lock()
	g.waiters = append(g.waiters, done)
	g.mu.Unlock()
	g.schedule()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-g.e.life.Done():
		return fmt.Errorf("daemon is shutting down: %w", errdefs.ErrUnavailable)
	}
}

func (g *gcRunner) count(fn func(*GCCounts)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	fn(&g.counts)
}

func (g *gcRunner) takeWaiters() []chan error {
	g.mu.Lock()
	defer g.mu.Unlock()
	w := g.waiters
	g.waiters = nil
	return w
}

func (g *gcRunner) awaited() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiters) > 0
}

func (g *gcRunner) run(ctx context.Context) {
	var pause time.Duration
	for {
		if !g.next(ctx, pause) {
			return
		}
		waiters := g.takeWaiters() // before the run: who asks during it gets the next
		began := time.Now()
		err := g.collect(ctx, len(waiters) > 0)
		took := time.Since(began)
		pause = gcShare * took
		g.count(func(c *GCCounts) {
			c.Runs, c.Time = c.Runs+1, c.Time+took
			if err != nil {
				c.Failed++
			}
		})
		if err != nil && ctx.Err() == nil {
			g.e.log.Error("garbage collection failed", "err", err)
		}
		for _, w := range waiters {
			w <- err
		}
	}
}

// next waits until a run is due and answers false when there will be none.
func (g *gcRunner) next(ctx context.Context, pause time.Duration) bool {
	interval := time.NewTimer(g.interval)
	defer interval.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-interval.C:
		return true
	case <-g.wake:
	}
	quiet := time.NewTimer(max(g.delay, pause))
	defer quiet.Stop()
	for !g.awaited() {
		select {
		case <-ctx.Done():
			return false
		case <-quiet.C:
			return true
		case <-g.wake: // perhaps with a waiter
		}
	}
	return true
}

// collect removes what nothing refers to: records first, then what they stood for. A crash in between leaves blobs and
// layers without a record, which restore removes.
func (g *gcRunner) collect(ctx context.Context, wait bool) error {
	e := g.e
	e.trash.retry()
	found, err := e.db.Collect(ctx, metadata.CollectOptions{})
	// What was collected before an error has no record any more either.
	for driver, layers := range found.Layers {
		if _, ok := e.drivers[driver]; ok {
			e.trash.put(driver, layers...)
		}
	}
	for _, ref := range found.Ingests {
		if aerr := e.blobs.Abort(ctx, ref); aerr != nil && !errdefs.IsNotFound(aerr) {
			e.log.Warn("cannot remove an expired ingest", "ingest", ref, "err", aerr)
		}
	}
	if len(found.Blobs) > 0 {
		if rerr := e.db.Reap(ctx, found.Blobs, e.blobs.Delete); rerr != nil && err == nil {
			err = fmt.Errorf("cannot delete blobs: %w", rerr)
		}
	}
	for _, r := range found.Removed {
		g.publish(r)
	}
	g.count(func(c *GCCounts) {
		c.Records, c.Blobs = c.Records+int64(len(found.Removed)), c.Blobs+int64(len(found.Blobs))
	})
	if len(found.Removed) > 0 {
		defer e.memory.work()()
		e.log.Debug("garbage collected", "records", len(found.Removed), "blobs", len(found.Blobs),
			"marked", found.Marked, "mark", found.MarkTime, "remove", found.RemoveTime, "longest hold", found.LongestHold)
	}
	if err == nil && wait {
		err = e.trash.wait(ctx)
	}
	return err
}

// publish tells of a record that collection removed as if a client had removed it.
func (g *gcRunner) publish(r metadata.Removed) {
	switch kind, driver, _ := strings.Cut(r.Type, "/"); kind {
	case "content":
		g.e.publish(r.Namespace, "/content/delete", ContentDelete{Digest: digest.Digest(r.ID)})
	case "images":
		g.e.publish(r.Namespace, "/images/delete", ImageDelete{Name: r.ID})
	case "snapshots":
		g.e.publish(r.Namespace, "/snapshot/remove", SnapshotRemove{Key: r.ID, Snapshotter: driver})
	}
}
