package fetch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/slipwayd/slipway/storage/lazyfuse/spans"
)

// store is what was fetched of one blob, in a sparse file without a name, so that no byte is fetched twice while the blob is open,
// whoever reads. It is as trustworthy as what the registry sent: readers check it and Discard what is wrong. The scheduler's lock
// guards it, but the file's bytes are read and written without.
type store struct {
	file   *os.File // nil before the first write, and when it has failed
	have   spans.Set
	failed bool
}

// smallest is how much of the store is worth asking for twice: a GET that goes on over less than that is cheaper than two.
const smallest = 64 << 10

// from is how many bytes of the blob are in the store from off on.
func (b *Blob) from(off int64) int64 { return b.stored.have.From(off) }

// bound is where a GET that begins at off, and may go to end, should end: not with bytes that are in the store, nor across many.
func (b *Blob) bound(off, end int64) int64 {
	at := off
	for _, gap := range b.stored.have.Missing(spans.Span{Off: off, End: end}) {
		if gap.Off-at >= smallest {
			break
		}
		at = gap.End
	}
	return max(at, off+1)
}

// readStored reads what the store has from off on; 0 when it has nothing or cannot be read. The caller holds the scheduler's lock.
func (b *Blob) readStored(class Class, p []byte, off int64) int {
	n := min(int64(len(p)), b.from(off))
	if n == 0 {
		return 0
	}
	file := b.stored.file
	b.s.mu.Unlock()
	_, err := file.ReadAt(p[:n], off)
	b.s.mu.Lock()
	if err != nil { // the disk fails, or the store was dropped meanwhile
		if b.stored.file == file {
			b.dropStore()
		}
		return 0
	}
	b.s.counters[class].Served += n
	return int(n)
}

// storable says whether a piece that has come may be stored, and makes the file for it.
func (b *Blob) storable(p *piece) (*os.File, bool) {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	o := b.s.opts
	if o.Dir == "" || b.closed || b.stored.failed || p.err != nil || b.s.disk+p.length() > o.Disk || here(b.fetcher) || o.Room != nil && !o.Room(p.length()) {
		return nil, false
	}
	if b.stored.file == nil {
		f, err := nameless(o.Dir)
		if err != nil {
			b.stored.failed = true
			return nil, false
		}
		b.stored.file = f
	}
	b.s.disk += p.length()
	return b.stored.file, true
}

// store writes a whole piece to disk. Memory does for what finds no room there.
func (p *piece) store() {
	b := p.blob
	file, ok := b.storable(p)
	if !ok {
		return
	}
	var err error
	for i := 0; i < len(p.buffers) && err == nil; i++ {
		_, err = file.WriteAt(p.buffers[i], p.off+int64(i)*blockSize)
	}
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	before := b.stored.have.Bytes()
	if err == nil && p.err == nil && b.stored.file == file {
		b.stored.have.Add(spans.Span{Off: p.off, End: p.end})
		p.stored = true
	}
	b.s.disk -= p.length() - (b.stored.have.Bytes() - before)
	if err != nil && b.stored.file == file {
		b.dropStore() // frees what it took
		b.stored.failed = true
	}
}

// dropStore forgets what is on disk. The caller holds the scheduler's lock.
func (b *Blob) dropStore() {
	if b.stored.file != nil {
		b.s.disk -= b.stored.have.Bytes()
		_ = b.stored.file.Close()
	}
	b.stored = store{failed: b.stored.failed}
}

// nameless makes a file without a name, of this process alone. A crash in the middle leaves an empty one, which the next one replaces.
func nameless(dir string) (*os.File, error) {
	name := filepath.Join(dir, "blob")
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		there := errors.Is(err, fs.ErrExist) // left by a crash, or another server's that is about to lose its name
		if err != nil && !there {
			return nil, fmt.Errorf("cannot make a file for what is fetched: %w", err)
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			_ = f.Close() // nil is no harm
			return nil, fmt.Errorf("cannot make a file for what is fetched: %w", err)
		}
		if !there {
			return f, nil
		}
	}
}

// Local is what a blob's fetcher has that may by now deliver from this host's disk: nothing is stored then.
type Local interface{ Here() bool }

func here(fetcher any) bool {
	l, ok := fetcher.(Local)
	return ok && l.Here()
}

// Trim gives up what is on disk of blobs that can be had without it.
func (s *Scheduler) Trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for b := range s.blobs {
		if b.stored.file != nil && here(b.fetcher) {
			b.dropStore()
		}
	}
}

// Discard forgets length bytes from off on, which are not what they should be: the next read fetches them anew. Who waits for
// them goes on waiting.
func (b *Blob) Discard(off, length int64) {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	before := b.stored.have.Bytes()
	b.stored.have.Remove(spans.Span{Off: off, End: off + length})
	b.s.disk -= before - b.stored.have.Bytes()
	for _, p := range append([]*piece(nil), b.pieces...) {
		if p.off < off+length && p.end > off {
			p.giveUp(errDiscarded)
		}
	}
}
