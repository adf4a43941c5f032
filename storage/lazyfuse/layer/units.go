package layer

import (
	"container/list"
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/semaphore"
)

// Units keeps decoded units for all layers together: small files share a unit, and readers of one unit decode it once. A few are
// in memory; those that many files share are in a file besides, since a program that starts reads files of all units in any
// order, and would otherwise have units fetched and decoded for each of them.
type Units struct {
	limit int64 // bytes kept in memory when nobody reads them
	spool *spool
	ahead *semaphore.Weighted // for Layer.ahead

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

// NewUnits keeps up to limit bytes in memory, and up to onDisk in a file in dir, which has no name and ends with the process. With an
// empty dir there is no such file.
func NewUnits(limit int64, dir string, onDisk int64) (*Units, error) {
	s, err := newSpool(dir, onDisk)
	return &Units{limit: limit, units: map[unitKey]*decoded{}, spool: s, ahead: semaphore.NewWeighted(heldAhead)}, err
}

// Close gives the file up. What is read later is decoded anew.
func (u *Units) Close() error { return u.spool.Close() }

// layer answers a number for a new layer. Numbers are not used again, so units of a closed layer just grow old.
func (u *Units) layer() uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.layers++
	return u.layers
}

// get answers size bytes of a unit from from on, by load when they are not here. It answers fewer of a unit that ends before.
// Errors are not kept; one that comes of another reader's context is not this reader's, who tries itself.
func (u *Units) get(ctx context.Context, key unitKey, from, size int64, load func() ([]byte, error)) ([]byte, error) {
	for {
		if data := u.spool.read(key, from, size); data != nil {
			return data, nil
		}
		u.mu.Lock()
		d := u.units[key]
		if d == nil {
			d = &decoded{ready: make(chan struct{})}
			u.units[key] = d
			u.mu.Unlock()
			u.load(key, d, load)
			if d.err == nil && size < int64(len(d.data)) {
				u.spool.write(key, d.data)
			}
			return cut(d.data, from, size), d.err
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
			return cut(d.data, from, size), d.err
		}
	}
}

// cut answers up to size bytes from from on.
func cut(data []byte, from, size int64) []byte {
	n := int64(len(data))
	return data[min(from, n):min(from+size, n)]
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
