package registry

import (
	"context"
	"io"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fetchParallel reads a range as chunks, n at a time, and delivers them in order. It holds at most n chunks in memory. A
// host that answers the first range with the whole blob cannot do ranges: its answer becomes the stream.
func (r *Remote) fetchParallel(ctx context.Context, desc ocispec.Descriptor, offset, end int64, n int) (io.ReadCloser, error) {
	size := r.config.ChunkSize
	first, err := r.open(ctx, desc, offset, offset+size)
	if err != nil {
		return nil, err
	}
	if first.whole {
		first.end, first.tries = end, 10+(end-offset)>>20
		return first, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &parallel{remote: r, desc: desc, cancel: cancel, next: offset, end: end, size: size}
	p.begin(ctx, first)
	for range n - 1 {
		p.begin(ctx, nil)
	}
	p.start = func() { p.begin(ctx, nil) }
	return p, nil
}

// parallel is a reader over chunks that are being fetched. Close waits for its goroutines.
type parallel struct {
	remote *Remote
	desc   ocispec.Descriptor
	cancel context.CancelFunc
	start  func() // begins the next chunk
	next   int64  // where that is
	end    int64
	size   int64

	wait    sync.WaitGroup
	chunks  []chan chunk // in order of delivery
	current *[]byte      // the chunk being delivered
	rest    []byte       // what is left of it
	err     error
}

type chunk struct {
	buf  *[]byte
	data []byte
	err  error
}

// buffers are of any size; one that is too small is dropped.
var buffers sync.Pool

func buffer(size int64) *[]byte {
	if b, ok := buffers.Get().(*[]byte); ok && int64(len(*b)) >= size {
		return b
	}
	b := make([]byte, size)
	return &b
}

// begin fetches the next chunk in a goroutine of its own, from s when that is open already.
func (p *parallel) begin(ctx context.Context, s *stream) {
	from, to := p.next, min(p.next+p.size, p.end)
	if from == to {
		return
	}
	p.next = to
	done := make(chan chunk, 1)
	p.chunks = append(p.chunks, done)
	p.wait.Go(func() {
		buf := buffer(p.size)
		data := (*buf)[:to-from]
		err := p.fill(ctx, s, data, from, to)
		done <- chunk{buf: buf, data: data, err: err}
	})
}

func (p *parallel) fill(ctx context.Context, s *stream, data []byte, from, to int64) error {
	if s == nil {
		var err error
		if s, err = p.remote.open(ctx, p.desc, from, to); err != nil {
			return err
		}
	}
	defer s.Close()
	_, err := io.ReadFull(s, data)
	return err
}

func (p *parallel) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.err != nil {
			return 0, p.err
		}
		p.release()
		if len(p.chunks) == 0 {
			return 0, io.EOF
		}
		c := <-p.chunks[0]
		p.chunks = p.chunks[1:]
		p.current, p.rest, p.err = c.buf, c.data, c.err
		if p.err != nil {
			p.rest = nil
			return 0, p.err
		}
	}
	n := copy(b, p.rest)
	if p.rest = p.rest[n:]; len(p.rest) == 0 {
		p.release()
		p.start()
	}
	return n, nil
}

func (p *parallel) release() {
	if p.current != nil {
		buffers.Put(p.current)
		p.current = nil
	}
}

func (p *parallel) Close() error {
	p.cancel()
	p.wait.Wait()
	return nil
}
