package engine

import (
	"context"
	"time"

	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/storage"
)

// streams begins to fill all layers that are served while they come, at once and side by side: nobody can read what has not come.
func (f *filler) streams(ctx context.Context) {
	for ctx.Err() == nil {
		timer := time.NewTimer(f.beginStreams(ctx))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-f.wakeStreams:
		}
		timer.Stop()
	}
}

// beginStreams begins those whose time has come, and answers when the next one's does.
func (f *filler) beginStreams(ctx context.Context) time.Duration {
	wait := fillScan
	all, err := f.list(ctx)
	if err != nil {
		f.e.log.Warn("cannot see which layers are coming", "err", err)
	}
	for _, l := range all {
		if l.layer.Kind != storage.Stream {
			continue
		}
		f.mu.Lock()
		_, runs := f.jobs[l.key]
		left := time.Until(f.fail[l.key].next)
		f.mu.Unlock()
		switch {
		case runs:
		case left > 0:
			wait = min(wait, left)
		default:
			f.e.bg.Go(func() {
				_ = f.fill(ctx, l, true) // noted, and tried again
				f.poke()
			})
		}
	}
	return wait
}

// measured records what a layer takes that was committed before anybody could know.
func (s *Snapshots) measured(key string) func(context.Context, storage.Usage) error {
	return func(ctx context.Context, u storage.Usage) error {
		return s.e.db.Update(s.scope.ctx(ctx), func(tx *metadata.Tx) error { return s.records(tx).Measured(key, u) })
	}
}
