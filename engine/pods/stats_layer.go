package pods

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// layerFresh is how long the size of a layer is good for.
	layerFresh = 10 * time.Second
	// layerShare bounds the time that measuring takes to one part in so many.
	layerShare = 50
	// layerPatience is how long a first caller waits. Most layers are measured in less than a millisecond.
	layerPatience = 100 * time.Millisecond
)

// layerUse is how large a container's writable layer was.
type layerUse struct {
	mu   sync.Mutex
	use  *FilesystemUsage
	took time.Duration
	done chan struct{} // of a measurement under way, nil without
}

// layerUse answers what was measured last, and has it measured again when that is old.
func (m *Manager) layerUse(ctx context.Context, c *container) *FilesystemUsage {
	l := &c.layer
	l.mu.Lock()
	known := l.use
	if known != nil && time.Since(known.At) < max(layerFresh, layerShare*l.took) {
		l.mu.Unlock()
		return known
	}
	if l.done == nil {
		l.done = make(chan struct{})
		m.background(func(ctx context.Context) { m.measureLayer(ctx, c) })
	}
	done := l.done
	l.mu.Unlock()
	if known != nil {
		return known
	}
	patience := time.NewTimer(layerPatience)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C:
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.use
}

func (m *Manager) measureLayer(ctx context.Context, c *container) {
	begun := time.Now()
	use := FilesystemUsage{Path: m.e.About().Root}
	snapshots, err := m.e.Snapshots(scope, c.pod.runtime.Snapshotter)
	if err == nil {
		got, uerr := snapshots.Usage(ctx, c.id)
		err, use.Bytes, use.Inodes, use.At = uerr, got.Size, got.Inodes, time.Now()
	}
	if err != nil && !errdefs.IsNotFound(err) && ctx.Err() == nil {
		m.conf.Log.Warn("cannot measure the writable layer of a container", "container", c.id, "err", err)
	}
	l := &c.layer
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.use, l.took = &use, time.Since(begun)
	}
	close(l.done)
	l.done = nil
}
