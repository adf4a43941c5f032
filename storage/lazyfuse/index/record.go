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

	batchSize = 128 << 10
	batches   = 8
	maxFrames = 128 << 20 // of a zstd window, as much as pulling a layer allows
)

// Recorder decompresses a layer and makes its index on the way. It reads like the decompressor it stands in for; what makes an
// index impossible shows only in Finish. The caller reads it to its end, calls Finish, and closes it. Use by one
// goroutine at a time.
type Recorder struct {
	src   *position
	codec codec
	in    io.Reader // decompressed
	gzip  *inflate.Reader
	zstd  *zstd.Decoder
	parts *frames

	out     int64 // bytes decompressed, by the decoder for gzip and by Read otherwise
	begun   boundary
	windows int64 // bytes of packed windows so far
	seen    []boundary

	batch batch
	work  chan batch
	free  chan []byte
	wait  sync.WaitGroup
	build *recording
	ended bool
}

// boundary is where a span begins.
type boundary struct {
	in, out int64
	bit     uint8
	resume  bool // from a checkpoint
	window  []byte
}

// batch is decompressed bytes and the boundaries in them or before.
type batch struct {
	data []byte
	seen []boundary
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
	r := &Recorder{src: &position{src: src}, work: make(chan batch, batches), free: make(chan []byte, batches)}
	if err := r.open(bufio.NewReaderSize(r.src, 64<<10)); err != nil {
		return nil, err
	}
	r.begun = boundary{}
	r.build = newRecording(r.codec, limits)
	for range batches {
		r.free <- nil
	}
	r.wait.Go(func() {
		for b := range r.work {
			r.build.add(b)
			r.free <- b.data[:0]
		}
	})
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
	if r.codec != codecGzip {
		r.out += int64(n)
	}
	for rest := p[:n]; len(rest) > 0; {
		if r.batch.data == nil {
			if r.batch.data = <-r.free; r.batch.data == nil {
				r.batch.data = make([]byte, 0, batchSize)
			}
		}
		k := min(len(rest), batchSize-len(r.batch.data))
		r.batch.data, rest = append(r.batch.data, rest[:k]...), rest[k:]
		if len(r.batch.data) == batchSize {
			r.send()
		}
	}
	if err == io.EOF {
		r.ended = true
	}
	return n, err
}

// send hands the batch over. Boundaries are known before the bytes after them are read, so none comes too late.
func (r *Recorder) send() {
	r.batch.seen, r.seen = r.seen, nil
	r.work <- r.batch
	r.batch = batch{}
}

// DiffID answers the SHA-256 of what was read. It saves the caller from hashing it again. FailedPrecondition when it was not
// read to its end.
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

// end hands over what is left and waits until all of it is in the recording.
func (r *Recorder) end() error {
	if !r.ended {
		return fmt.Errorf("the layer was not read to its end: %w", errdefs.ErrFailedPrecondition)
	}
	if len(r.batch.data) > 0 {
		r.send()
	}
	r.stop()
	return nil
}

func (r *Recorder) stop() {
	if r.work != nil {
		close(r.work)
		r.wait.Wait()
		r.work = nil
	}
}

// Close gives the recorder's memory back. It does not close the source.
func (r *Recorder) Close() error {
	r.stop()
	if r.zstd != nil {
		r.zstd.Close()
	}
	if r.gzip != nil {
		return r.gzip.Close()
	}
	return nil
}
