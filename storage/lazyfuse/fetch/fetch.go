// Package fetch decides which bytes of which blob are asked of a registry, when, and in what order.
//
// It owns the reads that are under way, the memory that their bytes wait in, and for each blob a file without a name with what has
// come of it, so that nothing is fetched twice. One Scheduler serves all layers of the host. How a range is got (mirrors, tokens, redirects, connections) is the business of the content.Fetcher that
// comes with each blob; whether the bytes are right is the business of the caller, who has the digests.
//
// A read joins what is under way: readers of the same bytes cause one GET, and a reader wakes up as soon as its own bytes have
// passed, not at the end of the GET. Foreground reads go before the start profile's, and those before the background's, which
// are slowed while there is anything better to do, and never broken off.
//
// What a crash leaves: nothing, or an empty file "blob" that the next scheduler uses.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
)

// Class says why bytes are wanted: it is the order in which reads are served, and the cause that they are counted under.
type Class uint8

const (
	Foreground Class = iota // somebody waits for them
	Profile                 // a start that has begun will want them
	Background              // they complete a layer
	classes
)

func (c Class) String() string {
	switch c {
	case Foreground:
		return "demand"
	case Profile:
		return "profile"
	}
	return "background"
}

// Options of a scheduler. Zero fields have the defaults that are named here.
type Options struct {
	// Parallel is how many GETs one host is asked for at a time. Default 8. Background reads have a quarter of them,
	// the profile's all but two, and twice that on a line whose width is known. Up to three times as many more may be on their way that have delivered what was wanted.
	Parallel int
	// Deadline is how long a read waits for a registry that does not answer. Default 5 min.
	Deadline time.Duration
	// Stall is how long a GET may deliver nothing before it is tried again. Default 30 s.
	Stall time.Duration
	// MinRange and MaxRange bound the bytes of one GET: a read that goes on where the last one ended asks for twice as much
	// as that one. Default 1 and 8 MiB. Through a line that carries less than MinRange in a round trip, a read that goes on nowhere
	// asks for as much as it carries, and at least for a quarter of MinRange.
	MinRange, MaxRange int64
	// Memory is how many bytes may wait for their readers, under way or kept for the next read. Default 32 MiB.
	Memory int64
	// Backoff is the first pause after a failure; it doubles up to 32 times as much. Default 100 ms.
	Backoff time.Duration
	// Dir is where what has come of blobs is kept while they are open, at most Disk bytes of all together and while Room says
	// that the disk may take so many more (nil: it may); none without a Dir. Default of Disk: 4 GiB.
	Dir  string
	Disk int64
	Room func(n int64) bool
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&o.Deadline, 5*time.Minute)
	set(&o.Stall, 30*time.Second)
	set(&o.Backoff, 100*time.Millisecond)
	if o.Parallel <= 0 {
		o.Parallel = 8
	}
	if o.MinRange <= 0 {
		o.MinRange = 1 << 20
	}
	if o.MaxRange <= 0 {
		o.MaxRange = 8 << 20
	}
	if o.Memory <= 0 {
		o.Memory = 32 << 20
	}
	if o.Disk <= 0 {
		o.Disk = 4 << 30
	}
	// Several ranges must fit, also into the background's half.
	o.MaxRange = min(max(o.MaxRange, o.MinRange), max(1, o.Memory/4))
	o.MinRange = min(o.MinRange, o.MaxRange)
	return o
}

// Counter counts what one class of reads has caused.
type Counter struct {
	Requests int64 // GETs begun
	Bytes    int64 // that they delivered
	Failures int64 // GETs that failed
	Served   int64 // bytes given to readers of this class, whatever class fetched them
}

// Stats tell what a scheduler has done and has at hand.
type Stats struct {
	Demand, Profile, Background Counter

	InFlight int   // GETs
	Queued   int   // ranges that wait for their turn or for a pause to end
	Urgent   int   // of both, those that somebody else than the background wants
	Memory   int64 // bytes reserved for ranges
	Disk     int64 // bytes that are stored
}

// Scheduler orders the reads of all blobs. Its methods and those of its blobs are safe for concurrent use.
type Scheduler struct {
	opts Options

	mu       sync.Mutex // guards all that blobs, hosts and ranges hold
	hosts    map[string]*host
	counters [classes]Counter
	blobs    map[*Blob]struct{} // that are open
	disk     int64              // bytes that are stored, or being written
	memory   int64              // bytes of ranges that are queued no more
	kept     []*piece           // whole ranges that nobody reads now, the least recently used first
	forget   *time.Timer        // fires when the first of kept is old
	closed   bool

	work sync.WaitGroup // GETs
}

// New makes a scheduler. The caller closes it.
func New(opts Options) *Scheduler {
	return &Scheduler{opts: opts.withDefaults(), hosts: make(map[string]*host), blobs: make(map[*Blob]struct{})}
}

// Close breaks off what is under way, makes waiting readers fail with Unavailable, and waits for all that the scheduler has
// started. Fetchers must come back when their context ends.
func (s *Scheduler) Close() error {
	s.mu.Lock()
	s.closed = true
	for _, h := range s.hosts {
		h.close()
	}
	s.kept = nil
	if s.forget != nil {
		s.forget.Stop()
	}
	s.mu.Unlock()
	s.work.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for b := range s.blobs {
		b.dropStore()
	}
	return nil
}

// Stats tells the state of the moment.
func (s *Scheduler) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Demand: s.counters[Foreground], Profile: s.counters[Profile], Background: s.counters[Background], Memory: s.memory, Disk: s.disk}
	for _, h := range s.hosts {
		st.InFlight += len(h.active)
		st.Queued += len(h.queue)
		for _, list := range [][]*piece{h.active, h.queue} {
			for _, p := range list {
				if p.class < Background {
					st.Urgent++
				}
			}
		}
	}
	return st
}

