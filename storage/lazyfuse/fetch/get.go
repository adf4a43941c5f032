package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// blockSize is the unit of memory, and how much is read before readers are told.
	blockSize = 128 << 10
	// trickle is how long a slowed GET waits for each block, so that its connection stays alive.
	trickle = 100 * time.Millisecond
)

var blocks = sync.Pool{New: func() any { return new([blockSize]byte) }}

// errLength says that a body had not the length that was asked for.
var errLength = errors.New("the body has another length than asked for")

// get fetches what the piece does not have yet.
func (p *piece) get(ctx context.Context) error {
	s, b := p.blob.s, p.blob
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(s.opts.Stall, func() { cancel(errStalled) })
	defer stalled.Stop()
	asked := time.Now()
	body, err := b.fetcher.Fetch(ctx, b.desc, p.off+p.have, p.length()-p.have)
	if err != nil {
		return cause(ctx, err)
	}
	defer body.Close()
	answered, first := time.Now(), p.have
	for p.have < p.length() {
		stalled.Stop()
		p.pace(ctx)
		stalled.Reset(s.opts.Stall)
		n, err := body.Read(p.space())
		if p.have+int64(n) == p.length() {
			// The end must be where it was asked for before anybody sees the last bytes.
			if err := atEnd(body, err); err != nil {
				return cause(ctx, err)
			}
			err = nil
		}
		if n > 0 {
			p.publish(int64(n))
		}
		if err == io.EOF && p.have < p.length() {
			err = fmt.Errorf("%w: it ended after %d bytes of %d", errLength, p.have, p.length())
		}
		if err != nil && p.have < p.length() {
			return cause(ctx, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b.host.line.measured(answered.Sub(asked), p.length()-first, time.Since(answered), len(b.host.active))
	return nil
}

var errStalled = fmt.Errorf("nothing has come for too long: %w", errdefs.ErrUnavailable)

// cause tells a GET that we have broken off from one that broke.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// atEnd checks that a body whose last Read answered err has nothing more.
func atEnd(body io.Reader, err error) error {
	var one [1]byte
	for tries := 0; err == nil; tries++ {
		var n int
		if n, err = body.Read(one[:]); n > 0 || tries == 100 {
			return fmt.Errorf("%w: it goes on", errLength)
		}
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// space is where the next bytes go, up to a block. Only the piece's GET writes there; publish makes it visible.
func (p *piece) space() []byte {
	i := int(p.have / blockSize)
	if i == len(p.buffers) {
		size := min(p.length()-p.have, blockSize)
		var block []byte
		if size == blockSize {
			block = blocks.Get().(*[blockSize]byte)[:]
		} else {
			block = make([]byte, size)
		}
		s := p.blob.s
		s.mu.Lock()
		p.buffers = append(p.buffers, block)
		s.mu.Unlock()
	}
	return p.buffers[i][p.have%blockSize:]
}

// publish makes n more bytes visible to readers.
func (p *piece) publish(n int64) {
	s := p.blob.s
	s.mu.Lock()
	defer s.mu.Unlock()
	urgent := p.urgent()
	p.have += n
	p.attempts = 0
	s.counters[p.cause].Bytes += n
	p.broadcast()
	switch h := p.blob.host; {
	case urgent && !p.urgent():
		h.wake()
	case len(h.queue) > 0:
		h.dispatch() // there is less on its way
	}
}

// pace slows a GET whose next bytes nobody waits for while somebody waits for others of the same host.
func (p *piece) pace(ctx context.Context) {
	s := p.blob.s
	s.mu.Lock()
	wait := !p.urgent() && p.blob.host.urgent()
	calm := p.blob.host.calm
	s.mu.Unlock()
	if !wait {
		return
	}
	timer := time.NewTimer(trickle)
	defer timer.Stop()
	for wait {
		select {
		case <-calm:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		wait = !p.urgent() && p.blob.host.urgent()
		calm = p.blob.host.calm
		s.mu.Unlock()
	}
}
