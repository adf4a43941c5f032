package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	if err := WriteFrame(&b, UTF16("zoë 🚢"), Uint64(7), Uint32(8), bytes.Repeat([]byte{1}, 16), []byte("raw")); err != nil {
		t.Fatal(err)
	}
	fields, err := ReadFrame(&b)
	if err != nil {
		t.Fatal(err)
	}
	a := NewArgs(fields)
	if s, x, y, g, raw := a.String(), a.Uint64(), a.Uint32(), a.GUID(), a.Bytes(); s != "zoë 🚢" || x != 7 || y != 8 || g != "01010101-0101-0101-0101-010101010101" || string(raw) != "raw" || a.Err() != nil {
		t.Errorf("%q %d %d %s %q, %v", s, x, y, g, raw, a.Err())
	}
	if _, err := ReadFrame(&b); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func TestMalformed(t *testing.T) {
	for name, c := range map[string]struct {
		fields [][]byte
		read   func(*Args)
	}{
		"missing":  {nil, func(a *Args) { a.Uint64() }},
		"left":     {[][]byte{{1}}, func(*Args) {}},
		"short":    {[][]byte{{1}}, func(a *Args) { a.Uint32() }},
		"odd text": {[][]byte{{1}}, func(a *Args) { _ = a.String() }},
		"no GUID":  {[][]byte{{1}}, func(a *Args) { a.GUID() }},
	} {
		a := NewArgs(c.fields)
		c.read(a)
		if !errors.Is(a.Err(), ErrMalformed) {
			t.Errorf("%s: %v", name, a.Err())
		}
	}
	for _, frame := range []string{"\xff\xff\xff\xff", "\x02\x00\x00\x00ab", "\x04\x00\x00\x00\x05\x00\x00\x00"} {
		if _, err := ReadFrame(bytes.NewReader([]byte(frame))); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", frame, err)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x05\x00\x00\x00\x01\x00\x00\x00x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		fields, err := ReadFrame(bytes.NewReader(b))
		if err != nil {
			return
		}
		n := 4
		for _, x := range fields {
			n += 4 + len(x)
			_ = NewArgs([][]byte{x}).String()
		}
		if n > len(b) {
			t.Fatalf("%d bytes out of %d", n, len(b))
		}
	})
}
