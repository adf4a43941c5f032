// Package wire is how the stub DLLs (testsuite/hcssim/dll) and the control client speak with hcssimd: frames of fields over a
// loopback TCP connection. A frame is a 32-bit length and that many bytes; these are fields, each a 32-bit length and its bytes;
// all numbers are little-endian. A connection's first frame says who calls; after it each request is answered by one reply.
//
// It keeps no state and imports nothing of ours.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf16"
)

// MaxFrame bounds a frame in either direction: documents are a few kilobytes, lists of systems a few hundred.
const MaxFrame = 16 << 20

// ErrMalformed is what a frame that doesn't hold what it says is answered with.
var ErrMalformed = errors.New("malformed frame")

// ReadFrame reads one frame's fields. They share one buffer, which the caller owns.
func ReadFrame(r io.Reader) ([][]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > MaxFrame {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrMalformed, n, MaxFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	return Split(b)
}

// Split tells a frame's fields apart.
func Split(b []byte) ([][]byte, error) {
	var fields [][]byte
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, fmt.Errorf("%w: %d stray bytes", ErrMalformed, len(b))
		}
		n := binary.LittleEndian.Uint32(b)
		if uint64(n) > uint64(len(b)-4) {
			return nil, fmt.Errorf("%w: a field of %d bytes in %d", ErrMalformed, n, len(b)-4)
		}
		fields = append(fields, b[4:4+n])
		b = b[4+n:]
	}
	return fields, nil
}

// WriteFrame writes fields as one frame, with one Write.
func WriteFrame(w io.Writer, fields ...[]byte) error {
	b := make([]byte, 4)
	for _, f := range fields {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(f)))
		b = append(b, f...)
	}
	if len(b)-4 > MaxFrame {
		return fmt.Errorf("%w: %d bytes, more than %d", ErrMalformed, len(b)-4, MaxFrame)
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)-4))
	_, err := w.Write(b)
	return err
}

// UTF16 is s as Windows has it, little-endian and without an end.
func UTF16(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

// Uint64 is v as a field.
func Uint64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// Uint32 is v as a field.
func Uint32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
