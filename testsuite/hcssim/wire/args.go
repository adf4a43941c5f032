package wire

import (
	"encoding/binary"
	"fmt"
	"unicode/utf16"
)

// Args reads a request's fields in order. The first one that isn't what was asked for makes Err say so, and everything after
// it is zero: a method reads all of its arguments and asks once.
type Args struct {
	fields [][]byte
	err    error
}

// NewArgs reads from fields.
func NewArgs(fields [][]byte) *Args { return &Args{fields: fields} }

// Err is the first thing wrong, also with a field that was left over.
func (a *Args) Err() error {
	if a.err == nil && len(a.fields) > 0 {
		return fmt.Errorf("%w: %d fields too many", ErrMalformed, len(a.fields))
	}
	return a.err
}

func (a *Args) next(size int) []byte {
	if a.err != nil {
		return nil
	}
	if len(a.fields) == 0 {
		a.err = fmt.Errorf("%w: a field is missing", ErrMalformed)
		return nil
	}
	f := a.fields[0]
	a.fields = a.fields[1:]
	if size >= 0 && len(f) != size {
		a.err = fmt.Errorf("%w: a field of %d bytes where %d belong", ErrMalformed, len(f), size)
		return nil
	}
	return f
}

// String reads a UTF-16 string.
func (a *Args) String() string {
	f := a.next(-1)
	if len(f)%2 != 0 {
		a.err = fmt.Errorf("%w: a string of %d bytes", ErrMalformed, len(f))
		return ""
	}
	u := make([]uint16, 0, len(f)/2)
	for ; len(f) > 0; f = f[2:] {
		u = append(u, binary.LittleEndian.Uint16(f))
	}
	return string(utf16.Decode(u))
}

// Bytes reads a field as it is.
func (a *Args) Bytes() []byte { return a.next(-1) }

// Uint64 reads a handle, pointer-sized number or size.
func (a *Args) Uint64() uint64 {
	if f := a.next(8); f != nil {
		return binary.LittleEndian.Uint64(f)
	}
	return 0
}

// Uint32 reads a number.
func (a *Args) Uint32() uint32 {
	if f := a.next(4); f != nil {
		return binary.LittleEndian.Uint32(f)
	}
	return 0
}

// GUID reads a GUID as Windows has it in memory and answers its usual form, in small letters without braces.
func (a *Args) GUID() string {
	f := a.next(16)
	if f == nil {
		return ""
	}
	return FormatGUID([16]byte(f))
}

// FormatGUID writes a GUID as Windows has it in memory in its usual form.
func FormatGUID(g [16]byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(g[:]), binary.LittleEndian.Uint16(g[4:]), binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:])
}
