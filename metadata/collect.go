package metadata

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// Collection finds what nothing keeps and removes it, while everybody goes on reading and writing:
//
//  1. From a moment between two commits on, every record that is written or leased is noted (tracker).
//  2. A read transaction that begins after that moment sees one state of the file. What cannot be reached in it from the roots is
//     garbage, and can become reachable again only through something that is written later, and so is noted.
//  3. Small write transactions remove garbage. Each first takes what was noted since the one before and walks from there, in the
//     present state: what it comes across is no garbage any more. Nobody else writes meanwhile, so the rest still is.
//
// What is written during a collection lives at least until the next one. Memory: some hundred bytes for each record of an image,
// blob, snapshot, lease and ingest, until Collect returns.

// Bounds of one write transaction of a collection. How many records it removes is adapted so that it holds the writer, with
// the commit, for less than sliceHold.
const (
	sliceHold = 3 * time.Millisecond
	sliceMin  = 4
	sliceMax  = 128
)

// CollectOptions of DB.Collect.
type CollectOptions struct {
	Now time.Time // what leases and images expire by; zero for the present
}

// Collected is what a collection removed the records of, and what is left to do.
type Collected struct {
	Blobs   []digest.Digest     // no namespace has them any more: give them to DB.Reap
	Layers  map[string][]string // by driver, children before parents: give them to its Remove
	Ingests []string            // refs of the content store: abort them
	Removed []Removed           // all records, for events

	Marked      int           // records that were reached
	MarkTime    time.Duration // in a read transaction
	RemoveTime  time.Duration // in write transactions with the waits for them
	LongestHold time.Duration // the longest that one write transaction held the writer
}

// Removed is one record that Collect removed. Type is as in Resource, and "leases".
type Removed struct {
	Namespace string
	Resource
}

// tracker notes what is written during a collection. It is used in write transactions only, of which there is one at a time.
type tracker struct {
	on      bool
	touched []node
}

func (t *tracker) touch(n node) {
	if t.on {
		t.touched = append(t.touched, n)
	}
}

// mark is how far a record is reached.
type mark uint8

const (
	flatMark mark = iota + 1 // without what it refers to
	fullMark
)

// collection is one run of Collect.
type collection struct {
	graph
	db      *DB
	marks   map[node]mark     // until garbage is known; then of those with flatMark only
	garbage map[node]struct{} // may be removed
	work    []node            // garbage to look at, parents again after their children
	seen    int               // how many of tracker.touched are followed
	out     Collected
}

// Collect removes the records of all that nothing keeps any more: blobs, snapshots, ingests, and leases and images that
// expired. It waits for one that runs. When it fails, what it answers was removed even so. A damaged record makes it fail, for
// what that one keeps is not known.
func (db *DB) Collect(ctx context.Context, o CollectOptions) (Collected, error) {
	select {
	case db.collect <- struct{}{}:
		defer func() { <-db.collect }()
	case <-ctx.Done():
		return Collected{}, ctx.Err()
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	c := newCollection(db, o.Now)
	defer db.Update(context.WithoutCancel(ctx), c.track(false)) //nolint:errcheck // it fails only when nobody can write any more
	begun := time.Now()
	if err := c.begin(ctx); err != nil {
		return Collected{}, fmt.Errorf("cannot find garbage: %w", err)
	}
	c.out.MarkTime = time.Since(begun)
	begun = time.Now()
	err := c.sweep(ctx)
	c.out.RemoveTime = time.Since(begun)
	return c.out, err
}

func newCollection(db *DB, now time.Time) *collection {
	return &collection{
		db: db, marks: map[node]mark{}, garbage: map[node]struct{}{}, out: Collected{Layers: map[string][]string{}},
		graph: graph{now: now.UTC(), backRefs: map[node][]node{}, conditions: map[node][]condition{}},
	}
}

// track makes a transaction from which on writes are noted, or not any more.
func (c *collection) track(on bool) func(*Tx) error {
	return func(*Tx) error {
		c.db.tracker = tracker{on: on}
		return nil
	}
}

// begin has writes noted from now on, and then finds garbage.
func (c *collection) begin(ctx context.Context) error {
	if err := c.db.Update(ctx, c.track(true)); err != nil {
		return err
	}
	return c.db.View(ctx, func(tx *Tx) error { return c.find(ctx, tx) })
}

// find marks what is reachable and makes garbage of the rest.
func (c *collection) find(ctx context.Context, tx *Tx) error {
	type step struct {
		n    node
		flat bool
	}
	var stack []step
	keep := func(n node, flat bool) {
		m := fullMark
		if flat {
			m = flatMark
		}
		if c.marks[n] < m {
			c.marks[n] = m
			stack = append(stack, step{n, flat})
		}
	}
	if err := c.roots(tx, keep); err != nil {
		return err
	}
	for len(stack) > 0 {
		next := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.edges(tx, next.n, next.flat, keep); err != nil {
			return err
		}
	}
	for _, bucket := range []string{bucketLeases, bucketImages, bucketSnapshots, bucketIngests, bucketBlobs} {
		if err := tx.scan(bucket, "", "", func(key string, _ []byte) (bool, error) {
			n := node{bucket, key}
			if c.marks[n] != 0 {
				c.out.Marked++
			} else {
				c.garbage[n] = struct{}{}
				c.work = append(c.work, n)
			}
			return true, ctx.Err()
		}); err != nil {
			return err
		}
	}
	for n, m := range c.marks {
		if m == fullMark {
			delete(c.marks, n)
		}
	}
	return nil
}

// sweep removes garbage, some at a time.
func (c *collection) sweep(ctx context.Context) error {
	for done, size := 0, sliceMin; done < len(c.work); {
		var s slice
		held, err := c.db.update(ctx, func(tx *Tx) error {
			s = slice{collection: c}
			return s.run(tx, c.work[done:min(done+size, len(c.work))])
		})
		if err != nil {
			return fmt.Errorf("cannot remove garbage: %w", err)
		}
		done += s.looked
		c.seen = s.seen
		c.work = append(c.work, s.parents...)
		s.addTo(&c.out)
		c.out.LongestHold = max(c.out.LongestHold, held)
		switch {
		case held > sliceHold:
			size = max(size/2, sliceMin)
		case held < sliceHold/2:
			size = min(size*2, sliceMax)
		}
	}
	return nil
}

// revive walks from what was written since the last slice, in the present state, and takes what it reaches from the garbage.
// That a transaction which is undone is walked too only keeps more.
func (c *collection) revive(tx *Tx, touched []node) error {
	var stack []node
	keep := func(n node, _ bool) {
		_, garbage := c.garbage[n]
		_, flat := c.marks[n]
		if garbage || flat { // else it and what it keeps was reached before, or is new and noted itself
			delete(c.garbage, n)
			delete(c.marks, n)
			stack = append(stack, n)
		}
	}
	for _, n := range touched {
		delete(c.garbage, n)
		delete(c.marks, n)
		stack = append(stack, n)
	}
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if err := c.edges(tx, n, false, keep); err != nil {
			return err
		}
	}
	return nil
}
