package layer

import (
	"container/list"
	"context"
	"errors"
	"sync"
)

// Units keeps a few decoded units in memory, for all layers together: small files share a unit, and readers of one unit decode it
// once.
type Units struct {
	limit int64 // bytes kept when nobody reads them

	mu     sync.Mutex
	layers uint64
	bytes  int64
	units  map[unitKey]*decoded
	recent list.List // of unitKey, the most recent first; those that are whole
}

type unitKey struct {
	layer uint64
	unit  int
}

type decoded struct {
	ready chan struct{} // closed when data or err is there
	data  []byte
	err   error
	place *list.Element
}

// NewUnits keeps up to limit bytes.
func NewUnits(limit int64) *Units { return &Units{limit: limit, units: map[unitKey]*decoded{}} }

// layer answers a number for a new layer. Numbers are not used again, so units of a closed layer just grow old.
func (u *Units) layer() uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.layers++
	return u.layers
}

// get answers a unit, by load when it is not here. Errors are not kept; one that comes of another reader's context is
// not this reader's, who tries itself.
func (u *Units) get(ctx context.Context, key unitKey, load func() ([]byte, error)) ([]byte, error) {
	for {
		u.mu.Lock()
		d := u.units[key]
		if d == nil {
			d = &decoded{ready: make(chan struct{})}
			u.units[key] = d
			u.mu.Unlock()
			u.load(key, d, load)
			return d.data, d.err
		}
		if d.place != nil {
			u.recent.MoveToFront(d.place)
		}
		u.mu.Unlock()
		select {
		case <-d.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if d.err == nil || !errors.Is(d.err, context.Canceled) && !errors.Is(d.err, context.DeadlineExceeded) {
			return d.data, d.err
		}
	}
}

// load fills d and makes room. Should load panic, those who wait go on with an error.
func (u *Units) load(key unitKey, d *decoded, load func() ([]byte, error)) {
	d.err = errors.New("the unit's reader ended")
	defer func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if d.err != nil {
			delete(u.units, key)
		} else {
			d.place = u.recent.PushFront(key)
			u.bytes += int64(len(d.data))
			u.shrink()
		}
		close(d.ready)
	}()
	d.data, d.err = load()
}

// shrink drops the oldest units. The caller holds mu.
func (u *Units) shrink() {
	for u.bytes > u.limit && u.recent.Len() > 0 {
		key := u.recent.Remove(u.recent.Back()).(unitKey)
		u.bytes -= int64(len(u.units[key].data))
		delete(u.units, key)
	}
}
