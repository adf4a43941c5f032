package index

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/containerd/errdefs"
	flatbuffers "github.com/google/flatbuffers/go"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/internal/inflate"
)

// fb writes FlatBuffers tables for tests: nil leaves a field out.
type fb struct{ *flatbuffers.Builder }

func (b fb) table(fields ...any) flatbuffers.UOffsetT {
	for i, f := range fields {
		if s, ok := f.(string); ok {
			fields[i] = b.CreateString(s)
		}
		if p, ok := f.([]byte); ok {
			fields[i] = b.CreateByteVector(p)
		}
	}
	b.StartObject(len(fields))
	for i, f := range fields {
		switch v := f.(type) {
		case int64:
			b.PrependInt64Slot(i, v, 0)
		case uint32:
			b.PrependUint32Slot(i, v, 0)
		case byte:
			b.PrependByteSlot(i, v, 0)
		case flatbuffers.UOffsetT:
			b.PrependUOffsetTSlot(i, v, 0)
		}
	}
	return b.EndObject()
}

func (b fb) list(offsets []flatbuffers.UOffsetT) flatbuffers.UOffsetT {
	b.StartVector(4, len(offsets), 4)
	for i := len(offsets) - 1; i >= 0; i-- {
		b.PrependUOffsetT(offsets[i])
	}
	return b.EndVector(len(offsets))
}

// ztocSpec is what a zTOC for tests says.
type ztocSpec struct {
	version                  string
	compressed, uncompressed int64
	algorithm                any // byte, or nil
	files                    []item
	places                   []int64
	checkpoints              []byte
	digests                  []string
}

func (s ztocSpec) bytes() []byte {
	b := fb{flatbuffers.NewBuilder(0)}
	types := map[byte]string{tar.TypeReg: "reg", tar.TypeDir: "dir", tar.TypeSymlink: "symlink", tar.TypeLink: "hardlink", tar.TypeChar: "char", tar.TypeBlock: "block", tar.TypeFifo: "fifo"}
	var files, digests []flatbuffers.UOffsetT
	for i, f := range s.files {
		var xattrs []flatbuffers.UOffsetT
		for k, v := range f.PAXRecords {
			xattrs = append(xattrs, b.table(k, v))
		}
		when, _ := f.ModTime.MarshalText()
		files = append(files, b.table(f.Name, types[f.Typeflag], s.places[i], f.Size, f.Linkname, f.Mode, uint32(f.Uid), uint32(f.Gid),
			"root", "root", string(when), f.Devmajor, f.Devminor, b.list(xattrs)))
	}
	for _, d := range s.digests {
		digests = append(digests, b.CreateString(d))
	}
	toc := b.table(b.list(files))
	info := b.table(s.algorithm, nil, b.list(digests), s.checkpoints)
	b.Finish(b.table(s.version, "test", s.compressed, s.uncompressed, toc, info))
	return b.FinishedBytes()
}

// ztocOf makes what soci-snapshotter would of a layer: gzip with a span for each step bytes, or nothing.
func ztocOf(t testing.TB, plain, blob []byte, step int64) ztocSpec {
	t.Helper()
	s := ztocSpec{version: "0.9", compressed: int64(len(blob)), uncompressed: int64(len(plain))}
	src := &position{src: bytes.NewReader(plain)}
	for tr := tar.NewReader(src); ; {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		s.files, s.places = append(s.files, item{Header: *hdr}), append(s.places, src.n)
	}
	if bytes.Equal(plain, blob) {
		s.algorithm = byte(2)
		b := fb{flatbuffers.NewBuilder(0)}
		b.Finish(b.table(nil, step, s.compressed))
		s.checkpoints = b.FinishedBytes()
		for at := int64(0); at < s.compressed; at += step {
			s.digests = append(s.digests, digest.FromBytes(blob[at:min(at+step, s.compressed)]).String())
		}
		return s
	}
	r, err := inflate.NewReader(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var starts, ends []int64
	last, n := int64(0), uint32(0)
	var points []byte
	r.OnBlock(func(b inflate.Boundary) {
		if b.Out != 0 && b.Out-last <= step {
			return
		}
		last = b.Out
		n++
		in, bits := b.In, byte(0)
		if b.Bit > 0 {
			in, bits = b.In+1, 8-b.Bit
		}
		starts, ends = append(starts, b.In), append(ends, in)
		points = binary.LittleEndian.AppendUint64(points, uint64(in))
		points = binary.LittleEndian.AppendUint64(points, uint64(b.Out))
		points = append(points, bits)
		points = append(append(points, make([]byte, windowSize-len(b.Window))...), b.Window...)
	})
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{r}); err != nil {
		t.Fatal(err)
	}
	s.checkpoints = append(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(nil, n), uint64(step)), points...)
	for i := range starts {
		end := s.compressed
		if i+1 < len(starts) {
			end = ends[i+1]
		}
		s.digests = append(s.digests, digest.FromBytes(blob[starts[i]:end]).String())
	}
	return s
}

