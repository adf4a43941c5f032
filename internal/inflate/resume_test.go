package inflate

import (
	"bytes"
	"compress/gzip"
	"io"
	"math/rand/v2"
	"testing"
)

type seen struct {
	Boundary
	window []byte
}

func boundaries(t *testing.T, data []byte) (out []byte, all []seen) {
	t.Helper()
	r, err := NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.OnBlock(func(b Boundary) { all = append(all, seen{b, bytes.Clone(b.Window)}) })
	if out, err = io.ReadAll(r); err != nil {
		t.Fatal(err)
	}
	return out, all
}

// TestResume enters streams at every block, of several levels and members, and sees all eight alignments.
func TestResume(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var alignments [8]int
	var data []byte
	var want []byte
	for level := gzip.HuffmanOnly; level <= 9; level++ {
		plain := make([]byte, 70_000+rnd.IntN(1000))
		for i := range plain {
			plain[i] = byte(rnd.IntN(1+i%97)) & byte(0xff>>(i>>15&7))
		}
		var b bytes.Buffer
		w, _ := gzip.NewWriterLevel(&b, level)
		for rest := plain; len(rest) > 0; {
			n := min(len(rest), 1+rnd.IntN(14_000))
			_, _ = w.Write(rest[:n])
			_ = w.Flush()
			rest = rest[n:]
		}
		_ = w.Close()
		data, want = append(data, b.Bytes()...), append(want, plain...)
	}
	out, all := boundaries(t, data)
	if !bytes.Equal(out, want) {
		t.Fatal("decoded something else")
	}
	for i, b := range all {
		alignments[b.Bit]++
		r, err := Resume(bytes.NewReader(data[b.In:]), b.Bit, b.window)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, min(100_000, len(want)-int(b.Out)))
		if _, err := io.ReadFull(r, got); err != nil {
			t.Fatalf("block %d at %d.%d: %v", i, b.In, b.Bit, err)
		}
		if !bytes.Equal(got, want[b.Out:int(b.Out)+len(got)]) {
			t.Fatalf("block %d at %d.%d: decoded something else", i, b.In, b.Bit)
		}
		r.Close()
	}
	for bit, n := range alignments {
		if n == 0 {
			t.Errorf("no block begins at bit %d", bit)
		}
	}
}

// TestResumeRefuses has a window that is too short for what the blocks refer to.
func TestResumeRefuses(t *testing.T) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	text := bytes.Repeat([]byte("all work and no play "), 10_000)
	for range 4 {
		_, _ = w.Write(text)
		_ = w.Flush()
	}
	_ = w.Close()
	_, all := boundaries(t, b.Bytes())
	at := all[len(all)/2]
	r, err := Resume(bytes.NewReader(b.Bytes()[at.In:]), at.Bit, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadAll(r); err == nil {
		t.Error("a block that refers to nothing was decoded")
	}
	if _, err := Resume(bytes.NewReader(nil), 8, nil); err == nil {
		t.Error("resumed at bit 8")
	}
}
