package convert

import (
	"archive/tar"
	"bytes"
	"fmt"
	"strconv"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
)

// eStargz (stargz-snapshotter's docs/estargz.md): a gzip member for each piece of a file, with the headers that follow it;
// then one with the table of contents as a file of the archive, and an empty one that tells where that begins.

const (
	tableName      = "stargz.index.json"
	prefetchMark   = ".prefetch.landmark"
	noPrefetchMark = ".no.prefetch.landmark"
	markContent    = 0xf

	tableAnnotation = "containerd.io/snapshot/stargz/toc.digest"
	sizeAnnotation  = "io.containers.estargz.uncompressed-size"

	gzipLevel = 6 // 9 makes layers 2 % smaller in six times the time
)

// readersOnly tells of entries that are in an eStargz layer for who reads it lazily, and are none of the image's files.
func readersOnly(name string) bool {
	switch clean(name) {
	case tableName, prefetchMark, noPrefetchMark:
		return true
	}
	return false
}

// gzips are of *gzip.Writer.
var gzips = sync.Pool{New: func() any {
	zw, err := gzip.NewWriterLevel(nil, gzipLevel)
	if err != nil {
		panic(err) // of a level that does not exist
	}
	return zw
}}

type estargz struct{}

func (z estargz) verbatim() bool       { return false }
func (z estargz) headers([]byte)       {}
func (z estargz) opened(string, int64) {}
func (z estargz) content([]byte)       {}

func (z estargz) pack(dst, raw []byte) []byte {
	out := bytes.NewBuffer(dst)
	zw := gzips.Get().(*gzip.Writer)
	zw.Reset(out) // no name, no time, system unknown
	_, _ = zw.Write(raw)
	_ = zw.Close() // a bytes.Buffer takes everything
	gzips.Put(zw)
	return out.Bytes()
}

func (z estargz) tail(t *toc, offset, size int64) (tail, error) {
	var text bytes.Buffer
	if err := t.write(&text, ""); err != nil {
		return tail{}, err
	}
	var diff bytes.Buffer
	tw := tar.NewWriter(&diff)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: tableName, Mode: 0o444, Size: int64(text.Len())}); err != nil {
		return tail{}, fmt.Errorf("cannot write the table of contents: %w", err)
	}
	if _, err := tw.Write(text.Bytes()); err != nil {
		return tail{}, fmt.Errorf("cannot write the table of contents: %w", err)
	}
	if err := tw.Close(); err != nil {
		return tail{}, fmt.Errorf("cannot write the table of contents: %w", err)
	}
	return tail{
		blob: append(z.pack(nil, diff.Bytes()), estargzFooter(offset)...), diff: diff.Bytes(),
		annotations: map[string]string{
			tableAnnotation: digest.FromBytes(text.Bytes()).String(),
			sizeAnnotation:  strconv.FormatInt(size+int64(diff.Len()), 10),
		},
	}, nil
}

// estargzFooter is an empty gzip member with the table's offset in its extra field (estargz.md, "Footer").
func estargzFooter(table int64) []byte {
	footer := []byte{0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, 'S', 'G', 22, 0}
	footer = fmt.Appendf(footer, "%016xSTARGZ", table)
	return append(footer, 1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0)
}

// landmark is the empty-looking file that tells how much to fetch before the first start.
func landmark(name string) entry {
	return entryOf(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o444, Size: 1}, []byte{markContent})
}

// entryOf makes an entry that is in no archive yet.
func entryOf(h *tar.Header, body []byte) entry {
	var raw bytes.Buffer
	if err := tar.NewWriter(&raw).WriteHeader(h); err != nil {
		panic(err) // of a header of ours
	}
	return entry{Header: h, raw: raw.Bytes(), body: bytes.NewReader(body)}
}
