package cache

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

func parseKey(name string) (key Key, ok bool) {
	if len(name) != hex.EncodedLen(len(key)) {
		return key, false
	}
	_, err := hex.Decode(key[:], []byte(name))
	return key, err == nil && key.String() == name
}

// openFile answers the entry's descriptor, which the caller gives back by users--. Without begin it is ErrMissing when
// nothing of the content is there.
func (e *Entry) openFile(begin bool) (*openFile, error) {
	opened := false
	f, err := e.openLocked(begin, &opened)
	if errors.Is(err, errDamaged) {
		// What the journal says of it must durably be void before a file that has gaps can take its place.
		if err := e.cache.lose(e); err != nil {
			return nil, err
		}
		f, err = e.openLocked(begin, &opened)
	}
	if opened {
		e.cache.limitFiles(e)
	}
	return f, err
}

var errDamaged = errors.New("the file of a cached content is damaged")

func (e *Entry) openLocked(begin bool, opened *bool) (*openFile, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.file == nil {
		f, err := e.openPath(begin)
		if err != nil {
			return nil, err
		}
		e.file = &openFile{File: f}
		*opened = true
	}
	e.file.users++
	e.file.recent = true
	return e.file, nil
}

// openPath opens the file that is there, or makes one with nothing in it when nothing of the content is there.
func (e *Entry) openPath(begin bool) (*os.File, error) {
	if e.presentLocked() > 0 {
		f, err := os.OpenFile(e.path(), os.O_RDWR, 0)
		if errors.Is(err, os.ErrNotExist) {
			return nil, errDamaged
		}
		if err != nil {
			return nil, err
		}
		fi, err := f.Stat()
		if err == nil && (!fi.Mode().IsRegular() || fi.Size() != e.size) {
			err = errDamaged
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
	if !begin {
		return nil, ErrMissing
	}
	if err := e.cache.at("data: create"); err != nil {
		return nil, err
	}
	const flags = os.O_RDWR | os.O_CREATE | os.O_TRUNC
	path := e.path()
	f, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, os.ErrNotExist) { // the first in its directory
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(path, flags, 0o600)
	}
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(e.size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// lose forgets a content whose file is not what it was.
func (c *Cache) lose(e *Entry) error {
	c.recording.Lock()
	defer c.recording.Unlock()
	e.mu.Lock()
	again := e.file != nil || e.presentLocked() == 0 // another caller was here before
	e.mu.Unlock()
	if again {
		return nil
	}
	if err := c.record([]record{{kind: kindDrop, key: e.key}}); err != nil {
		return fmt.Errorf("cannot forget the damaged content %s: %w", e.key, err)
	}
	c.shrink(e, func() { e.full, e.have = false, nil })
	return nil
}

// Discard forgets all bytes of the content, durably: they can be written again, to the same inode. It is for bytes that
// turned out to be unreadable or wrong.
func (e *Entry) Discard() error {
	c := e.cache
	c.syncing.Lock() // or a sync would record again what it has taken
	defer c.syncing.Unlock()
	c.recording.Lock()
	defer c.recording.Unlock()
	if err := c.record([]record{{kind: kindDrop, key: e.key}}); err != nil {
		return fmt.Errorf("cannot discard content %s: %w", e.key, err)
	}
	c.shrink(e, func() {
		e.full, e.have = e.size == 0, nil
		if e.file != nil {
			e.file.fresh = nil
		}
	})
	return nil
}

// shrink lets take remove some of what an entry has, and counts that.
func (c *Cache) shrink(e *Entry, take func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := e.charge()
	e.mu.Lock()
	take()
	e.mu.Unlock()
	change := e.charge() - before
	c.used.Add(change)
	if e.refs == 0 {
		c.idle += change
	}
}

// limitFiles counts an entry's new descriptor in, and closes some that nobody uses, the oldest first, when there are many.
func (c *Cache) limitFiles(e *Entry) {
	c.filesMu.Lock()
	defer c.filesMu.Unlock()
	c.files = append(c.files, e)
	for tries := len(c.files); len(c.files) > c.opts.OpenFiles && tries > 0; tries-- {
		old := c.files[0]
		c.files = c.files[1:]
		if !old.closeIdle() {
			c.files = append(c.files, old)
		}
	}
}

// closeIdle closes the descriptor unless it is in use or was lately.
func (e *Entry) closeIdle() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.file == nil: // an eviction has closed it
		return true
	case e.file.busy():
		return false
	case e.file.recent:
		e.file.recent = false
		return false
	}
	_ = e.file.Close() // it has no bytes that are not synced
	e.file = nil
	return true
}
