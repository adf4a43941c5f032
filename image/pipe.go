package image

import (
	"io"
	"sync"
)

// Blocks are what stages of the pipeline hand to each other: large, reused, and owned by one stage at a time.
const (
	blockSize  = 256 << 10
	blocksHeld = 8 // per pipe: what bounds memory, and how far one stage may run ahead of the next
)

var blocks = sync.Pool{New: func() any { return new([blockSize]byte) }}

type block struct {
	data *[blockSize]byte
	n    int
}

// pipe hands blocks from one goroutine to another. Unlike io.Pipe it holds several, so that neither side waits for the
// other at each of them, and it does not copy.
type pipe struct {
	full chan block
	gone chan struct{} // closed by the reader

	err error // why full was closed; io.EOF at the end

	once sync.Once
	now  block // being read
	rest []byte
}

func newPipe() *pipe {
	return &pipe{full: make(chan block, blocksHeld), gone: make(chan struct{}), err: io.EOF}
}

// send hands over a block, or takes it back when the reader has left, which it reports.
func (p *pipe) send(b block) error {
	select {
	case p.full <- b:
		return nil
	case <-p.gone:
		blocks.Put(b.data)
		return io.ErrClosedPipe
	}
}

// end closes the writing side; the reader gets err after the last block. nil is the end of the data.
func (p *pipe) end(err error) {
	if err != nil {
		p.err = err
	}
	close(p.full)
}

// readFrom sends src to its end. io.ErrClosedPipe when the reader has left.
func (p *pipe) readFrom(src io.Reader) error {
	for {
		b := block{data: blocks.Get().(*[blockSize]byte)}
		var err error
		for b.n < blockSize && err == nil { // not io.ReadFull, which makes io.ErrUnexpectedEOF of an end
			var n int
			n, err = src.Read(b.data[b.n:])
			b.n += n
		}
		if b.n == 0 {
			blocks.Put(b.data)
		} else if sendErr := p.send(b); sendErr != nil {
			return sendErr
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (p *pipe) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		if err := p.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// WriteTo spares readers that write everything elsewhere a copy.
func (p *pipe) WriteTo(w io.Writer) (int64, error) {
	var sum int64
	for {
		if len(p.rest) == 0 {
			if err := p.fill(); err == io.EOF {
				return sum, nil
			} else if err != nil {
				return sum, err
			}
		}
		n, err := w.Write(p.rest)
		sum += int64(n)
		p.rest = p.rest[n:]
		if err != nil {
			return sum, err
		}
	}
}

func (p *pipe) fill() error {
	if p.now.data != nil {
		blocks.Put(p.now.data)
		p.now = block{}
	}
	b, ok := <-p.full
	if !ok {
		return p.err
	}
	p.now, p.rest = b, b.data[:b.n]
	return nil
}

// close ends the reading side: the writer's next send fails. It must come from the reader's goroutine.
func (p *pipe) close() { p.once.Do(func() { close(p.gone) }) }
