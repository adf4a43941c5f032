package metadata

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// maxBatch bounds how many callers share a commit, and so how long the first of them waits for the others.
const maxBatch = 128

// writer groups the transactions of concurrent callers. There is no goroutine for it: the first caller leads, runs all that
// queued up until then in one transaction, and hands the lead to the first of those that came meanwhile. A lone caller so
// pays for nothing but its own commit.
type writer struct {
	mu     sync.Mutex
	idle   sync.Cond // signalled when the last leader is done
	queue  []*call
	led    bool // somebody leads or was told to
	closed bool
	broken error // bbolt panicked in a commit: the state in memory cannot be trusted any more
}

// call is one Update that waits or runs.
type call struct {
	ctx       context.Context
	fn        func(*Tx) error
	wake      chan struct{} // closed when the call is done, or is to lead
	lead      bool          // set before wake is closed
	err       error
	panicked  *panicError
	held      time.Duration // how long the transaction that ran it held the writer
	concluded bool          // err or panicked is the outcome
}

// Update runs fn in a transaction that is durable when Update returns nil; concurrent callers share one commit. When fn
// fails or panics nothing of what it did remains (but see Blobs.Create for leases). fn may run more than once and in another caller's
// goroutine, and must not touch disk or network: everyone waits for it. A ctx that ends before fn has begun ends Update.
func (db *DB) Update(ctx context.Context, fn func(*Tx) error) error {
	_, err := db.update(ctx, fn)
	return err
}

// update also answers how long the writer was held.
func (db *DB) update(ctx context.Context, fn func(*Tx) error) (time.Duration, error) {
	c := &call{ctx: ctx, fn: fn, wake: make(chan struct{})}
	lead, err := db.writer.enter(c)
	if err != nil {
		return 0, err
	}
	if !lead {
		select {
		case <-c.wake:
		case <-ctx.Done():
			if db.writer.withdraw(c) {
				return 0, ctx.Err()
			}
			<-c.wake
		}
		lead = c.lead
	}
	if lead {
		db.lead()
	}
	if c.panicked != nil {
		panic(c.panicked)
	}
	return c.held, c.err
}

// panicError is what Update panics with when fn did, maybe in another goroutine: it tells where.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string {
	return fmt.Sprintf("%v\n\nin a transaction at\n%s", p.value, p.stack)
}

// enter queues c and says whether its caller must lead.
func (w *writer) enter(c *call) (lead bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed:
		return false, fmt.Errorf("metadata is closed: %w", errdefs.ErrUnavailable)
	case w.broken != nil:
		return false, fmt.Errorf("metadata cannot be written until a restart: %w", w.broken)
	}
	w.queue = append(w.queue, c)
	lead, w.led = !w.led, true
	return lead, nil
}

// withdraw takes c out of the queue; false when it has begun or leads.
func (w *writer) withdraw(c *call) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.Index(w.queue, c)
	if i < 0 || c.lead {
		return false
	}
	w.queue = slices.Delete(w.queue, i, i+1)
	return true
}

func (w *writer) take() []*call {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(len(w.queue), maxBatch)
	batch := slices.Clone(w.queue[:n])
	w.queue = slices.Delete(w.queue, 0, n)
	return batch
}

// pass hands the lead on.
func (w *writer) pass() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		w.led = false
		w.idle.Broadcast()
		return
	}
	w.queue[0].lead = true
	close(w.queue[0].wake)
}

func (w *writer) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for w.led {
		w.idle.Wait()
	}
}

// lead runs one batch, in which the caller's own call is the first.
func (db *DB) lead() {
	batch := db.writer.take()
	defer func() {
		for _, c := range batch {
			if !c.concluded { // an fn ended the goroutine (runtime.Goexit, as testing's FailNow does)
				c.err = fmt.Errorf("a transaction of the same commit ended the goroutine: %w", errdefs.ErrAborted)
			}
		}
		for _, c := range batch[1:] {
			close(c.wake)
		}
		db.writer.pass()
	}()
	var live []*call
	for _, c := range batch {
		if c.err = c.ctx.Err(); c.err == nil {
			live = append(live, c)
		} else {
			c.concluded = true
		}
	}
	for _, c := range db.commit(live) {
		db.commit([]*call{c})
	}
}

// commit runs calls in one transaction. A call that fails after it wrote something takes the whole transaction with it, so
// the others run again without it, and it is answered to be run alone: what it saw of the others may not have come true.
func (db *DB) commit(calls []*call) (alone []*call) {
	for len(calls) > 0 {
		bad := db.try(calls)
		if bad < 0 {
			break
		}
		c := calls[bad]
		if len(calls) > 1 {
			alone = append(alone, c)
			calls = slices.Delete(calls, bad, bad+1)
			continue
		}
		err := c.err
		var exists *leasedError
		if !errors.As(err, &exists) {
			c.concluded = true
			break
		}
		c.fn = func(*Tx) error { return err } // so that try joins the lease, and does nothing else
	}
	return alone
}

// try is one attempt at a transaction: the index of the call that spoiled it, or -1 when all have their results.
func (db *DB) try(calls []*call) (bad int) {
	begun := time.Now()
	b, err := db.bolt.Begin(true)
	if err != nil {
		return conclude(calls, unavailable(err), 0)
	}
	defer b.Rollback() //nolint:errcheck // after a commit it says that the transaction is closed
	writes := 0
	for i, c := range calls {
		tx := &Tx{db: db, bolt: b, lease: LeaseFrom(c.ctx), writes: new(int), now: time.Now().UTC()}
		c.panicked, c.err = run(c.fn, tx)
		var exists *leasedError
		if *tx.writes == 0 && errors.As(c.err, &exists) {
			if err := tx.join(exists.namespace, exists.lease, exists.resource); err != nil {
				c.err = err
			}
		} else if c.panicked != nil || c.err != nil && *tx.writes > 0 {
			return i
		}
		writes += *tx.writes
	}
	if writes > 0 {
		err = db.commitBolt(b)
	}
	return conclude(calls, err, time.Since(begun))
}

// conclude gives calls the outcome of their commit. One that failed by itself may have judged by what others wrote.
func conclude(calls []*call, err error, held time.Duration) int {
	for _, c := range calls {
		c.held, c.concluded = held, true
		if err != nil {
			c.err = err
		}
	}
	return -1
}

// run calls fn and catches its panic, which belongs to another goroutine.
func run(fn func(*Tx) error, tx *Tx) (panicked *panicError, err error) {
	defer func() {
		if r := recover(); r != nil {
			panicked = &panicError{r, debug.Stack()}
		}
	}()
	return nil, guard(func() error { return fn(tx) })
}

func (db *DB) commitBolt(b *bbolt.Tx) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot commit metadata: the file is damaged (%v); restart the daemon: %w", r, errdefs.ErrDataLoss)
			db.writer.mu.Lock()
			db.writer.broken = err
			db.writer.mu.Unlock()
		}
	}()
	if err := b.Commit(); err != nil {
		kind := error(errdefs.ErrUnavailable)
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, berrors.ErrMaxSizeReached) {
			kind = errdefs.ErrResourceExhausted
		}
		return fmt.Errorf("cannot commit metadata, is the disk full? %w: %w", err, kind)
	}
	return nil
}
