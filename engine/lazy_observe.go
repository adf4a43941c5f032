package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/storage"
)

// The first starts of an image that is here are noted too, so that a host that pulled it in full, as the first of all has to, knows what
// to fetch first the next time, or can publish it. A start of layers that are served notes more, so few of these will do.
const (
	enoughStarts    = 3    // of one image, with whatever command lines
	observedAtOnce  = 4    // kernels give a user 128 fanotify groups
	observedImages  = 1024 // that are remembered
	observedMinimum = 1 << 20
)

// observedStarts counts starts that were, or are being, noted.
type observedStarts struct {
	mu     sync.Mutex
	now    int
	starts map[string]int // by the image's topmost layer
}

// begin says whether one more start of an image is to be noted. The caller of one that is ends it, with end.
func (o *observedStarts) begin(top string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.now == observedAtOnce || o.starts[top] >= enoughStarts {
		return false
	}
	if o.starts == nil || len(o.starts) == observedImages {
		o.starts = map[string]int{}
	}
	o.starts[top]++
	o.now++
	return true
}

func (o *observedStarts) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now--
}

// observe begins to note what the task of a container will read whose image is here. It is nil when that is known well enough, or cannot be
// had: a start needs none of it.
func (e *Engine) observe(ctx context.Context, sc Scope, c metadata.Container, pid uint32) *startRecorder {
	if e.profiles == nil || c.SnapshotKey == "" || c.Image == "" {
		return nil
	}
	s, err := e.Snapshots(sc, c.Snapshotter)
	if err != nil {
		return nil
	}
	starter, lazy := s.driver.(storage.Starter) // who cannot replay need not know
	observer, ok := s.driver.(storage.Observer)
	if !ok || !lazy {
		return nil
	}
	layer, err := s.layer(ctx, c.SnapshotKey)
	if err != nil || len(layer.Parents) == 0 {
		return nil
	}
	if served, err := s.stackOf(ctx, layer.Parents); served != nil || err != nil || !e.observed.begin(s.name+"/"+layer.Parents[0]) {
		return nil // another start is being noted by who serves the layers, which knows more
	}
	st := &starting{namespace: sc.Namespace, driver: starter, stack: layer.Parents, served: map[string]digest.Digest{}}
	r := &startRecorder{e: e, start: st, container: c.ID, layers: layer.Parents, touched: map[string][]storage.Touch{}}
	if err = e.blobsOf(ctx, sc, c, st); err == nil {
		r.seen, err = observer.Observe(ctx, layer, int(pid))
	}
	if err != nil {
		e.observed.end()
		if !errdefs.IsNotImplemented(err) && !errdefs.IsFailedPrecondition(err) {
			e.log.Debug("a start is not recorded", "container", c.ID, "err", err)
		}
		return nil
	}
	return r
}

// blobsOf tells which blobs the layers of a start come from. FailedPrecondition when its profile would be of no use.
func (e *Engine) blobsOf(ctx context.Context, sc Scope, c metadata.Container, st *starting) error {
	m, err := e.describeStart(ctx, sc, c, st)
	if err != nil {
		return err
	}
	if len(m.Layers) != len(st.stack) {
		return fmt.Errorf("container %s is on other layers than those of its image: %w", c.ID, errdefs.ErrFailedPrecondition)
	}
	large := false
	for i, d := range m.Layers {
		st.served[st.stack[len(st.stack)-1-i]] = d.Digest
		large = large || d.Size >= observedMinimum
	}
	if !large {
		return fmt.Errorf("no layer of image %s is large enough to be pulled lazily: %w", c.Image, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// lookAround is look where no layer is served.
func (r *startRecorder) lookAround(ctx context.Context) (more bool) {
	all, err := r.seen.Opened(ctx)
	if err != nil {
		return false
	}
	for id, list := range all {
		if slices.Contains(r.layers, id) && len(list) > len(r.touched[id]) {
			r.touched[id], more = list, true
		}
	}
	return more
}
