package cache

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/storage/lazyfuse/spans"
)

// Entry is one content, held by whoever acquired it. There is one for each key, so it is small.
type Entry struct {
	cache *Cache
	key   Key
	size  int64

	refs    int32 // guarded by cache.mu, as are dying and lastUse
	dying   bool
	lastUse uint64

	mu   sync.Mutex
	full bool      // all of it is there; have is empty then
	have spans.Set // what readers may read
	file *openFile
}

// openFile is the descriptor of an entry that has one. Entry.mu guards it.
type openFile struct {
	*os.File
	users  int       // readers, writers and syncs; it stays open for them
	fresh  spans.Set // written, and not synced yet
	inSync spans.Set // what the sync at work has taken of fresh
	queued bool      // in Cache.dirty
	recent bool      // used since the last look for descriptors to close
}

func (f *openFile) busy() bool { return f.users > 0 || f.queued }

// Acquire finds or begins the content of size bytes with that key and holds it: it is not removed until Release. A caller
// holds what a mounted layer has, once for the layer, not for each read.
func (c *Cache) Acquire(key Key, size int64) (*Entry, error) {
	return c.acquire(key, size, true)
}

// Find holds a content of which there is something in the cache, and is ErrMissing when there is nothing.
func (c *Cache) Find(key Key) (*Entry, error) { return c.acquire(key, -1, false) }

func (c *Cache) acquire(key Key, size int64, begin bool) (*Entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
	for e != nil && e.dying {
		gone := c.gone
		c.mu.Unlock()
		<-gone
		c.mu.Lock()
		e = c.entries[key]
	}
	switch {
	case c.closed:
		return nil, fmt.Errorf("the lazy cache is closed: %w", errdefs.ErrUnavailable)
	case e == nil && !begin:
		return nil, ErrMissing
	case begin && (size < 0 || size > maxSize || e != nil && e.size != size):
		return nil, fmt.Errorf("cannot cache content %s of %d bytes: %w", key, size, errdefs.ErrInvalidArgument)
	case e == nil:
		e = &Entry{cache: c, key: key, size: size, full: size == 0}
		c.entries[key] = e
	}
	if e.refs == 0 {
		c.idle -= e.charge()
	}
	e.refs++
	c.clock++
	e.lastUse = c.clock
	return e, nil
}

// Release ends the hold of one Acquire or Find.
func (e *Entry) Release() {
	c := e.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clock++
	e.lastUse = c.clock
	if e.refs--; e.refs > 0 {
		return
	}
	if e.refs < 0 {
		panic("cache: an entry was released too often")
	}
	c.idle += e.charge()
	c.trim()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.file == nil && (len(e.have) == 0 && !e.full || e.size == 0) {
		delete(c.entries, e.key) // nothing is known of it
	}
}

// Size of the content in bytes.
func (e *Entry) Size() int64 { return e.size }

// charge is what an entry counts for in quotas: its bytes in whole blocks.
func (e *Entry) charge() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return blocks(e.presentLocked())
}

func blocks(n int64) int64 {
	const block = 4096
	return (n + block - 1) / block * block
}

func (e *Entry) presentLocked() int64 {
	if e.full {
		return e.size
	}
	return e.have.Bytes()
}

// insert adds s to what is there.
func (e *Entry) insert(s spans.Span) {
	if e.full {
		return
	}
	if s.Off > 0 || s.End < e.size {
		e.have.Add(s)
	}
	if s.End-s.Off == e.size || e.have.From(0) == e.size {
		e.full, e.have = true, nil
	}
}

// delete takes s out again.
func (e *Entry) delete(s spans.Span) {
	if e.full {
		e.full, e.have = false, spans.Set{{Off: 0, End: e.size}}
	}
	e.have.Remove(s)
}

// from is how many bytes are there from off on without a gap.
func (e *Entry) from(off int64) int64 {
	if e.full {
		return e.size - off
	}
	return e.have.From(off)
}

// Range is a piece of a content.
type Range struct{ Offset, Length int64 }

// Missing lists what is not there of length bytes from off, in order; nothing when all of it is.
func (e *Entry) Missing(off, length int64) []Range {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := spans.Span{Off: max(0, off), End: min(off+length, e.size)}
	var gaps []Range
	for _, gap := range e.missingLocked(s) {
		gaps = append(gaps, Range{gap.Off, gap.End - gap.Off})
	}
	return gaps
}

func (e *Entry) missingLocked(s spans.Span) []spans.Span {
	if s.Off >= s.End || e.full {
		return nil
	}
	return e.have.Missing(s)
}

// Present answers how many bytes are there.
func (e *Entry) Present() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.presentLocked()
}

