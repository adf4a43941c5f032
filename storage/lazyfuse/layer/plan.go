package layer

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/slipwayd/slipway/storage/lazyfuse/fetch"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
)

const (
	stepBytes = 2 << 20   // of the blob that are fetched at once for a start, unless one unit has more
	stepGap   = 32 << 10  // of the blob that are fetched in vain rather than asking twice
	planBytes = 512 << 20 // of one layer's blob; a start that reads more is slow with or without a plan
	heldAhead = 64 << 20  // that steps of all layers hold in memory at a time, fetched and decoded; a larger one goes alone
)

// step is what of a start profile is fetched at once: units that lie beside each other in the blob, and what files want of them.
type step struct {
	begin, end int64 // in the blob
	order      int
	units      []plannedUnit
}

type plannedUnit struct {
	unit   int
	order  int
	wanted []piece
}

type piece struct {
	node   int
	extent index.Extent
}

// Plan divides pieces of files, [from, to) in nodes, into steps; order has the number of the first piece that each is for. What
// there is not is left out. do fetches one step for a start profile and has the cache keep it.
func (l *Layer) Plan(nodes []int, pieces [][2]int64) (order []int, do func(ctx context.Context, step int) error) {
	steps := l.steps(l.planned(nodes, pieces))
	for i := range steps {
		order = append(order, steps[i].order)
	}
	return order, func(ctx context.Context, i int) error { return l.ahead(ctx, &steps[i]) }
}

// planned lists the units that pieces are in, by their place in the blob: those of the first pieces if it is too much.
func (l *Layer) planned(nodes []int, pieces [][2]int64) []plannedUnit {
	at := map[int]int{}
	var units []plannedUnit
	sum := int64(0)
	for i, node := range nodes {
		if node < 0 || node >= l.Len() || sum > planBytes {
			continue
		}
		from := max(0, pieces[i][0])
		for _, x := range l.Range(node, from, pieces[i][1]-from) {
			if x.Unit == index.Zeros {
				continue
			}
			u, ok := at[x.Unit]
			if !ok {
				if sum += l.Unit(x.Unit).Length; sum > planBytes {
					break
				}
				u = len(units)
				at[x.Unit] = u
				units = append(units, plannedUnit{unit: x.Unit, order: i})
			}
			units[u].wanted = append(units[u].wanted, piece{node, l.whole(node, x)})
		}
	}
	slices.SortFunc(units, func(a, b plannedUnit) int {
		return cmp.Or(cmp.Compare(l.Unit(a.unit).Offset, l.Unit(b.unit).Offset), cmp.Compare(a.unit, b.unit))
	})
	return units
}

// steps joins units that are in order of their place.
func (l *Layer) steps(units []plannedUnit) []step {
	var steps []step
	for _, p := range units {
		u := l.Unit(p.unit)
		end := u.Offset + u.Length
		if last := len(steps) - 1; last >= 0 && u.Offset-steps[last].end <= stepGap && end-steps[last].begin <= stepBytes {
			s := &steps[last]
			s.end, s.order, s.units = max(s.end, end), min(s.order, p.order), append(s.units, p)
			continue
		}
		steps = append(steps, step{begin: u.Offset, end: end, order: p.order, units: []plannedUnit{p}})
	}
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Compare(a.order, b.order) })
	return steps
}

// weight is what a step may hold, of heldAhead.
func (l *Layer) weight(s *step) int64 {
	sum := s.end - s.begin
	for _, p := range s.units {
		sum += l.Unit(p.unit).Size
	}
	return min(sum, heldAhead)
}

// ahead fetches a step. The bytes are read before any unit is waited for by others, so that somebody who reads one meanwhile
// hurries them.
func (l *Layer) ahead(ctx context.Context, s *step) error {
	weight := l.weight(s)
	if err := l.cfg.Units.ahead.Acquire(ctx, weight); err != nil {
		return err
	}
	defer l.cfg.Units.ahead.Release(weight)
	var missing []plannedUnit
	begin, end := s.end, s.begin
	for _, p := range s.units {
		p.wanted = slices.DeleteFunc(p.wanted, func(w piece) bool { return l.has(w) })
		if len(p.wanted) == 0 {
			continue
		}
		missing = append(missing, p)
		if !l.cfg.Units.has(unitKey{l.id, p.unit}) {
			u := l.Unit(p.unit)
			begin, end = min(begin, u.Offset), max(end, u.Offset+u.Length)
		}
	}
	var packed []byte
	if begin < end {
		packed = make([]byte, end-begin)
		if err := l.cfg.Blob.ReadAt(ctx, fetch.Profile, packed, begin); err != nil {
			return err
		}
		l.fetched[fetch.Profile].Add(end - begin)
	}
	for _, p := range missing {
		if err := l.keep(ctx, p, packed, begin); err != nil {
			return err
		}
	}
	return nil
}

// has says whether the cache has what is wanted.
func (l *Layer) has(w piece) bool {
	e, err := l.entry(w.node)
	return err == nil && len(e.Missing(w.extent.Offset, w.extent.Size)) == 0
}

// keep has the cache keep what is wanted of a unit, from packed, which is the blob from begin on.
func (l *Layer) keep(ctx context.Context, p plannedUnit, packed []byte, begin int64) error {
	load := func() ([]byte, error) {
		u := l.Unit(p.unit)
		if at := u.Offset - begin; at >= 0 && at+u.Length <= int64(len(packed)) {
			if data, err := l.Decode(p.unit, bytes.NewReader(packed[at:at+u.Length])); err == nil {
				return data, nil
			}
		}
		return l.unit(ctx, fetch.Profile, p.unit) // fetched again, if it was wrong
	}
	for _, w := range p.wanted {
		x := w.extent
		data, err := l.cfg.Units.get(ctx, unitKey{l.id, p.unit}, x.From, x.Size, load)
		if err != nil {
			return err
		}
		if int64(len(data)) < x.Size {
			return fmt.Errorf("unit %d has %d bytes at %d, the index wants %d", p.unit, len(data), x.From, x.Size)
		}
		e, err := l.entry(w.node)
		if err != nil {
			return err
		}
		if _, err := e.WriteAt(data, x.Offset); err != nil {
			return fmt.Errorf("cannot keep what a start will read: %w", err)
		}
	}
	return nil
}

// First lists the files in front of the place in the blob up to which its maker wants it to be fetched first.
func (l *Layer) First() []int {
	end := l.PrefetchEnd()
	if end == 0 {
		return nil
	}
	type placed struct {
		node int
		at   int64
	}
	var found []placed
	for i := range l.Len() {
		if x := l.Range(i, 0, 1); len(x) > 0 && x[0].Unit != index.Zeros {
			if at := l.Unit(x[0].Unit).Offset; at < end {
				found = append(found, placed{i, at})
			}
		}
	}
	slices.SortFunc(found, func(a, b placed) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.node, b.node)) })
	nodes := make([]int, len(found))
	for i, f := range found {
		nodes[i] = f.node
	}
	return nodes
}

// has says whether a unit can be had without fetching it.
func (u *Units) has(key unitKey) bool {
	u.mu.Lock()
	d := u.units[key]
	u.mu.Unlock()
	if d != nil {
		return true
	}
	return u.spool.has(key)
}

func (s *spool) has(key unitKey) bool {
	if s == nil {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.places[key]
	return ok
}
