package index

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"runtime"
	"testing"

	"github.com/slipwayd/slipway/internal/inflate"
)

// layer is $SLIPWAY_LAYER, a gzip layer to measure with, or one that is made up.
func layer(b *testing.B) []byte {
	b.Helper()
	if name := os.Getenv("SLIPWAY_LAYER"); name != "" {
		data, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		return data
	}
	var items []item
	for i := range 500 {
		items = append(items, reg(fmt.Sprintf("usr/lib/%d/file%d", i%37, i), noise(uint64(i), 20_000+i*100)))
	}
	return gzipped(6)(tarOf(b, items))
}

// BenchmarkPull is what pulling does with a layer anyway: it decompresses, and hashes what comes out.
func BenchmarkPull(b *testing.B) {
	blob := layer(b)
	b.SetBytes(int64(len(blob)))
	for b.Loop() {
		r, err := inflate.NewReader(bytes.NewReader(blob))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(sha256.New(), struct{ io.Reader }{r}); err != nil {
			b.Fatal(err)
		}
		_ = r.Close()
	}
}

// BenchmarkRecord is BenchmarkPull with an index, and tells how large it is.
func BenchmarkRecord(b *testing.B) {
	blob := layer(b)
	b.SetBytes(int64(len(blob)))
	var x *Index
	for b.Loop() {
		r, err := NewRecorder(bytes.NewReader(blob), Limits{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(r, r); err != nil {
			b.Fatal(err)
		}
		if x, err = r.Finish(); err != nil {
			b.Fatal(err)
		}
		_ = r.Close()
	}
	windows := 0
	for i := range x.states {
		windows += len(x.states[i].window)
	}
	size := len(x.Marshal())
	b.ReportMetric(100*float64(size)/float64(len(blob)), "%size")
	b.ReportMetric(float64(windows)/float64(max(1, len(x.states))), "window-B")
	b.ReportMetric(float64(x.Units()), "units")
	b.ReportMetric(float64(x.Len()), "nodes")
}

func BenchmarkDecode(b *testing.B) {
	blob := layer(b)
	x, err := tryRecord(blob, Limits{})
	if err != nil {
		b.Fatal(err)
	}
	u := x.Units() / 2
	d := x.Unit(u)
	b.SetBytes(d.Size)
	for b.Loop() {
		if _, err := x.Decode(u, bytes.NewReader(blob[d.Offset:d.Offset+d.Length])); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMemory tells what an index of 100,000 files takes.
func BenchmarkMemory(b *testing.B) {
	table := tocOf(b, 100_000)
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		x, err := table.parse(Limits{})
		if err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(x.Len()), "B/file")
		runtime.KeepAlive(x)
	}
}