// Present answers how many bytes of a content are here, and does not count as a use of it.
func (c *Cache) Present(key Key) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
	if e == nil || e.dying {
		return 0
	}
	return e.Present()
}

// Full says whether all bytes are there.
func (e *Entry) Full() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.full
}

// ReadAt reads what is there: up to the first gap, the content's end or the end of p. It is ErrMissing when the byte at off
// is not there, and io.EOF only at the content's end. After any other error, of the disk, the caller
// gets the bytes elsewhere and may Discard the content.
func (e *Entry) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("cannot read content %s at %d: %w", e.key, off, errdefs.ErrInvalidArgument)
	}
	if off >= e.size {
		return 0, io.EOF
	}
	e.mu.Lock()
	n := min(int64(len(p)), e.from(off))
	if n == 0 && len(p) > 0 {
		e.mu.Unlock()
		return 0, ErrMissing
	}
	f := e.file
	if f != nil {
		f.users++
		f.recent = true
	}
	e.mu.Unlock()
	if f == nil {
		var err error
		if f, err = e.openFile(false); err != nil {
			return 0, err
		}
	}
	got, err := f.ReadAt(p[:n], off)
	e.mu.Lock()
	f.users--
	e.mu.Unlock()
	if err == io.EOF && int64(got) < n {
		err = fmt.Errorf("the file of content %s is cut short: %w", e.key, errdefs.ErrDataLoss)
	} else if err == io.EOF {
		err = nil
	}
	return got, err
}

// WriteAt keeps p, which the caller has verified, as the bytes at off. Readers see them at once, a power failure spares them
// after the next sync. ErrNoSpace when there is no room; what the cache has is none the worse.
func (e *Entry) WriteAt(p []byte, off int64) (int, error) {
	s := spans.Span{Off: off, End: off + int64(len(p))}
	if off < 0 || s.End > e.size || s.End < off {
		return 0, fmt.Errorf("cannot cache %d bytes at %d of content %s, it has %d: %w", len(p), off, e.key, e.size, errdefs.ErrOutOfRange)
	}
	e.mu.Lock()
	there := e.from(off) >= s.End-off
	e.mu.Unlock()
	if there {
		return len(p), nil
	}
	c := e.cache
	if err := errors.Join(c.awaitSync(), c.makeRoom(int64(len(p)))); err != nil {
		c.refused.Add(1)
		return 0, fmt.Errorf("cannot cache %d bytes: %w", len(p), err)
	}
	f, err := e.openFile(true)
	if err == nil {
		if _, err = c.write(f, p, off); err == nil {
			e.wrote(f, s)
			return len(p), nil
		}
		e.mu.Lock()
		f.users--
		e.mu.Unlock()
	}
	if diskFull(err) {
		c.refused.Add(1)
		return 0, fmt.Errorf("cannot cache %d bytes: %w: %w", len(p), err, ErrNoSpace)
	}
	return 0, fmt.Errorf("cannot cache %d bytes of content %s: %w", len(p), e.key, err)
}

// write writes, and once more when the disk was full and something could be removed.
func (c *Cache) write(f *openFile, p []byte, off int64) (int, error) {
	if err := c.at("data: write"); err != nil {
		return 0, err
	}
	n, err := f.WriteAt(p, off)
	if err != nil && diskFull(err) && c.evict(int64(len(p))) {
		n, err = f.WriteAt(p, off)
	}
	return n, err
}

// wrote makes s readable and has it synced.
func (e *Entry) wrote(f *openFile, s spans.Span) {
	c := e.cache
	e.mu.Lock()
	before := blocks(e.presentLocked())
	// What somebody else has written meanwhile may be recorded already, and must not be taken back if this sync fails.
	for _, gap := range e.missingLocked(s) {
		f.fresh.Add(gap)
	}
	e.insert(s)
	grown := blocks(e.presentLocked()) - before
	f.users--
	queue := !f.queued
	f.queued = true
	e.mu.Unlock()
	c.used.Add(grown)
	c.markDirty(e, queue, s.End-s.Off)
}

// Complete opens the whole content for reading, for FUSE passthrough; nil when a part of it is missing. It is the same inode
// as long as the entry is held. The caller closes the file.
func (e *Entry) Complete() (*os.File, error) {
	if !e.Full() || e.size == 0 {
		return nil, nil
	}
	f, err := e.openFile(false) // checks it
	if errors.Is(err, ErrMissing) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		f.users--
	}()
	return os.Open(e.path())
}

func (e *Entry) path() string {
	name := e.key.String()
	return filepath.Join(e.cache.dir, "data", name[:2], name)
}
