package index

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
)

var fuzzLimits = Limits{Nodes: 1000, Units: 1000, Bytes: 1 << 20, UnitSize: 1 << 20}

// walk does with an index what its users do, and fails where that is not safe.
func walk(t *testing.T, x *Index) {
	t.Helper()
	if !x.Node(0).Mode.IsDir() {
		t.Fatal("the root is no directory")
	}
	links := make([]uint32, x.Len())
	for i := range x.Len() {
		last := ""
		for name, k := range x.ReadDir(i, 0) {
			if name <= last || len(name) > maxName || bytes.ContainsAny([]byte(name), "/\x00") || name == "." || name == ".." {
				t.Fatalf("name %q after %q", name, last)
			}
			last = name
			links[k]++
			if at, ok := x.Lookup(i, name); !ok || at != k {
				t.Fatalf("lookup of %q: %d, %v", name, at, ok)
			}
			if x.Node(k).Mode.IsDir() && k == 0 {
				t.Fatal("the root has a name")
			}
		}
		n := x.Node(i)
		if n.Size < 0 || n.Mode.IsRegular() && n.Size >= maxSize {
			t.Fatalf("size %d", n.Size)
		}
		at := int64(0)
		for _, e := range x.Extents(i) {
			if e.Offset != at || e.Size <= 0 {
				t.Fatalf("extent %+v after %d bytes", e, at)
			}
			if at += e.Size; e.Unit != Zeros && (e.From < 0 || e.From+e.Size > x.Unit(e.Unit).Size) {
				t.Fatalf("extent %+v is outside of its unit", e)
			}
		}
		if n.Mode.IsRegular() && at != n.Size {
			t.Fatalf("extents make %d of %d bytes", at, n.Size)
		}
	}
	for i := range x.Len() {
		n := x.Node(i)
		if n.Mode.IsDir() && (i == 0) != (links[i] == 0) || n.Mode.IsDir() && links[i] > 1 || !n.Mode.IsDir() && links[i] != n.Nlink {
			t.Fatalf("node %d has %d names and %d links", i, links[i], n.Nlink)
		}
	}
	for u := range x.Units() {
		d := x.Unit(u)
		if d.Offset < 0 || d.Length <= 0 || d.Offset+d.Length > x.BlobSize() || d.Digest == "" && d.Raw == "" && x.Kind() != Spans {
			t.Fatalf("unit %+v", d)
		}
		if out, err := x.Decode(u, bytes.NewReader(make([]byte, min(d.Length, 1000)))); err == nil && int64(len(out)) != d.Size {
			t.Fatalf("unit %d decoded to %d bytes", u, len(out))
		}
	}
	again, err := Parse(x.Marshal(), fuzzLimits)
	if err != nil {
		t.Fatalf("what was marshalled is refused: %v", err)
	}
	if !bytes.Equal(again.Marshal(), x.Marshal()) {
		t.Fatal("marshalled differently")
	}
}

func FuzzTOC(f *testing.F) {
	blob, annotations := made(f, tarOf(f, forTables(allTypes(severalChunks))[:12]))
	table, err := Locate(annotations, blob, int64(len(blob)))
	if err != nil {
		f.Fatal(err)
	}
	r, err := openTable(blob[table.Offset : table.Offset+table.Length])
	if err != nil {
		f.Fatal(err)
	}
	text, _ := io.ReadAll(r)
	r.close()
	f.Add(text, true)
	f.Add([]byte(entries(regEntry("a", `,"size":9,"offset":1,"endOffset":5`), `{"type":"hardlink","name":"b\u00e4\ud83d\ude00","linkName":"a"}`)), false)
	f.Add([]byte(entries(`{"type":"reg","name":".wh.a","x":[{"y":null},-1.5e3,true]}`, `{"type":"dir","name":"a/b/"}`)), false)
	f.Fuzz(func(t *testing.T, text []byte, gz bool) {
		kind := ZstdChunked
		if gz {
			kind = EStargz
		}
		table, err := readTOC(kind, bytes.NewReader(text), 1<<20, 1<<20-100, 10, fuzzLimits)
		if err != nil {
			return
		}
		if x, err := table.end(); err == nil {
			walk(t, x)
		}
	})
}

