package cache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/storage/lazyfuse/spans"
)

// Options of a cache. Zero fields have the defaults that are named here.
type Options struct {
	// Quota is how many bytes the cache may hold; 0 for as many as there is room for. What is held by nobody goes first, the
	// least recently used of it before the rest.
	Quota int64
	// Idle is how many bytes of what nobody holds may stay; 0 for as many as Quota leaves. What is beyond goes soon after it is
	// released, the least recently used first.
	Idle int64
	// Reserve is how many bytes of the file system the cache leaves free for others. Default 256 MiB; below 0 for none.
	Reserve int64
	// SyncEvery is the time within which what was written becomes durable. Default 1 s.
	SyncEvery time.Duration
	// OpenFiles is how many descriptors may stay open for files that nobody reads just now. Default 256.
	OpenFiles int
	// Failed is told of errors of work in the background, when not nil.
	Failed func(error)

	step func(string) error   // of tests: called before each step on disk
	sync func(*os.File) error // of tests: in place of syncData
}

// ErrNoSpace says that the bytes were not kept: the quota or the disk is full of what is held. It is a ResourceExhausted.
var ErrNoSpace = fmt.Errorf("the lazy cache is full: %w", errdefs.ErrResourceExhausted)

// ErrMissing says that the bytes are not in the cache. It is a NotFound.
var ErrMissing = fmt.Errorf("the bytes are not in the lazy cache: %w", errdefs.ErrNotFound)

// Stats of a cache.
type Stats struct {
	Entries int   // contents known
	Bytes   int64 // they take on disk
	Idle    int64 // of Bytes, what nobody holds
	Evicted int64 // contents removed to make room, since Open
	Refused int64 // writes that found no room, since Open
}

// Cache is the store. All methods are safe for concurrent use. Locks are taken in this order: syncing, evicting, recording,
// mu, Entry.mu; dirtyMu and filesMu are innermost.
type Cache struct {
	dir    string
	opts   Options
	lock   *os.File
	handle *os.File // of dir

	mu      sync.Mutex
	entries map[Key]*Entry
	clock   uint64        // counts uses
	idle    int64         // bytes of entries without references
	gone    chan struct{} // closed when the eviction at work is over
	closed  bool

	used    atomic.Int64 // bytes of all entries
	evicted atomic.Int64
	refused atomic.Int64
	blind   atomic.Int64 // bytes written since the file system's free space was looked at

	evicting  sync.Mutex // one eviction at a time
	recording sync.Mutex // guards journal
	journal   *journal
	syncing   sync.Mutex // one sync at a time

	dirtyMu    sync.Mutex
	dirty      []*Entry
	dirtyBytes int64
	inSync     int        // entries that the sync at work has taken
	dirtyRoom  *sync.Cond // signalled when there is less to sync

	filesMu sync.Mutex
	files   []*Entry // with an open descriptor, in the order of opening

	wake, hurry chan struct{} // something is dirty; a lot is
	idler       chan struct{} // holds a token when more may be idle than should
	stop        chan struct{}
	background  sync.WaitGroup
}

// Open opens the cache in dir, an absolute path, and makes it when it is not there. Unavailable when another process has it
// open. The caller closes it.
func Open(dir string, opts Options) (_ *Cache, err error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("cannot open lazy cache %q: the path must be absolute: %w", dir, errdefs.ErrInvalidArgument)
	}
	if opts.Reserve == 0 {
		opts.Reserve = 256 << 20
	}
	if opts.SyncEvery <= 0 {
		opts.SyncEvery = time.Second
	}
	if opts.OpenFiles <= 0 {
		opts.OpenFiles = 256
	}
	if opts.sync == nil {
		opts.sync = syncData
	}
	c := &Cache{dir: dir, opts: opts, entries: make(map[Key]*Entry), wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), idler: make(chan struct{}, 1), stop: make(chan struct{})}
	c.dirtyRoom = sync.NewCond(&c.dirtyMu)
	if err := c.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open lazy cache %s: %w", dir, err), c.closeFiles())
	}
	c.background.Go(c.syncLoop)
	c.background.Go(c.sweep)
	c.background.Go(c.trimLoop)
	c.trim()
	return c, nil
}

