package cache

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/slipwayd/slipway/storage/lazyfuse/spans"
)

const (
	syncBytes   = 32 << 20 // not synced yet: time for a sync
	syncEntries = 256
	maxUnsynced = 2048 // entries not synced yet, each with a descriptor: writers wait
	syncers     = 4    // files synced at a time, so that they share the file system's commits
)

// markDirty has an entry synced soon.
func (c *Cache) markDirty(e *Entry, queue bool, bytes int64) {
	c.dirtyMu.Lock()
	defer c.dirtyMu.Unlock()
	if queue {
		c.dirty = append(c.dirty, e)
	}
	c.dirtyBytes += bytes
	signal(c.wake)
	if c.dirtyBytes >= syncBytes || len(c.dirty) >= syncEntries {
		signal(c.hurry)
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// awaitSync holds writers up for a sync when a lot is not synced yet.
func (c *Cache) awaitSync() error {
	c.dirtyMu.Lock()
	defer c.dirtyMu.Unlock()
	if len(c.dirty)+c.inSync < maxUnsynced {
		return nil
	}
	signal(c.hurry)
	c.dirtyRoom.Wait()
	if len(c.dirty)+c.inSync < maxUnsynced {
		return nil
	}
	return fmt.Errorf("%d contents wait to be synced: %w", maxUnsynced, ErrNoSpace)
}

func (c *Cache) syncLoop() {
	for {
		select {
		case <-c.stop:
			return
		case <-c.wake:
		}
		timer := time.NewTimer(c.opts.SyncEvery)
		select {
		case <-c.stop: // Close syncs
			timer.Stop()
			return
		case <-c.hurry:
			timer.Stop()
		case <-timer.C:
		}
		if err := c.Sync(); err != nil {
			c.failed(err)
		}
		if err := c.compact(false); err != nil {
			c.failed(err)
		}
	}
}

// Sync makes all that was written before it durable. What could not be synced is not in the cache any more.
func (c *Cache) Sync() error {
	c.syncing.Lock()
	defer c.syncing.Unlock()
	c.dirtyMu.Lock()
	batch := c.dirty
	c.dirty, c.dirtyBytes, c.inSync = nil, 0, len(batch)
	c.dirtyMu.Unlock()
	defer func() {
		c.dirtyMu.Lock()
		defer c.dirtyMu.Unlock()
		c.inSync = 0
		c.dirtyRoom.Broadcast()
	}()
	if len(batch) == 0 {
		return nil
	}
	for _, e := range batch {
		e.beginSync()
	}
	errs := c.syncFiles(batch)
	var records []record
	for i, e := range batch {
		if errs[i] != nil {
			e.cancelSync()
			continue
		}
		for _, s := range e.file.inSync {
			records = append(records, record{kind: kindHave, key: e.key, size: e.size, used: int64(e.uses()), off: s.Off, len: s.End - s.Off})
		}
	}
	c.recording.Lock()
	err := c.record(records)
	for i, e := range batch {
		if errs[i] == nil {
			e.endSync(err == nil)
		}
	}
	c.recording.Unlock()
	if err := errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("cannot sync the lazy cache: %w", err)
	}
	return nil
}

// beginSync takes what is to be synced. The entry was queued, so its descriptor is open.
func (e *Entry) beginSync() {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.file
	f.inSync, f.fresh = f.fresh, nil
	f.queued = false
	f.users++
	startWriteback(f.File)
}

// syncFiles syncs each entry's file; the errors are in the batch's order.
func (c *Cache) syncFiles(batch []*Entry) []error {
	errs := make([]error, len(batch))
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(syncers, len(batch)) {
		workers.Go(func() {
			for i := range next {
				if errs[i] = c.at("data: sync"); errs[i] == nil {
					errs[i] = c.opts.sync(batch[i].file.File)
				}
			}
		})
	}
	for i := range batch {
		next <- i
	}
	close(next)
	workers.Wait()
	return errs
}

// endSync gives the descriptor back. What is synced but not recorded will be synced and recorded by a later sync that
// something else causes, or is forgotten by the next process.
func (e *Entry) endSync(recorded bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.file
	f.users--
	if !recorded {
		for _, s := range f.inSync {
			f.fresh.Add(s)
		}
		if !f.queued {
			f.queued = true
			defer e.cache.markDirty(e, true, 0)
		}
	}
	f.inSync = nil
}

// cancelSync forgets what could not be synced: the kernel may have dropped those pages, and what is on disk is unknown.
func (e *Entry) cancelSync() {
	e.cache.shrink(e, func() {
		f := e.file
		f.users--
		for _, s := range f.inSync {
			e.delete(s)
		}
		f.inSync = nil
	})
}

func (e *Entry) uses() uint64 {
	e.cache.mu.Lock()
	defer e.cache.mu.Unlock()
	return e.lastUse
}

// record adds to the journal, repairing it first when that is needed. The caller holds recording.
func (c *Cache) record(records []record) error {
	if len(records) == 0 {
		return nil
	}
	if c.journal.bad {
		if err := c.journal.rewrite(c.listDurable); err != nil {
			return err
		}
	}
	return c.journal.add(records)
}

// compact rewrites the journal when it is mostly history, or anyway.
func (c *Cache) compact(anyway bool) error {
	c.recording.Lock()
	defer c.recording.Unlock()
	if !anyway && !c.journal.grown() {
		return nil
	}
	if err := c.journal.rewrite(c.listDurable); err != nil {
		return fmt.Errorf("cannot rewrite the journal of the lazy cache: %w", err)
	}
	return nil
}

// listDurable calls add with records of all that is durable. Entries that an eviction is removing are left out.
func (c *Cache) listDurable(add func(record)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		if e.dying {
			continue
		}
		for _, s := range e.durable() {
			add(record{kind: kindHave, key: e.key, size: e.size, used: int64(e.lastUse), off: s.Off, len: s.End - s.Off})
		}
	}
}

func (e *Entry) durable() spans.Set {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list spans.Set
	switch {
	case e.full && e.size > 0:
		list = spans.Set{{Off: 0, End: e.size}}
	default:
		list = append(list, e.have...)
	}
	if e.file == nil {
		return list
	}
	for _, unsynced := range []spans.Set{e.file.fresh, e.file.inSync} {
		for _, s := range unsynced {
			list.Remove(s)
		}
	}
	return list
}
