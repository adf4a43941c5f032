package main

import (
	"context"
	"sync"

	"github.com/slipwayd/slipway/storage/lazyfuse/fetch"
)

// blob is a fetch.Blob that can forget what it holds in memory: bytes that turned out to be wrong would be delivered again.
type blob struct {
	open func() *fetch.Blob

	mu      sync.Mutex
	current *fetch.Blob
	closed  bool
}

func newBlob(open func() *fetch.Blob) *blob { return &blob{open: open, current: open()} }

// ReadAt implements layer.Blob. A read that is broken off because another reader discarded something goes on anew.
func (b *blob) ReadAt(ctx context.Context, class fetch.Class, p []byte, off int64) error {
	for {
		from := b.now()
		err := from.ReadAt(ctx, class, p, off)
		if err == nil || ctx.Err() != nil || from == b.now() {
			return err
		}
	}
}

func (b *blob) now() *fetch.Blob {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.current
}

// Discard forgets all that is held of the blob. It is rare, so it does not matter that this is more than was asked.
func (b *blob) Discard(_, _ int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.current.Close()
		b.current = b.open()
	}
}

// Close implements layer.Blob.
func (b *blob) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.current.Close()
}
