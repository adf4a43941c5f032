// Package layer joins what makes up a lazy layer: the index says where the bytes of a file are, a blob delivers them, and the
// node cache keeps them.
//
// It owns the order of these steps: look into the cache, fetch the units that are missing, have the index check and decode
// them, keep them, deliver. It imports the packages index, cache and fetch beside it and no FUSE. What the FUSE server serves
// is a Layer, but so can anything else read it.
//
// What a crash leaves: nothing but what the cache holds.
package layer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/slipwayd/slipway/storage/lazyfuse/cache"
	"github.com/slipwayd/slipway/storage/lazyfuse/fetch"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
)

// Blob is the layer's blob; a *fetch.Blob is one. ReadAt fills p or fails. Discard says that what was read is wrong, and has to be had
// anew.
type Blob interface {
	ReadAt(ctx context.Context, class fetch.Class, p []byte, off int64) error
	Discard(off, length int64)
	Close()
}

// Config is what a layer is made of.
type Config struct {
	Index *index.Index
	// Digest is that of the index document: it names files that have no digests of their own.
	Digest digest.Digest
	Cache  *cache.Cache
	Blob   Blob   // the layer closes it
	Units  *Units // shared by all layers
	Own    bool   // this host made the index of a layer that it checked, so the digests of files are right
	Retry  int    // how often a unit that is not what the index says is fetched again; 0 for 2
}

// Layer reads a layer's files. It is safe for concurrent use.
type Layer struct {
	*index.Index
	cfg Config
	id  uint64 // among those that share Units

	fetched [3]atomic.Int64 // bytes of units by fetch.Class
	served  atomic.Int64    // bytes read
	waited  atomic.Int64    // reads that found something missing

	turn chan struct{} // holds a token for each unit that is being fetched

	mu      sync.Mutex
	entries map[int]*cache.Entry
	closed  bool
}

// New makes a layer of its parts. The caller closes it.
func New(cfg Config) *Layer {
	if cfg.Retry == 0 {
		cfg.Retry = 2
	}
	return &Layer{Index: cfg.Index, cfg: cfg, id: cfg.Units.layer(), turn: make(chan struct{}, unitsAtOnce), entries: map[int]*cache.Entry{}}
}

// unitsAtOnce bounds the memory that a layer's units take while they are fetched and decoded. What is in the cache waits for no
// turn.
const unitsAtOnce = 16

// Close gives the cache's entries back and closes the blob. Reads must have ended.
func (l *Layer) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, e := range l.entries {
		e.Release()
	}
	l.entries = nil
	l.cfg.Blob.Close()
	return nil
}

// entry holds node i's content in the cache for as long as the layer is open.
func (l *Layer) entry(i int) (*cache.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.entries[i]; e != nil || l.closed {
		if l.closed {
			return nil, fmt.Errorf("cannot read a layer that is closed: %w", errdefs.ErrUnavailable)
		}
		return e, nil
	}
	n := l.Node(i)
	e, err := l.cfg.Cache.Acquire(l.key(i, &n), n.Size)
	if err != nil {
		return nil, err
	}
	l.entries[i] = e
	return e, nil
}

// key names node i's content so that equal keys mean equal bytes, whoever made the index.
func (l *Layer) key(i int, n *index.Node) cache.Key {
	if l.cfg.Own && n.Content != "" {
		return cache.FileKey(n.Content, n.Size)
	}
	var chunks []cache.Chunk
	for _, e := range l.Extents(i) {
		if e.Unit == index.Zeros {
			return cache.NodeKey(l.cfg.Digest, i, n.Size)
		}
		u := l.Unit(e.Unit)
		if e.From != 0 || e.Size != u.Size || u.Digest == "" {
			return cache.NodeKey(l.cfg.Digest, i, n.Size)
		}
		chunks = append(chunks, cache.Chunk{Size: u.Size, Digest: u.Digest})
	}
	if len(chunks) == 0 {
		return cache.NodeKey(l.cfg.Digest, i, n.Size)
	}
	return cache.ChunksKey(chunks)
}

// ReadAt reads from file i for somebody who waits. It fills p or fails; io.EOF at the file's end. Unavailable when the registry
// does not deliver in time, DataLoss when it delivers something else than the layer, also when asked again.
func (l *Layer) ReadAt(ctx context.Context, i int, p []byte, off int64) (int, error) {
	n, err := l.Read(ctx, fetch.Foreground, i, p, off)
	l.served.Add(int64(n))
	return n, err
}

// Detail is what a layer says of itself. Bytes are since the layer was opened.
type Detail struct {
	Kind      index.Kind `json:"kind"` // of the index, and so why the layer can be lazy
	BlobBytes int64      `json:"blobBytes"`
	Demand    int64      `json:"demandBytes"` // of the blob, fetched for readers that waited
	Profile   int64      `json:"profileBytes"`
	Served    int64      `json:"servedBytes"` // of files, given to readers
	Waited    int64      `json:"waitedReads"` // that found something missing
	Cached    int64      `json:"cachedBytes"` // of files, in the cache now
}

// Detail tells how the layer is.
func (l *Layer) Detail() any {
	return Detail{Kind: l.Kind(), BlobBytes: l.BlobSize(), Demand: l.fetched[fetch.Foreground].Load(),
		Profile: l.fetched[fetch.Profile].Load(), Served: l.served.Load(), Waited: l.waited.Load(), Cached: l.cached()}
}

