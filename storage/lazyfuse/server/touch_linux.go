package server

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/control"
)

// A Prefetcher is a Layer that can fetch a file before somebody reads it, after what readers wait for.
type Prefetcher interface {
	Prefetch(ctx context.Context, node int) error
}

// A Detailer is a Layer that has something to say to whoever asks how it is. The answer is made into JSON.
type Detailer interface{ Detail() any }

// prefetches is how many files of one layer are prefetched at a time.
const prefetches = 4

// touches notes which files were opened, each once: every open passes the server, also of files that are read past it.
type touches struct {
	mu    sync.Mutex
	began time.Time
	seen  map[int]bool
	list  []control.Touch
}

func newTouches() *touches { return &touches{began: time.Now(), seen: map[int]bool{}} }

func (t *touches) add(node int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.seen[node] {
		t.seen[node] = true
		t.list = append(t.list, control.Touch{Node: node, Millis: time.Since(t.began).Milliseconds()})
	}
}

// Touched implements control.Handler.
func (s *Server) Touched(id string) ([]control.Touch, error) {
	a := s.fs.layers.find(id)
	if a == nil {
		return nil, fmt.Errorf("cannot tell what of layer %s was opened: %w", id, errdefs.ErrNotFound)
	}
	a.touched.mu.Lock()
	defer a.touched.mu.Unlock()
	return slices.Clone(a.touched.list), nil
}

// Prefetch implements control.Handler. What it starts ends with the layer.
func (s *Server) Prefetch(id string, nodes []int) error {
	a := s.fs.layers.find(id)
	if a == nil {
		return fmt.Errorf("cannot prefetch of layer %s: %w", id, errdefs.ErrNotFound)
	}
	a, l, err := s.fs.layers.use(a.slot)
	if err != nil {
		return err
	}
	p, ok := l.(Prefetcher)
	if !ok {
		a.users.Done()
		return fmt.Errorf("cannot prefetch of layer %s: it only reads on demand: %w", id, errdefs.ErrNotImplemented)
	}
	next := make(chan int)
	var workers sync.WaitGroup
	for range prefetches {
		workers.Go(func() {
			for node := range next {
				if node < 0 || node >= l.Len() || !l.Node(node).Mode.IsRegular() {
					continue // a profile of another index
				}
				if err := p.Prefetch(a.ctx, node); err != nil && a.ctx.Err() == nil {
					s.cfg.Log.Warn("cannot prefetch a file of a lazy layer", "layer", id, "node", node, "error", err)
				}
			}
		})
	}
	go func() {
		defer a.users.Done()
		defer workers.Wait()
		defer close(next)
		for _, node := range nodes {
			select {
			case next <- node:
			case <-a.ctx.Done():
				return
			}
		}
	}()
	return nil
}

// detail makes JSON of what a part of the server says of itself.
func detail(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil || v == nil {
		return nil
	}
	return data
}

// detail is empty for a layer that nobody has used yet.
func (a *attached) detail() json.RawMessage {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d, ok := a.layer.(Detailer); ok {
		return detail(d.Detail())
	}
	return nil
}
