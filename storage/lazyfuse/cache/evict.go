package cache

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// lookEvery is how many bytes are written between two looks at the file system's free space.
const lookEvery = 4 << 20

// makeRoom sees to it that n more bytes fit.
func (c *Cache) makeRoom(n int64) error {
	over := func() int64 {
		if c.opts.Quota <= 0 {
			return 0
		}
		return c.used.Load() + n - c.opts.Quota
	}
	if o := over(); o > 0 && o <= c.idleBytes() { // else all would go for nothing
		c.evict(max(o, c.opts.Quota/32)) // some more, so that not every write has to
	}
	if over() > 0 {
		return fmt.Errorf("the quota is %d bytes: %w", c.opts.Quota, ErrNoSpace)
	}
	if c.opts.Reserve < 0 || c.blind.Add(n) < lookEvery {
		return nil
	}
	short, err := c.shortOfReserve(n)
	if short > 0 && c.evict(short) {
		short, err = c.shortOfReserve(n)
	}
	if err != nil {
		return fmt.Errorf("cannot look how full the disk is: %w", err)
	}
	if short > 0 {
		return fmt.Errorf("%d bytes of the disk are to stay free: %w", c.opts.Reserve, ErrNoSpace)
	}
	c.blind.Store(0)
	return nil
}

// Room says whether somebody else may put n bytes on the disk that the cache is on, and leave as much of it free as the cache does.
func (c *Cache) Room(n int64) bool {
	if c.opts.Reserve < 0 {
		return true
	}
	short, err := c.shortOfReserve(n)
	return err == nil && short <= 0
}

func (c *Cache) idleBytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.idle
}

func (c *Cache) shortOfReserve(n int64) (int64, error) {
	free, err := freeBytes(c.handle)
	return c.opts.Reserve + n - free, err
}

// trim has what is idle looked at soon.
func (c *Cache) trim() {
	if c.opts.Idle > 0 {
		select {
		case c.idler <- struct{}{}:
		default:
		}
	}
}

// trimLoop keeps what is idle to its limit. A layer is released content by content, so it waits a little for the rest.
func (c *Cache) trimLoop() {
	for {
		select {
		case <-c.stop:
			return
		case <-c.idler:
		}
		pause := time.NewTimer(c.opts.SyncEvery) // what was just written is removed when it is durable
		select {
		case <-c.stop:
			pause.Stop()
			return
		case <-pause.C:
		}
		if over := c.idleBytes() - c.opts.Idle; over > 0 {
			c.evict(over)
		}
	}
}

// evict removes contents that nobody holds, least recently used first, until need bytes are gone. It says whether any went.
func (c *Cache) evict(need int64) bool {
	c.evicting.Lock()
	defer c.evicting.Unlock()
	victims := c.chooseVictims(need)
	if len(victims) == 0 {
		return false
	}
	err := c.remove(victims)
	if err != nil {
		c.failed(fmt.Errorf("cannot make room in the lazy cache: %w", err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range victims {
		e.dying = false
		if err != nil {
			continue
		}
		charge := e.charge()
		c.idle -= charge
		c.used.Add(-charge)
		c.evicted.Add(1)
		delete(c.entries, e.key)
	}
	close(c.gone)
	return err == nil
}

// chooseVictims marks what is to go, so that nobody acquires it.
func (c *Cache) chooseVictims(need int64) []*Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle == 0 {
		return nil
	}
	var idle []*Entry
	for _, e := range c.entries {
		if e.refs == 0 && e.closeUnlessBusy() {
			idle = append(idle, e)
		}
	}
	slices.SortFunc(idle, func(a, b *Entry) int { return cmp.Compare(a.lastUse, b.lastUse) })
	for i, e := range idle {
		if need <= 0 {
			idle = idle[:i]
			break
		}
		need -= e.charge()
		e.dying = true
	}
	c.gone = make(chan struct{})
	return idle
}

// closeUnlessBusy closes the descriptor of an entry that nobody holds.
func (e *Entry) closeUnlessBusy() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.file == nil {
		return true
	}
	if e.file.busy() {
		return false
	}
	_ = e.file.Close() // it has no bytes that are not synced
	e.file = nil
	return true
}

// remove makes the journal forget the entries and then removes their files. In the other order a file that is begun anew
// could be taken for the old one after a power failure, gaps and all.
func (c *Cache) remove(victims []*Entry) error {
	records := make([]record, len(victims))
	for i, e := range victims {
		records[i] = record{kind: kindDrop, key: e.key}
	}
	c.recording.Lock()
	err := c.record(records)
	c.recording.Unlock()
	if err != nil {
		return err
	}
	for _, e := range victims {
		if err := c.at("data: remove"); err != nil {
			c.failed(err)
			continue
		}
		if err := os.Remove(e.path()); err != nil && !errors.Is(err, os.ErrNotExist) {
			c.failed(fmt.Errorf("cannot remove a file of the lazy cache: %w", err)) // the next start tries again
		}
	}
	return nil
}
