package inflate

import "math/bits"

// Decoding tables: the next litBits (distBits) bits of input select an entry; codes that are longer link to a second table,
// of the bits that are left of the longest code. Entries are
//
//	bits 0–5: length of the code; 8–11: extra bits that follow it; 12–14: what it is; 16–31: literal, base, or link
//
// and 0 for what is no code.
const (
	maxCode     = 15
	litBits     = 11
	litEntries  = 1 << litBits
	litSub      = maxCode - litBits
	litSize     = litEntries + 288<<litSub
	distBits    = 8
	distEntries = 1 << distBits
	distSub     = maxCode - distBits
	distSize    = distEntries + 32<<distSub

	isLiteral = 1 << 12
	isLink    = 1 << 13
	isEnd     = 1 << 14
)

// litSymbol and distSymbol are the entries of symbols without the length of their code (RFC 1951, 3.2.5).
var litSymbol, distSymbol = symbols()

func symbols() (lit [288]uint32, dist [32]uint32) {
	for i := range 256 {
		lit[i] = isLiteral | uint32(i)<<16
	}
	lit[256] = isEnd
	base := uint32(3)
	for i := range uint32(28) {
		extra := uint32(0)
		if i >= 8 {
			extra = i/4 - 1
		}
		lit[257+i] = base<<16 | extra<<8
		base += 1 << extra
	}
	lit[285] = 258 << 16
	base = 1
	for i := range uint32(30) {
		extra := uint32(0)
		if i >= 4 {
			extra = i/2 - 1
		}
		dist[i] = base<<16 | extra<<8
		base += 1 << extra
	}
	return lit, dist // what is left 0 must not occur
}

// build fills a table from the lengths of codes. It answers whether they are a full set; an empty set, or one code alone, is
// let pass as the format has it for distances, where some bits are then no code.
func build(table []uint32, lens []uint8, symbol []uint32, primary uint) bool {
	var count [maxCode + 1]int
	for _, n := range lens {
		count[n]++
	}
	count[0] = 0
	var next [maxCode + 2]uint32
	code, used := uint32(0), 0
	for n := 1; n <= maxCode; n++ {
		code = (code + uint32(count[n-1])) << 1
		next[n] = code
		used += count[n] << (maxCode - n)
	}
	clear(table[:1<<primary])
	if used > 1<<maxCode {
		return false
	}
	free := uint32(1) << primary
	for i, n := range lens {
		if n == 0 {
			continue
		}
		// Codes come with their first bit lowest.
		rev := bits.Reverse32(next[n]) >> (32 - n)
		next[n]++
		entry := symbol[i]
		if entry != 0 {
			entry |= uint32(n)
		}
		if uint(n) <= primary {
			for at := rev; at < 1<<primary; at += 1 << n {
				table[at] = entry
			}
			continue
		}
		head := rev & (1<<primary - 1)
		if table[head] == 0 {
			table[head] = isLink | free<<16
			clear(table[free : free+1<<(maxCode-primary)])
			free += 1 << (maxCode - primary)
		}
		sub := table[head] >> 16
		for at := rev >> primary; at < 1<<(maxCode-primary); at += 1 << (uint(n) - primary) {
			table[sub+at] = entry
		}
	}
	single := count[1] == 1 && used == 1<<(maxCode-1)
	return used == 1<<maxCode || used == 0 || single
}

func (r *Reader) fixedCodes() {
	lens := r.lens[:288]
	for i := range lens {
		switch {
		case i < 144:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		case i < 280:
			lens[i] = 7
		default:
			lens[i] = 8
		}
	}
	build(r.lit[:], lens, litSymbol[:], litBits)
	for i := range 32 {
		lens[i] = 5
	}
	build(r.dist[:], lens[:32], distSymbol[:], distBits)
}

// order is how the lengths of the lengths' codes are sorted (RFC 1951, 3.2.7).
var order = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// lenSymbol are the symbols of the lengths' codes; 1 is added so that none is 0.
var lenSymbol = func() (s [19]uint32) {
	for i := range s {
		s[i] = uint32(i+1) << 16
	}
	return s
}()

func (r *Reader) dynamicCodes() error {
	if err := r.need(14); err != nil {
		return err
	}
	nlit, ndist, nlen := int(r.take(5))+257, int(r.take(5))+1, int(r.take(4))+4
	if nlit > 286 || ndist > 30 {
		return corrupt("too many codes")
	}
	var lenLens [19]uint8
	for _, i := range order[:nlen] {
		if err := r.need(3); err != nil {
			return err
		}
		lenLens[i] = uint8(r.take(3))
	}
	var table [1 << 7]uint32
	if !build(table[:], lenLens[:], lenSymbol[:], 7) {
		return corrupt("wrong set of codes")
	}
	lens := r.lens[:nlit+ndist]
	if err := r.lengths(&table, lens); err != nil {
		return err
	}
	if lens[256] == 0 || !build(r.lit[:], lens[:nlit], litSymbol[:], litBits) || !build(r.dist[:], lens[nlit:], distSymbol[:], distBits) {
		return corrupt("wrong set of codes")
	}
	return nil
}

// lengths reads the lengths of all codes, which are themselves in a code with repetitions.
func (r *Reader) lengths(table *[1 << 7]uint32, lens []uint8) error {
	for i := 0; i < len(lens); {
		n, err := r.lengthSymbol(table)
		if err != nil {
			return err
		}
		if n < 16 {
			lens[i] = uint8(n)
			i++
			continue
		}
		value, least, extra := uint8(0), 3, uint(3)
		switch n {
		case 16:
			if i == 0 {
				return corrupt("repetition of nothing")
			}
			value, extra = lens[i-1], 2
		case 18:
			least, extra = 11, 7
		}
		if err := r.need(extra); err != nil {
			return err
		}
		times := least + int(r.take(extra))
		if i+times > len(lens) {
			return corrupt("too many codes")
		}
		for range times {
			lens[i] = value
			i++
		}
	}
	return nil
}

// lengthSymbol decodes one symbol bit by bit as far as input lasts: the last code of a stream may be shorter than the table
// is wide.
func (r *Reader) lengthSymbol(table *[1 << 7]uint32) (uint32, error) {
	for {
		e := table[r.bits&(1<<7-1)]
		if n := uint(e & 63); e != 0 && n <= r.count {
			r.take(n)
			return e>>16 - 1, nil
		}
		if r.count >= 7 {
			return 0, corrupt("unknown code")
		}
		if err := r.need(r.count + 1); err != nil {
			return 0, err
		}
	}
}
