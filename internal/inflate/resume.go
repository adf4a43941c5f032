package inflate

import (
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// Boundary is where a block begins, which is where a Reader can be resumed.
type Boundary struct {
	In     int64  // byte of the input that has the block's first bit
	Bit    uint8  // number of that bit, 0 the lowest
	Out    int64  // bytes decoded before it
	Window []byte // what blocks from here on may refer to, at most 32 KiB; valid only during the call
}

// OnBlock makes fn be called for each block from now on, while Read decodes it, which may be ahead of what Read answers.
func (r *Reader) OnBlock(fn func(Boundary)) { r.onBlock = fn }

func (r *Reader) boundary() Boundary {
	bit := (r.inBase+int64(r.pos))*8 - int64(r.count)
	return Boundary{
		In: bit / 8, Bit: uint8(bit % 8), Out: r.gone + int64(r.write-history),
		Window: r.out[max(r.base, r.write-history):r.write],
	}
}

// Resume decodes from a Boundary on: src begins with the byte at In. The checksum of the member that it is in is not checked,
// since what came before is not known; window must be what the Boundary had. The caller closes the reader.
func Resume(src io.Reader, bit uint8, window []byte) (*Reader, error) {
	if bit > 7 || len(window) > history {
		return nil, fmt.Errorf("cannot resume at bit %d with %d bytes: %w", bit, len(window), errdefs.ErrInvalidArgument)
	}
	r := newReader(src)
	r.base = history - copy(r.out[history-len(window):history], window)
	r.crc, r.size, r.resumed = 0, 0, true
	r.step, r.last = inBlockHeader, false
	if err := r.need(uint(bit)); err != nil {
		_ = r.Close()
		return nil, noEOF(err)
	}
	r.take(uint(bit))
	return r, nil
}
