package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/shim"
	"github.com/slipwayd/slipway/storage"
)

// Metrics is how an engine is, and what it has done since it was made.
type Metrics struct {
	Containers map[string]int64                 // by namespace
	Images     map[string]int64                 // by namespace
	Tasks      map[string]map[shim.Status]int64 // by namespace
	Pulls      PullCounts
	GC         GCCounts
	Lazy       *LazyMetrics // nil where no driver serves layers that are not here
}

// ProfileCounts tells of start profiles: how many are kept and in how many bytes, and how many starts were recorded, and pulls and
// starts had a profile's files fetched ahead, since the engine was made.
type ProfileCounts struct{ Kept, Bytes, Recorded, Replayed int64 }

// PullCounts counts pulls since the engine was made; Running is how many there are now.
type PullCounts struct{ Done, Failed, Running int64 }

// GCCounts counts runs of garbage collection, and what they removed, since the engine was made.
type GCCounts struct {
	Runs, Failed   int64
	Records, Blobs int64
	Time           time.Duration // that runs took
}

// LazyMetrics is how the layers are that were pulled lazily.
type LazyMetrics struct {
	Layers          map[string]int64 // that are served, by kind of index, until they are here
	Arrived         int64            // that are here, but served to mounts from before
	FileBytes       int64            // of files of layers that are served and not here
	BackgroundBytes int64            // that came in the background since the engine was made
	Failing         int64            // layers that have not arrived when that was tried
	Profiles        ProfileCounts
	Serving         bool // whether a server answers; Stats is zero without
	Stats           storage.LazyStats
}

// pullCounts is PullCounts as pulls count.
type pullCounts struct {
	done, failed, running atomic.Int64

	mu  sync.Mutex
	now map[*pulling]struct{} // pulls.go
}

// startCounts is ProfileCounts as starts count.
type startCounts struct{ recorded, replayed atomic.Int64 }

// Metrics tells how the engine is.
func (e *Engine) Metrics(ctx context.Context) (Metrics, error) {
	m := Metrics{Tasks: map[string]map[shim.Status]int64{},
		Pulls: PullCounts{Done: e.pulls.done.Load(), Failed: e.pulls.failed.Load(), Running: e.pulls.running.Load()}}
	e.gc.count(func(c *GCCounts) { m.GC = *c })
	if err := e.countRecords(ctx, &m); err != nil {
		return m, err
	}
	tasks, err := e.tasks.List(ctx, "")
	if err != nil {
		return m, err
	}
	for _, t := range tasks {
		if m.Tasks[t.Namespace] == nil {
			m.Tasks[t.Namespace] = map[shim.Status]int64{}
		}
		m.Tasks[t.Namespace][t.Status]++
	}
	m.Lazy, err = e.lazyMetrics(ctx)
	return m, err
}

func (e *Engine) countRecords(ctx context.Context, m *Metrics) error {
	m.Containers, m.Images = map[string]int64{}, map[string]int64{}
	_, err := view(ctx, e, func(tx *metadata.Tx) (struct{}, error) {
		all, err := tx.Namespaces().List()
		if err != nil {
			return struct{}{}, err
		}
		for _, ns := range all {
			containers, err := tx.Containers(ns.Name).List()
			if err != nil {
				return struct{}{}, err
			}
			images, err := tx.Images(ns.Name).List()
			if err != nil {
				return struct{}{}, err
			}
			m.Containers[ns.Name], m.Images[ns.Name] = int64(len(containers)), int64(len(images))
		}
		return struct{}{}, nil
	})
	return err
}

func (e *Engine) lazyMetrics(ctx context.Context) (*LazyMetrics, error) {
	var m *LazyMetrics
	for _, driver := range e.drivers {
		lazy, ok := driver.(storage.Lazy)
		if !ok {
			continue
		}
		m = &LazyMetrics{Layers: map[string]int64{}, BackgroundBytes: e.filler.total.Load(), Failing: e.filler.failing()}
		m.Profiles = ProfileCounts{Recorded: e.starts.recorded.Load(), Replayed: e.starts.replayed.Load()}
		if e.profiles != nil {
			n, bytes := e.profiles.Size()
			m.Profiles.Kept, m.Profiles.Bytes = int64(n), bytes
		}
		layers, err := lazy.Lazies(ctx, false)
		if err != nil {
			return nil, err
		}
		for _, l := range layers {
			if l.Filled {
				m.Arrived++
				continue
			}
			m.Layers[l.Kind]++
			m.FileBytes += l.FileBytes
		}
		m.Stats, err = lazy.LazyStats(ctx)
		if m.Serving = err == nil; err != nil && !errdefs.IsUnavailable(err) {
			return nil, err
		}
	}
	return m, nil
}

func (f *filler) failing() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int64(len(f.fail))
}
