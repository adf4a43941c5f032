package fetch

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// piece is a range of a blob that is queued, under way or kept in memory. The scheduler's lock guards it; of the buffers only
// the bytes up to have may be read, and those without the lock.
type piece struct {
	blob     *Blob
	off, end int64

	cause  Class // of the read that began it
	class  Class // the most urgent of those that want it
	wanted int64 // up to where in the blob somebody wants it; what lies behind was asked for on speculation

	buffers [][]byte // blockSize each, but the last
	have    int64    // bytes that have come
	done    bool     // all have
	stored  bool     // and are on disk
	err     error    // why no more will come

	readers int
	changed chan struct{} // closed when have, err or done changes

	keptAt   time.Time // since when nobody reads it
	reserved bool      // its bytes count in Scheduler.memory
	active   bool      // a GET is under way
	cancel   context.CancelCauseFunc

	attempts  int       // failures since the last progress
	bad       int       // answers that were too long, too short or contradictory
	last      error     // the last failure
	notBefore time.Time // when to try again
}

func newPiece(b *Blob, class Class, off, end int64) *piece {
	return &piece{blob: b, off: off, end: end, cause: class, class: class, wanted: off, changed: make(chan struct{})}
}

func (p *piece) length() int64 { return p.end - p.off }

// broadcast wakes all readers.
func (p *piece) broadcast() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// join counts a reader in who wants the bytes up to upto.
func (p *piece) join(class Class, upto int64) {
	s := p.blob.s
	if p.done && p.readers == 0 {
		s.unkeep(p)
	}
	p.readers++
	p.wanted = max(p.wanted, min(upto, p.end))
	p.class = min(p.class, class)
	if !p.done {
		p.blob.host.wake() // it may be slowed, or waiting behind others
	}
}

// leave counts a reader out. What nobody has begun and nobody wants is not begun any more.
func (p *piece) leave() {
	if p.readers--; p.readers > 0 || p.err != nil {
		return
	}
	switch {
	case p.done:
		p.rest()
	case !p.active:
		p.giveUp(errUnwanted)
	}
}

// rest is what becomes of a piece that has come and that nobody reads: what is on disk need not be in memory.
func (p *piece) rest() {
	if p.stored {
		p.giveUp(errUnwanted)
	} else {
		p.blob.s.keep(p)
	}
}

var errDiscarded = fmt.Errorf("it is not what it should be: %w", errdefs.ErrUnavailable)

var errUnwanted = fmt.Errorf("nobody waits for it any more: %w", errdefs.ErrUnavailable)

// giveUp takes the piece out of use: its readers fail with err.
func (p *piece) giveUp(err error) {
	if p.err != nil {
		return
	}
	p.err = err
	p.blob.remove(p)
	p.blob.host.unqueue(p)
	if p.done && p.readers == 0 {
		p.blob.s.unkeep(p)
	}
	if p.active {
		p.cancel(err) // the GET's end releases the memory
	} else {
		p.release()
	}
	p.broadcast()
	p.blob.host.wake()
}

// release frees the piece's memory, unless a reader still copies from it: then the garbage collector does.
func (p *piece) release() {
	s := p.blob.s
	if !p.reserved {
		return
	}
	p.reserved = false
	s.memory -= p.length()
	if p.readers == 0 {
		p.recycle()
	}
	s.dispatch()
}

// recycle gives the buffers back. Nobody may read them any more.
func (p *piece) recycle() {
	for _, b := range p.buffers {
		if len(b) == blockSize {
			blocks.Put((*[blockSize]byte)(b))
		}
	}
	p.buffers = nil
}

// late is the error of a reader whose context has ended.
func (p *piece) late(ctx context.Context) error {
	if context.Cause(ctx) != errDeadline {
		return ctx.Err()
	}
	if p.last != nil {
		return fmt.Errorf("%w, at last: %w: %w", errDeadline, p.last, errdefs.ErrUnavailable)
	}
	return fmt.Errorf("%w: %w", errDeadline, errdefs.ErrUnavailable)
}

// copyBlocks fills b with the bytes from off in the piece that blocks belong to, up to have.
func copyBlocks(b []byte, blocks [][]byte, off, have int64) int {
	n := 0
	for n < len(b) && off < have {
		block := blocks[off/blockSize]
		from := off % blockSize
		got := copy(b[n:], block[from:min(int64(len(block)), from+have-off)])
		n, off = n+got, off+int64(got)
	}
	return n
}

// urgent says whether somebody waits for bytes of it who is not the background.
func (p *piece) urgent() bool { return p.class < Background && p.off+p.have < p.wanted }

// keepTime is how long a range is kept for the next read. Who reads on does so at once; memory is others' after that.
const keepTime = 10 * time.Second

// keep holds a whole piece that nobody reads just now, for the next read.
func (s *Scheduler) keep(p *piece) {
	p.keptAt = time.Now()
	s.kept = append(s.kept, p)
	if s.forget == nil && !s.closed {
		s.forget = time.AfterFunc(keepTime, s.forgetOld)
	}
	s.dispatch() // its memory can be had now
}

// forgetOld drops what was kept for long enough.
func (s *Scheduler) forgetOld() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget = nil
	for len(s.kept) > 0 && time.Since(s.kept[0].keptAt) >= keepTime {
		s.dropOldest()
	}
	if len(s.kept) > 0 && !s.closed {
		s.forget = time.AfterFunc(keepTime-time.Since(s.kept[0].keptAt), s.forgetOld)
	}
}

// dropOldest forgets the piece that was kept first.
func (s *Scheduler) dropOldest() {
	old := s.kept[0]
	s.kept = s.kept[1:]
	old.err = errUnwanted
	old.blob.remove(old)
	old.reserved = false
	s.memory -= old.length()
	old.recycle()
}

func (s *Scheduler) dispatch() {
	for _, h := range s.hosts {
		h.dispatch()
	}
}

func (s *Scheduler) unkeep(p *piece) {
	for i, other := range s.kept {
		if other == p {
			s.kept = append(s.kept[:i], s.kept[i+1:]...)
			return
		}
	}
}

// reserve makes sure of the memory for a piece, dropping what is only kept. The background gets half of it and the profile
// three quarters, so that somebody who waits finds some.
func (s *Scheduler) reserve(p *piece) bool {
	if p.reserved {
		return true
	}
	limit := s.opts.Memory
	switch p.class {
	case Profile:
		limit -= limit / 4
	case Background:
		limit /= 2
	}
	for s.memory+p.length() > limit {
		if len(s.kept) == 0 {
			return false
		}
		s.dropOldest()
	}
	p.reserved = true
	s.memory += p.length()
	return true
}
