package inflate

import (
	"encoding/binary"
	"io"
)

// blockHeader begins a block (RFC 1951, 3.2.3).
func (r *Reader) blockHeader() error {
	if r.onBlock != nil {
		r.onBlock(r.boundary())
	}
	if err := r.need(3); err != nil {
		return err
	}
	r.last = r.take(1) == 1
	switch r.take(2) {
	case 0:
		return r.storedHeader()
	case 1:
		r.fixedCodes()
	case 2:
		if err := r.dynamicCodes(); err != nil {
			return err
		}
	default:
		return corrupt("block of unknown type")
	}
	r.step = inCodes
	return nil
}

func (r *Reader) storedHeader() error {
	r.take(r.count % 8)
	if err := r.need(32); err != nil {
		return err
	}
	n, inverse := r.take(16), r.take(16)
	if n != ^inverse&0xffff {
		return corrupt("stored block of wrong length")
	}
	r.align()
	r.left, r.step = int(n), inStored
	return nil
}

func (r *Reader) stored() error {
	for r.left > 0 {
		if r.write >= history+fresh {
			return nil
		}
		if err := r.more(1); err != nil {
			return err
		}
		if r.pos >= r.end {
			return io.ErrUnexpectedEOF
		}
		n := copy(r.out[r.write:history+fresh], r.in[r.pos:min(r.end, r.pos+r.left)])
		r.pos, r.write, r.left = r.pos+n, r.write+n, r.left-n
	}
	r.step = inBlockHeader
	return nil
}

// codes decodes symbols until the block ends or the window is full. It begins with 56 bits or more in the buffer each time
// around; a match takes at most 15+5 bits for its length and 15+13 for its distance.
func (r *Reader) codes() error {
	for r.write < history+fresh {
		if err := r.more(2 * inSlack); err != nil {
			return err
		}
		limit := r.end - inSlack // below it, input can be loaded in words
		if r.eof {
			limit = r.end + 8 // zeros follow, and what is taken of them is found out below
		}
		done, err := r.run(limit)
		if err != nil {
			return err
		}
		if r.pos-int(r.count/8) > r.end {
			return io.ErrUnexpectedEOF
		}
		if done {
			r.step = inBlockHeader
			return nil
		}
		if r.eof && r.pos >= limit {
			return io.ErrUnexpectedEOF
		}
	}
	return nil
}

// run is the inner loop. Everything it touches is in local variables.
func (r *Reader) run(limit int) (done bool, err error) {
	s := r.state
	bits, count, pos, at, base := s.bits, s.count, s.pos, s.write, s.base
	in, out, lit, dist := &s.in, &s.out, &s.lit, &s.dist
	for pos < limit && at < history+fresh {
		bits |= binary.LittleEndian.Uint64(in[pos:]) << (count & 63)
		pos += int((63 - count) >> 3)
		count |= 56

		// Up to two literals, then whatever comes, without looking at the input again.
		e := lit[bits&(litEntries-1)]
		if e&isLiteral != 0 {
			bits >>= e & 63
			count -= uint(e & 63)
			out[at] = byte(e >> 16)
			at++
			if e = lit[bits&(litEntries-1)]; e&isLiteral != 0 {
				bits >>= e & 63
				count -= uint(e & 63)
				out[at] = byte(e >> 16)
				at++
				e = lit[bits&(litEntries-1)]
			}
		}
		if e&isLink != 0 {
			e = lit[int(e>>16)+int(bits>>litBits)&(1<<litSub-1)]
		}
		bits >>= e & 63
		count -= uint(e & 63)
		if e&isLiteral != 0 {
			out[at] = byte(e >> 16)
			at++
			continue
		}
		if e&isEnd != 0 || e == 0 {
			done = true
			if e == 0 {
				err = corrupt("unknown code")
			}
			break
		}
		extra := e >> 8 & 15
		length := int(e>>16) + int(bits&(1<<extra-1))
		bits >>= extra
		count -= uint(extra)

		bits |= binary.LittleEndian.Uint64(in[pos:]) << (count & 63)
		pos += int((63 - count) >> 3)
		count |= 56
		e = dist[bits&(distEntries-1)]
		if e&isLink != 0 {
			e = dist[int(e>>16)+int(bits>>distBits)&(1<<distSub-1)]
		}
		bits >>= e & 63
		count -= uint(e & 63)
		extra = e >> 8 & 15
		distance := int(e>>16) + int(bits&(1<<extra-1))
		bits >>= extra
		count -= uint(extra)
		if e == 0 || distance > at-base {
			done, err = true, corrupt("match with nothing to match")
			break
		}
		from := at - distance
		if distance >= 8 {
			// Words, up to 7 bytes too many: they are written over.
			src, dst := out[from:from+length+8], out[at:at+length+8]
			for i := 0; i < length; i += 8 {
				binary.LittleEndian.PutUint64(dst[i:i+8], binary.LittleEndian.Uint64(src[i:i+8]))
			}
		} else if distance == 1 {
			run := out[at : at+length]
			b := out[from]
			for i := range run {
				run[i] = b
			}
		} else {
			for i := range length {
				out[at+i] = out[from+i]
			}
		}
		at += length
	}
	s.bits, s.count, s.pos, s.write = bits, count, pos, at
	return done, err
}