func (c *Cache) open() (err error) {
	if err := os.MkdirAll(filepath.Join(c.dir, "data"), 0o700); err != nil {
		return err
	}
	if c.lock, err = lockDir(filepath.Join(c.dir, "lock")); err != nil {
		return err
	}
	if c.handle, err = os.Open(c.dir); err != nil {
		return err
	}
	if c.journal, err = readJournal(filepath.Join(c.dir, "journal"), c.handle, c.opts, c.replay); err != nil {
		return err
	}
	c.journal.base = int64(len(journalMagic))
	for key, e := range c.entries {
		if e.charge() == 0 {
			delete(c.entries, key)
			continue
		}
		c.idle += e.charge()
		c.journal.base += 48 * int64(max(1, len(e.have)))
	}
	c.used.Store(c.idle)
	return nil
}

// replay takes in one record of the journal.
func (c *Cache) replay(r record) {
	if r.kind == kindDrop {
		delete(c.entries, r.key)
		return
	}
	e := c.entries[r.key]
	if e == nil {
		e = &Entry{cache: c, key: r.key, size: r.size}
		c.entries[r.key] = e
	}
	if e.size != r.size {
		return // cannot be: the size is a part of the key
	}
	e.insert(spans.Span{Off: r.off, End: r.off + r.len})
	e.lastUse = max(e.lastUse, uint64(r.used))
	c.clock = max(c.clock, e.lastUse)
}

// Close makes what was written durable and ends the cache. Entries must not be used any more; files that Complete gave away
// stay usable.
func (c *Cache) Close() error {
	c.mu.Lock()
	closed := c.closed
	c.closed = true
	c.mu.Unlock()
	if closed {
		return nil
	}
	close(c.stop)
	c.background.Wait()
	err := c.Sync()
	// The order of last uses is only in memory.
	err = errors.Join(err, c.compact(true), c.closeFiles())
	if err != nil {
		return fmt.Errorf("cannot close lazy cache %s: %w", c.dir, err)
	}
	return nil
}

func (c *Cache) closeFiles() error {
	var errs []error
	for _, e := range c.files {
		if e.file != nil {
			errs = append(errs, e.file.Close())
			e.file = nil
		}
	}
	if c.journal != nil {
		errs = append(errs, c.journal.f.Close())
	}
	for _, f := range []*os.File{c.handle, c.lock} { // the lock last
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Stats tells how full the cache is.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{Entries: len(c.entries), Bytes: c.used.Load(), Idle: c.idle, Evicted: c.evicted.Load(), Refused: c.refused.Load()}
}

// sweep removes the files that the journal does not know: of a removal or a first write that a crash has interrupted.
func (c *Cache) sweep() {
	for i := range 256 {
		shard := filepath.Join(c.dir, "data", fmt.Sprintf("%02x", i))
		names, err := os.ReadDir(shard)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			c.failed(fmt.Errorf("cannot look for left-over files of the lazy cache: %w", err))
			return
		}
		for _, name := range names {
			select {
			case <-c.stop:
				return
			default:
			}
			if err := c.sweepFile(shard, name.Name()); err != nil {
				c.failed(err)
			}
		}
	}
}

func (c *Cache) sweepFile(shard, name string) error {
	key, ok := parseKey(name)
	c.mu.Lock() // so that nobody begins to write the file
	defer c.mu.Unlock()
	if ok && c.entries[key] != nil {
		return nil
	}
	if err := os.Remove(filepath.Join(shard, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove a left-over file of the lazy cache: %w", err)
	}
	return nil
}

func (c *Cache) failed(err error) {
	if c.opts.Failed != nil {
		c.opts.Failed(err)
	}
}

func (c *Cache) at(step string) error {
	if c.opts.step == nil {
		return nil
	}
	return c.opts.step(step)
}
