package index

import "encoding/binary"

// flat reads FlatBuffers (flatbuffers.dev, "Internals") without trusting an offset in them. What is missing has its default,
// and what points outside makes err.
type flat struct {
	data []byte
	err  error
}

// flatTable is a table: where it is, and where its fields are.
type flatTable struct {
	*flat
	pos, vtable, fields int
}

func (f *flat) fail() {
	if f.err == nil {
		f.err = invalid("an offset in the document leads out of it")
	}
}

// at answers n bytes at pos, or zeros.
func (f *flat) at(pos, n int) []byte {
	if pos < 0 || pos > len(f.data)-n {
		f.fail()
		return make([]byte, 8)[:min(n, 8)]
	}
	return f.data[pos : pos+n]
}

func (f *flat) uint16(pos int) int { return int(binary.LittleEndian.Uint16(f.at(pos, 2))) }

func (f *flat) uint32(pos int) uint32 { return binary.LittleEndian.Uint32(f.at(pos, 4)) }

// follow answers where the offset at pos leads: forward.
func (f *flat) follow(pos int) int { return pos + int(f.uint32(pos)) }

func (f *flat) root() flatTable { return f.table(f.follow(0)) }

func (f *flat) table(pos int) flatTable {
	t := flatTable{flat: f, pos: pos}
	t.vtable = pos - int(int32(f.uint32(pos)))
	t.fields = (f.uint16(t.vtable) - 4) / 2
	return t
}

// field answers where field i is, and whether it is there.
func (t flatTable) field(i int) (int, bool) {
	if i >= t.fields || t.err != nil {
		return 0, false
	}
	offset := t.uint16(t.vtable + 4 + 2*i)
	return t.pos + offset, offset != 0 && t.err == nil
}

func (t flatTable) int64(i int) int64 {
	pos, ok := t.field(i)
	if !ok {
		return 0
	}
	return int64(binary.LittleEndian.Uint64(t.at(pos, 8)))
}

func (t flatTable) uint32Field(i int) uint32 {
	pos, ok := t.field(i)
	if !ok {
		return 0
	}
	return t.uint32(pos)
}

func (t flatTable) byteField(i int, unset byte) byte {
	pos, ok := t.field(i)
	if !ok {
		return unset
	}
	return t.at(pos, 1)[0]
}

// bytes answers a string or a vector of bytes, in place.
func (t flatTable) bytes(i int) []byte {
	pos, ok := t.field(i)
	if !ok {
		return nil
	}
	return t.textAt(t.follow(pos))
}

func (f *flat) textAt(pos int) []byte {
	n := f.uint32(pos)
	if f.err != nil || int64(n) > int64(len(f.data)) {
		f.fail()
		return nil
	}
	return f.at(pos+4, int(n))
}

func (t flatTable) child(i int) flatTable {
	pos, ok := t.field(i)
	if !ok {
		return flatTable{flat: t.flat}
	}
	return t.table(t.follow(pos))
}

// vector answers where each of field i's elements is: an offset to a table or string. limit is how many there may be.
func (t flatTable) vector(i, limit int) (first, n int) {
	pos, ok := t.field(i)
	if !ok {
		return 0, 0
	}
	pos = t.follow(pos)
	n = int(t.uint32(pos))
	if t.err == nil && n > limit {
		t.err = tooMuch("a list of %d elements, more than %d", n, limit)
	}
	if t.err != nil {
		return 0, 0
	}
	return pos + 4, n
}