func FuzzLocate(f *testing.F) {
	blob, _ := made(f, tarOf(f, []item{reg("a", []byte("b"))}))
	f.Add("sha256:abc", "1:2:3:1", blob[len(blob)-200:], int64(len(blob)))
	f.Add("", "", skippableFrame(append(make([]byte, 56), "GNUlInUx"...)), int64(1<<40))
	f.Add("", "", skippableFrame(append(make([]byte, 32), "GnUlInUx"...)), int64(1<<62))
	f.Fuzz(func(t *testing.T, sum, position string, tail []byte, blob int64) {
		table, err := Locate(map[string]string{
			chunkedPrefixes[0] + chunkedChecksum: sum, chunkedPrefixes[0] + chunkedPosition: position, tocAnnotation: sum,
		}, tail, blob)
		if err == nil && (table.Offset < 0 || table.Length <= 0 || table.Offset+table.Length > blob || table.Digest == "") {
			t.Fatalf("%+v of %d bytes", table, blob)
		}
	})
}

func FuzzZTOC(f *testing.F) {
	plain := tarOf(f, []item{reg("f", noise(1, 30_000)), dir("d", 0o755), link(tar.TypeLink, "d/l", "f")})
	blob := gzipped(6)(plain)
	s := ztocOf(f, plain, blob, 1<<20)
	f.Add(s.bytes())
	f.Add(ztocOf(f, plain, plain, 4096).bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, size := range []int64{int64(len(blob)), int64(len(plain))} {
			if x, err := FromZTOC(data, size, fuzzLimits); err == nil {
				walk(t, x)
			}
		}
	})
}

// FuzzParse makes the checksum right, so that what it guards is reached.
func FuzzParse(f *testing.F) {
	plain := tarOf(f, allTypes(severalChunks))
	for _, blob := range [][]byte{plain, gzipped(6)(plain)} {
		data := record(f, blob).Marshal()[len(magic)+sha256.Size:]
		packed, n := binary.Uvarint(data)
		_, m := binary.Uvarint(data[n:])
		table, err := unpackTable(data[n+m:][:packed])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(table, data[uint64(n+m)+packed:])
	}
	f.Fuzz(func(t *testing.T, table, rest []byte) {
		packed := packTable(table)
		body := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(len(packed))), uint64(len(table)))
		body = append(append(body, packed...), rest...)
		sum := sha256.Sum256(body)
		if x, err := Parse(append(append([]byte(magic), sum[:]...), body...), fuzzLimits); err == nil {
			walk(t, x)
		}
	})
}

func unpackTable(packed []byte) ([]byte, error) {
	d, err := zstd.NewReader(nil)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.DecodeAll(packed, nil)
}

// FuzzRecord indexes anything as a layer, and never answers other bytes than the decompressor would.
func FuzzRecord(f *testing.F) {
	plain := tarOf(f, []item{reg("f", []byte("text")), dir("d", 0o755), link(tar.TypeLink, "d/l", "f"), reg("d/.wh.x", nil)})
	for _, name := range []string{"none", "gzip", "zstd", "zstd skips"} {
		f.Add(compressions[name](plain))
	}
	f.Fuzz(func(t *testing.T, blob []byte) {
		x, err := tryRecord(blob, fuzzLimits)
		if err != nil {
			return
		}
		walk(t, x)
		for u := range x.Units() {
			d := x.Unit(u)
			if _, err := x.Decode(u, bytes.NewReader(blob[d.Offset:d.Offset+d.Length])); err != nil {
				t.Fatalf("unit %d of its own blob: %v", u, err)
			}
		}
	})
}
