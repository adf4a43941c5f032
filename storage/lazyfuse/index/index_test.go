package index

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// item is an entry of a test's archive.
type item struct {
	tar.Header
	data []byte
}

func dir(name string, mode int64) item {
	return item{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}}
}

func reg(name string, data []byte) item {
	return item{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}, data: data}
}

func link(typ byte, name, target string) item {
	return item{Header: tar.Header{Typeflag: typ, Name: name, Linkname: target, Mode: 0o777}}
}

func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 7))
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(r.IntN(1 + i>>9&63))
	}
	return out
}

// Sizes for allTypes. Compression takes its time under the race detector: no more than a test needs.
const (
	severalSpans  = 3 * minSpan / 2 // beyond the first span, compressed too
	severalChunks = 300_000
)

// allTypes has an entry of each type and everything that a layer may do, and one file of that size.
func allTypes(big int) []item {
	when := time.Unix(1_600_000_000, 123_456_789)
	suid := reg("usr/bin/su", noise(1, 70_000))
	suid.Mode, suid.Uid, suid.Gid, suid.ModTime = 0o4755, 7, 70_000, when
	suid.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}
	noted := dir("etc/", 0o1777)
	noted.PAXRecords, noted.ModTime = map[string]string{"SCHILY.xattr.user.note": "a\x00b", "SCHILY.xattr.trusted.overlay.redirect": "/x"}, when
	device := func(typ byte, name string, major, minor int64) item {
		return item{Header: tar.Header{Typeflag: typ, Name: name, Mode: 0o620, Devmajor: major, Devminor: minor, Gid: 5}}
	}
	return []item{
		dir("./", 0o755), dir("usr/", 0o755), dir("usr/bin", 0o711), noted, reg("etc/empty", nil), reg("etc/hosts", []byte("127.0.0.1 localhost\n")), suid,
		reg("big", noise(2, big)), link(tar.TypeSymlink, "bin", "usr/bin"), link(tar.TypeLink, "usr/bin/sudo", "usr/bin/su"),
		link(tar.TypeLink, "usr/bin/third", "usr/bin/sudo"), device(tar.TypeChar, "dev/tty", 5, 0), device(tar.TypeBlock, "dev/sda", 8, 300),
		device(tar.TypeFifo, "run/pipe", 0, 0), reg("gone/.wh.file", nil), dir("opaque", 0o750), reg("opaque/.wh..wh..opq", nil),
		reg("opaque/new", []byte("x")), device(tar.TypeChar, "also/gone", 0, 0), reg(".wh.wasfile", nil), dir("wasfile/", 0o700),
		reg("again", []byte("first")), reg("again", []byte("second, longer")), dir("tree/a/b/", 0o755), reg("tree/a/b/c", []byte("lost")), reg("tree/a", []byte("now a file")),
		reg(strings.Repeat("long/", 30)+strings.Repeat("n", 200), []byte("deep")), link(tar.TypeSymlink, "far", strings.Repeat("t/", 200)),
		link(tar.TypeLink, "bin2", "bin"), reg("last", noise(3, 100_000)), dir("sticky", 0o3775), reg(".wh..wh.aufs", nil),
	}
}

