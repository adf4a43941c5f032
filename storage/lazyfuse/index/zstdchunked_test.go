package index

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

type zstdCompression struct {
	*zstdchunked.Compressor
	*zstdchunked.Decompressor
}

// TestZstdChunkedOfStargz reads what stargz-snapshotter calls zstd:chunked.
func TestZstdChunkedOfStargz(t *testing.T) {
	plain := tarOf(t, forTables(allTypes(severalChunks)))
	want := describe(t, record(t, plain), plain)
	annotations := map[string]string{}
	c := &zstdCompression{&zstdchunked.Compressor{CompressionLevel: zstd.SpeedDefault, Metadata: annotations}, nil}
	blob, _ := made(t, plain, estargz.WithCompression(c), estargz.WithChunkSize(100_000))
	tidy := func(lines []string) (out []string) { // its landmark is in the tree
		for _, l := range lines {
			if len(l) < 5 || l[:5] != "/.no." {
				out = append(out, l)
			}
		}
		return out
	}
	same(t, "tree", tidy(describe(t, open(t, blob, annotations), blob)), want)
	// Without the position, the footer tells it.
	delete(annotations, "io.containers.zstd-chunked.manifest-position")
	same(t, "tree", tidy(describe(t, open(t, blob, annotations), blob)), want)
}

// chunkedLayer is a layer as containers/storage writes it: a frame for each piece, then the table and the footer.
type chunkedLayer struct {
	blob    []byte
	entries []map[string]any
}

func skippableFrame(data []byte) []byte {
	head := binary.LittleEndian.AppendUint32([]byte{0x50, 0x2a, 0x4d, 0x18}, uint32(len(data)))
	return append(head, data...)
}

func (c *chunkedLayer) add(entry map[string]any, data []byte) {
	if data != nil {
		entry["offset"] = len(c.blob)
		c.blob = append(c.blob, zstandard(data)...)
		entry["endOffset"] = len(c.blob)
	}
	c.entries = append(c.entries, entry)
}

func (c *chunkedLayer) finish(t *testing.T) (blob []byte, annotations map[string]string) {
	t.Helper()
	text, err := json.Marshal(map[string]any{"version": 1, "entries": c.entries, "tarSplitDigest": digest.FromString("x")})
	if err != nil {
		t.Fatal(err)
	}
	table, split := zstandard(text), zstandard([]byte("tar-split"))
	offset := len(c.blob) + 8
	blob = append(append(bytes.Clone(c.blob), skippableFrame(table)...), skippableFrame(split)...)
	var footer []byte
	for _, n := range []int{offset, len(table), len(text), 1, offset + len(table) + 8, len(split), 9} {
		footer = binary.LittleEndian.AppendUint64(footer, uint64(n))
	}
	blob = append(blob, skippableFrame(append(footer, "GNUlInUx"...))...)
	return blob, map[string]string{
		"io.github.containers.zstd-chunked.manifest-checksum": digest.FromBytes(table).String(),
		"io.github.containers.zstd-chunked.manifest-position": fmt.Sprintf("%d:%d:%d:1", offset, len(table), len(text)),
	}
}

func TestZstdChunked(t *testing.T) {
	whole := append(append([]byte("head"), make([]byte, 1000)...), "tail"...)
	var c chunkedLayer
	c.blob = skippableFrame([]byte("tar headers would be here"))
	c.add(map[string]any{"type": "dir", "name": "d/", "mode": 0o755, "modtime": "2024-01-02T03:04:05.000000006Z", "uid": 1, "gid": 2,
		"xattrs": map[string]string{"user.x": base64.StdEncoding.EncodeToString([]byte("v\x00"))}}, nil)
	c.add(map[string]any{"type": "reg", "name": "d/small", "mode": 0o644, "size": 5, "digest": digest.FromString("small")}, []byte("small"))
	c.add(map[string]any{"type": "reg", "name": "d/sparse", "mode": 0o600, "size": len(whole), "digest": digest.FromBytes(whole), "chunkSize": 4, "chunkDigest": digest.FromString("head")}, []byte("head"))
	c.add(map[string]any{"type": "chunk", "name": "d/sparse", "chunkSize": 1000, "chunkOffset": 4, "chunkType": "zeros"}, nil)
	c.add(map[string]any{"type": "chunk", "name": "d/sparse", "chunkSize": 4, "chunkOffset": 1004, "chunkDigest": digest.FromString("tail")}, []byte("tail"))
	c.add(map[string]any{"type": "reg", "name": "d/empty", "mode": 0o644}, nil)
	c.add(map[string]any{"type": "hardlink", "name": "other", "linkName": "d/sparse"}, nil)
	c.add(map[string]any{"type": "char", "name": "null", "mode": 0o666, "devMajor": 1, "devMinor": 3}, nil)
	blob, annotations := c.finish(t)
	want := []string{
		"/ drwxr-xr-x 0:0 0.000000000 nlink=3 rdev=0 link=\"\" []",
		"/d drwxr-xr-x 1:2 1704164645.000000006 nlink=2 rdev=0 link=\"\" [user.x=\"v\\x00\"]",
		"/d/empty -rw-r--r-- 0:0 0.000000000 nlink=1 0 e3b0c44298fc rdev=0 link=\"\" []",
		"/d/small -rw-r--r-- 0:0 0.000000000 nlink=1 5 " + digest.FromString("small").Encoded()[:12] + " rdev=0 link=\"\" []",
		"/d/sparse -rw------- 0:0 0.000000000 nlink=2 1008 " + digest.FromBytes(whole).Encoded()[:12] + " rdev=0 link=\"\" []",
		"/null Dcrw-rw-rw- 0:0 0.000000000 nlink=1 rdev=259 link=\"\" []",
		"/other -rw------- 0:0 0.000000000 nlink=2 1008 " + digest.FromBytes(whole).Encoded()[:12] + " rdev=0 link=\"\" []",
	}
	x := open(t, blob, annotations)
	same(t, "tree", describe(t, x, blob), want)
	again, err := Parse(x.Marshal(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "parsed tree", describe(t, again, blob), want)
	without := maps.Clone(annotations)
	delete(without, "io.github.containers.zstd-chunked.manifest-position")
	same(t, "tree found by the footer", describe(t, open(t, blob, without), blob), want)
	if _, err := Locate(nil, blob, int64(len(blob))); !errdefs.IsNotImplemented(err) {
		t.Errorf("without annotations: %v", err)
	}
	for _, bad := range []string{"", "1:2:3", "1:2:3:2", "-1:2:3:1", "1:99999999999:3:1", "a:b:c:d", "9223372036854775807:9223372036854775807:1:1"} {
		without[chunkedPrefixes[0]+chunkedPosition] = bad
		if _, err := Locate(without, nil, int64(len(blob))); err == nil {
			t.Errorf("position %q was taken", bad)
		}
	}
}