// Blob is one blob that ranges can be read of.
type Blob struct {
	s       *Scheduler
	host    *host
	desc    ocispec.Descriptor
	fetcher content.Fetcher

	pieces  []*piece // in order of offset, not overlapping
	streams []stream // of reads that went on, the most recent last
	stored  store
	closed  bool
}

// Blob makes a blob readable. host names whoever shares limits and pauses, such as the registry's name. The caller closes it.
func (s *Scheduler) Blob(host string, desc ocispec.Descriptor, fetcher content.Fetcher) *Blob {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &Blob{s: s, host: s.host(host), desc: desc, fetcher: fetcher}
	s.blobs[b] = struct{}{}
	return b
}

// Close drops what is kept and stored of the blob and breaks off its GETs; readers fail with Unavailable.
func (b *Blob) Close() {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.closed = true
	for _, p := range slices.Clone(b.pieces) {
		p.giveUp(errClosed)
	}
	b.dropStore()
	delete(b.s.blobs, b)
}

var errClosed = fmt.Errorf("the blob or the scheduler is closed: %w", errdefs.ErrUnavailable)

// ReadAt fills p with the bytes from off on, all of them or it fails. It waits for a registry that is away until the
// deadline or ctx's end and is Unavailable then, the background after a few tries with the last one's error; a blob that is not there, or may not be read, fails at once with the
// fetcher's error; and a registry that keeps delivering too little or too much is DataLoss. The next read tries anew.
func (b *Blob) ReadAt(ctx context.Context, class Class, p []byte, off int64) error {
	if off < 0 || off > b.desc.Size || int64(len(p)) > b.desc.Size-off || class >= classes {
		return fmt.Errorf("cannot read %d bytes at %d of %s, it has %d: %w", len(p), off, b.desc.Digest, b.desc.Size, errdefs.ErrOutOfRange)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, b.s.opts.Deadline, errDeadline)
	defer cancel()
	for len(p) > 0 {
		n, err := b.readSome(ctx, class, p, off)
		if errors.Is(err, errDiscarded) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot read bytes %d-%d of %s: %w", off, off+int64(len(p))-1, b.desc.Digest, err)
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

var errDeadline = errors.New("the registry did not answer in time")

// readSome reads what one piece has of the bytes from off on, at least one.
func (b *Blob) readSome(ctx context.Context, class Class, p []byte, off int64) (int, error) {
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || b.closed {
		return 0, errClosed
	}
	b.passed(class, off)
	if n := b.readStored(class, p, off); n > 0 {
		return n, nil
	}
	if s.closed || b.closed { // meanwhile
		return 0, errClosed
	}
	piece := b.find(class, off, int64(len(p)))
	piece.join(class, off+int64(len(p)))
	defer piece.leave()
	p = p[:min(int64(len(p)), piece.end-off)]
	for n := 0; ; {
		at := off - piece.off + int64(n)
		if err := piece.await(ctx, at); err != nil {
			return 0, err
		}
		buffers, have := piece.buffers, piece.have
		s.mu.Unlock() // what has come does not change any more
		got := copyBlocks(p[n:], buffers, at, have)
		s.mu.Lock()
		s.counters[class].Served += int64(got)
		if n += got; n == len(p) {
			return n, nil
		}
	}
}

// await waits for the byte at off in the piece. The caller holds the scheduler's lock and is counted in.
func (p *piece) await(ctx context.Context, off int64) error {
	s := p.blob.s
	for p.have <= off {
		if p.err != nil {
			return p.err
		}
		changed := p.changed
		s.mu.Unlock()
		select {
		case <-changed:
			s.mu.Lock()
		case <-ctx.Done():
			s.mu.Lock()
			return p.late(ctx)
		}
	}
	return nil
}

// find answers the piece that has the byte at off or will have it, a new one when there is none.
func (b *Blob) find(class Class, off, want int64) *piece {
	if i := b.at(off); i < len(b.pieces) && b.pieces[i].off <= off {
		return b.pieces[i]
	}
	if class == Profile {
		return b.ask(class, off, min(want, b.s.opts.MaxRange)) // a profile knows what it wants
	}
	st := b.stream(off)
	p := b.ask(class, off, min(max(st.size, want), b.s.opts.MaxRange))
	st.next, st.mark = p.end, p.end
	b.streams = append(b.streams, st)
	if st.long >= longRead && want < st.size {
		b.ahead(class, &b.streams[len(b.streams)-1]) // it will go on there, and need not wait a round trip then
	}
	return p
}

// at is the place in pieces of the first one that ends behind off.
func (b *Blob) at(off int64) int {
	i := 0
	for i < len(b.pieces) && b.pieces[i].end <= off {
		i++
	}
	return i
}

// ask begins a piece of up to size bytes at off, where there is none.
func (b *Blob) ask(class Class, off, size int64) *piece {
	end, i := min(off+size, b.desc.Size), b.at(off)
	if i < len(b.pieces) {
		end = min(end, b.pieces[i].off)
	}
	p := newPiece(b, class, off, b.bound(off, end))
	b.pieces = slices.Insert(b.pieces, i, p)
	b.host.enqueue(p)
	return p
}

// remove takes a piece out of the blob: the next read of its bytes begins a new one.
func (b *Blob) remove(p *piece) {
	if i := slices.Index(b.pieces, p); i >= 0 {
		b.pieces = slices.Delete(b.pieces, i, i+1)
	}
}
