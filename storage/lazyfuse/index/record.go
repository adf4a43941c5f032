package index

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/internal/inflate"
)

// How long spans are. A gzip span costs its window, about 10 KiB: it is made so long that windows are half a percent of the
// layer.
const (
	minSpan    = 1 << 20  // fetched bytes
	maxDecoded = 16 << 20 // decoded bytes, after which a span ends as soon as it can
	windowPart = 200

	maxFrames = 128 << 20 // of a zstd window, as much as pulling a layer allows
)

// Recorder decompresses a layer and makes its index on the way. It reads like the decompressor it stands in for; what was read is to be
// written to it, all of it and in order, but maybe later and by another goroutine, so that whoever has the bytes in hand anyway pays
// for hashing them. What makes an index impossible shows only in Finish. The caller reads it to its end, writes, calls Finish, and
// closes it.
type Recorder struct {
	src   *position
	codec codec
	in    io.Reader // decompressed
	gzip  *inflate.Reader
	zstd  *zstd.Decoder
	parts *frames

	out     int64 // bytes read
	begun   boundary
	windows int64 // bytes of packed windows so far

	mu    sync.Mutex
	seen  []boundary // by Read, and not yet by Write
	ended bool       // read to the end

	build *recording // Write's
}

// boundary is where a span begins.
type boundary struct {
	in, out int64
	bit     uint8
	resume  bool // from a checkpoint
	window  []byte
}

// position counts what is read of a blob.
type position struct {
	src io.Reader
	n   int64
}

func (p *position) Read(b []byte) (int, error) {
	n, err := p.src.Read(b)
	p.n += int64(n)
	return n, err
}

// NewRecorder tells the compression by the first bytes, as unpacking does. It fails as the decompressor would.
func NewRecorder(src io.Reader, limits Limits) (*Recorder, error) {
	r := &Recorder{src: &position{src: src}}
	if err := r.open(bufio.NewReaderSize(r.src, 64<<10)); err != nil {
		return nil, err
	}
	r.begun = boundary{}
	r.build = newRecording(r.codec, limits)
	return r, nil
}

func (r *Recorder) open(b *bufio.Reader) (err error) {
	magic, err := b.Peek(4)
	if err != nil && err != io.EOF {
		return err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		r.codec = codecGzip
		if r.gzip, err = inflate.NewReader(b); err != nil {
			return err
		}
		r.gzip.OnBlock(r.block)
		r.in = r.gzip
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18}):
		r.codec = codecZstd
		r.parts = &frames{src: b, done: true}
		r.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxFrames))
		r.in = readFunc(r.readFrames)
	default:
		r.codec = codecNone
		r.in = readFunc(func(p []byte) (int, error) {
			if r.out-r.begun.out >= minSpan {
				r.begin(boundary{in: r.out, out: r.out})
			}
			return b.Read(p[:min(int64(len(p)), r.begun.out+minSpan-r.out)])
		})
	}
	return err
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// block is called for each block of gzip and begins a span when the last one is long enough.
func (r *Recorder) block(b inflate.Boundary) {
	in, out := b.In-r.begun.in, b.Out-r.begun.out
	if out == 0 || out < maxDecoded && (in < minSpan || r.windows*windowPart > b.In) {
		return
	}
	packed := pack(b.Window)
	r.windows += int64(len(packed))
	r.begin(boundary{in: b.In, out: b.Out, bit: b.Bit, resume: true, window: packed})
}

func (r *Recorder) begin(b boundary) {
	r.begun = b
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, b)
}

// readFrames decodes one frame after the other and begins spans between them.
func (r *Recorder) readFrames(p []byte) (int, error) {
	for {
		if r.parts.done {
			at := r.parts.pos
			if err := r.parts.next(); err != nil {
				return 0, badZstdRead(err)
			}
			if at-r.begun.in >= minSpan || r.out-r.begun.out >= minSpan {
				r.begin(boundary{in: at, out: r.out})
			}
			if err := r.zstd.Reset(r.parts); err != nil {
				return 0, badZstdRead(err)
			}
		}
		n, err := r.zstd.Read(p)
		if err == io.EOF {
			if !r.parts.done {
				return n, invalid("a zstd frame goes on after its end")
			}
			err = nil
		}
		if n > 0 || err != nil {
			return n, badZstdRead(err)
		}
	}
}

// badZstdRead leaves the source's errors alone and gives the decoder's a kind.
func badZstdRead(err error) error {
	if errors.Is(err, zstd.ErrMagicMismatch) || errors.Is(err, zstd.ErrCRCMismatch) || errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrBlockTooSmall) {
		return badZstd(err)
	}
	return err
}

func (r *Recorder) Read(p []byte) (int, error) {
	n, err := r.in.Read(p)
	r.out += int64(n)
	if err == io.EOF {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ended = true
	}
	return n, err
}

// Write takes what was read. Boundaries are known before the bytes after them are read, so none comes too late. It never fails.
func (r *Recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	seen := r.seen
	r.seen = nil
	r.mu.Unlock()
	r.build.add(p, seen)
	return len(p), nil
}

// DiffID answers the SHA-256 of what was written. It saves the caller from hashing it again. FailedPrecondition when that is
// not all of the layer.
func (r *Recorder) DiffID() (digest.Digest, error) {
	if err := r.end(); err != nil {
		return "", err
	}
	return r.build.diffID(), nil
}

// Finish answers the index. It is called once, and the index kept only if DiffID is what the image says.
func (r *Recorder) Finish() (*Index, error) {
	if err := r.end(); err != nil {
		return nil, err
	}
	return r.build.finish(r.src.n)
}

func (r *Recorder) end() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended || r.build.out != r.out {
		return fmt.Errorf("the layer was not read to its end, or not all of it was written: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Close gives the decompressor's memory back. It does not close the source. What was read can still be written.
func (r *Recorder) Close() error {
	if r.zstd != nil {
		r.zstd.Close()
	}
	if r.gzip != nil {
		return r.gzip.Close()
	}
	return nil
}
