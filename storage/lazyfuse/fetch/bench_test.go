package fetch

import (
	"context"
	"testing"
)

// BenchmarkKept reads bytes that came with an earlier read.
func BenchmarkKept(b *testing.B) {
	f := newSource(mib)
	_, blob := begin(b, f, Options{})
	p := make([]byte, 4096)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := blob.ReadAt(context.Background(), Foreground, p, int64(i%256)*4096); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSequential reads a blob from front to back, as much as a fetcher in memory gives.
func BenchmarkSequential(b *testing.B) {
	f := newSource(64 * mib)
	desc := f.desc()
	p := make([]byte, mib)
	b.SetBytes(int64(len(f.data)))
	b.ReportAllocs()
	for b.Loop() {
		s := New(Options{})
		blob := s.Blob("registry", desc, f)
		for off := 0; off < len(f.data); off += len(p) {
			if err := blob.ReadAt(context.Background(), Foreground, p, int64(off)); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
