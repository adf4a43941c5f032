package index

import (
	"bufio"
	"encoding/binary"
	"io"
)

// frames cuts a stream of zstd frames (RFC 8878, section 3.1) into its frames without decoding them: Read ends with io.EOF
// after each, until next begins another.
type frames struct {
	src    *bufio.Reader
	pos    int64  // bytes read of src
	head   []byte // of the frame or block, to be read first
	left   int64  // bytes of the block or of the checksum, to be read after head
	last   bool   // the block is the frame's last
	hasSum bool
	done   bool // the frame is read
}

const (
	zstdMagic     = 0xfd2fb528
	skippable     = 0x184d2a50
	skippableMask = 0xfffffff0
)

// next begins the next frame that has data. io.EOF when there is none.
func (f *frames) next() error {
	for {
		head := make([]byte, 4, 18)
		if _, err := io.ReadFull(f.src, head); err != nil {
			return err
		}
		f.pos += 4
		switch magic := binary.LittleEndian.Uint32(head); {
		case magic == zstdMagic:
			return f.header(head)
		case magic&skippableMask == skippable:
			var size [4]byte
			if _, err := io.ReadFull(f.src, size[:]); err != nil {
				return noEOF(err)
			}
			n := int64(binary.LittleEndian.Uint32(size[:]))
			if _, err := io.CopyN(io.Discard, f.src, n); err != nil {
				return noEOF(err)
			}
			f.pos += 4 + n
		default:
			return invalid("no zstd frame")
		}
	}
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// header reads the frame header (3.1.1.1), which is up to 14 bytes.
func (f *frames) header(head []byte) error {
	descriptor, err := f.src.ReadByte()
	if err != nil {
		return noEOF(err)
	}
	single := descriptor&0x20 != 0
	n := []int{0, 1, 2, 4}[descriptor&3] + []int{0, 2, 4, 8}[descriptor>>6]
	if single && descriptor>>6 == 0 {
		n++
	}
	if !single {
		n++
	}
	head = append(head, descriptor)
	f.head = head[:len(head)+n]
	if _, err := io.ReadFull(f.src, f.head[len(head):]); err != nil {
		return noEOF(err)
	}
	f.pos += int64(1 + n)
	f.hasSum, f.last, f.done, f.left = descriptor&4 != 0, false, false, 0
	return nil
}

// advance reads the header of the next block (3.1.1.2), or finds the frame's end.
func (f *frames) advance() error {
	if f.last {
		f.done = !f.hasSum
		if f.hasSum {
			f.hasSum, f.left = false, 4
		}
		return nil
	}
	head := make([]byte, 3)
	if _, err := io.ReadFull(f.src, head); err != nil {
		return noEOF(err)
	}
	f.pos += 3
	bits := uint32(head[0]) | uint32(head[1])<<8 | uint32(head[2])<<16
	f.head, f.last, f.left = head, bits&1 != 0, int64(bits>>3)
	if bits>>1&3 == 1 { // one byte, repeated
		f.left = 1
	}
	return nil
}

func (f *frames) Read(p []byte) (int, error) {
	for len(f.head) == 0 && f.left == 0 {
		if f.done {
			return 0, io.EOF
		}
		if err := f.advance(); err != nil {
			return 0, err
		}
	}
	if len(f.head) > 0 {
		n := copy(p, f.head)
		f.head = f.head[n:]
		return n, nil
	}
	n, err := f.src.Read(p[:min(int64(len(p)), f.left)])
	f.left -= int64(n)
	f.pos += int64(n)
	return n, noEOF(err)
}
