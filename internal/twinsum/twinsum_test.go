package twinsum

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func noise(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(p)
	return p
}

func sha() Hash { return sha256.New().(Hash) }

// TestWrite gives pieces to two hashes that began with others, and has each answer what it would alone.
func TestWrite(t *testing.T) {
	for _, before := range [][2]int{{0, 0}, {0, 512}, {1, 1}, {63, 127}, {64, 0}, {5, 6}, {512, 4096 + 7}} {
		for _, n := range []int{0, 1, 63, 64, least - 1, least, least + 1, least + 63, 4096, 100_000} {
			t.Run(fmt.Sprint(before, n), func(t *testing.T) {
				a, b := sha(), sha()
				p := noise(n)
				forA, forB := noise(before[0]), noise(before[1])
				a.Write(forA)
				b.Write(forB)
				for range 2 {
					Write(a, b, p)
				}
				if want := sha256.Sum256(slices.Concat(forA, p, p)); !bytes.Equal(a.Sum(nil), want[:]) {
					t.Errorf("the first is %x, want %x", a.Sum(nil), want)
				}
				if want := sha256.Sum256(slices.Concat(forB, p, p)); !bytes.Equal(b.Sum(nil), want[:]) {
					t.Errorf("the second is %x, want %x", b.Sum(nil), want)
				}
			})
		}
	}
}

// FuzzWrite cuts bytes into pieces anywhere.
func FuzzWrite(f *testing.F) {
	f.Add(uint64(1), uint16(3000), uint16(100))
	f.Add(uint64(2), uint16(64), uint16(64))
	f.Fuzz(func(t *testing.T, seed uint64, size, skip uint16) {
		random := rand.New(rand.NewPCG(seed, 0))
		p := noise(int(size) + int(skip))
		a, b := sha(), sha()
		b.Write(p[:skip])
		for rest := p[skip:]; len(rest) > 0; {
			n := 1 + random.IntN(len(rest))
			Write(a, b, rest[:n])
			rest = rest[n:]
		}
		if want := sha256.Sum256(p[skip:]); !bytes.Equal(a.Sum(nil), want[:]) {
			t.Errorf("the first is %x, want %x", a.Sum(nil), want)
		}
		if want := sha256.Sum256(p); !bytes.Equal(b.Sum(nil), want[:]) {
			t.Errorf("the second is %x, want %x", b.Sum(nil), want)
		}
	})
}

// BenchmarkWrite is two hashes over the same bytes, together and one after the other, beside a single one.
func BenchmarkWrite(b *testing.B) {
	p := noise(256 << 10)
	x, y := sha(), sha()
	for name, fn := range map[string]func(){
		"together": func() { Write(x, y, p) },
		"apart":    func() { x.Write(p); y.Write(p) },
		"one":      func() { x.Write(p) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				fn()
			}
		})
	}
}
