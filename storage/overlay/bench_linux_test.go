package overlay

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/slipwayd/slipway/storage"
)

// systemTar is shaped like the base layer of a distribution: many small files, some large ones, links and directories.
func systemTar(b *testing.B) []byte {
	b.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	rng := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 8<<20)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	add := func(h *tar.Header) {
		if err := w.WriteHeader(h); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(data[:h.Size]); err != nil {
			b.Fatal(err)
		}
	}
	for d := range 300 {
		dir := fmt.Sprintf("usr/share/d%d/", d)
		add(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755})
		for f := range 10 {
			add(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%sfile%d", dir, f), Mode: 0o644, Size: int64(rng.IntN(20_000))})
		}
		add(&tar.Header{Typeflag: tar.TypeSymlink, Name: dir + "link", Linkname: "file1", Mode: 0o777})
	}
	for f := range 8 {
		add(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("usr/lib/lib%d.so", f), Mode: 0o755, Size: int64(1+f) << 20})
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return buf.Bytes()
}

// BenchmarkApply unpacks one layer, durably. Layers are removed at the end only: ext4 looks for free inodes long after
// many were deleted.
func BenchmarkApply(b *testing.B) {
	d, data := open(b), systemTar(b)
	b.SetBytes(int64(len(data)))
	n := 0
	for b.Loop() {
		l := storage.Layer{ID: fmt.Sprintf("b%d", n), Kind: storage.Active}
		n++
		if err := d.Create(b.Context(), l); err != nil {
			b.Fatal(err)
		}
		if _, err := d.Apply(b.Context(), l, bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDiff(b *testing.B) {
	d, data := open(b), systemTar(b)
	l := storage.Layer{ID: "l", Kind: storage.Active}
	if err := d.Create(b.Context(), l); err != nil {
		b.Fatal(err)
	}
	if _, err := d.Apply(b.Context(), l, bytes.NewReader(data)); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if err := d.Diff(b.Context(), l, io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCreateMountsRemove is what a container costs besides mounting.
func BenchmarkCreateMountsRemove(b *testing.B) {
	d := open(b)
	parents := []string{"p0", "p1", "p2", "p3", "p4"}
	for _, p := range parents {
		if err := d.Create(b.Context(), storage.Layer{ID: p, Kind: storage.Active}); err != nil {
			b.Fatal(err)
		}
	}
	l := storage.Layer{ID: "l", Kind: storage.Active, Parents: parents}
	for b.Loop() {
		if err := d.Create(b.Context(), l); err != nil {
			b.Fatal(err)
		}
		if _, err := d.Mounts(b.Context(), l); err != nil {
			b.Fatal(err)
		}
		if err := d.Remove(b.Context(), l.ID); err != nil {
			b.Fatal(err)
		}
	}
}
