package cache

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// disk is the worst disk that is allowed: of a file it keeps what was there at the last sync and zeros for the rest, while
// names, lengths and removals may be kept at once. It remembers what it would keep.
type disk struct {
	t   *testing.T
	dir string

	mu     sync.Mutex
	synced map[uint64][]byte // by inode
	linked uint64            // inode of the journal when the directory was synced
	kept   []byte            // what was synced of that one
}

func (d *disk) sync(f *os.File) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.IsDir() {
		if fi, err = os.Stat(filepath.Join(d.dir, "journal")); err == nil {
			d.linked, d.kept = inode(fi), d.synced[inode(fi)]
		}
		return nil
	}
	data := make([]byte, fi.Size())
	if _, err := f.ReadAt(data, 0); err != nil && len(data) > 0 {
		return err
	}
	d.synced[inode(fi)] = data
	if inode(fi) == d.linked && strings.HasPrefix(filepath.Base(f.Name()), "journal") {
		d.kept = data
	}
	return nil
}

func inode(fi fs.FileInfo) uint64 { return fi.Sys().(*syscall.Stat_t).Ino }

// What may be left of the journal.
const (
	journalWritten = iota // what was written to it, synced or not
	journalSynced         // what was synced of the file that bears the name now
	journalLinked         // what was synced of the file that bore the name at the directory's last sync
	journals
)

// crash makes a copy of what a power failure now would leave.
func (d *disk) crash(journal int) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	after := d.t.TempDir()
	exists := map[uint64]bool{}
	err := filepath.WalkDir(d.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(d.dir, path)
		if err != nil {
			return err
		}
		target := filepath.Join(after, rel)
		if entry.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		fi, err := entry.Info()
		if err != nil {
			return err
		}
		exists[inode(fi)] = true
		data := make([]byte, fi.Size())
		copy(data, d.synced[inode(fi)])
		if rel == "journal" {
			switch journal {
			case journalWritten:
				if data, err = os.ReadFile(path); err != nil {
					return err
				}
			case journalSynced:
				data = d.synced[inode(fi)]
			case journalLinked:
				data = d.kept
			}
		}
		return os.WriteFile(target, data, 0o600)
	})
	if err != nil {
		d.t.Fatal(err)
	}
	for n := range d.synced { // before another file gets the inode
		if !exists[n] {
			delete(d.synced, n)
		}
	}
	return after
}

// TestLostWrites tells the story on the worst disk and looks before each step at what a power failure would leave.
func TestLostWrites(t *testing.T) {
	d := &disk{t: t, dir: filepath.Join(t.TempDir(), "cache"), synced: map[uint64][]byte{}}
	var told []string
	var mu sync.Mutex
	looks := 0
	look := func(step string) error {
		mu.Lock()
		defer mu.Unlock()
		for journal := range journals {
			after := d.crash(journal)
			found, err := Open(after, Options{Reserve: -1})
			if err != nil {
				return err
			}
			checkStory(t, found, told)
			finishStory(t, found)
			if err := errors.Join(found.Close(), os.RemoveAll(after)); err != nil {
				t.Error(err)
			}
			if t.Failed() {
				t.Errorf("after a power failure before %q, number %d, journal %d; told %q", step, looks, journal, told)
				return errors.New("that is enough")
			}
		}
		looks++
		return nil
	}
	c := open(t, d.dir, Options{step: look, sync: d.sync})
	if err := story(t, c, func(line string) { told = append(told, line) }); err != nil {
		t.Fatal(err)
	}
	_ = look("end")
	c.opts.step, c.journal.step = nil, nil // closing is no part of it
	if looks < 30 {
		t.Errorf("looked only %d times", looks)
	}
}
