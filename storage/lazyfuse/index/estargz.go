package index

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"io"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/internal/inflate"
)

const (
	tocName       = "stargz.index.json"
	tocAnnotation = "containerd.io/snapshot/stargz/toc.digest"

	estargzFooter = 51
	stargzFooter  = 47
)

// parseStargzFooter finds the table of contents (stargz-snapshotter's docs/estargz.md, "Footer"): an empty gzip member
// whose extra field has the table's offset as 16 hexadecimal digits before STARGZ. Before eStargz, the field had no header.
func parseStargzFooter(tail []byte, blob int64) (offset, footer int64, ok bool) {
	for _, f := range []struct{ size, header int }{{estargzFooter, 4}, {stargzFooter, 0}} {
		if len(tail) < f.size {
			continue
		}
		p := tail[len(tail)-f.size:]
		extra := p[12 : 12+f.header+22]
		if p[0] != 0x1f || p[1] != 0x8b || p[3]&4 == 0 || int(binary.LittleEndian.Uint16(p[10:])) != len(extra) {
			continue
		}
		if f.header > 0 && (extra[0] != 'S' || extra[1] != 'G' || binary.LittleEndian.Uint16(extra[2:]) != 22) {
			continue
		}
		text := string(extra[f.header:])
		at, err := strconv.ParseInt(text[:16], 16, 64)
		if err != nil || text[16:] != "STARGZ" || at <= 0 || at >= blob-int64(f.size) {
			continue
		}
		return at, int64(f.size), true
	}
	return 0, 0, false
}

// FromEStargz parses a table of contents as it is in the blob from offset on: a tar with one file, compressed. want is the
// digest that the image's manifest has of the decompressed table, and is checked before anything else is believed.
// FailedPrecondition when it differs.
func FromEStargz(table []byte, blob, offset int64, want digest.Digest, limits Limits) (*Index, error) {
	limits = limits.withDefaults()
	src, err := openTable(table)
	if err != nil {
		return nil, err
	}
	got, braces, err := hashed(src, limits.Bytes)
	closeTable(src)
	if err != nil {
		return nil, err
	}
	if err := sameDigest(got, want); err != nil {
		return nil, err
	}
	if braces/2 > limits.Nodes+limits.Units {
		return nil, tooMuch("a table of contents of about %d entries", braces)
	}
	if src, err = openTable(table); err != nil {
		return nil, err
	}
	defer closeTable(src)
	return readTOC(EStargz, src, blob, offset, braces, limits)
}

type tableReader struct {
	io.Reader
	close func() error
}

func closeTable(r *tableReader) { _ = r.close() }

func openTable(table []byte) (*tableReader, error) {
	zr, err := inflate.NewReader(bytes.NewReader(table))
	if err != nil {
		return nil, err
	}
	tr := tar.NewReader(zr)
	hdr, err := tr.Next()
	if err == nil && hdr.Name != tocName {
		err = invalid("the table of contents is called %.100q", hdr.Name)
	}
	if err != nil {
		_ = zr.Close()
		return nil, invalid("no table of contents in the layer: %v", err)
	}
	return &tableReader{tr, zr.Close}, nil
}