func tarOf(t testing.TB, items []item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, it := range items {
		h := it.Header
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1_500_000_000, 0)
		}
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(it.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(level int) func([]byte) []byte {
	return func(data []byte) []byte {
		var b bytes.Buffer
		w, _ := gzip.NewWriterLevel(&b, level)
		_, _ = w.Write(data)
		_ = w.Close()
		return b.Bytes()
	}
}

// members compresses every piece of n bytes alone.
func members(n int, compress func([]byte) []byte) func([]byte) []byte {
	return func(data []byte) []byte {
		var out []byte
		for piece := range slices.Chunk(data, n) {
			out = append(out, compress(piece)...)
		}
		return out
	}
}

func zstandard(data []byte) []byte {
	e, _ := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	defer e.Close()
	return e.EncodeAll(data, nil)
}

var compressions = map[string]func([]byte) []byte{
	"none":         func(p []byte) []byte { return p },
	"gzip":         gzipped(6),
	"gzip stored":  gzipped(0),
	"gzip members": members(100_000, gzipped(9)),
	"zstd":         zstandard,
	"zstd frames":  members(700_000, zstandard),
	"zstd skips":   func(p []byte) []byte { return append([]byte("\x53\x2a\x4d\x18\x03\x00\x00\x00abc"), zstandard(p)...) },
}

func record(t testing.TB, blob []byte) *Index {
	t.Helper()
	x, err := tryRecord(blob, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func tryRecord(blob []byte, l Limits) (*Index, error) {
	r, err := NewRecorder(bytes.NewReader(blob), l)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if _, err := io.Copy(r, r); err != nil {
		return nil, err
	}
	return r.Finish()
}

// opened is a layer whose units are decoded once.
type opened struct {
	x     *Index
	blob  []byte
	units map[int][]byte
}

// content reads a file of a layer through its extents and units.
func (o opened) content(t testing.TB, i int, off, size int64) []byte {
	t.Helper()
	var out []byte
	for _, e := range o.x.Range(i, off, size) {
		if e.Offset != off+int64(len(out)) {
			t.Fatalf("node %d: extent at %d after %d bytes", i, e.Offset, len(out))
		}
		if e.Unit == Zeros {
			out = append(out, make([]byte, e.Size)...)
			continue
		}
		if o.units[e.Unit] == nil {
			o.units[e.Unit] = unitOf(t, o.x, o.blob, e.Unit)
		}
		out = append(out, o.units[e.Unit][e.From:e.From+e.Size]...)
	}
	return out
}

func unitOf(t testing.TB, x *Index, blob []byte, u int) []byte {
	t.Helper()
	d := x.Unit(u)
	data, err := x.Decode(u, bytes.NewReader(blob[d.Offset:d.Offset+d.Length]))
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(data)) != d.Size || d.Digest != "" && digest.FromBytes(data) != d.Digest {
		t.Fatalf("unit %d has %d bytes and the wrong digest", u, len(data))
	}
	return data
}

// describe is one line for each name of a tree, in order.
func describe(t testing.TB, x *Index, blob []byte) []string {
	t.Helper()
	var lines []string
	layer := opened{x, blob, map[int][]byte{}}
	var walk func(dir int, path string)
	line := func(i int, path string) {
		n := x.Node(i)
		xattrs := []string{}
		for k, v := range n.Xattrs {
			xattrs = append(xattrs, fmt.Sprintf("%s=%q", k, v))
		}
		slices.Sort(xattrs)
		s := fmt.Sprintf("%s %v %d:%d %d.%09d nlink=%d", path, n.Mode, n.UID, n.GID, n.ModTime.Unix(), n.ModTime.Nanosecond(), n.Nlink)
		if n.Mode.IsRegular() {
			data := layer.content(t, i, 0, n.Size)
			if int64(len(data)) != n.Size || n.Content != "" && digest.FromBytes(data) != n.Content {
				t.Errorf("%s: %d bytes of %d, digest not %s", path, len(data), n.Size, n.Content)
			}
			s += fmt.Sprintf(" %d %s", n.Size, digest.FromBytes(data).Encoded()[:12])
		}
		s += fmt.Sprintf(" rdev=%d link=%q %v", n.Rdev, n.Link, xattrs)
		lines = append(lines, s)
	}
	walk = func(dir int, path string) {
		for name, i := range x.ReadDir(dir, 0) {
			line(i, path+name)
			walk(i, path+name+"/")
		}
	}
	line(0, "/")
	walk(0, "/")
	return lines
}

func same(t testing.TB, what string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("%s: line %d\n got %s\nwant %s", what, i, g, w)
		}
	}
}

