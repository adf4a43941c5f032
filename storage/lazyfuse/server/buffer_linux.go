package server

import (
	"sync"

	"golang.org/x/sys/unix"
)

const (
	maxIO = 1 << 20 // bytes of the largest read that the kernel may ask for
	// headroom of a request's or an answer's buffer: the header and the largest fixed part or symbolic link.
	headroom  = 8 << 10
	bigBuffer = maxIO + headroom
	idleKeep  = 8 // big buffers kept for the next read
)

// buffers lends memory for answers. Those for reads are mapped by themselves: a read that waits for the network has a
// buffer of which no page is there, so that a thousand waiting reads cost next to nothing.
type buffers struct {
	small sync.Pool
	mu    sync.Mutex
	big   [][]byte
}

func (b *buffers) get(n int) ([]byte, error) {
	if n <= headroom {
		if p, ok := b.small.Get().(*[]byte); ok {
			return (*p)[:n], nil
		}
		return make([]byte, headroom)[:n], nil
	}
	b.mu.Lock()
	if last := len(b.big) - 1; last >= 0 {
		p := b.big[last]
		b.big = b.big[:last]
		b.mu.Unlock()
		return p[:n], nil
	}
	b.mu.Unlock()
	p, err := mapBuffer()
	if err != nil {
		return nil, err
	}
	return p[:n], nil
}

func (b *buffers) put(p []byte) {
	p = p[:cap(p)]
	if len(p) == headroom {
		b.small.Put(&p)
		return
	}
	b.mu.Lock()
	keep := len(b.big) < idleKeep
	if keep {
		b.big = append(b.big, p)
	}
	b.mu.Unlock()
	if !keep {
		_ = unix.Munmap(p)
	}
}

// drop gives all idle memory back.
func (b *buffers) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.big {
		_ = unix.Munmap(p)
	}
	b.big = nil
}

func mapBuffer() ([]byte, error) {
	return unix.Mmap(-1, 0, bigBuffer, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
}
