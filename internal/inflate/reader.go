// Package inflate reads gzip (RFC 1952, RFC 1951) about twice as fast as other pure Go: decompression is what a pull waits for.
//
// It decodes through tables of 11 and 8 bits with a 64-bit bit buffer that is refilled without branches, and writes straight
// into a window from which Read copies. It owns nothing but memory, uses no unsafe code, and imports nothing of Slipway.
//
// What a crash leaves: nothing.
package inflate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/containerd/errdefs"
)

const (
	history = 32 << 10  // how far back a match can reach
	fresh   = 128 << 10 // decoded at a time
	inSize  = 64 << 10
	// slack is room that the decoder may touch beyond an end: input that reads as zeros, output that is written over later.
	inSlack  = 32
	outSlack = 320 // three literals, a match of 258 and what is copied beyond it
)

// ErrCorrupt is data that is not gzip, or is damaged. It is InvalidArgument.
var ErrCorrupt = fmt.Errorf("gzip data is damaged: %w", errdefs.ErrInvalidArgument)

func corrupt(what string) error { return fmt.Errorf("%w: %s", ErrCorrupt, what) }

// Reader decompresses gzip with any number of members. It is not safe for concurrent use.
type Reader struct {
	src io.Reader
	*state
	err     error // what Read answers when the window is read
	onBlock func(Boundary)
}

// state is the reusable part of a Reader.
type state struct {
	bits  uint64 // the next bits, lowest first
	count uint   // how many of them are meant

	in       [inSize + inSlack]byte
	pos, end int   // unread input
	inBase   int64 // bytes of src before in
	eof      bool  // src has ended; zeros follow end

	out   [history + fresh + outSlack]byte
	read  int   // what Read has taken
	write int   // what is decoded
	base  int   // where the member's first byte is, or 0 once it has left the window
	gone  int64 // bytes decoded that have left the window

	step step
	last bool // the block is the member's last
	left int  // bytes of a stored block
	lit  [litSize]uint32
	dist [distSize]uint32
	lens [320]uint8

	crc     uint32
	size    uint32
	resumed bool // in the middle of the member: its checksum is not known
}

type step uint8

const (
	inHeader step = iota
	inBlockHeader
	inStored
	inCodes
	inTrailer
)

var states = sync.Pool{New: func() any { return new(state) }}

// NewReader reads the first member's header. The caller closes the reader, which does not close src.
func NewReader(src io.Reader) (*Reader, error) {
	r := newReader(src)
	if err := r.header(); err != nil {
		_ = r.Close()
		return nil, noEOF(err)
	}
	return r, nil
}

func newReader(src io.Reader) *Reader {
	r := &Reader{src: src, state: states.Get().(*state)}
	s := r.state
	s.bits, s.count, s.pos, s.end, s.eof, s.inBase = 0, 0, 0, 0, false, 0
	s.read, s.write, s.gone, s.step, s.resumed = history, history, 0, inHeader, false
	return r
}

// Close gives the reader's memory back.
func (r *Reader) Close() error {
	if r.state != nil {
		states.Put(r.state)
		r.state = nil
		r.err = errors.New("read of a closed gzip reader")
	}
	return nil
}

func (r *Reader) Read(p []byte) (int, error) {
	for {
		if r.state == nil {
			return 0, r.err
		}
		if r.read < r.write {
			n := copy(p, r.out[r.read:r.write])
			r.read += n
			return n, nil
		}
		if r.err != nil || len(p) == 0 {
			return 0, r.err
		}
		r.slide()
		from := r.write
		r.err = r.decode()
		r.crc = crc32.Update(r.crc, crc32.IEEETable, r.out[from:r.write])
		r.size += uint32(r.write - from)
		if r.err == nil && r.step == inTrailer {
			r.err = r.trailer()
		}
	}
}

// slide moves the last of what was decoded to the front, to be looked back at.
func (r *Reader) slide() {
	if r.write < history+fresh/2 {
		return
	}
	shift := r.write - history
	copy(r.out[:history], r.out[shift:r.write])
	r.read, r.write, r.base = history, history, max(0, r.base-shift)
	r.gone += int64(shift)
}

