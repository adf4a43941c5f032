package cache

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"
	"time"
)

// BenchmarkHit reads what is there, as a FUSE server does for each read that passthrough does not take.
func BenchmarkHit(b *testing.B) {
	for _, size := range []int{4 << 10, 128 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			c := open(b, b.TempDir(), Options{})
			e := acquire(b, c, "a", 4<<20)
			write(b, e, "a", 0, 4<<20)
			p := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := e.ReadAt(p, int64(i*size%(4<<20))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkWrite takes in new contents, syncs included.
func BenchmarkWrite(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			c := open(b, b.TempDir(), Options{SyncEvery: time.Second, Quota: 1 << 30})
			data := body("a", size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				e, err := c.Acquire(numbered(n), int64(size))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := e.WriteAt(data, 0); err != nil {
					b.Fatal(err)
				}
				e.Release()
				n++
			}
			if err := c.Sync(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func numbered(n int) (key Key) {
	binary.BigEndian.PutUint64(key[:], uint64(n)*0x9e3779b97f4a7c15) // spread over the directories
	return key
}

// BenchmarkOpen opens a cache that knows 100,000 contents.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	c := open(b, dir, Options{})
	var records []record
	for i := range 100_000 {
		records = append(records, record{kind: kindHave, key: numbered(i), size: 5000, used: int64(i), len: 5000})
	}
	if err := c.journal.add(records); err != nil {
		b.Fatal(err)
	}
	c.closed = true // Close would write what it knows
	close(c.stop)
	c.background.Wait()
	if err := c.closeFiles(); err != nil {
		b.Fatal(err)
	}
	var before, after runtime.MemStats
	for b.Loop() {
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&before)
		b.StartTimer()
		c, err := Open(dir, Options{Reserve: -1})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&after)
		if n := c.Stats().Entries; n != 100_000 {
			b.Fatalf("%d entries", n)
		}
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/100_000, "heap-B/entry")
}
