package convert

import (
	"context"
	"crypto/sha256"
	"io"
	"runtime"
	"sync"

	"github.com/opencontainers/go-digest"
)

// piece is what is compressed alone, so that it can be read alone.
type piece struct {
	raw    []byte
	body   int       // so many bytes of raw, from the start, are of a file
	entry  *tocEntry // which is told where they are; nil for none
	packed []byte
	done   chan struct{}
}

var pieces = sync.Pool{New: func() any { return &piece{} }}

func newPiece() *piece {
	p := pieces.Get().(*piece)
	*p = piece{raw: p.raw[:0], packed: p.packed[:0], done: make(chan struct{})}
	return p
}

// packer compresses pieces side by side and writes them in the order they came in. How many are under way is bounded, and
// with it memory; nothing that is written depends on it.
type packer struct {
	dst    io.Writer
	pack   func(dst, raw []byte) []byte
	ends   bool // entries are told the end, too
	offset int64
	queue  chan *piece
	gone   chan struct{} // closed when nothing more is written
	err    error         // why; to be read after gone is closed
}

// newPacker begins to write to dst. Who has it calls close, always.
func newPacker(dst io.Writer, f format) *packer {
	p := &packer{
		dst: dst, pack: f.pack, ends: f.verbatim(), queue: make(chan *piece, 2*runtime.GOMAXPROCS(0)), gone: make(chan struct{}),
	}
	go p.run()
	return p
}

// put takes a piece. The error is that of an earlier one.
func (p *packer) put(c *piece) error {
	select {
	case p.queue <- c:
	case <-p.gone:
		return p.err
	}
	go func() {
		defer close(c.done)
		if c.entry != nil {
			sum := sha256.Sum256(c.raw[:c.body])
			c.entry.ChunkDigest = digest.NewDigestFromBytes(digest.SHA256, sum[:]).String()
		}
		c.packed = p.pack(c.packed, c.raw)
	}()
	return nil
}

func (p *packer) run() {
	defer close(p.gone)
	for c := range p.queue {
		<-c.done
		if _, p.err = p.dst.Write(c.packed); p.err != nil {
			return
		}
		if c.entry != nil {
			c.entry.Offset = p.offset
			if p.ends {
				c.entry.EndOffset = p.offset + int64(len(c.packed))
			}
		}
		p.offset += int64(len(c.packed))
		pieces.Put(c)
	}
}

// close waits until all is written. It must be called once, and nothing put after it.
func (p *packer) close() error {
	close(p.queue)
	<-p.gone
	for c := range p.queue { // after an error
		<-c.done
	}
	return p.err
}

// reader ends with its context, which it keeps because io.Reader has no place for one, and tells how far it is.
type reader struct {
	ctx context.Context
	r   io.Reader
	n   int64
	at  func(n int64)
}

func (r *reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	n, err := r.r.Read(p)
	r.n += int64(n)
	r.at(r.n)
	return n, err
}
