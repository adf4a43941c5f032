package server

import (
	"context"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// A layer that grows has its requests wait. Many may: each has a goroutine, and other layers do not notice. The kernel lets a killed
// process go when its request is answered with EINTR.

// await waits until node number of l may be asked for.
func (f *fileSystem) await(cancel <-chan struct{}, a *attached, l Layer, number int) fuse.Status {
	g, ok := l.(Growing)
	if !ok {
		return fuse.OK
	}
	return f.waited(cancel, a, func(ctx context.Context) error { return g.Await(ctx, number) })
}

// awaitAll waits until all of l is known.
func (f *fileSystem) awaitAll(cancel <-chan struct{}, a *attached, l Layer) fuse.Status {
	g, ok := l.(Growing)
	if !ok {
		return fuse.OK
	}
	return f.waited(cancel, a, g.AwaitAll)
}

// find looks a name up, when it is known whether there is one.
func (f *fileSystem) find(cancel <-chan struct{}, a *attached, l Layer, dir int, name string) (node int, ok bool, status fuse.Status) {
	g, grows := l.(Growing)
	if !grows {
		node, ok = l.Lookup(dir, name)
		return node, ok, fuse.OK
	}
	status = f.waited(cancel, a, func(ctx context.Context) (err error) {
		node, ok, err = g.Find(ctx, dir, name)
		return err
	})
	return node, ok, status
}

func (f *fileSystem) waited(cancel <-chan struct{}, a *attached, wait func(context.Context) error) fuse.Status {
	ctx, done := a.readContext(cancel)
	defer done()
	err := wait(ctx)
	switch {
	case err == nil:
		return fuse.OK
	case ctx.Err() != nil:
		return fuse.EINTR
	}
	return f.status(err)
}

// valid is how long what is said of a layer's files holds, in seconds.
func valid(l Layer) uint64 {
	if g, ok := l.(Growing); ok && g.Grows() {
		return 0
	}
	return forever
}