// decode writes to the window until it is full or the member's blocks are done.
func (r *Reader) decode() error {
	for r.write < history+fresh {
		var err error
		switch r.step {
		case inBlockHeader:
			if r.last {
				r.step = inTrailer
				return nil
			}
			err = r.blockHeader()
		case inStored:
			err = r.stored()
		case inCodes:
			err = r.codes()
		}
		if err != nil {
			return noEOF(err)
		}
	}
	return nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// more reads input when less than n bytes are left. At the end of src it is nil and zeros follow. The bytes that are in the
// bit buffer stay before pos, for align to give back.
func (r *Reader) more(n int) error {
	for r.end-r.pos < n && !r.eof {
		if used := r.pos - int(r.count/8); used > 0 {
			copy(r.in[:], r.in[used:r.end])
			r.inBase += int64(used)
			r.end, r.pos = r.end-used, r.pos-used
		}
		m, err := r.src.Read(r.in[r.end:inSize])
		r.end += m
		if err == io.EOF {
			r.eof = true
			clear(r.in[r.end : r.end+inSlack])
		} else if err != nil {
			return err
		}
	}
	return nil
}

// need makes n bits available, at most 32, and fails at the end of src.
func (r *Reader) need(n uint) error {
	for r.count < n {
		if r.pos >= r.end {
			if err := r.more(1); err != nil {
				return err
			}
			if r.pos >= r.end {
				return io.ErrUnexpectedEOF
			}
		}
		r.bits |= uint64(r.in[r.pos]) << r.count
		r.count += 8
		r.pos++
	}
	return nil
}

func (r *Reader) take(n uint) uint32 {
	v := uint32(r.bits & (1<<n - 1))
	r.bits >>= n
	r.count -= n
	return v
}

// align gives back the whole bytes in the bit buffer and drops the rest.
func (r *Reader) align() {
	r.pos -= int(r.count / 8)
	r.bits, r.count = 0, 0
}

// next reads one byte of a header; io.EOF at the end of src.
func (r *Reader) next() (byte, error) {
	if err := r.more(1); err != nil {
		return 0, err
	}
	if r.pos >= r.end {
		return 0, io.EOF
	}
	r.pos++
	return r.in[r.pos-1], nil
}

// header reads a member's header (RFC 1952, 2.3). io.EOF when src has ended before it.
func (r *Reader) header() error {
	var head [10]byte
	for i := range head {
		b, err := r.next()
		if err == io.EOF && i > 0 {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		head[i] = b
	}
	flags := head[3]
	if head[0] != 0x1f || head[1] != 0x8b || head[2] != 8 || flags&0xe0 != 0 {
		return corrupt("no gzip header")
	}
	if flags&4 != 0 { // extra field
		low, err := r.next()
		high, err2 := r.next()
		if err = errors.Join(err, err2); err != nil {
			return io.ErrUnexpectedEOF
		}
		if err := r.skip(int(low) | int(high)<<8); err != nil {
			return err
		}
	}
	for _, flag := range []byte{8, 16} { // name, comment
		for flags&flag != 0 {
			b, err := r.next()
			if err != nil {
				return noEOF(err)
			}
			if b == 0 {
				break
			}
		}
	}
	if flags&2 != 0 { // checksum of the header
		if err := r.skip(2); err != nil {
			return err
		}
	}
	r.crc, r.size, r.base, r.resumed = 0, 0, r.write, false
	r.step, r.last = inBlockHeader, false
	return nil
}

func (r *Reader) skip(n int) error {
	for range n {
		if _, err := r.next(); err != nil {
			return noEOF(err)
		}
	}
	return nil
}

// trailer checks a member's end and goes on to the next one, if there is one: io.EOF when not. Zeros after the last member
// are padding.
func (r *Reader) trailer() error {
	r.align()
	var tail [8]byte
	for i := range tail {
		b, err := r.next()
		if err != nil {
			return noEOF(err)
		}
		tail[i] = b
	}
	if !r.resumed && (binary.LittleEndian.Uint32(tail[:]) != r.crc || binary.LittleEndian.Uint32(tail[4:]) != r.size) {
		return corrupt("wrong checksum")
	}
	for {
		if err := r.more(1); err != nil {
			return err
		}
		if r.pos >= r.end {
			return io.EOF
		}
		if r.in[r.pos] != 0 {
			return r.header()
		}
		r.pos++
	}
}
