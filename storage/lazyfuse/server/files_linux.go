package server

import (
	"context"
	"errors"
	"io"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Open answers how a file is to be read: by the kernel itself from the backing file, when all of it is here and no
// descriptor of another kind is open, or through this server with what was read kept in the page cache.
func (f *fileSystem) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&unix.O_ACCMODE != unix.O_RDONLY {
		return fuse.EROFS
	}
	a, l, n, number, status := f.node(cancel, in.NodeId)
	if !status.Ok() {
		return status
	}
	defer a.users.Done()
	if !n.Mode.IsRegular() {
		return fuse.EINVAL
	}
	o, err := f.opens.open(in.NodeId, in.Unique, func() (int32, bool) { return f.backing(l, number, n.Size) })
	if err != nil {
		f.log.Error("cannot open a file of a lazy layer", "layer", a.id, "node", number, "error", err)
		return fuse.Status(unix.ENFILE)
	}
	a.counts.opens.Add(1)
	a.touched.opened(number, o.passed)
	out.Fh, out.OpenFlags = o.handle, fuse.FOPEN_KEEP_CACHE
	if o.passed {
		a.counts.passed.Add(1)
		out.OpenFlags, out.BackingID = fuse.FOPEN_PASSTHROUGH, o.backing
	}
	return fuse.OK
}

func (f *fileSystem) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { f.opens.close(in.Fh) }

// Read delivers what the layer verified, whole, or fails this one read: an answer that is short would be zeros to the
// reader.
func (f *fileSystem) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	slot, number := splitID(in.NodeId)
	a, l, err := f.layers.use(slot)
	if err != nil {
		return nil, f.status(err)
	}
	defer a.users.Done()
	if status := f.await(cancel, a, l, number); !status.Ok() {
		return nil, status
	}
	if number >= l.Len() {
		return nil, fuse.Status(unix.ESTALE)
	}
	n := l.Node(number)
	if !n.Mode.IsRegular() {
		return nil, fuse.EINVAL
	}
	off := int64(in.Offset)
	if off < 0 || off >= n.Size {
		return fuse.ReadResultData(nil), fuse.OK
	}
	buf = buf[:min(int64(len(buf)), n.Size-off)]
	ctx, done := a.readContext(cancel)
	defer done()
	if !a.begin(ctx) {
		return nil, fuse.EINTR
	}
	defer a.finish()
	a.counts.reads.Add(1)
	a.touched.read(number, off, int64(len(buf)))
	got, err := l.ReadAt(ctx, number, buf, off)
	if got == len(buf) && (err == nil || errors.Is(err, io.EOF)) {
		a.counts.bytes.Add(int64(got))
		return fuse.ReadResultData(buf), fuse.OK
	}
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return nil, fuse.EINTR
	}
	a.counts.errors.Add(1)
	f.log.Error("cannot read a file of a lazy layer", "layer", a.id, "node", number, "offset", off, "bytes", len(buf), "got", got, "error", err)
	return nil, fuse.EIO
}

// readContext is done when the reader is interrupted or the layer detached.
func (a *attached) readContext(cancel <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancel(&fuse.Context{Cancel: cancel})
	undo := context.AfterFunc(a.ctx, stop)
	return ctx, func() { undo(); stop() }
}

// begin waits for the layer's turn to read; false when ctx is done first.
func (a *attached) begin(ctx context.Context) bool {
	select {
	case a.turn <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (a *attached) finish() { <-a.turn }
