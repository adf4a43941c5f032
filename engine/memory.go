package engine

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// restAfter is how long no large work must have ended before memory is given back: not between the layers of one pull.
const restAfter = 2 * time.Second

// breather gives memory back to the system after large work: the runtime by itself keeps much of a pull's buffers for
// minutes, which on a host with little else to do is most of what the daemon takes.
type breather struct {
	mu   sync.Mutex
	busy int
	rest chan struct{} // holds a token when the last large work ended
}

func newBreather() *breather { return &breather{rest: make(chan struct{}, 1)} }

// work begins large work; the caller calls done at its end.
func (b *breather) work() (done func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.busy++
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.busy--; b.busy > 0 {
			return
		}
		select {
		case b.rest <- struct{}{}:
		default:
		}
	}
}

func (b *breather) idle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.busy == 0
}

func (b *breather) run(ctx context.Context) {
	quiet := time.NewTimer(restAfter)
	quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			quiet.Stop()
			return
		case <-b.rest:
			quiet.Reset(restAfter)
		case <-quiet.C:
			if b.idle() {
				runtime.GC() // what sync.Pools hold survives one collection
				debug.FreeOSMemory()
			}
		}
	}
}
