package inflate

import (
	"bytes"
	stdflate "compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
	kgzip "github.com/klauspost/compress/gzip"
)

// samples are data of different nature.
func samples() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 300_000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	var text, runs, skewed bytes.Buffer
	for i := range 12_000 {
		fmt.Fprintf(&text, "line %d of a text with words %x\n", i, r.Uint32N(1000))
		runs.Write(bytes.Repeat([]byte{byte(i)}, r.IntN(7)))
		runs.Write(noise[:r.IntN(5)])
		skewed.WriteByte(byte(r.ExpFloat64() * 8))
	}
	return map[string][]byte{"empty": {}, "one": {7}, "zeros": make([]byte, 300_000), "noise": noise, "text": text.Bytes(), "runs": runs.Bytes(), "skewed": skewed.Bytes(),
		"far": append(append(append([]byte{}, noise[:32768]...), noise[:32768]...), noise[:100]...)}
}

func pack(t testing.TB, data []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	w.Name, w.Comment, w.Extra = "name", "comment", []byte("extra")
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unpack(src io.Reader) ([]byte, error) {
	r, err := NewReader(src)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func TestReader(t *testing.T) {
	for name, data := range samples() {
		for _, level := range []int{stdflate.HuffmanOnly, 0, 1, 6, 9} {
			packed := pack(t, data, level)
			for how, src := range map[string]io.Reader{"whole": bytes.NewReader(packed), "halves": iotest.HalfReader(bytes.NewReader(packed)), "data with error": iotest.DataErrReader(bytes.NewReader(packed))} {
				if got, err := unpack(src); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s, level %d, %s: %d bytes of %d, %v", name, level, how, len(got), len(data), err)
				}
			}
		}
	}
}

func TestByteByByte(t *testing.T) {
	data := samples()["text"][:50_000]
	r, err := NewReader(iotest.OneByteReader(bytes.NewReader(pack(t, data, 6))))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(iotest.OneByteReader(r)); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestMembers(t *testing.T) {
	a, b := []byte("first "), samples()["text"]
	both := append(pack(t, a, 9), pack(t, b, 9)...)
	want := append(append([]byte{}, a...), b...)
	for name, packed := range map[string][]byte{"two": both, "padded": append(append([]byte{}, both...), make([]byte, 1000)...)} {
		if got, err := unpack(bytes.NewReader(packed)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if _, err := unpack(bytes.NewReader(append(both, "rest"...))); err == nil {
		t.Error("accepted rubbish at the end")
	}
}

// TestManyMembers ends members everywhere in the input buffer: what the bit buffer holds beyond a member's end must be given
// back, also when input came meanwhile.
func TestManyMembers(t *testing.T) {
	var packed, want []byte
	text := samples()["text"]
	for i := range 3000 {
		data := text[i : 2*i+1]
		want, packed = append(want, data...), append(packed, pack(t, data, 1+i%9)...)
	}
	for name, src := range map[string]io.Reader{"whole": bytes.NewReader(packed), "bytes": iotest.OneByteReader(bytes.NewReader(packed))} {
		if got, err := unpack(src); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(want), err)
		}
	}
}

// TestMatchBeforeMember: a match must not reach into the member before.
func TestMatchBeforeMember(t *testing.T) {
	var b bytes.Buffer
	b.Write(pack(t, []byte("secret"), 9))
	head := pack(t, nil, 9)
	var body bytes.Buffer
	w, err := stdflate.NewWriterDict(&body, 9, []byte("secret secret"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("secret secret")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b.Write(head[:len(head)-8-5]) // a header; the empty block and the trailer are cut
	b.Write(body.Bytes())
	if got, err := unpack(&b); !errdefs.IsInvalidArgument(err) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestDamage(t *testing.T) {
	data := samples()["text"][:6_000]
	packed := pack(t, data, 6)
	for n := range len(packed) {
		if got, err := unpack(bytes.NewReader(packed[:n])); err == nil || n > 0 && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut at %d: %d bytes, %v", n, len(got), err)
		}
	}
	for n := 30; n < len(packed); n++ {
		bad := bytes.Clone(packed)
		bad[n] ^= 0x10
		if got, err := unpack(bytes.NewReader(bad)); err == nil {
			t.Fatalf("byte %d changed: %d bytes and no error", n, len(got))
		}
	}
	broken := errors.New("broken")
	if _, err := unpack(io.MultiReader(bytes.NewReader(packed[:len(packed)/2]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("error of the source: %v", err)
	}
}

// FuzzReader: what the standard library makes of any bytes, we make of them too.
func FuzzReader(f *testing.F) {
	for _, data := range samples() {
		f.Add(pack(f, data[:min(len(data), 2000)], 6))
		f.Add(pack(f, data[:min(len(data), 300)], stdflate.HuffmanOnly))
		f.Add(pack(f, data[:min(len(data), 300)], 0))
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		const limit = 1 << 20
		var want, got []byte
		std, stdErr := gzip.NewReader(bytes.NewReader(packed))
		if stdErr == nil {
			want, stdErr = io.ReadAll(io.LimitReader(std, limit))
		}
		r, err := NewReader(bytes.NewReader(packed))
		if err == nil {
			defer r.Close()
			got, err = io.ReadAll(io.LimitReader(r, limit))
		}
		if stdErr == nil && (err != nil || !bytes.Equal(got, want)) {
			t.Fatalf("%d bytes, %v; the standard library reads %d", len(got), err, len(want))
		}
		if stdErr != nil && err == nil && len(bytes.TrimRight(packed, "\x00")) == len(packed) {
			t.Fatalf("accepted what the standard library refuses: %v", stdErr)
		}
	})
}

// FuzzFlate gives the body of a member alone, which gets further than whole files.
func FuzzFlate(f *testing.F) {
	for _, data := range samples() {
		packed := pack(f, data[:min(len(data), 2000)], 6)
		f.Add(packed[32 : len(packed)-8])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		const limit = 1 << 20
		want, stdErr := io.ReadAll(io.LimitReader(stdflate.NewReader(bytes.NewReader(body)), limit))
		head := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0}
		r, err := NewReader(bytes.NewReader(append(head, body...)))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got, err := io.ReadAll(io.LimitReader(r, limit))
		if stdErr == nil && !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, %v; the standard library reads %d", len(got), err, len(want))
		}
		if stdErr != nil && err == nil && len(got) < limit {
			t.Fatalf("accepted what the standard library refuses: %v", stdErr)
		}
	})
}

func BenchmarkReader(b *testing.B) {
	packed := pack(b, samples()["text"], 6)
	if name := os.Getenv("SLIPWAY_BENCH_GZIP"); name != "" {
		var err error
		if packed, err = os.ReadFile(name); err != nil {
			b.Fatal(err)
		}
	}
	for name, open := range map[string]func(io.Reader) (io.ReadCloser, error){
		"inflate":   func(r io.Reader) (io.ReadCloser, error) { return NewReader(r) },
		"klauspost": func(r io.Reader) (io.ReadCloser, error) { return kgzip.NewReader(r) },
		"standard":  func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) },
	} {
		b.Run(name, func(b *testing.B) {
			buf := make([]byte, 256<<10)
			for b.Loop() {
				r, err := open(bytes.NewReader(packed))
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, buf)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(n)
				_ = r.Close()
			}
		})
	}
}
