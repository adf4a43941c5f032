package index

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"

	"github.com/slipwayd/slipway/internal/inflate"
)

// Decode answers the Size bytes of unit u, made of its Length bytes that src begins with, and checked against its digest.
// DataLoss when they are not what the index says, in which case nobody may see them; errors of src come as they are. It
// holds no more than the unit in memory, whatever the bytes claim.
func (x *Index) Decode(u int, src io.Reader) ([]byte, error) {
	out, err := x.decode(u, src)
	if err != nil {
		return nil, fmt.Errorf("cannot decode unit %d of a %s layer: %w", u, x.kind, err)
	}
	return out, nil
}

func (x *Index) decode(u int, src io.Reader) ([]byte, error) {
	d := &x.units[u]
	limited := &source{src: src, left: int64(d.length)}
	var in io.Reader = limited
	if d.digest&rawFlag != 0 {
		// What to decode is checked first: this document says nothing of the result.
		raw, err := readAll(limited, int64(d.length))
		if err != nil {
			return nil, limited.blame(err)
		}
		if !x.matches(d.digest&^rawFlag, raw) {
			return nil, damagedData("wrong digest")
		}
		in = bytes.NewReader(raw)
	}
	r, err := x.open(d, in)
	if err != nil {
		return nil, limited.blame(err)
	}
	defer r.Close()
	if x.skips != nil {
		if _, err := io.CopyN(io.Discard, r, int64(x.skips[u])); err != nil {
			return nil, limited.blame(err)
		}
	}
	out, err := readAll(r, int64(d.size))
	if err != nil {
		return nil, limited.blame(err)
	}
	switch {
	case d.digest&rawFlag != 0:
	case d.digest == 0 && !x.chain.links(u, out), d.digest > 0 && !x.matches(d.digest, out):
		return nil, damagedData("wrong digest")
	}
	return out, nil
}

func damagedData(what string) error { return fmt.Errorf("%s: %w", what, errdefs.ErrDataLoss) }

func (x *Index) matches(number uint32, data []byte) bool {
	sum := sha256.Sum256(data)
	return bytes.Equal(sum[:], x.digests[(number-1)*digestSize:number*digestSize])
}

// readAll reads size bytes, and takes memory only as they come.
func readAll(r io.Reader, size int64) ([]byte, error) {
	out := make([]byte, 0, min(size, 1<<20))
	for int64(len(out)) < size {
		if len(out) == cap(out) {
			out = append(make([]byte, 0, min(size, 4*int64(cap(out)))), out...)
		}
		n, err := r.Read(out[len(out):min(int64(cap(out)), size)])
		out = out[:len(out)+n]
		if err != nil && int64(len(out)) < size {
			return nil, noEOF(err)
		}
	}
	return out, nil
}

// source reads the bytes of one unit and tells its own errors from those of decoding.
type source struct {
	src  io.Reader
	left int64
	err  error
}

func (s *source) Read(p []byte) (int, error) {
	if s.left <= 0 {
		return 0, io.EOF
	}
	n, err := s.src.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	if err == io.EOF && s.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func (s *source) blame(err error) error {
	if s.err != nil {
		return s.err
	}
	return fmt.Errorf("%w (%w)", err, errdefs.ErrDataLoss)
}

func (x *Index) open(d *unit, in io.Reader) (io.ReadCloser, error) {
	switch {
	case x.codec == codecNone:
		return io.NopCloser(in), nil
	case x.codec == codecZstd:
		return openZstd(in)
	case d.state == 0:
		return inflate.NewReader(in)
	}
	c := &x.states[d.state-1]
	window, err := unpack(c.window)
	if err != nil {
		return nil, err
	}
	return inflate.Resume(in, c.bit, window)
}

var zstdDecoders sync.Pool

// pooled gives its decoder back when closed.
type pooled struct{ *zstd.Decoder }

func (p pooled) Close() error {
	if p.Reset(nil) == nil {
		zstdDecoders.Put(p.Decoder)
	}
	return nil
}

func openZstd(in io.Reader) (io.ReadCloser, error) {
	d, _ := zstdDecoders.Get().(*zstd.Decoder)
	if d == nil {
		var err error
		if d, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxFrames)); err != nil {
			return nil, err
		}
	}
	if err := d.Reset(in); err != nil {
		return nil, err
	}
	return pooled{d}, nil
}