func TestZTOC(t *testing.T) {
	var items []item
	for _, it := range allTypes(severalSpans) {
		if it.Name != ".wh..wh.aufs" {
			items = append(items, it)
		}
	}
	plain := tarOf(t, items)
	want := describe(t, record(t, plain), plain)
	for name, compress := range map[string]func([]byte) []byte{"gzip": gzipped(6), "members": members(500_000, gzipped(6)), "none": func(p []byte) []byte { return p }} {
		t.Run(name, func(t *testing.T) {
			blob := compress(plain)
			s := ztocOf(t, plain, blob, 300_000)
			x, err := FromZTOC(s.bytes(), int64(len(blob)), Limits{})
			if err != nil {
				t.Fatal(err)
			}
			same(t, "tree", describe(t, x, blob), want)
			if x.Kind() != SOCI || x.Units() < 5 {
				t.Errorf("kind %s, %d units", x.Kind(), x.Units())
			}
			again, err := Parse(x.Marshal(), Limits{})
			if err != nil {
				t.Fatal(err)
			}
			same(t, "parsed tree", describe(t, again, blob), want)
		})
	}
}

// TestZTOCFirstVersion reads checkpoints without the first, as they were once.
func TestZTOCFirstVersion(t *testing.T) {
	plain := tarOf(t, []item{reg("f", noise(1, 2_000_000))})
	blob := gzipped(6)(plain)
	s := ztocOf(t, plain, blob, 100_000)
	s.checkpoints = append(bytes.Clone(s.checkpoints[:ztocHeader]), s.checkpoints[ztocHeader+packedCheckpoint:]...)
	x, err := FromZTOC(s.bytes(), int64(len(blob)), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "tree", describe(t, x, blob), describe(t, record(t, plain), plain))
}

func TestZTOCRefuses(t *testing.T) {
	plain := tarOf(t, []item{reg("f", noise(1, 1_000_000)), reg("g", noise(2, 1000))})
	blob := gzipped(6)(plain)
	for name, change := range map[string]func(*ztocSpec){
		"version":          func(s *ztocSpec) { s.version = "7" },
		"size":             func(s *ztocSpec) { s.compressed++ },
		"algorithm":        func(s *ztocSpec) { s.algorithm = byte(9) },
		"no checkpoints":   func(s *ztocSpec) { s.checkpoints = nil },
		"count":            func(s *ztocSpec) { s.checkpoints[0] += 5 },
		"negative count":   func(s *ztocSpec) { s.checkpoints[3] = 0xff },
		"offset":           func(s *ztocSpec) { s.checkpoints[ztocHeader+packedCheckpoint+7] = 0x40 },
		"negative offset":  func(s *ztocSpec) { s.checkpoints[ztocHeader+packedCheckpoint+15] = 0x80 },
		"bits":             func(s *ztocSpec) { s.checkpoints[ztocHeader+packedCheckpoint+16] = 8 },
		"digest missing":   func(s *ztocSpec) { s.digests = s.digests[1:] },
		"digest":           func(s *ztocSpec) { s.digests[0] = "sha256:00" },
		"outside":          func(s *ztocSpec) { s.files[0].Size = 1 << 62 },
		"negative place":   func(s *ztocSpec) { s.places[0] = -512 },
		"overlap":          func(s *ztocSpec) { s.places[1] = s.places[0] + 10 },
		"parent":           func(s *ztocSpec) { s.files[0].Name = "../x" },
		"absolute":         func(s *ztocSpec) { s.files[0].Name = "/x" },
		"type":             func(s *ztocSpec) { s.files[0].Typeflag = 'V' },
		"sparse":           func(s *ztocSpec) { s.files[0].PAXRecords = map[string]string{"GNU.sparse.major": "1"} },
		"negative archive": func(s *ztocSpec) { s.uncompressed = -1 },
	} {
		s := ztocOf(t, plain, blob, 100_000)
		change(&s)
		_, err := FromZTOC(s.bytes(), int64(len(blob)), Limits{})
		if !errdefs.IsInvalidArgument(err) && !errdefs.IsNotImplemented(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestZTOCDamaged changes fetched bytes.
func TestZTOCDamaged(t *testing.T) {
	plain := tarOf(t, []item{reg("f", bytes.Repeat([]byte("abcdefghij"), 100_000))})
	blob := gzipped(1)(plain)
	s := ztocOf(t, plain, blob, 1000)
	x, err := FromZTOC(s.bytes(), int64(len(blob)), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	d := x.Unit(x.Units() - 1)
	raw := bytes.Clone(blob[d.Offset : d.Offset+d.Length])
	raw[len(raw)/2] ^= 1
	if _, err := x.Decode(x.Units()-1, bytes.NewReader(raw)); !errdefs.IsDataLoss(err) {
		t.Errorf("got %v", err)
	}
	if d.Raw == "" || d.Digest != "" {
		t.Errorf("unit %+v", d)
	}
}
