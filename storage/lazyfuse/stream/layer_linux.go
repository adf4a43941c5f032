package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/storage/lazyfuse/index"
	"github.com/slipwayd/slipway/storage/lazyfuse/layer"
)

// Config is what a layer is made of.
type Config struct {
	ID   string       // the layer's, a file name
	Root *index.Index // index.Empty; its root is what the layer's looks like if the layer does not describe it
	Desc ocispec.Descriptor
	Blob layer.Blob // the layer closes it
	// Files is where the layer's files will be: a directory when it has arrived, and something else until then.
	Files string
	Dir   string             // for what has come
	State string             // for what the next server has to know; it may end with the mount
	Room  func(n int64) bool // whether Dir may take so many more bytes; nil: it may
	// Deadline is how long a reader waits without anything happening.
	Deadline time.Duration
	Log      *slog.Logger
}

// Layer is a layer that is coming. It is safe for concurrent use.
type Layer struct {
	*gate
	cfg     Config
	growing *index.Growing
	passed  *passed
	held    bool  // guarded by gate: nothing may be shown, a server before has seen more
	came    int64 // likewise: bytes of the uncompressed layer

	whole   atomic.Pointer[tree] // once it has arrived
	reading sync.RWMutex         // held for reading while the spool is read, which ends with whole
	spool   *os.File

	read, served, waited atomic.Int64 // bytes of the blob, bytes of files, reads that waited

	stop context.CancelFunc
	work sync.WaitGroup
}

// New begins to fetch the layer. The caller closes it.
func New(cfg Config) (*Layer, error) {
	p, err := openPassed(filepath.Join(cfg.State, "passed-"+cfg.ID))
	if err != nil {
		return nil, err
	}
	name := filepath.Join(cfg.Dir, "stream-"+cfg.ID)
	spool, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make a file for what comes of a layer: %w", err), p.remove())
	}
	if err := os.Remove(name); err != nil {
		return nil, errors.Join(err, spool.Close(), p.remove())
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &Layer{gate: newGate(cfg.Deadline), cfg: cfg, growing: index.NewGrowing(cfg.Root, index.Limits{}), passed: p, held: p.n != 0, spool: spool, stop: stop}
	l.work.Go(func() { l.run(ctx) })
	return l, nil
}

// Close ends the pass, for good: the kernel must have forgotten the layer. Reads must have ended.
func (l *Layer) Close() error {
	l.stop()
	l.work.Wait()
	l.cfg.Blob.Close()
	err := l.passed.remove()
	if t := l.whole.Load(); t != nil {
		return errors.Join(err, t.root.Close())
	}
	return errors.Join(err, l.spool.Close())
}

// Grows says whether there are answers that are still to come.
func (l *Layer) Grows() bool { return l.whole.Load() == nil }

// Await waits until Node(i) may be asked for. NotFound when the layer turned out to have no such node.
func (l *Layer) Await(ctx context.Context, i int) error {
	err := l.wait(ctx, func() bool {
		return l.whole.Load() != nil || !l.held && i < l.growing.Len() && (i > 0 || l.growing.Begun())
	})
	if err != nil {
		return fmt.Errorf("cannot look at node %d: %w", i, err)
	}
	if t := l.whole.Load(); t != nil && !t.has(i) {
		return fmt.Errorf("the layer has no node %d: %w", i, errdefs.ErrNotFound)
	}
	return nil
}

// Find answers the node called name in directory dir, or that there is none, when either is certain.
func (l *Layer) Find(ctx context.Context, dir int, name string) (node int, ok bool, err error) {
	err = l.wait(ctx, func() bool {
		if t := l.whole.Load(); t != nil {
			node, ok = t.lookup(dir, name)
			return true
		}
		if !l.held {
			node, ok = l.growing.Lookup(dir, name)
		}
		return ok
	})
	if err != nil {
		return 0, false, fmt.Errorf("cannot look for %.300q: %w", name, err)
	}
	return node, ok, nil
}

// AwaitAll waits until the layer has arrived.
func (l *Layer) AwaitAll(ctx context.Context) error {
	return l.wait(ctx, func() bool { return l.whole.Load() != nil })
}

// ReadAt reads from regular file i. It fills p or fails; io.EOF at the file's end.
func (l *Layer) ReadAt(ctx context.Context, i int, p []byte, off int64) (int, error) {
	size := l.Node(i).Size
	if off < 0 || off >= size {
		return 0, io.EOF
	}
	var atEnd error
	if int64(len(p)) > size-off {
		p, atEnd = p[:size-off], io.EOF
	}
	if l.Grows() {
		end, waits := l.growing.Place(i)+off+int64(len(p)), false
		err := l.wait(ctx, func() bool {
			known := l.whole.Load() != nil || !l.held && l.came >= end
			waits = waits || !known
			return known
		})
		if waits {
			l.waited.Add(1)
		}
		if err != nil {
			return 0, err
		}
	}
	n, err := l.readHere(i, p, off)
	l.served.Add(int64(n))
	if err == nil {
		err = atEnd
	}
	return n, err
}

// readHere reads what has come.
func (l *Layer) readHere(i int, p []byte, off int64) (int, error) {
	l.reading.RLock()
	defer l.reading.RUnlock()
	if t := l.whole.Load(); t != nil {
		f, err := t.open(i)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		return io.ReadFull(io.NewSectionReader(f, off, int64(len(p))), p)
	}
	return l.spool.ReadAt(p, l.growing.Place(i)+off)
}

// Backing opens the whole content of file i when the layer has arrived. The caller closes it.
func (l *Layer) Backing(i int) (*os.File, bool) {
	t := l.whole.Load()
	if t == nil {
		return nil, false
	}
	f, err := t.open(i)
	return f, err == nil
}

// Len answers how many nodes there are by now.
func (l *Layer) Len() int {
	if t := l.whole.Load(); t != nil {
		return len(t.files)
	}
	return l.growing.Len()
}

// Node answers node i as it is known by now.
func (l *Layer) Node(i int) index.Node {
	if t := l.whole.Load(); t != nil && t.has(i) {
		return t.files[i].Node
	}
	return l.growing.Node(i)
}

// Lookup finds a name, if it is known by now.
func (l *Layer) Lookup(dir int, name string) (int, bool) {
	if t := l.whole.Load(); t != nil {
		return t.lookup(dir, name)
	}
	return 0, false
}

// ReadDir lists a directory when the layer has arrived, and nothing before.
func (l *Layer) ReadDir(dir, from int) iter.Seq2[string, int] {
	t := l.whole.Load()
	return func(yield func(string, int) bool) {
		for ; t != nil && t.has(dir) && from < len(t.files[dir].kids); from++ {
			if k := t.files[dir].kids[from]; !yield(k.name, k.file) {
				return
			}
		}
	}
}

// Detail tells how the layer is.
func (l *Layer) Detail() any {
	return layer.Detail{Kind: index.Stream, BlobBytes: l.cfg.Desc.Size, Demand: l.read.Load(), Served: l.served.Load(), Waited: l.waited.Load()}
}

// Send writes the blob from off on, for who brings all of the layer here.
func (l *Layer) Send(ctx context.Context, off int64, to io.Writer) error {
	return layer.SendBlob(ctx, l.cfg.Blob, l.cfg.Desc.Size, off, to)
}

// Plan has no steps: all comes as fast as it can.
func (l *Layer) Plan([]int, [][2]int64) ([]int, func(context.Context, int) error) { return nil, nil }

// First names no files.
func (l *Layer) First() []int { return nil }