func (l *Layer) cached() (sum int64) {
	for i := range l.Len() {
		if n := l.Node(i); n.Mode.IsRegular() && n.Size > 0 {
			sum += l.cfg.Cache.Present(l.key(i, &n))
		}
	}
	return sum
}

// Read is ReadAt on behalf of a class of readers.
func (l *Layer) Read(ctx context.Context, class fetch.Class, i int, p []byte, off int64) (int, error) {
	if i < 0 || i >= l.Len() || off < 0 {
		return 0, fmt.Errorf("cannot read node %d at %d: %w", i, off, errdefs.ErrOutOfRange)
	}
	size := l.Node(i).Size
	if off >= size {
		return 0, io.EOF
	}
	var atEnd error
	if int64(len(p)) > size-off {
		p, atEnd = p[:size-off], io.EOF
	}
	e, err := l.entry(i)
	if err != nil {
		return 0, err
	}
	if n, _ := e.ReadAt(p, off); n == len(p) {
		return n, atEnd
	}
	// Whatever kept the cache from delivering, the blob can.
	if class == fetch.Foreground {
		l.waited.Add(1)
	}
	for _, m := range e.Missing(off, int64(len(p))) {
		if err := l.fill(ctx, class, i, e, m); err != nil {
			return 0, err
		}
	}
	if n, _ := e.ReadAt(p, off); n == len(p) {
		return n, atEnd
	}
	// The cache could not keep it: its disk is full or fails.
	if err := l.assemble(ctx, class, i, p, off); err != nil {
		return 0, err
	}
	return len(p), atEnd
}

// fill has the cache keep what it misses, with the rest of the units that it is in: what was fetched is not fetched again.
func (l *Layer) fill(ctx context.Context, class fetch.Class, i int, e *cache.Entry, m cache.Range) error {
	cut := l.Range(i, m.Offset, m.Length)
	if len(cut) == 0 {
		return fmt.Errorf("the index has no place for bytes %d-%d of node %d: %w", m.Offset, m.Offset+m.Length-1, i, errdefs.ErrDataLoss)
	}
	for _, x := range cut {
		if x.Unit != index.Zeros {
			x = l.whole(i, x)
		}
		data, err := l.bytes(ctx, class, x)
		if err != nil {
			return err
		}
		// An error of the disk is not the reader's: assemble needs no cache.
		if _, err := e.WriteAt(data, x.Offset); err != nil {
			return nil
		}
	}
	return nil
}

// whole answers all that file i has of x's unit around x.
func (l *Layer) whole(i int, x index.Extent) index.Extent {
	begin := max(0, x.Offset-x.From)
	for _, w := range l.Range(i, begin, l.Unit(x.Unit).Size) {
		if w.Unit == x.Unit && w.Offset <= x.Offset && w.Offset+w.Size >= x.Offset+x.Size {
			return w
		}
	}
	return x
}

// bytes answers an extent's bytes, which nobody may change.
func (l *Layer) bytes(ctx context.Context, class fetch.Class, x index.Extent) ([]byte, error) {
	if x.Unit == index.Zeros {
		return make([]byte, x.Size), nil
	}
	data, err := l.cfg.Units.get(ctx, unitKey{l.id, x.Unit}, x.From, x.Size, func() ([]byte, error) { return l.unit(ctx, class, x.Unit) })
	if err != nil {
		return nil, err
	}
	if int64(len(data)) < x.Size {
		return nil, fmt.Errorf("unit %d has %d bytes at %d, the index wants %d: %w", x.Unit, len(data), x.From, x.Size, errdefs.ErrDataLoss)
	}
	return data, nil
}

// unit fetches, checks and decodes unit u. What is not what the index says is fetched again.
func (l *Layer) unit(ctx context.Context, class fetch.Class, u int) ([]byte, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	unit := l.Unit(u)
	packed := make([]byte, unit.Length)
	for try := 0; ; try++ {
		if err := l.cfg.Blob.ReadAt(ctx, class, packed, unit.Offset); err != nil {
			return nil, err
		}
		l.fetched[class].Add(unit.Length)
		data, err := l.Decode(u, bytes.NewReader(packed))
		if err == nil {
			return data, nil
		}
		l.cfg.Blob.Discard(unit.Offset, unit.Length)
		if try == l.cfg.Retry || ctx.Err() != nil {
			return nil, err
		}
	}
}

// assemble reads past the cache.
func (l *Layer) assemble(ctx context.Context, class fetch.Class, i int, p []byte, off int64) error {
	done := int64(0)
	for _, x := range l.Range(i, off, int64(len(p))) {
		data, err := l.bytes(ctx, class, x)
		if err != nil {
			return err
		}
		done += int64(copy(p[x.Offset-off:], data))
	}
	if done != int64(len(p)) {
		return fmt.Errorf("the index has %d of %d bytes of node %d at %d: %w", done, len(p), i, off, errdefs.ErrDataLoss)
	}
	return nil
}

// Backing opens the whole content of file i when all of it is in the cache, for a kernel that reads it by itself. The caller closes
// it.
func (l *Layer) Backing(i int) (*os.File, bool) {
	e, err := l.entry(i)
	if err != nil || !e.Full() {
		return nil, false
	}
	f, err := e.Complete()
	return f, err == nil && f != nil
}