// TestRecord indexes one archive in every compression and finds the same tree in all.
func TestRecord(t *testing.T) {
	plain := tarOf(t, allTypes(severalSpans))
	want := describe(t, record(t, plain), plain)
	for name, compress := range compressions {
		t.Run(name, func(t *testing.T) {
			blob := compress(plain)
			x := record(t, blob)
			if oneFrame := name == "zstd" || name == "zstd skips"; oneFrame != (x.Units() == 1) {
				t.Errorf("%d units", x.Units())
			}
			same(t, "tree", describe(t, x, blob), want)
			if x.DiffID() != digest.FromBytes(plain) || x.BlobSize() != int64(len(blob)) || x.Kind() != Spans {
				t.Errorf("diff ID %s, blob of %d, kind %s", x.DiffID(), x.BlobSize(), x.Kind())
			}
			var all []byte
			for u := range x.Units() {
				all = append(all, unitOf(t, x, blob, u)...)
			}
			if !bytes.Equal(all, plain) {
				t.Error("the units are not the archive")
			}
			data := x.Marshal()
			again, err := Parse(data, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			same(t, "parsed tree", describe(t, again, blob), want)
			if !bytes.Equal(again.Marshal(), data) {
				t.Error("what was parsed is marshalled to other bytes")
			}
		})
	}
}

// TestRange reads pieces at and around every boundary.
func TestRange(t *testing.T) {
	data := noise(9, 5_000_000)
	blob := gzipped(1)(tarOf(t, []item{reg("a", []byte("small")), reg("f", data)}))
	x := record(t, blob)
	if x.Units() < 2 {
		t.Fatalf("%d units", x.Units())
	}
	i, ok := x.Find("f")
	if !ok {
		t.Fatal("no file")
	}
	layer := opened{x, blob, map[int][]byte{}}
	for _, e := range x.Extents(i) {
		for _, off := range []int64{e.Offset - 1, e.Offset, e.Offset + 1} {
			for _, size := range []int64{1, 2, 100, e.Size + 1} {
				if off < 0 {
					continue
				}
				want := data[off:min(off+size, int64(len(data)))]
				if got := layer.content(t, i, off, size); !bytes.Equal(got, want) {
					t.Fatalf("%d bytes at %d are wrong", size, off)
				}
			}
		}
	}
	for _, off := range []int64{-1, int64(len(data)), 1 << 62} {
		if r := x.Range(i, off, 1); r != nil {
			t.Errorf("range at %d: %v", off, r)
		}
	}
}

// TestDecodeRefuses changes each byte of a unit, and cuts it.
func TestDecodeRefuses(t *testing.T) {
	blob := gzipped(6)(tarOf(t, []item{reg("f", noise(4, 20_000))}))
	x := record(t, blob)
	d := x.Unit(0)
	for at := range min(d.Length-8, 500) {
		bad := bytes.Clone(blob)
		bad[at] ^= 0x10
		got, err := x.Decode(0, bytes.NewReader(bad))
		if err == nil && !bytes.Equal(got, unitOf(t, x, blob, 0)) {
			t.Fatalf("byte %d changed and decoded to something else", at)
		}
	}
	if _, err := x.Decode(0, bytes.NewReader(blob[:len(blob)/2])); err == nil {
		t.Error("half a unit was decoded")
	}
	boom := fmt.Errorf("boom")
	if _, err := x.Decode(0, io.MultiReader(bytes.NewReader(blob[:100]), errReader{boom})); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("got %v", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// TestRecorderReadsOn indexes in vain and still decompresses everything.
func TestRecorderReadsOn(t *testing.T) {
	plain := append([]byte(strings.Repeat("not a tar ", 100_000)), 1)
	r, err := NewRecorder(bytes.NewReader(gzipped(6)(plain)), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Finish(); err == nil {
		t.Error("finished before the end")
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, plain) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := r.DiffID(); err == nil {
		t.Error("has the digest of what was not written")
	}
	r.Write(got)
	if diff, err := r.DiffID(); err != nil || diff != digest.FromBytes(plain) {
		t.Errorf("diff ID %s, %v", diff, err)
	}
	if _, err := r.Finish(); err == nil {
		t.Error("indexed what is no archive")
	}
}
