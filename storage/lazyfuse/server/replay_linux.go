package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/control"
)

// A Planner is a Layer that can fetch what will be read before somebody reads it, after what readers wait for.
type Planner interface {
	// Plan divides pieces of files into steps, each of which is fetched at once. order has, of each step, the number of the first
	// piece that it is for; do fetches a step.
	Plan(nodes []int, pieces [][2]int64) (order []int, do func(ctx context.Context, step int) error)
	// First lists the files that the layer's maker wants to be fetched first, in order.
	First() []int
}

// replayers is how many steps of one replay are under way at a time: as many as the fetcher lets a profile have. Large ones wait for
// memory (package layer).
const replayers = 12

// step is one step of one layer's plan.
type step struct {
	order int
	slot  uint32
	layer string
	do    func(context.Context) error
}

// Replay implements control.Handler. Steps of a layer end with it; a step that fails, because the registry is away or the disk full,
// ends them all, since readers ask for what they need.
func (s *Server) Replay(wanted []control.Wanted) error {
	byLayer := map[string][]int{} // places in wanted
	for i, w := range wanted {
		byLayer[w.ID] = append(byLayer[w.ID], i)
	}
	var steps []step
	for id, places := range byLayer {
		some, err := s.plan(id, wanted, places)
		if err != nil {
			return err
		}
		steps = append(steps, some...)
	}
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Compare(a.order, b.order) })
	next := make(chan step, len(steps))
	for _, st := range steps {
		next <- st
	}
	close(next)
	var failed atomic.Bool
	for range min(replayers, len(steps)) {
		go func() {
			for st := range next {
				if !failed.Load() && !s.replay(st) {
					failed.Store(true)
				}
			}
		}()
	}
	return nil
}

// plan looks up what is wanted of one layer.
func (s *Server) plan(id string, wanted []control.Wanted, places []int) ([]step, error) {
	a := s.fs.layers.find(id)
	if a == nil {
		return nil, fmt.Errorf("cannot fetch ahead of layer %s: %w", id, errdefs.ErrNotFound)
	}
	a, l, err := s.fs.layers.use(a.slot)
	if err != nil {
		return nil, err
	}
	defer a.users.Done()
	planner, ok := l.(Planner)
	if !ok {
		return nil, fmt.Errorf("cannot fetch ahead of layer %s: it only reads on demand: %w", id, errdefs.ErrNotImplemented)
	}
	var nodes, from []int
	var pieces [][2]int64
	add := func(place, node int, ranges [][2]int64) {
		if len(ranges) == 0 {
			ranges = [][2]int64{{0, l.Node(node).Size}}
		}
		for _, r := range ranges {
			nodes, from, pieces = append(nodes, node), append(from, place), append(pieces, r)
		}
	}
	for _, i := range places {
		if wanted[i].Path == "" {
			for _, node := range planner.First() {
				add(i, node, nil)
			}
		} else if node, ok := find(l, wanted[i].Path); ok && l.Node(node).Mode.IsRegular() {
			add(i, node, wanted[i].Ranges)
		}
	}
	order, do := planner.Plan(nodes, pieces)
	steps := make([]step, len(order))
	for i, first := range order {
		steps[i] = step{order: from[first], slot: a.slot, layer: id, do: func(ctx context.Context) error { return do(ctx, i) }}
	}
	return steps, nil
}

// replay does one step, unless its layer is gone, and says whether the others are worth a try.
func (s *Server) replay(st step) bool {
	a, _, err := s.fs.layers.use(st.slot)
	if err != nil {
		return true
	}
	defer a.users.Done()
	if err := st.do(a.ctx); err != nil && a.ctx.Err() == nil {
		s.cfg.Log.Warn("cannot fetch ahead what a start will read", "layer", st.layer, "error", err)
		return false
	}
	return true
}

// find answers the node at a path from the root, without following links.
func find(t Tree, path string) (node int, ok bool) {
	for name := range strings.SplitSeq(path, "/") {
		if node, ok = t.Lookup(node, name); !ok {
			return 0, false
		}
	}
	return node, true
}
