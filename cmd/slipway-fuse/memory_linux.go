package main

import (
	"context"
	"runtime/debug"
	"time"
)

const (
	// rangeMemory is how many bytes that were fetched wait for their readers at most.
	rangeMemory = 16 << 20
	// minRange is what a read that goes on nowhere asks for. Starts read here and there: of 1 MiB they need a quarter, and with a
	// quarter of that they ask as often, but for those of a thousand small files.
	minRange = 256 << 10
	// heapSlack is what Go's collector lets the heap grow by before it collects, in percent: most of what is on it are
	// bytes on their way, and the server is on every host.
	heapSlack = 50
	// idleTime is after how long without fetching memory is given back.
	idleTime = 20 * time.Second
)

// trim gives memory back to the kernel when a burst is over, and the disk what it holds of blobs that have arrived, until ctx ends.
func (o *opener) trim(ctx context.Context) {
	debug.SetGCPercent(heapSlack)
	tick := time.NewTicker(idleTime)
	defer tick.Stop()
	last, trimmed := int64(0), int64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		o.scheduler.Trim()
		now := o.fetched()
		if now == last && now != trimmed {
			debug.FreeOSMemory()
			trimmed = now
		}
		last = now
	}
}
